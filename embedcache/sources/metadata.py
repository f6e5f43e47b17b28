"""``--metadata TABLE``: columns joined to the records by id."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.records import ID, Unmatched
from embedcache.sources.tables import Table

SHOWN = 5


class Metadata:
    """A table of metadata, held in memory, and the row of each id.

    A dictionary, because pyarrow's index_in would hash the whole table anew for each batch, and numpy 2.4's searchsorted
    misses strings of 16 bytes and more where they lie in two arrays of ``StringDType``.

    Raises
    ------
    InputError
        The table has no column beside its ids, or an id twice (both lines are named).
    """

    def __init__(self, table: Table) -> None:
        self.file = table.file
        self.text = table.text
        self.schema = table.schema
        if not self.schema.names:
            raise table.file.error("the table has no column beside its ids; there is nothing to join")
        rows = pa.Table.from_batches(table.batches())
        self.rows = rows.select(self.schema.names).combine_chunks()
        self.row_of: dict[str, int] = {}
        for row, name in enumerate(rows.column(ID).to_pylist()):
            before = self.row_of.setdefault(name, row)
            if before != row:
                message = f"the id {name!r} is there already on {table.place(before)}; leave one row for each id"
                raise table.file.error(message, table.place(row))

    def find(self, ids: pa.Array) -> NDArray[np.int64]:
        """Return the row (n,) of each id, -1 where there is none."""
        return np.array([self.row_of.get(name, -1) for name in ids.to_pylist()], np.int64)


class Join:
    """One pass of a left join; counts what finds no partner."""

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        self.used = np.zeros(len(metadata.row_of), np.bool_)
        self.unmatched = 0
        self.unmatched_ids: list[str] = []

    def columns(self, ids: pa.Array) -> Sequence[pa.Array]:
        """Return the metadata columns for a batch of ids (n,), null where an id has no row."""
        rows = self.metadata.find(ids)
        missing = rows < 0
        self.used[rows[~missing]] = True
        self.unmatched += int(missing.sum())
        self.unmatched_ids += ids.filter(pa.array(missing)).slice(0, SHOWN - len(self.unmatched_ids)).to_pylist()
        found = self.metadata.rows.take(pa.array(rows, mask=missing))
        return [column.combine_chunks() for column in found.columns]

    def finish(self) -> Unmatched:
        """Return what was left over; raises InputError where not a single id matched."""
        left = np.flatnonzero(~self.used)
        ids = tuple(islice((name for name, row in self.metadata.row_of.items() if not self.used[row]), SHOWN))
        if len(left) == len(self.used):
            message = f"none of its {counted(len(left), 'id')} is the id of a record: it has {ids[0]!r}, the input has"
            raise self.metadata.file.error(f"{message} {self.unmatched_ids[0]!r}; name another column with --id-column")
        return Unmatched(self.unmatched, tuple(self.unmatched_ids), len(left), ids)
