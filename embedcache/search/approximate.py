"""Searches of faiss that do not look at all rows: faster on many millions of rows, and not always right.

Axes: n queries, N rows that are searched, D features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import faiss
import numpy as np
import torch

from embedcache.search.nearest import ExactSearch, Metric, Neighbours

Approximate = Literal["ivf", "hnsw"]

PROBED = 16
"""Cells of an inverted file that a query looks into."""
LINKS = 32
"""Of each row in the graph."""
BREADTH = 128
"""Rows of the graph that a query follows."""
_SEED = 1234


class ApproximateSearch:
    """An inverted file (``ivf``, with sqrt(N) cells) or a graph (``hnsw``) over float32 rows; the same for the same rows.

    The cosine is searched as the distance of rows of length 1, which has the same order.
    """

    def __init__(self, rows_ND: torch.Tensor, metric: Metric, kind: Approximate) -> None:
        self.metric = metric
        prepared_ND = self._prepare(rows_ND)
        dim = prepared_ND.shape[1]
        threads = faiss.omp_get_max_threads()
        # rows that several threads link at once are linked in another order each time
        faiss.omp_set_num_threads(1 if kind == "hnsw" else threads)
        try:
            self._index: faiss.Index = _inverted_file(prepared_ND) if kind == "ivf" else faiss.IndexHNSWFlat(dim, LINKS)
            self._index.add(prepared_ND)
        finally:
            faiss.omp_set_num_threads(threads)

    @classmethod
    def read(cls, file: Path, metric: Metric) -> Self:
        """Read what `write` wrote; raises RuntimeError for anything else."""
        search = cls.__new__(cls)
        search.metric, search._index = metric, faiss.read_index(str(file))
        if isinstance(search._index, faiss.IndexIVF):
            search._index.nprobe = PROBED
        return search

    def write(self, file: Path) -> None:
        """Write the index as faiss does."""
        faiss.write_index(self._index, str(file))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def __call__(self, queries_nD: torch.Tensor, k: int) -> Neighbours:
        """Return k rows near each query; where fewer were found the last one is repeated."""
        k = min(k, self._index.ntotal)
        if isinstance(self._index, faiss.IndexHNSWFlat):
            self._index.hnsw.efSearch = max(BREADTH, 2 * k)
        squares, positions = self._index.search(self._prepare(queries_nD), k)
        for place in range(1, k):
            missing = positions[:, place] < 0
            positions[missing, place] = positions[missing, place - 1]
            squares[missing, place] = squares[missing, place - 1]
        squares = squares.clip(0)
        similarity = 1 - squares / 2 if self.metric == "cosine" else -np.sqrt(squares)
        return Neighbours(positions, similarity.astype(np.float32))

    def _prepare(self, values_nD: torch.Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        values_nD = values_nD.float().cpu()
        if self.metric == "cosine":
            values_nD = torch.nn.functional.normalize(values_nD, dim=1)
        return np.ascontiguousarray(values_nD.numpy())


def _inverted_file(prepared_ND: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> faiss.IndexIVFFlat:
    rows, dim = prepared_ND.shape
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, max(1, round(rows**0.5)))
    index.cp.seed = _SEED
    index.cp.min_points_per_centroid = 1  # no word about few rows
    index.nprobe = PROBED
    index.train(prepared_ND)
    return index


def recall(search: ApproximateSearch, exact: ExactSearch, queries_nD: torch.Tensor, k: int) -> float:
    """Share of the k nearest rows that an approximate search finds."""
    found, true = search(queries_nD, k).positions, exact(queries_nD, k).positions
    return float(
        np.mean([len(set(ours) & set(theirs)) / len(theirs) for ours, theirs in zip(found, true, strict=True)])
    )
