"""The records of a store as an input: its ids, sequences and metadata, to be encoded again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from embedcache.errors import InputError
from embedcache.layout import StorePaths
from embedcache.records import ID, RESERVED, SEQUENCE, Unmatched
from embedcache.sources.batches import sliced
from embedcache.store import Store


class StoredRecords:
    """A finished store that keeps its sequences, read a shard at a time.

    Raises
    ------
    InputError : the store was made without its sequences.
    """

    text_columns: frozenset[str] = frozenset()
    unmatched: Unmatched | None = None

    def __init__(self, store: Store) -> None:
        if SEQUENCE not in store.column_names:
            raise InputError(f"{store.path} was made with --drop-sequence, so its records cannot be encoded again")
        self.store, self.name = store, str(store.path)
        self.columns = tuple(name for name in store.column_names if name not in RESERVED)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all records, in their order."""
        paths = StorePaths(self.store.path)
        for shard in range(self.store.layout.shards):
            table = pq.read_table(paths.part(shard), columns=[ID, SEQUENCE, *self.columns])
            table = table.set_column(1, SEQUENCE, table.column(SEQUENCE).cast(pa.large_string()))
            for batch in table.combine_chunks().to_batches():
                yield from sliced(batch)

    def locate(self, rows: Sequence[int]) -> list[str]:
        """Say which rows of the store these are."""
        return [f"{self.name}, row {row}" for row in rows]
