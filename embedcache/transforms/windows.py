"""``--windows``: stretches of each record, side by side or drawn at random."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.records import ID, SEQUENCE, Source
from embedcache.sources.batches import BATCH_ROWS, letters_of
from embedcache.transforms.drawing import RANDOM, Drawing, parse_drawing, seeds_of
from embedcache.transforms.remade import PORTION_LETTERS, Remade, Rows, Tally, large_strings

KEEP, DROP = "keep", "drop"
_SLIDING = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class Cuts:
    """Windows (w,) of some records: the row of each one's record, and its letters [start, stop)."""

    rows: Rows
    starts: Rows
    stops: Rows

    def slices(self) -> Iterator[Cuts]:
        """Some windows at a time: at most 16,384, and four million letters (a longer one comes alone)."""
        letters = np.append(0, np.cumsum(self.stops - self.starts))
        first = 0
        while first < len(self.rows):
            fitting = int(np.searchsorted(letters, letters[first] + PORTION_LETTERS, side="right")) - 1
            some = slice(first, max(first + 1, min(first + BATCH_ROWS, fitting)))
            yield Cuts(self.rows[some], self.starts[some], self.stops[some])
            first = some.stop


class Windows(Remade):
    """Windows called ``parent:start-stop`` (from 0, without the stop), with columns parent, start, stop and group."""

    written = ("parent", "start", "stop", "group")
    option = "--windows"

    def __init__(self, source: Source, short: str) -> None:
        super().__init__(source)
        self.short = short
        """``keep`` records that are shorter than a window whole, or ``drop`` them."""

    @abstractmethod
    def cuts(self, ids: pa.Array, lengths: Rows, tally: Tally) -> Cuts:
        """Say where to cut records of so many letters, in their order."""

    def remake(self, portion: pa.RecordBatch, tally: Tally) -> Iterator[tuple[pa.RecordBatch, Rows]]:
        """Yield the windows some thousands at a time."""
        ids = portion.column(ID)
        offsets, letters = letters_of(portion.column(SEQUENCE))
        view = memoryview(np.ascontiguousarray(letters).data)
        for cuts in self.cuts(ids, np.diff(offsets), tally).slices():
            begins = offsets[cuts.rows]
            bounds = zip((begins + cuts.starts).tolist(), (begins + cuts.stops).tolist(), strict=True)
            sequences = large_strings([view[start:stop] for start, stop in bounds])
            parents, starts, stops = ids.take(pa.array(cuts.rows)), pa.array(cuts.starts), pa.array(cuts.stops)
            places = pc.binary_join_element_wise(starts.cast(pa.string()), stops.cast(pa.string()), "-")
            names = pc.binary_join_element_wise(parents, places, ":")
            yield self.batch(portion, cuts.rows, names, sequences, parents, starts, stops), cuts.rows

    @property
    def _of_short(self) -> str:
        assert self.tally is not None
        said = ""
        if self.tally.whole:
            said += f"; {counted(self.tally.whole, 'shorter record is', 'shorter records are')} taken whole"
        if self.tally.left_out:
            said += f"; {counted(self.tally.left_out, 'record is', 'records are')} left out{self.tally.examples}"
        return said


class SlidingWindows(Windows):
    """Windows of one length, each a step behind the one before; the last one may be shorter, down to `least`."""

    def __init__(self, source: Source, length: int, step: int, least: int | None, short: str) -> None:
        super().__init__(source, short)
        self.length, self.step = length, step
        self.least = (length + 1) // 2 if least is None else least

    @property
    def description(self) -> str:
        """For the store."""
        return f"windows of {self.length} every {self.step}, the last from {self.least}, shorter records: {self.short}"

    @property
    def remark(self) -> str:
        """How many there are, and what is in none."""
        assert self.tally is not None
        ends = f"; the last letters of {counted(self.tally.shortened, 'record')} (under {self.least}) are in no window"
        return (
            f"windows  {self.tally.made:,} of {self.length} letters every {self.step} from "
            f"{counted(self.tally.records, 'record')}{ends if self.tally.shortened else ''}{self._of_short}"
        )

    def cuts(self, ids: pa.Array, lengths: Rows, tally: Tally) -> Cuts:
        """Cut side by side."""
        short = lengths < self.length
        full = np.where(short, 0, (lengths - self.length) // self.step + 1)
        end = np.where(short, 0, (full - 1) * self.step + self.length)
        rest = lengths - full * self.step
        last = ~short & (end < lengths) & (rest >= self.least)
        tally.shortened += int((~short & (end < lengths) & ~last).sum())
        if self.short == KEEP:
            tally.whole += int(short.sum())
            last |= short
        else:
            tally.leave_out(ids.filter(pa.array(short)))
        counts = full + last
        rows = np.repeat(np.arange(len(lengths)), counts)
        starts = self.step * (np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts))
        return Cuts(rows, starts, np.minimum(starts + self.length, lengths[rows]))


class RandomWindows(Windows):
    """Windows drawn from each record by its id and a seed, so that the same record always gives the same ones.

    With `about`, every record gives the same number on average, whatever its class and length, so that about so many come
    out and their classes have the ratio of the records. (Records that are left out as too short give none; only their
    classes lose by that. With `about`, the number of records decides, so that a longer input gives other windows.)
    """

    def __init__(self, source: Source, drawing: Drawing, short: str, seed: int, about: int | None) -> None:
        super().__init__(source, short)
        self.drawing, self.seed, self.about = drawing, seed, about
        self._records: int | None = None

    @property
    def _rule(self) -> str:
        parts = [
            (f"{100 * lengths.share:.4g} % of " if lengths.share < 1 else "")
            + (f"{lengths.least}-{lengths.most}" if lengths.most > lengths.least else f"{lengths.least}")
            for lengths in self.drawing.lengths
        ]
        return f"{', '.join(parts)} letters"

    @property
    def description(self) -> str:
        """For the store."""
        drawing = self.drawing
        of_each = f"{drawing.least}-{drawing.most}" if drawing.most > drawing.least else str(drawing.least)
        number = f"about {self.about}" + (f" ({of_each} a record)" if drawing.counted else "")
        return (
            f"random windows of {self._rule}, {f'{of_each} a record' if self.about is None else number}, "
            f"seed {self.seed}, shorter records: {self.short}"
        )

    @property
    def remark(self) -> str:
        """How many there are, and what was left out."""
        assert self.tally is not None
        twice = f"; {self.tally.repeated:,} drawn twice are there once" if self.tally.repeated else ""
        return (
            f"windows  {self.tally.made:,} of {self._rule} drawn from {counted(self.tally.records, 'record')} with seed "
            f"{self.seed}{twice}{self._of_short}"
        )

    def cuts(self, ids: pa.Array, lengths: Rows, tally: Tally) -> Cuts:
        """Draw windows; the same stretch of a record is taken once."""
        seeds = seeds_of(ids.to_pylist(), self.seed)
        counts = self.drawing.counts(seeds, self._expected())
        if self.short == DROP:
            too_short = lengths < self.drawing.shortest
            counts[too_short] = 0
        rows = np.repeat(np.arange(len(lengths)), counts)
        numbers = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        sizes = self.drawing.sizes(seeds[rows], numbers)
        fits = sizes <= lengths[rows]
        if self.short == DROP:
            rows, numbers, sizes = rows[fits], numbers[fits], sizes[fits]
            given = np.bincount(rows, minlength=len(lengths)) > 0
            tally.leave_out(ids.filter(pa.array(~given & (too_short | (counts > 0)))))
        else:
            tally.whole += len(np.unique(rows[~fits]))
            sizes = np.minimum(sizes, lengths[rows])
        starts = self.drawing.places(seeds[rows], numbers, lengths[rows] - sizes)
        return _distinct(Cuts(rows, starts, starts + sizes), tally)

    def _expected(self) -> float | None:
        """Windows that a record gives on average; the first time, the records that can give one are counted."""
        if self.about is None:
            return None
        if self._records is None:
            least = self.drawing.shortest if self.short == DROP else 0
            self._records = sum(
                int((np.diff(letters_of(batch.column(SEQUENCE))[0]) >= least).sum()) for batch in self.source.batches()
            )
        return self.about / max(self._records, 1)


def _distinct(cuts: Cuts, tally: Tally) -> Cuts:
    """Put the windows of each record in order, and take those that are the same once."""
    order = np.lexsort((cuts.stops, cuts.starts, cuts.rows))
    columns = np.stack([cuts.rows, cuts.starts, cuts.stops])[:, order]
    new: NDArray[np.bool_] = np.append(True, (columns[:, 1:] != columns[:, :-1]).any(0))[: len(order)]
    tally.repeated += int((~new).sum())
    return Cuts(*columns[:, new])


def windows_of(
    source: Source, rule: str, *, short: str = KEEP, least: int | None = None, seed: int = 0, about: int | None = None
) -> Windows:
    """Cut windows by a rule: ``LENGTH:STEP``, or ``random:...`` as `embedcache.transforms.drawing.FORM` shows.

    Raises
    ------
    InputError : the rule cannot be read, or an option does not go with it.
    """
    if rule.startswith(RANDOM):
        if least is not None:
            raise InputError(
                "--min-window is for windows side by side (LENGTH:STEP): random ones have the lengths drawn"
            )
        return RandomWindows(source, parse_drawing(rule), short, seed, about)
    match = _SLIDING.fullmatch(rule)
    if match is None:
        raise InputError(f"--windows {rule} cannot be read: write LENGTH:STEP, as in 500:250, or random:150x1-3")
    length, step = map(int, match.groups())
    if length < 1 or step < 1:
        raise InputError(f"--windows {rule}: length and step are at least 1")
    if about is not None:
        raise InputError("--about says how many windows are drawn at random: write --windows random:LENGTH")
    if least is not None and not 1 <= least <= length:
        raise InputError(f"--min-window {least} is not between 1 and the length of a window, {length}")
    return SlidingWindows(source, length, step, least, short)
