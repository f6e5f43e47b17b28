"""A store that has values of its own, mapped from its shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedcache.counted import counted_of
from embedcache.errors import StoreError
from embedcache.records import SEQUENCE
from embedcache.storage.layout import StorePaths, read_layout
from embedcache.storage.rowarray import Matrix
from embedcache.storage.shardmap import DecodedRows, chunks_in_row_order, map_shards
from embedcache.storage.store import Store, is_committed, read_commits


class ShardedStore(Store):
    """A store as it was extracted, mapped into memory."""

    def __init__(self, path: str | Path, attributes: dict[str, Any], *, partial: bool = False) -> None:
        self.path = Path(path)
        self.attrs = attributes
        self.layout = read_layout(path)
        self._paths = StorePaths(path)
        self._commits = {
            shard: commit
            for shard, commit in read_commits(path).items()
            if shard < self.layout.shards and is_committed(self.layout, commit, shard, self.fingerprint)
        }
        missing = [shard for shard in range(self.layout.shards) if shard not in self._commits]
        if missing and not partial:
            done = self.layout.shards - len(missing)
            raise StoreError(
                f"{self.path} is not finished: {counted_of(done, self.layout.shards, 'shard')} there. Run the same "
                "extraction again to finish it, or open it with open_store(path, partial=True)"
            )
        if self.attrs.get("metadata_pending") and not partial:
            raise StoreError(
                f"the metadata of {self.path} is being rewritten, or was when the run was stopped: run the same extraction "
                "again to finish it, or open it with open_store(path, partial=True)"
            )
        self._missing = frozenset(missing)

    def __len__(self) -> int:
        return self.layout.rows

    @property
    def dim(self) -> int:
        """Number of columns D."""
        return self.layout.dim

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the stored values, float16 or float32."""
        return np.dtype(self.layout.dtype)

    @property
    def compress(self) -> str | None:
        """What the embeddings are compressed with (``zstd``), None where they are plain and can be mapped."""
        return self.layout.compress

    @cached_property
    def identity(self) -> str:
        """Hash of what is stored, values and columns: it changes when the store grows or is written anew."""
        total = hashlib.blake2b(f"{self.fingerprint} {len(self)} {self.dim} {self.dtype}".encode(), digest_size=16)
        for _, commit in sorted(self._commits.items()):
            held = (commit.rows, commit.digest, commit.metadata_digest, commit.payload_crc32c, commit.part_crc32c)
            total.update(repr(held).encode())
        return total.hexdigest()

    @property
    def per_token(self) -> bool:
        """Whether a record has one row for each of its tokens, not one vector."""
        return self.layout.offsets is not None

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where the rows of each record begin in `embeddings`, (N+1,): record i has rows offsets[i] to offsets[i+1]."""
        offsets = self.layout.offsets
        return np.arange(len(self) + 1) if offsets is None else offsets

    @cached_property
    def quarantined(self) -> NDArray[np.int64]:
        """Rows that were set aside at extraction; their embeddings are NaN."""
        rows = [row for _, commit in sorted(self._commits.items()) for row in commit.quarantined]
        return np.asarray(rows, np.int64)

    @cached_property
    def schema(self) -> pa.Schema:
        """Schema of the rows table, the sequence column included if the store keeps it."""
        shard = next((s for s in range(self.layout.shards) if s not in self._missing), None)
        if shard is None:
            return pa.schema([])
        return pq.read_schema(self._paths.part(shard)).remove_metadata()

    def read_parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read columns a shard at a time; see `Store.read_parts`."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        for shard in range(self.layout.shards):
            start, stop = self.layout.bounds(shard)
            if shard in self._missing:
                yield pa.table([pa.nulls(stop - start, f.type) for f in schema], schema=schema)
                continue
            try:
                yield pq.read_table(self._paths.part(shard), columns=list(columns)).cast(schema)
            except (OSError, pa.ArrowInvalid) as error:
                raise StoreError(
                    f"{self._paths.part(shard)} cannot be read ({error}); see `embedcache verify`"
                ) from None

    def sequences(self, rows: NDArray[np.int64]) -> Iterator[pa.Array]:
        """Yield the sequences of some rows, in their order, a shard at a time; see `Store.sequences`."""
        if SEQUENCE not in self.schema.names:
            raise StoreError(f"{self.path} keeps no sequences: it was extracted with --drop-sequence")
        shard_of = rows // self.layout.shard_rows
        borders = [0, *(np.flatnonzero(np.diff(shard_of)) + 1).tolist(), len(rows)]
        for first, last in pairwise(borders):
            if first < last:
                shard = int(shard_of[first])
                column = pq.read_table(self._paths.part(shard), columns=[SEQUENCE]).column(0)
                here = pa.array(rows[first:last] - self.layout.bounds(shard)[0])
                yield column.take(here).cast(pa.large_string()).combine_chunks()

    # embeddings

    @cached_property
    def embeddings(self) -> Matrix:
        """All rows as one read-only array-like, mapped from the files: nothing is read before it is used.

        (N, D), or (T, D) where nothing was pooled; there, tokens of a shard that is not finished may be anything, which
        ``store[i]`` reads as NaN. Shards that are compressed, or hold their chunks in another order, are read through
        zarr-python instead.
        """
        layout = self.layout
        files: list[Path | None] = []
        for number, committed in enumerate(self._committed_rows().tolist()):
            file = self._paths.file(number)
            if not committed:
                files.append(None)
                continue
            if not file.exists():
                raise StoreError(f"{file} is missing although it was committed; see `embedcache verify {self.path}`")
            low, high = layout.file_bounds(number)
            held = 0 if layout.compress else chunks_in_row_order(file, layout.chunk_bytes, layout.file_chunks)
            if held < layout.chunks(high - low):
                return DecodedRows(self._paths.array)
            files.append(file)
        return map_shards(files, layout.file_rows, (layout.length, layout.dim), self.dtype)

    def _committed_rows(self) -> NDArray[np.int64]:
        """How far each file holds rows of shards that are there."""
        rows = np.zeros(self.layout.files, np.int64)
        for shard in range(self.layout.shards):
            if shard not in self._missing:
                first, last = self.layout.span(shard)
                for file, _, stop in self.layout.pieces(first, last - first):
                    rows[file] = max(rows[file], stop)
        return rows

    def _tokens_of(self, index: int) -> NDArray[np.generic]:
        if index // self.layout.shard_rows in self._missing:
            return np.full((int(np.diff(self.offsets[index : index + 2])[0]), self.dim), np.nan, self.dtype)
        return super()._tokens_of(index)
