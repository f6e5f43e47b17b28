"""``--metadata TABLE``: columns joined to the records by id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.dtypes import StringDType

from embedcache.records import ID, Unmatched
from embedcache.sources.tables import Table

SHOWN = 5


class Metadata:
    """A table of metadata, held in memory, with its ids sorted for the search.

    pyarrow's index_in would hash the whole table anew for each batch (0.3 s for a million ids, against 0.07 s here).

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
        ids = np.concatenate([_strings(chunk) for chunk in rows.column(ID).chunks])
        self.rows = rows.select(self.schema.names).combine_chunks()
        self.order = np.argsort(ids, kind="stable")
        self.keys = ids[self.order]
        twice = np.flatnonzero(self.keys[1:] == self.keys[:-1])
        if len(twice):
            at = twice[np.argmin(self.order[twice + 1])]
            first, second = (table.place(int(row)) for row in self.order[at : at + 2])
            message = f"the id {self.keys[at]!r} is there already on {first}; leave one row for each id"
            raise table.file.error(message, second)

    def find(self, ids: pa.Array) -> np.ndarray:
        """Return the row (n,) int64 of each id, -1 where there is none."""
        wanted = _strings(ids)
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[at] == wanted, self.order[at], -1)


class Join:
    """One pass of a left join; counts what finds no partner."""

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        self.used = np.zeros(len(metadata.keys), np.bool_)
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
        left = np.flatnonzero(~self.used[self.metadata.order])
        ids = tuple(str(name) for name in self.metadata.keys[left[:SHOWN]])
        if len(left) == len(self.used):
            message = f"none of its {len(left):,} ids is the id of a record: it has {ids[0]!r}, the input has"
            raise self.metadata.file.error(f"{message} {self.unmatched_ids[0]!r}; name another column with --id-column")
        return Unmatched(self.unmatched, tuple(self.unmatched_ids), len(left), ids)


def _strings(ids: pa.Array) -> np.ndarray:
    return np.array(ids.to_pylist(), StringDType())
