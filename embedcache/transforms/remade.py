"""A source whose records are made of the records of another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.records import ID, SEQUENCE, Source, Unmatched, provenance_of, remarks_of
from embedcache.sources.batches import BATCH_ROWS, letters_of

GROUP = "group"
PORTION_LETTERS = 4_000_000
SHOWN = 5
Rows = NDArray[np.int64]


@dataclass
class Tally:
    """What one full pass did."""

    records: int = 0
    made: int = 0
    whole: int = 0
    """Records shorter than a window, taken as they are."""
    shortened: int = 0
    """Records whose last letters are in no window."""
    repeated: int = 0
    """Windows that were drawn twice, and are there once."""
    left_out: int = 0
    left_out_ids: list[str] = field(default_factory=list)
    """The first of them."""

    def leave_out(self, ids: pa.Array) -> None:
        """Count records of which nothing is made."""
        self.left_out += len(ids)
        self.left_out_ids += ids.slice(0, SHOWN - len(self.left_out_ids)).to_pylist()

    @property
    def examples(self) -> str:
        """The ids of what was left out, for a line of text."""
        return f" ({', '.join(self.left_out_ids)}{', ...' if self.left_out > SHOWN else ''})" if self.left_out else ""


class Remade(ABC):
    """Records made of those of `source`; a `embedcache.records.Source`.

    Columns of the source travel along, but for its ``group``; the columns `written` come last. Where the source has a column
    of such a name already, that one is called ``NAME_in``.
    """

    name: str
    columns: tuple[str, ...]
    text_columns: frozenset[str]
    unmatched: Unmatched | None
    written: tuple[str, ...]
    """Names of the columns that this adds, ``group`` the last of them."""
    option: str
    """The option that asks for this, for messages."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name = source.name
        self.unmatched = None
        self.tally: Tally | None = None
        self._kept = {name: self._called(name) for name in source.columns if name != GROUP}
        self.columns = (*self._kept.values(), *self.written)
        text = {self._kept[name] for name in source.text_columns if name != GROUP}
        self.text_columns = frozenset(text | ({GROUP} & source.text_columns))

    @property
    @abstractmethod
    def description(self) -> str:
        """What is done, in words, for the store."""

    @property
    @abstractmethod
    def remark(self) -> str:
        """What the last full pass did, as one line."""

    @abstractmethod
    def remake(self, portion: pa.RecordBatch, tally: Tally) -> Iterator[tuple[pa.RecordBatch, Rows]]:
        """Make batches of some records: new records, and for each the row of `portion` that it is made of."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """The lines to print after a full pass."""
        return (*remarks_of(self.source), *([self.remark] if self.tally else []))

    @property
    def provenance(self) -> Mapping[str, object]:
        """What the store keeps: ``transforms`` says what was done, in order."""
        inner = provenance_of(self.source)
        before = inner.get("transforms", [])
        assert isinstance(before, list)
        return {**inner, "transforms": [*before, self.description]}

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read and make all records; raises InputError where nothing is left of them."""
        tally = Tally()
        for batch, _ in self._pass(tally):
            yield batch
        self.tally, self.unmatched = tally, self.source.unmatched
        if not tally.made and tally.records:
            raise InputError(
                f"nothing is left of the {counted(tally.records, 'record')} of {self.name}: {' '.join(self.remark.split())}"
            )

    def locate(self, rows: Sequence[int]) -> list[str]:
        """Say where the record that each row is made of stands; reads again."""
        wanted = set(rows)
        parents: dict[int, int] = {}
        first = before = 0
        for batch in self.source.batches():
            for portion in portions(batch):
                for made, origin in self.remake(portion, Tally()):
                    inside = [row for row in wanted if first <= row < first + len(made)]
                    parents |= {row: before + int(origin[row - first]) for row in inside}
                    first += len(made)
                before += len(portion)
            if len(parents) == len(wanted):
                break
        return self.source.locate([parents[row] for row in rows])

    def _pass(self, tally: Tally) -> Iterator[tuple[pa.RecordBatch, Rows]]:
        for batch in self.source.batches():
            for portion in portions(batch):
                self._check(portion, tally.records)
                tally.records += len(portion)
                for made, origin in self.remake(portion, tally):
                    tally.made += len(made)
                    yield made, origin

    def _check(self, portion: pa.RecordBatch, first: int) -> None:
        """Refuse cells, which are no sequences."""
        _, letters = letters_of(portion.column(SEQUENCE))
        if len(letters) and chr(letters[0]).isdigit():
            raise InputError(f"{self.source.locate([first])[0]}: {self.option} is for sequences, and this is a cell")

    def _called(self, name: str) -> str:
        taken = {*self.written, *self.source.columns}
        if name not in self.written:
            return name
        while name in taken:
            name += "_in"
        return name

    def batch(
        self, portion: pa.RecordBatch, origin: Rows, ids: pa.Array, sequences: pa.Array, *written: pa.Array
    ) -> pa.RecordBatch:
        """Put records together: columns that travel along, the `written` ones, and the group."""
        rows = pa.array(origin)
        kept = [portion.column(name).take(rows) for name in self._kept]
        arrays = [ids, sequences, *kept, *written, self._groups(portion).take(rows)]
        return pa.record_batch(arrays, [ID, SEQUENCE, *self.columns])

    def _groups(self, portion: pa.RecordBatch) -> pa.Array:
        """The groups that heads keep whole: the source's own, or else the record, so that its parts never lie in two."""
        ids = portion.column(ID)
        if GROUP not in self.source.columns:
            return ids
        return pc.coalesce(portion.column(GROUP).cast(pa.string()), ids)


def portions(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch into slices of at most 16,384 records and four million letters (a longer record comes alone)."""
    offsets, _ = letters_of(batch.column(SEQUENCE))
    start = 0
    while start < len(batch):
        fitting = int(np.searchsorted(offsets, offsets[start] + PORTION_LETTERS, side="right")) - 1
        stop = max(start + 1, min(start + BATCH_ROWS, fitting))
        yield batch.slice(start, stop - start)
        start = stop


def large_strings(runs: Sequence[bytes | memoryview]) -> pa.Array:
    """Put runs of letters (n,) into a large_string array."""
    offsets = np.zeros(len(runs) + 1, np.int64)
    np.cumsum([len(run) for run in runs], out=offsets[1:])
    return pa.Array.from_buffers(
        pa.large_string(), len(runs), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(runs))]
    )
