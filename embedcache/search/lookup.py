"""Which rows of a store are near some queries: sequences, encoded as the store's own were, or the rows of another store.

Axes: n queries, N rows of the store, D values.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from embedcache.errors import InputError, StoreError
from embedcache.exchange.embeddings import Values
from embedcache.records import ID, RESERVED
from embedcache.search.approximate import ApproximateSearch
from embedcache.search.kept import KeptIndex
from embedcache.search.nearest import ExactSearch, Metric, Neighbours
from embedcache.storage.store import Store

Kind = Literal["exact", "ivf", "hnsw"]
BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Queries:
    """n queries in order."""

    ids: list[str]
    values: Values
    """(n, D)."""
    rows: NDArray[np.int64] | None = None
    """(n,) which rows of the searched store they are, where they are its own: no row is its own hit."""


class StoreSearch:
    """Searches the rows of a store that have an embedding.

    Parameters
    ----------
    kind : ``exact``; ``ivf`` and ``hnsw`` are indices of faiss, faster on millions of rows and not always right. These are
        made once and kept (`embedcache.search.kept`), until the store changes.
    device : where exact searches run.

    Raises
    ------
    StoreError : the store keeps every token, or has no rows with an embedding.
    """

    def __init__(self, store: Store, kind: Kind, metric: Metric, *, device: str = "cpu") -> None:
        store.read(0, 0)  # raises where every token is kept
        self.store, self.metric = store, metric
        self.rows = np.setdiff1d(np.arange(len(store)), store.quarantined)
        if not len(self.rows):
            raise StoreError(f"{store.path} has no row with an embedding: there is nothing to search")
        self.index: str | None = None
        """Where the index lies, None for exact searches."""
        self._search: ExactSearch | ApproximateSearch
        if kind == "exact":
            self._search = ExactSearch(self._tensor().to(device), metric)
            return
        kept = KeptIndex(store, kind, metric)
        found = kept.load()
        if found is not None and len(found) == len(self.rows):
            self._search, self.index = found, "kept from an earlier search"
            return
        self._search = ApproximateSearch(self._tensor(), metric, kind)
        self.index = f"made, and kept as {kept.save(self._search)}"

    def _tensor(self) -> torch.Tensor:
        """All usable rows (N, D), mapped where that can be had."""
        embeddings = self.store.embeddings
        if isinstance(embeddings, np.ndarray) and len(self.rows) == len(self.store):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch has no tensors that may not be written to; nothing writes to it
                return torch.from_numpy(embeddings)
        return torch.from_numpy(np.array(self.store.take(self.rows)))

    def hits(self, queries: Queries, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Of each hit the query, the row of the store and the similarity, the nearest first."""
        own = queries.rows is not None
        found: Neighbours = self._search(torch.from_numpy(np.array(queries.values)), k + own)
        rows_nk = self.rows[found.positions]
        kept_nk = np.ones(rows_nk.shape, np.bool_)
        kept_nk[:, 1:] = (
            found.positions[:, 1:] != found.positions[:, :-1]
        )  # an index repeats its last where it found fewer
        if queries.rows is not None:
            kept_nk &= rows_nk != queries.rows[:, None]
        kept_nk &= np.cumsum(kept_nk, axis=1) <= k
        query, place = np.nonzero(kept_nk)
        return query, rows_nk[query, place], found.similarity[query, place].astype(np.float64)

    def tables(self, queries: Iterator[Queries], k: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Tables of hits: query, rank from 1, id, similarity (or distance), and columns of the store; None for the metadata.

        Raises `InputError` for an unknown column.
        """
        names = [name for name in self.store.column_names if name not in RESERVED] if columns is None else list(columns)
        unknown = [name for name in names if name not in self.store.column_names]
        if unknown:
            raise InputError(
                f"{self.store.path} has no column '{unknown[0]}'; it has: {', '.join(self.store.column_names)}"
            )
        table = self.store.read_rows(list(dict.fromkeys([ID, *names])))
        for block in queries:
            query, rows, similarity = self.hits(block, k)
            rank = np.arange(len(query)) - np.searchsorted(query, query) + 1
            hit: dict[str, Any] = {"query": np.array(block.ids, object)[query], "rank": rank}
            taken = table.take(pa.array(rows))
            hit[ID] = taken.column(ID)
            if self.metric == "cosine":
                hit["similarity"] = similarity
            else:
                hit["distance"] = -similarity
            hit |= {f"{name}_of_hit" if name in hit else name: taken.column(name) for name in names if name != ID}
            yield pa.table(hit)


def rows_of(other: Store, store: Store) -> Iterator[Queries]:
    """The rows of a store as queries to another one (or to itself).

    Raises
    ------
    InputError : the two were not made by the same encoder in the same way.
    """
    if other.fingerprint != store.fingerprint or other.dim != store.dim:
        made = [f"{one.path} ({one.attrs['encoder']['name']}, {one.dim:,} values)" for one in (other, store)]
        raise InputError(
            f"{made[0]} and {made[1]} were not made by one encoder in the same way (fingerprints {other.fingerprint[:12]} "
            f"and {store.fingerprint[:12]}), so that their vectors cannot be compared: give the queries as sequences"
        )
    return _blocks(other, other.origin == store.origin)


def _blocks(other: Store, own: bool) -> Iterator[Queries]:
    rows, ids = np.setdiff1d(np.arange(len(other)), other.quarantined), other.column(ID)
    for start in range(0, len(rows), BLOCK_ROWS):
        part = rows[start : start + BLOCK_ROWS]
        yield Queries(ids.take(pa.array(part)).to_pylist(), other.take(part), part if own else None)
