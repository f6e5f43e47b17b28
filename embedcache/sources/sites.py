"""Tables of sites in a genome: which columns say where they are, and from which number their coordinates count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embedcache.records import metadata_name
from embedcache.sequences.positions import whole_numbers
from embedcache.sources.delimited import Delimited
from embedcache.sources.files import InputFile
from embedcache.sources.intervals import BED, BED_EXTENSIONS, GFF, GFF_EXTENSIONS, Intervals
from embedcache.sources.parquet import Parquet
from embedcache.sources.tables import is_text, open_table

ANCHORS = ("start", "center", "end")
CONTIGS = ("chrom", "chr", "chromosome", "seqid", "seqname", "contig")
POSITIONS = {"pos0": 0, "pos_0based": 0, "pos1": 1, "pos_1based": 1, "pos": 1, "position": 1}
"""Columns of single positions, the first one that is there is taken, and from which number each counts."""
AMBIGUOUS = ("pos", "position")
STARTS, ENDS = ("start", "chromstart"), ("end", "stop", "chromend")
NAMES = ("id", "site_id", "name")
PLUS, MINUS = {"+", "1", "+1"}, {"-", "-1"}
OWN = ("center", "chrom", "position", "strand")
"""Columns that every record of a genome gets, before those of its table."""


@dataclass(frozen=True)
class Sites:
    """n sites as a file has them, and what is wrong with them."""

    rows: NDArray[np.int64]
    """(n,) their numbers in the file, from 0."""
    contigs: list[str]
    sites: NDArray[np.int64]
    """(n,) the base that is looked at, from 0."""
    positions: list[int]
    """The same as the file counts."""
    minus: NDArray[np.bool_]
    names: list[str] | None
    """Their ids; None: they are called after their places."""
    columns: list[pa.Array]
    """Those of the schema."""
    faults: dict[int, str]
    """What is wrong with which."""
    alleles: tuple[list[str], list[str]] | None = None
    """For variants: what the genome has from the site on, and what the record has instead."""


class SiteTable:
    """Sites of a BED or GFF file, or of a table with columns such as chrom, pos and strand.

    Parameters
    ----------
    coordinates : 0 or 1, the number that the first base of a contig has; None: what the format or the column says.
    anchor : the base of an interval that is looked at: its ``start``, ``center`` or ``end`` on the strand.
    id_column : the column of ids; None: one called id, site_id or name, where it has a value of its own for each row.

    Raises
    ------
    InputError : a column is missing, or the file cannot be read.
    """

    def __init__(self, file: InputFile, coordinates: int | None, anchor: str, id_column: str | None) -> None:
        self.file, self._anchor = file, anchor
        self.table = _open(file)
        self.text = self.table.text
        lowered = {name.lower().lstrip("#"): at for at, name in reversed(list(enumerate(self.table.names)))}
        self._contig = self._found(lowered, CONTIGS, "contigs")
        position = next((name for name in POSITIONS if name in lowered), None)
        self._start = lowered[position] if position else self._found(lowered, STARTS, "positions")
        self._end = None if position else next((lowered[name] for name in ENDS if name in lowered), None)
        self._strand = lowered.get("strand")
        own = POSITIONS[position] if position else int(isinstance(self.table, Intervals) and self.table.kind == GFF)
        self.base = own if coordinates is None else coordinates
        self.remarks: list[str] = []
        if position in AMBIGUOUS and coordinates is None:
            self.remarks.append(
                f"         the column '{self.table.names[self._start]}' of {file.name} is taken to count from {own}: say "
                "otherwise with --coordinates 0"
            )
        self._id = self._id_column(lowered, id_column)
        taken = {self._contig, self._strand, self._id, self._start if self._end is None else None}
        self._kept = [at for at in range(len(self.table.names)) if at not in taken]
        self.schema = pa.schema([(_stored(self.table.names[at]), self.table.types[at]) for at in self._kept])

    def batches(self) -> Iterator[Sites]:
        """Read all sites from the start."""
        row = 0
        for arrays in self.table.arrays():
            yield self._sites(arrays, row)
            row += len(arrays[0])

    def places(self) -> Iterator[str]:
        """Say for row after row where it stands in the file."""
        return self.table.places()

    def _sites(self, arrays: list[pa.Array], row: int) -> Sites:
        contigs = _texts(arrays[self._contig])
        first = whole_numbers(arrays[self._start]) - self.base
        stop = first + 1 if self._end is None else whole_numbers(arrays[self._end])
        strands = [None] * len(first) if self._strand is None else _texts(arrays[self._strand])
        minus = np.asarray([strand in MINUS for strand in strands], np.bool_)
        middle = (stop - first) // 2
        along = {"start": np.zeros_like(middle), "center": middle, "end": stop - first - 1}[self._anchor]
        sites = np.where(minus, stop - 1 - along, first + along)
        faults: dict[int, str] = {}
        for at in np.flatnonzero((first < 0) | (stop <= first)).tolist():
            faults[at] = self._bad_place(arrays, at)
        for at, (contig, strand) in enumerate(zip(contigs, strands, strict=True)):
            if not contig:
                faults[at] = "the contig is missing; name it or drop the row"
            elif strand not in PLUS | MINUS | {None, ".", ""}:
                faults.setdefault(at, f"the strand is {strand!r}; it is + or -, or . where there is none")
        return Sites(
            np.arange(row, row + len(first)),
            [contig or "" for contig in contigs],
            sites,
            (sites + self.base).tolist(),
            minus,
            None if self._id is None else [name or "" for name in _texts(arrays[self._id])],
            [arrays[at] for at in self._kept],
            faults,
        )

    def _bad_place(self, arrays: list[pa.Array], row: int) -> str:
        columns = [self._start, *([] if self._end is None else [self._end])]
        found = " and ".join(f"{self.table.names[at]} {arrays[at][row].as_py()!r}" for at in columns)
        wanted = "a whole number" if self._end is None else "a start and an end after it"
        return f"{found} is no place: it takes {wanted}, counted from {self.base}"

    def _found(self, lowered: dict[str, int], wanted: Sequence[str], what: str) -> int:
        at = next((lowered[name] for name in wanted if name in lowered), None)
        if at is None:
            names = ", ".join(self.table.names[:30])
            expected = ", ".join([*POSITIONS, *wanted] if what == "positions" else wanted)
            raise self.file.error(f"no column holds the {what} of sites: one of {expected}; the columns are {names}")
        return at

    def _id_column(self, lowered: dict[str, int], given: str | None) -> int | None:
        if given is not None:
            if given not in self.table.names:
                names = ", ".join(self.table.names[:30])
                raise self.file.error(f"there is no column {given!r}, given with --id-column; the columns are {names}")
            return self.table.names.index(given)
        at = next((lowered[name] for name in NAMES if name in lowered), None)
        if at is None:
            return None
        seen: set[int] = set()
        rows = 0
        for arrays in self.table.arrays():
            rows += len(arrays[at])
            seen.update(hash(name) for name in _texts(arrays[at]) if name)
            if len(seen) < rows:
                self.remarks.append(
                    f"         the column '{self.table.names[at]}' of {self.file.name} does not tell its sites apart: their "
                    "ids are contig:position:strand"
                )
                return None
        return at


def _open(file: InputFile) -> Delimited | Parquet | Intervals:
    first = file.head[1]
    if file.extension in BED_EXTENSIONS:
        return Intervals(file, BED)
    if file.extension in GFF_EXTENSIONS or first.startswith(b"##gff-version"):
        return Intervals(file, GFF)
    return open_table(file)


def _stored(name: str) -> str:
    """The name of a column in the records."""
    stored = metadata_name(name)
    return f"{stored}_in" if stored in OWN else stored


def _texts(column: pa.Array) -> list[str | None]:
    text = column if is_text(column.type) else column.cast(pa.string())
    found: list[str | None] = pc.ascii_trim_whitespace(text.cast(pa.string())).to_pylist()
    return found
