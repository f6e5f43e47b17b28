"""Which rows of a store repeat each other: the same sequence, its other strand, or nearly the same vector.

Axes: k pairs, n rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.records import ID
from embedcache.search.near_duplicates import near_duplicates
from embedcache.search.standardising import standardise
from embedcache.storage.store import Store

Rows = NDArray[np.int64]
IDENTICAL, REVERSED, NEAR = "identical", "reverse complement", "near"
SPLIT = "split"


@dataclass(frozen=True)
class Repeats:
    """What repeats in a store."""

    first: Rows
    """(k,) of each pair the row that comes first."""
    second: Rows
    """(k,)."""
    kinds: NDArray[np.str_]
    """(k,) ``identical``, ``reverse complement`` or ``near``; of several equal rows each is paired with the first."""
    cosine: NDArray[np.float64]
    """(k,) of the standardised features; NaN where the sequences tell."""
    clusters: Rows
    """(n,) the cluster of each row of the store, 0 for rows that repeat nothing."""
    unknown: int
    """Rows without a sequence."""
    splits: tuple[tuple[str, str, int], ...]
    """Two splits, and how many rows of the first have a repeat in the second."""

    @property
    def sizes(self) -> Rows:
        """Rows of each cluster, the largest first."""
        return np.sort(np.bincount(self.clusters)[1:])[::-1]

    def count(self, kind: str) -> int:
        """Pairs of a kind."""
        return int((self.kinds == kind).sum())


def find_repeats(store: Store, threshold: float, *, device: str = "cpu") -> Repeats:
    """Find the rows that repeat each other.

    Sequences are compared by their digests. Near-duplicates are pairs of rows with different sequences whose features,
    standardised by the mean and deviation of all rows, have a cosine over `threshold`: plain features share a mean, so that
    unrelated rows may have a cosine over 0.99.

    Raises
    ------
    StoreError : the store keeps every token.
    HeadError : the threshold is not between 0 and 1, or there are more than 50 million pairs.
    """
    store.read(0, 0)  # raises where every token is kept
    rows = np.arange(len(store))
    table = store.read_rows(["digest", "rc_digest"])
    plain, canonical = _numbered(table.column("digest")), _numbered(table.column("rc_digest"))
    known = plain >= 0
    pairs = [_pairs(rows[known], plain[known], IDENTICAL)]
    distinct = _firsts(rows[known], plain[known])
    stranded = distinct[canonical[distinct] >= 0]
    pairs.append(_pairs(stranded, canonical[stranded], REVERSED))
    asked = np.setdiff1d(np.concatenate([distinct, rows[~known]]), store.quarantined)
    if len(asked) > 1:
        found = near_duplicates(
            store, asked, asked, threshold, standardisation=standardise(store, asked), device=device
        )
        # the other strand of a sequence is told by the sequences
        new = (found.query < found.against) & ~_same(canonical, found.query, found.against)
        pairs.append((found.query[new], found.against[new], NEAR, found.cosine[new].astype(np.float64)))
    first, second = (np.concatenate([pair[at] for pair in pairs]).astype(np.int64) for at in (0, 1))
    kinds = np.concatenate([np.full(len(pair[0]), pair[2], "U18") for pair in pairs])
    cosine = np.concatenate([pair[3] for pair in pairs])
    clusters = _clusters(len(store), first, second)
    return Repeats(first, second, kinds, cosine, clusters, int((~known).sum()), _across(store, clusters))


def _numbered(column: pa.ChunkedArray) -> Rows:
    """A number for each distinct value, -1 where there is none."""
    codes = column.combine_chunks().dictionary_encode()
    codes = codes.chunk(0) if isinstance(codes, pa.ChunkedArray) else codes
    return np.asarray(codes.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def _firsts(rows: Rows, codes: Rows) -> Rows:
    return np.sort(rows[np.unique(codes, return_index=True)[1]])


def _pairs(rows: Rows, codes: Rows, kind: str) -> tuple[Rows, Rows, str, NDArray[np.float64]]:
    """The first row of each code with every later one."""
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    firsts = rows[first[which]] if len(rows) else rows
    later = firsts != rows
    return firsts[later], rows[later], kind, np.full(int(later.sum()), np.nan)


def _same(codes: Rows, first: Rows, second: Rows) -> NDArray[np.bool_]:
    return np.asarray((codes[first] == codes[second]) & (codes[first] >= 0))


def _clusters(n: int, first: Rows, second: Rows) -> Rows:
    """Rows that hang together by pairs, numbered from 1 in the order of their first row."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    paired = np.zeros(n, np.bool_)
    paired[first] = paired[second] = True
    clusters = np.zeros(n, np.int64)
    _, start, which = np.unique(component[paired], return_index=True, return_inverse=True)
    clusters[paired] = np.argsort(np.argsort(start))[which] + 1
    return clusters


def _across(store: Store, clusters: Rows) -> tuple[tuple[str, str, int], ...]:
    """For each pair of splits how many rows of the first share a cluster with a row of the second."""
    if SPLIT not in store.column_names:
        return ()
    names = np.array([str(value) for value in store.column(SPLIT).to_pylist()])
    held = {name: np.unique(clusters[(names == name) & (clusters > 0)]) for name in np.unique(names).tolist()}
    counts = [
        (one, other, int(np.isin(clusters[(names == one) & (clusters > 0)], held[other]).sum()))
        for one in held for other in held if one != other
    ]  # fmt: skip
    return tuple(entry for entry in counts if entry[2])


def pairs_table(store: Store, repeats: Repeats) -> pa.Table:
    """The pairs with their cluster, ids, rows, and splits where these are known."""
    columns: dict[str, Any] = {"cluster": repeats.clusters[repeats.first], "kind": repeats.kinds.tolist()}
    rows = store.read_rows([ID, *([SPLIT] if SPLIT in store.column_names else [])])
    for letter, places in (("a", repeats.first), ("b", repeats.second)):
        taken = rows.take(pa.array(places))
        columns |= {f"{name}_{letter}": taken.column(name) for name in rows.column_names}
        columns[f"row_{letter}"] = places
    columns["cosine"] = pa.array(np.round(repeats.cosine, 6), from_pandas=True)
    return pa.table(columns)
