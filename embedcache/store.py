"""The store as it is read: its attributes, its commit records, its rows table, and its embeddings mapped from the files.

What lies where is said in `embedcache.layout`, how it is written in `embedcache.commit`. This module does not import
torch.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedcache.errors import StoreError
from embedcache.exchange.conversions import Conversions
from embedcache.layout import Layout, StorePaths, read_layout
from embedcache.shardmap import DecodedRows, ShardedRows, chunks_in_row_order, map_shards

FORMAT = "embedcache"
FORMAT_VERSION, SCOPED_FORMAT_VERSION = 2, 3
"""1 had one row a record, and blocks that did not say their layer and pooling; 3 is written for views and strands only, so
that programs which know of none do not take the rows for those of whole sequences."""


@dataclass(frozen=True)
class Block:
    """Columns [start, stop) of the embeddings that hold one layer pooled one way."""

    name: str
    start: int
    stop: int
    layer: int | None = None
    pooling: str | None = None
    view: str | None = None
    """Which letters of the records it looks at, such as ``both_100``; None: all."""


@dataclass(frozen=True)
class Commit:
    """The record that makes a shard count: what it was made from, how many bytes it has, and their checksums."""

    shard: int
    rows: int
    digest: str
    """Of the ids and sequences of the shard's records."""
    metadata_digest: str
    payload_bytes: int
    payload_crc32c: str
    part_bytes: int
    part_crc32c: str
    quarantined: list[int] = field(default_factory=list)
    """Rows set aside because the encoder gave no finite value (`--on-bad-row quarantine`); they read as NaN."""
    environment: dict[str, str] = field(default_factory=dict)
    """Torch version, instruction set and device that computed the shard."""
    fingerprint: str = ""
    """Of the writer's store: a record that another encoder wrote does not count."""
    encoded: dict[str, int] = field(default_factory=dict)
    """Counts of the shard: tokens, records over the length limit, letters outside the alphabet."""

    def to_json(self) -> bytes:
        """The record as the bytes of its file."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()


def read_attributes(path: str | Path) -> dict[str, Any]:
    """Read the attributes of a store; raises `StoreError` where there is none, or one of a newer format."""
    paths = StorePaths(path)
    if not paths.root.exists():
        raise StoreError(f"there is no store at {paths.root}; `embedcache extract --output {paths.root}` makes one")
    try:
        group = json.loads(paths.group.read_bytes())
        attributes: dict[str, Any] = group["attributes"]
        version = attributes["format_version"]
        if attributes["format"] != FORMAT or not {"fingerprint", "encoder", "blocks"} <= set(attributes):
            raise KeyError("format")
    except PermissionError:
        raise StoreError(f"{paths.root} may not be read by you: ask its owner for read permission") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(
            f"{paths.root} is not an embedcache store: its zarr.json is missing, damaged or another program's"
        ) from None
    if version > SCOPED_FORMAT_VERSION:
        raise StoreError(
            f"{paths.root} has store format {version}, this embedcache reads up to {SCOPED_FORMAT_VERSION}: "
            "update it with `pip install -U embedcache`"
        )
    if version == 1:
        made = [
            (layer, pooling) for layer in attributes.get("layers", []) for pooling in attributes.get("poolings", [])
        ]
        for block, (layer, pooling) in zip(attributes["blocks"], made, strict=False):
            block |= {"layer": layer, "pooling": pooling}
    return attributes


def read_commit(path: str | Path, shard: int) -> Commit | None:
    """Read the commit record of one shard, None if it has none; raises `StoreError` if it is damaged."""
    file = StorePaths(path).commit(shard)
    try:
        return Commit(**json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise StoreError(f"{file} is damaged: remove it and run the same extraction again to redo its shard") from None


def read_commits(path: str | Path) -> dict[int, Commit]:
    """Read all commit records, by shard number."""
    folder = StorePaths(path).array / "commit"
    numbers = sorted(int(file.stem) for file in folder.glob(f"{'[0-9]' * 8}.json")) if folder.exists() else []
    commits = ((number, read_commit(path, number)) for number in numbers)
    return {number: commit for number, commit in commits if commit is not None}


def is_committed(layout: Layout, commit: Commit | None, shard: int, fingerprint: str) -> bool:
    """Whether a shard is there whole: its record has all its rows, and was written by the store's own encoder."""
    start, stop = layout.bounds(shard)
    return commit is not None and commit.rows == stop - start and commit.fingerprint == fingerprint


def open_store(path: str | Path, *, partial: bool = False) -> Store:
    """Open a store for reading.

    Parameters
    ----------
    path : the store's folder.
    partial : also open a store that is still being written; rows of shards that are not there read as NaN and their
        columns as null.

    Raises
    ------
    StoreError : there is no store, it is damaged, or shards are missing and `partial` is False.
    """
    return Store(path, partial=partial)


class Store(Conversions):
    """A finished store, mapped into memory; opening it reads no embeddings.

    ``len(store)`` is the number of records N, ``store.dim`` the number of columns D. ``store[i]`` is what is stored for
    record i of the input: its vector (D,), or, where nothing was pooled (`per_token`), one row a token (tokens, D).
    """

    def __init__(self, path: str | Path, *, partial: bool = False) -> None:
        self.path = Path(path)
        self.attrs = read_attributes(path)
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
                f"{self.path} is not finished: {done} of {self.layout.shards} shards are there. Run the same extraction "
                "again to finish it, or open it with open_store(path, partial=True)"
            )
        if self.attrs.get("metadata_pending") and not partial:
            raise StoreError(
                f"the metadata of {self.path} is being rewritten, or was when the run was stopped: run the same extraction "
                "again to finish it, or open it with open_store(path, partial=True)"
            )
        self._missing = frozenset(missing)

    def __len__(self) -> int:
        return self.layout.rows

    def __repr__(self) -> str:
        name = self.attrs["encoder"]["name"]
        tokens = f" in {self.layout.length:,} tokens" if self.per_token else ""
        return f"<Store {self.path}: {len(self):,} rows{tokens} x {self.dim} {self.dtype} of {name}>"

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

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the values: weights, tokenizer, precision, layers, poolings, over-length policy."""
        return str(self.attrs["fingerprint"])

    @property
    def blocks(self) -> list[Block]:
        """The column blocks, one for each view, layer and pooling."""
        known = {field.name for field in fields(Block)}
        return [Block(**{key: block[key] for key in known & block.keys()}) for block in self.attrs["blocks"]]

    def block(self, name: str) -> slice:
        """The columns of a block, for ``store.take(rows)[:, store.block(name)]``; raises `StoreError` if there is none."""
        for block in self.blocks:
            if block.name == name:
                return slice(block.start, block.stop)
        raise StoreError(f"{self.path} has no block '{name}'; it has: {', '.join(block.name for block in self.blocks)}")

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

    # rows

    @cached_property
    def schema(self) -> pa.Schema:
        """Schema of the rows table, the sequence column included if the store keeps it."""
        shard = next((s for s in range(self.layout.shards) if s not in self._missing), None)
        if shard is None:
            return pa.schema([])
        return pq.read_schema(self._paths.part(shard)).remove_metadata()

    @property
    def column_names(self) -> list[str]:
        """All columns of the rows table."""
        return list(self.schema.names)

    def read_rows(self, columns: Sequence[str]) -> pa.Table:
        """Read these columns of the rows table, N rows in row order; raises `StoreError` for an unknown column."""
        unknown = [name for name in columns if name not in self.schema.names]
        if unknown:
            raise StoreError(f"{self.path} has no column '{unknown[0]}'; it has: {', '.join(self.schema.names)}")
        return pa.concat_tables(self._parts(columns)) if self.layout.rows else self.schema.empty_table()

    def _parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
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

    def column(self, name: str) -> pa.ChunkedArray:
        """Read one column of the rows table (N values); raises `StoreError` if there is none of that name."""
        return self.read_rows([name]).column(name)

    @cached_property
    def rows(self) -> pa.Table:
        """The rows table without the sequences: row, id, digests, length, n_tokens and the metadata columns."""
        return self.read_rows([name for name in self.schema.names if name != "sequence"])

    @cached_property
    def ids(self) -> NDArray[np.str_]:
        """The ids, N strings (numpy ``StringDType``)."""
        return np.array(self.column("id").to_pylist(), dtype=np.dtypes.StringDType())

    # embeddings

    @cached_property
    def embeddings(self) -> NDArray[np.generic] | ShardedRows | DecodedRows:
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

    def __getitem__(self, record: int) -> NDArray[np.generic]:
        """What is stored for a record, read-only: its vector (D,), or one row a token (tokens, D) where nothing was pooled.

        Raises
        ------
        IndexError : there is no such record.
        """
        index = operator.index(record)
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no record {index}: the store has {len(self):,}")
        index %= len(self)
        offsets = self.layout.offsets
        if offsets is None:
            return self.embeddings[index]
        first, stop = int(offsets[index]), int(offsets[index + 1])
        if index // self.layout.shard_rows in self._missing:
            return np.full((stop - first, self.dim), np.nan, self.dtype)
        return self.embeddings[first:stop]

    def __iter__(self) -> Iterator[NDArray[np.generic]]:
        """What is stored for each record, in order."""
        return map(self.__getitem__, range(len(self)))

    def take(self, indices: Any, out: NDArray[np.generic] | None = None) -> NDArray[np.generic]:
        """Gather rows by index.

        Parameters
        ----------
        indices : (n,) integers, -N <= index < N, in any order, repeats allowed; or (N,) booleans.
        out : (n, D) array of the stored type to fill; saves the allocation in a training loop.

        Raises
        ------
        IndexError : an index lies outside the store.
        """
        self._refuse_tokens()
        wanted = np.asarray(indices)
        if wanted.dtype == bool:
            wanted = np.flatnonzero(wanted)
        if wanted.size and not np.issubdtype(wanted.dtype, np.integer):
            raise TypeError(f"rows are chosen by whole numbers or by a mask, not by {wanted.dtype}")
        wanted = wanted.astype(np.int64, copy=False)
        if wanted.size and (wanted.min() < -len(self) or wanted.max() >= len(self)):
            raise IndexError(f"row index out of range: the store has {len(self):,} rows")
        if wanted.size and wanted.min() < 0:
            wanted = np.where(wanted < 0, wanted + len(self), wanted)
        embeddings = self.embeddings
        if not isinstance(embeddings, np.ndarray):
            return embeddings.take(wanted, out)
        # Indices are checked above; mode="clip" spares the second, buffered copy that mode="raise" makes into `out`.
        return np.take(embeddings, wanted, axis=0, out=out, mode="clip")

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return rows [start, stop) as a read-only view of the files (a copy only where no single map can be had)."""
        self._refuse_tokens()
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows [{start}, {stop}) are outside the store, which has {len(self):,} rows")
        return self.embeddings[start:stop]

    def _refuse_tokens(self) -> None:
        if self.per_token:
            raise StoreError(
                f"{self.path} keeps every token, so its records differ in size: read them one at a time, store[i], or "
                "extract again with a pooling, such as --pool mean"
            )
