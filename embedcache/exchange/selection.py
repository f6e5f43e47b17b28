"""The part of a store that leaves it: some of its columns, in the type that is wanted, some rows at a time.

Only what every store offers is used, so that merged, concatenated and selected ones leave like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from embedcache.errors import InputError
from embedcache.exchange.embeddings import Values
from embedcache.records import ID, RESERVED
from embedcache.storage.store import Store

_BLOCK_BYTES = 1 << 25


@dataclass(frozen=True)
class Selection:
    """Some columns of a store's embeddings, and of its rows table."""

    store: Store
    features: slice
    """Columns of the embeddings."""
    dtype: np.dtype[np.generic]
    columns: tuple[str, ...]
    """Columns of the rows table beside the id."""
    feature_names: tuple[str, ...]
    """A name for each column of the embeddings, ``block.number``."""
    taken: Callable[[int], None] = lambda rows: None
    """Is told how many rows have been taken, each time that some more are asked for."""

    def __len__(self) -> int:
        return len(self.store)

    @property
    def dim(self) -> int:
        """Values of a vector."""
        return int(self.features.stop - self.features.start)

    @property
    def name(self) -> str:
        """The store, for messages."""
        return str(self.store.path)

    def ids(self) -> list[str]:
        """The ids, in row order."""
        names: list[str] = self.store.column(ID).to_pylist()
        return names

    def rows(self) -> pa.Table:
        """Column id and the chosen ones, N rows."""
        return self.store.read_rows([ID, *self.columns])

    def blocks(self) -> Iterator[Values]:
        """The vectors in row order, some at a time, (n, D)."""
        for start, stop in self.spans():
            yield self.read(start, stop)

    def values(self) -> Values:
        """All vectors, (N, D), in memory."""
        self.store.read(0, 0)  # raises where every token is kept
        values: Values = np.empty((len(self), self.dim), self.dtype)
        for start, stop in self.spans():
            values[start:stop] = self.read(start, stop)
        return values

    def spans(self) -> Iterator[tuple[int, int]]:
        """Cut the rows into runs of about 32 MB."""
        step = max(1, _BLOCK_BYTES // (self.dim * self.dtype.itemsize))
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            yield start, stop
            self.taken(stop - start)

    def read(self, start: int, stop: int) -> Values:
        """Vectors of the rows [start, stop), (n, D)."""
        return self._converted(self.store.read(start, stop)[:, self.features])

    def record(self, row: int) -> Values:
        """What is stored for one record: its vector (D,), or one row a token (L, D)."""
        return self._converted(np.asarray(self.store[row])[..., self.features])

    def records(self) -> Iterator[tuple[str, Values]]:
        """Id and what is stored of each record, in row order."""
        for row, name in enumerate(self.ids()):
            yield name, self.record(row)
            self.taken(1)

    def _converted(self, values: Values) -> Values:
        with np.errstate(over="ignore"):
            converted = np.ascontiguousarray(values, self.dtype)
        if self.dtype.itemsize < values.dtype.itemsize and (np.isinf(converted) & np.isfinite(values)).any():
            raise InputError(f"{self.name} holds values beyond {self.dtype}: export them with --dtype float32")
        return converted


def select(
    store: Store, *, blocks: Sequence[str] = (), dtype: str | None = None, columns: Sequence[str] | None = None
) -> Selection:
    """Choose what is to leave a store.

    Parameters
    ----------
    blocks : names of column blocks that lie next to each other; none for all.
    dtype : float16, float32 or None for the stored type.
    columns : columns of the rows table; None for all metadata.

    Raises
    ------
    StoreError : there is no such block or column.
    InputError : the blocks do not lie next to each other.
    """
    parts = [store.block(name) for name in blocks]
    features = slice(min(p.start for p in parts), max(p.stop for p in parts)) if parts else slice(0, store.dim)
    if parts and sum(part.stop - part.start for part in parts) != features.stop - features.start:
        raise InputError(f"the blocks {', '.join(blocks)} do not lie next to each other: export them one by one")
    chosen = [name for name in store.column_names if name not in RESERVED] if columns is None else list(columns)
    _check(store, chosen)
    names = [f"{block.name}.{at}" for block in store.blocks for at in range(block.stop - block.start)]
    if len(names) != store.dim:
        names = [str(at) for at in range(store.dim)]
    return Selection(
        store,
        features,
        np.dtype(dtype or store.dtype),
        tuple(name for name in chosen if name != ID),
        tuple(names[features]),
    )


def _check(store: Store, columns: Sequence[str]) -> None:
    unknown = [name for name in columns if name not in store.column_names]
    if unknown:
        raise InputError(f"{store.path} has no column '{unknown[0]}'; it has: {', '.join(store.column_names)}")
