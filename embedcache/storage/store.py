"""The store as it is read: its attributes, its commit records, and what every store offers, whatever it is made of.

What lies where is said in `embedcache.storage.layout`, how it is written in `embedcache.storage.commit`. A `ShardedStore`
has values of its own, a `VirtualStore` those of others. This module does not import torch.
"""

from __future__ import annotations

import json
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.errors import StoreError
from embedcache.exchange.conversions import Conversions
from embedcache.fingerprint import fingerprint
from embedcache.records import SEQUENCE
from embedcache.storage.layout import Layout, StorePaths
from embedcache.storage.rowarray import Matrix

FORMAT = "embedcache"
FORMAT_VERSION, SCOPED_FORMAT_VERSION, VIRTUAL_FORMAT_VERSION = 2, 3, 4
"""1 had one row a record, and blocks that did not say their layer and pooling; 3 is written for views and strands only, so
that programs which know of none do not take the rows for those of whole sequences; 4 for stores without values of their own.
"""
KIND = "kind"
"""Attribute of a virtual store: ``merged``, ``concatenated`` or ``selected``."""


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
    fingerprint: str | None = field(default=None, compare=False)
    """Hash of all that decides the values of these columns alone: that of a store which has only this block."""


@dataclass(frozen=True)
class Reused:
    """Rows of a shard that were copied and not encoded."""

    store: str
    """Where they were copied from; empty for earlier rows of the store itself, which are named where they were computed by
    another environment than the rest of the shard."""
    rows: int
    environments: list[dict[str, str]]
    """What computed them: one environment, or several where the store had them from others."""


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
    reused: list[Reused] = field(default_factory=list)
    """Where rows come from that were not encoded for this store."""

    @property
    def environments(self) -> list[dict[str, str]]:
        """What computed rows of the shard, its own first."""
        return [self.environment, *(environment for reused in self.reused for environment in reused.environments)]

    def to_json(self) -> bytes:
        """The record as the bytes of its file."""
        written = {key: value for key, value in asdict(self).items() if key != "reused" or value}
        return (json.dumps(written, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Commit:
        """The record that `to_json` wrote; raises ValueError or TypeError for anything else."""
        written = json.loads(data)
        return cls(**written | {"reused": [Reused(**reused) for reused in written.get("reused", [])]})


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
    if version > VIRTUAL_FORMAT_VERSION:
        raise StoreError(
            f"{paths.root} has store format {version}, this embedcache reads up to {VIRTUAL_FORMAT_VERSION}: "
            "update it with `pip install -U embedcache`"
        )
    if version == 1:
        made = [
            (layer, pooling) for layer in attributes.get("layers", []) for pooling in attributes.get("poolings", [])
        ]
        for block, (layer, pooling) in zip(attributes["blocks"], made, strict=False):
            block |= {"layer": layer, "pooling": pooling}
    return attributes


def _fingerprint_alone(attributes: dict[str, Any], block: dict[str, Any]) -> str:
    """The fingerprint that `embedcache.encoding.Encoding` gives to a store which has one block alone."""
    counting = [int(attributes.get("one_based", False))] if block["pooling"].startswith("at:") else []
    scope = {key: value for key, value in (attributes.get("scope") or {}).items() if key != "center"}
    scope |= {"views": [block["view"]]} if block.get("view") else {}
    of_block = [[block["layer"], block["pooling"]]]
    encoder, overlong = attributes["encoder"]["fingerprint"], attributes.get("overlong")
    return fingerprint(encoder, of_block, overlong, *counting, *filter(None, [scope]))


def blocks_of(attributes: dict[str, Any]) -> list[Block]:
    """The column blocks that a store's attributes name, with the fingerprint of each."""
    said, whole = attributes["blocks"], attributes["fingerprint"]
    prints = [block.get("fingerprint") or fingerprint(whole, block["name"]) for block in said]
    if len(said) == 1:
        prints = [whole]
    elif attributes["encoder"].get("fingerprint") and all(block.get("pooling") for block in said):
        alone = [block.get("fingerprint") or _fingerprint_alone(attributes, block) for block in said]
        prints = alone if len({*alone}) == len(alone) else prints
    known = {field.name for field in fields(Block)}
    return [
        Block(**{key: block[key] for key in known & block.keys()} | {"fingerprint": own})
        for block, own in zip(said, prints, strict=True)
    ]


def fingerprint_of_blocks(blocks: Sequence[Block]) -> str:
    """The fingerprint of a store whose columns are some blocks of others."""
    own = [block.fingerprint for block in blocks]
    return str(own[0]) if len(own) == 1 else fingerprint("blocks", own)


def read_commit(path: str | Path, shard: int) -> Commit | None:
    """Read the commit record of one shard, None if it has none; raises `StoreError` if it is damaged."""
    file = StorePaths(path).commit(shard)
    try:
        return Commit.from_json(file.read_bytes())
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


def environments(commits: Iterable[Commit | None]) -> list[dict[str, str]]:
    """All that computed some shards, each once."""
    found: list[dict[str, str]] = []
    for commit in commits:
        found += [one for one in (commit.environments if commit is not None else []) if one not in found]
    return found


def reused_rows(path: str | Path) -> dict[str, int]:
    """How many rows of a store were copied from each other store."""
    rows: dict[str, int] = {}
    for commit in read_commits(path).values():
        for reused in commit.reused:
            if reused.store:
                rows[reused.store] = rows.get(reused.store, 0) + reused.rows
    return rows


def is_committed(layout: Layout, commit: Commit | None, shard: int, fingerprint: str) -> bool:
    """Whether a shard is there whole: its record has all its rows, and was written by the store's own encoder."""
    start, stop = layout.bounds(shard)
    return commit is not None and commit.rows == stop - start and commit.fingerprint == fingerprint


def open_store(path: str | Path, *, partial: bool = False) -> Store:
    """Open a store for reading, one with values of its own or a virtual one.

    Parameters
    ----------
    path : the store's folder.
    partial : also open a store that is still being written; rows of shards that are not there read as NaN and their
        columns as null.

    Raises
    ------
    StoreError : there is no store, it is damaged, shards are missing and `partial` is False, or a part of a virtual store
        is not what it was.
    """
    from embedcache.storage.sharded import ShardedStore
    from embedcache.storage.virtualfiles import open_virtual

    attributes = read_attributes(path)
    return open_virtual(path, attributes) if KIND in attributes else ShardedStore(path, attributes, partial=partial)


class Store(Conversions, ABC):
    """A finished store; opening it reads no embeddings.

    ``len(store)`` is the number of records N, ``store.dim`` the number of columns D. ``store[i]`` is what is stored for
    record i of the input: its vector (D,), or, where nothing was pooled (`per_token`), one row a token (tokens, D).
    """

    path: Path
    attrs: dict[str, Any]
    row_names: tuple[str, ...] = ("id",)
    """Columns that say which row it is."""
    set_aside = "set aside at extraction"
    """Why the quarantined rows have no values."""

    @abstractmethod
    def __len__(self) -> int: ...

    def __repr__(self) -> str:
        name = self.attrs["encoder"]["name"]
        tokens = f" in {counted(self.length, 'token')}" if self.per_token else ""
        return f"<Store {self.path}: {counted(len(self), 'row')}{tokens} x {self.dim} {self.dtype} of {name}>"

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of columns D."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the stored values, float16 or float32."""

    @property
    @abstractmethod
    def compress(self) -> str | None:
        """What embeddings are compressed with (``zstd``), None where all are plain and can be mapped."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the values: weights, tokenizer, precision, layers, poolings, over-length policy."""
        return str(self.attrs["fingerprint"])

    @property
    @abstractmethod
    def identity(self) -> str:
        """Hash of what is stored, values and columns: it changes when the store grows or is written anew."""

    @property
    def origin(self) -> str:
        """Where the store lies, in full."""
        return str(self.path.resolve())

    @property
    def blocks(self) -> list[Block]:
        """The column blocks, one for each view, layer and pooling."""
        return blocks_of(self.attrs)

    def block(self, name: str) -> slice:
        """The columns of a block, for ``store.take(rows)[:, store.block(name)]``; raises `StoreError` if there is none."""
        for block in self.blocks:
            if block.name == name:
                return slice(block.start, block.stop)
        raise StoreError(f"{self.path} has no block '{name}'; it has: {', '.join(block.name for block in self.blocks)}")

    @property
    @abstractmethod
    def per_token(self) -> bool:
        """Whether a record has one row for each of its tokens, not one vector."""

    @property
    @abstractmethod
    def offsets(self) -> NDArray[np.int64]:
        """Where the rows of each record begin in `embeddings`, (N+1,): record i has rows offsets[i] to offsets[i+1]."""

    @property
    def length(self) -> int:
        """Rows of `embeddings`: N, or T tokens where nothing was pooled."""
        return int(self.offsets[-1]) if self.per_token else len(self)

    @property
    @abstractmethod
    def quarantined(self) -> NDArray[np.int64]:
        """Rows without values, which are NaN: those that were set aside at extraction."""

    # rows

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """Schema of the rows table, the sequence column included if the store keeps it."""

    @property
    def column_names(self) -> list[str]:
        """All columns of the rows table."""
        return list(self.schema.names)

    def read_rows(self, columns: Sequence[str]) -> pa.Table:
        """Read these columns of the rows table, N rows in row order; raises `StoreError` for an unknown column."""
        unknown = [name for name in columns if name not in self.column_names]
        if unknown:
            raise StoreError(f"{self.path} has no column '{unknown[0]}'; it has: {', '.join(self.column_names)}")
        return self._read_rows(columns)

    def _read_rows(self, columns: Sequence[str]) -> pa.Table:
        return pa.concat_tables(self.read_parts(columns)) if len(self) else self.schema.empty_table().select(columns)

    @abstractmethod
    def read_parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read columns that are there, some thousand rows at a time, in row order."""

    def column(self, name: str) -> pa.ChunkedArray:
        """Read one column of the rows table (N values); raises `StoreError` if there is none of that name."""
        return self.read_rows([name]).column(name)

    @cached_property
    def rows(self) -> pa.Table:
        """The rows table without the sequences: row, id, digests, length, n_tokens and the metadata columns."""
        return self.read_rows([name for name in self.schema.names if name != SEQUENCE])

    @cached_property
    def ids(self) -> NDArray[np.str_]:
        """The ids, N strings (numpy ``StringDType``)."""
        return np.array(self.column("id").to_pylist(), dtype=np.dtypes.StringDType())

    @abstractmethod
    def sequences(self, rows: NDArray[np.int64]) -> Iterator[pa.Array]:
        """Yield the sequences of some rows, in their order, as arrays of large_string; rows that rise are read fastest.

        Those of one shard are in memory at a time. Raises `StoreError` where the store keeps none.
        """

    # embeddings

    @property
    @abstractmethod
    def embeddings(self) -> Matrix:
        """All rows as one read-only array-like: nothing is read before it is used.

        (N, D), or (T, D) where nothing was pooled; there, tokens of a shard that is not finished may be anything, which
        ``store[i]`` reads as NaN.
        """

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
        return self._tokens_of(index) if self.per_token else self.embeddings[index]

    def _tokens_of(self, index: int) -> NDArray[np.generic]:
        return self.embeddings[int(self.offsets[index]) : int(self.offsets[index + 1])]

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
            raise IndexError(f"row index out of range: the store has {counted(len(self), 'row')}")
        if wanted.size and wanted.min() < 0:
            wanted = np.where(wanted < 0, wanted + len(self), wanted)
        embeddings = self.embeddings
        if not isinstance(embeddings, np.ndarray):
            return embeddings.take(wanted, out)
        # Indices are checked above; mode="clip" spares the second, buffered copy that mode="raise" makes into `out`.
        return np.take(embeddings, wanted, axis=0, out=out, mode="clip")

    def read(self, start: int, stop: int, out: NDArray[np.generic] | None = None) -> NDArray[np.generic]:
        """Return rows [start, stop): as a read-only view of the files where that can be had, or in `out` if it is given."""
        self._refuse_tokens()
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows [{start}, {stop}) are outside the store, which has {counted(len(self), 'row')}")
        embeddings = self.embeddings
        if out is None:
            return embeddings[start:stop]
        if isinstance(embeddings, np.ndarray):
            out[...] = embeddings[start:stop]
            return out
        return embeddings.take(np.arange(start, stop), out)

    def _refuse_tokens(self) -> None:
        if self.per_token:
            raise StoreError(
                f"{self.path} keeps every token, so its records differ in size: read them one at a time, store[i], or "
                "extract again with a pooling, such as --pool mean"
            )
