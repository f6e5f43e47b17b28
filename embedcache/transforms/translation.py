"""``--translate``: the proteins that DNA records may code for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.records import ID, SEQUENCE, Source
from embedcache.sources.batches import letters_of, sliced
from embedcache.transforms.codons import genetic_code
from embedcache.transforms.frames import FRAMES, NUMBERS, Proteins, Rules, proteins_of
from embedcache.transforms.nucleotides import check_nucleotides
from embedcache.transforms.remade import Remade, Rows, Tally
from embedcache.transforms.strands import BothStrands

SIX_FRAME, LONGEST_ORF, FRAME = "six-frame", "longest-orf", "frame:"
LEAST = 20


class Translated(Remade):
    """Proteins of DNA records, with columns parent, frame, start, stop and group.

    The parent is the DNA record; start and stop are the nucleotides that were translated, on its forward strand, counted
    from 0, without the stop. Where a record may give several proteins their ids carry the frame, as in ``xF1`` and ``xR3``,
    and from the second one of a frame on its number, as in ``xF1.2``; otherwise the id stays that of the record.
    """

    written = ("parent", "frame", "start", "stop", "group")
    option = "--translate"

    def __init__(self, source: Source, mode: str, code: int, rules: Rules) -> None:
        super().__init__(source)
        self.mode, self.code, self.rules = mode, genetic_code(code), rules
        self.frames = (NUMBERS[mode.removeprefix(FRAME)],) if mode.startswith(FRAME) else FRAMES
        self._named = mode == SIX_FRAME or (mode != LONGEST_ORF and rules.stops == "split")

    @property
    def description(self) -> str:
        """For the store."""
        begins = ", from a start codon" if self.rules.from_start else ""
        return (
            f"translated {self.mode}, genetic code {self.code.number}, stops {self.rules.stops}{begins}, at least "
            f"{self.rules.least} amino acids"
        )

    @property
    def remark(self) -> str:
        """How many there are, and which records gave none."""
        assert self.tally is not None
        no_protein = f"no protein of {counted(self.rules.least, 'amino acid')}"
        without = (
            f"; {counted(self.tally.left_out, f'record has {no_protein} and is', f'records have {no_protein} and are')} "
            f"left out{self.tally.examples}, see --min-length"
        )
        return (
            f"proteins {self.tally.made:,} of {counted(self.tally.records, 'record')} ({self.mode}, genetic code "
            f"{self.code.number} {self.code.name}){without if self.tally.left_out else ''}"
        )

    def remake(self, portion: pa.RecordBatch, tally: Tally) -> Iterator[tuple[pa.RecordBatch, Rows]]:
        """Yield the proteins of some records."""
        check_nucleotides(self, portion)
        offsets, letters = letters_of(portion.column(SEQUENCE))
        proteins = proteins_of(offsets, letters, self.frames, self.code, self.rules)
        if self.mode == LONGEST_ORF:
            proteins = _longest(proteins)
        given = np.bincount(proteins.rows, minlength=len(portion)) > 0
        tally.leave_out(portion.column(ID).filter(pa.array(~given)))
        parents = portion.column(ID).take(pa.array(proteins.rows))
        frames = pa.array(FRAMES).take(pa.array(proteins.frames))
        names = _named(parents, frames, proteins) if self._named else parents
        starts, stops = pa.array(proteins.starts), pa.array(proteins.stops)
        made = self.batch(portion, proteins.rows, names, proteins.letters, parents, frames, starts, stops)
        first = 0
        for part in sliced(made):
            yield part, proteins.rows[first : first + len(part)]
            first += len(part)


def _longest(proteins: Proteins) -> Proteins:
    """The longest protein of each row; of those that are as long, the first of the first frame."""
    order = np.lexsort((-proteins.lengths, proteins.rows))
    rows = proteins.rows[order]
    return proteins.take(order[np.append(True, rows[1:] != rows[:-1])[: len(rows)]])


def _named(parents: pa.Array, frames: pa.Array, proteins: Proteins) -> pa.Array:
    """Ids with frames: ``x`` read in F1 gives ``xF1``, then ``xF1.2``."""
    where = len(FRAMES) * proteins.rows + proteins.frames
    new = np.append(True, where[1:] != where[:-1])[: len(where)]
    number = np.arange(len(where)) - np.flatnonzero(new)[np.cumsum(new) - 1] + 1
    counted = pc.binary_join_element_wise(".", pa.array(number).cast(pa.string()), "")
    suffix = pc.if_else(pa.array(number > 1), counted, "")
    return pc.binary_join_element_wise(parents, frames, suffix, "")


def translation_of(
    source: Source,
    mode: str,
    *,
    code: int = 1,
    stops: str | None = None,
    orf: str | None = None,
    least: int | None = None,
) -> Translated:
    """Translate by ``six-frame``, ``longest-orf`` or ``frame:N``.

    Parameters
    ----------
    stops : None takes ``split`` for six frames, ``cut`` for a single one.
    orf : ``stop`` (the default) to read from stop to stop, ``start`` from the first start codon between two stops.
    least : amino acids; None takes 20, for a single frame 1.

    Raises
    ------
    InputError : the mode cannot be read, or an option does not go with it.
    """
    single = mode.startswith(FRAME)
    if mode not in (SIX_FRAME, LONGEST_ORF) and not (single and mode.removeprefix(FRAME) in NUMBERS):
        raise InputError(f"--translate {mode} cannot be read: write six-frame, longest-orf, or frame:N with N one of "
                         f"{', '.join(NUMBERS)}")  # fmt: skip
    if mode == LONGEST_ORF and stops not in (None, "split"):
        raise InputError(f"--stops {stops} does not go with --translate longest-orf, which reads from stop to stop")
    if mode != LONGEST_ORF and orf is not None:
        raise InputError("--orf is for --translate longest-orf")
    if not single and _has_both_strands(source):
        raise InputError(
            "--reverse-complement add does not go with six frames, which are those of both strands already"
        )
    usual_stops, usual_least = ("cut", 1) if single else ("split", LEAST)
    rules = Rules(stops or usual_stops, orf == "start", usual_least if least is None else least)
    return Translated(source, mode, code, rules)


def _has_both_strands(source: Source) -> bool:
    return isinstance(source, BothStrands)
