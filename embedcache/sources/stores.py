"""A store as the input of another extraction: its own ids, sequences and metadata columns, a shard at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from embedcache.errors import InputError
from embedcache.records import ID, RESERVED, SEQUENCE
from embedcache.sources.batches import sliced
from embedcache.sources.files import InputFile
from embedcache.storage.store import open_store


class StoredRecords:
    """Records of a finished store; metadata columns keep the types that they are stored with.

    Raises
    ------
    InputError
        The store keeps no sequences.
    StoreError
        It is not finished, or damaged.
    """

    text = False

    def __init__(self, file: InputFile) -> None:
        self.file = file
        store = open_store(file.path)
        if SEQUENCE not in store.schema.names:
            raise InputError(
                f"{file.name} keeps no sequences, so they cannot be encoded again: give the files that it was made from"
            )
        self._store = store
        self.schema = pa.schema([field for field in store.schema if field.name not in RESERVED])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read from the start: id, sequence and the metadata columns, in row order."""
        schema = pa.schema([(ID, pa.string()), (SEQUENCE, pa.large_string()), *self.schema])
        for table in self._store.read_parts(schema.names):
            for batch in table.cast(schema).combine_chunks().to_batches():
                yield from sliced(batch)

    def places(self) -> Iterator[str]:
        """Say for record after record its row, counted from 0 as in the store."""
        return (f"row {row}" for row in range(len(self._store)))
