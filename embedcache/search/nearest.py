"""The k nearest rows, exactly, without multiplying out all pairs in full width.

Rows are prepared (for the cosine scaled to length 1; centred) and seen in 64 directions that hold most of them. For a query
q and a row p with coordinates q', p' there and residuals of length s, r, Cauchy and Schwarz bound the product:
qp <= q'p' + sr. So a product of short sketches (q', s) and (p', r) bounds the similarity of all pairs. Rows are taken in
the order of their bounds and compared in full width until the k-th best similarity is above the next bound: then no other
row can be nearer. Where the bounds rule out too little, queries are multiplied with all rows.

On embeddings, whose variance lies in few directions, a dozen comparisons more than k are enough for most queries, and
the search is several times as fast as a flat index of faiss (`benchmarks.neighbours`) on any processor.

The order of both similarities is that of a key of prepared rows: qp - |p|^2 / 2, for the cosine plus half the squared
length of p before centring, which is 1, or 0 for a row of zeros. Centring changes no order, and keeps the digits of rows
that have nearly the same direction, as raw embeddings do.

Axes: n queries or rows of a panel, N rows that are searched, D features, P columns of a sketch, m candidates of a query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from embedcache.search.rows import Rows

Metric = Literal["cosine", "euclidean"]

DIRECTIONS = 64
NARROW = 2 * DIRECTIONS
"""Up to this width sketches save nothing."""
SAMPLED = 4096
"""Rows that the directions are found in."""
ITERATIONS = 3
FEW = 12
"""Candidates beside k that are compared at first; then four times as many; then all rows."""
CHUNK = 32
"""Bounds of which the greatest is looked at first: choosing among these is four times faster than among all."""
ROUNDING = 2e-6
"""Above the float32 rounding of a squared residual, for rows of length 1."""
SLACK = 3e-6
"""Above the float32 rounding of a key, for prepared rows of length 1."""
EPSILON = 2e-7
"""Above the float32 rounding of a value."""
MOST_QUERIES = 1024
BLOCK_BYTES = 1 << 27
"""Most memory for the keys of a block of queries, and for rows in full width."""
COMPARED_BYTES = 1 << 24
"""Of candidates in full width, which stay in the cache from being read to being compared."""


@dataclass(frozen=True)
class Neighbours:
    """Of n queries the k nearest rows, the nearest first: their positions, and how similar they are, both (n, k).

    The similarity is the cosine, or the distance with a minus sign.
    """

    positions: Rows
    similarity: npt.NDArray[np.float32]

    def take(self, queries: slice) -> Neighbours:
        """Those of some of the queries."""
        return Neighbours(self.positions[queries], self.similarity[queries])

    def first(self, k: int) -> Neighbours:
        """The k nearest of them."""
        return Neighbours(self.positions[:, :k], self.similarity[:, :k])


class ExactSearch:
    """Finds the k nearest of the rows that it is made of, which are kept in the type that they have.

    Parameters
    ----------
    rows_ND : float16, float32 or float64, on the device where the search runs
    metric : ``cosine``, of which a row of zeros has 0 with every other, or ``euclidean``
    """

    def __init__(self, rows_ND: torch.Tensor, metric: Metric) -> None:
        self.rows_ND = rows_ND
        self.metric = metric
        lengths_N = torch.cat([_lengths(part_nD) for part_nD in self._panels()])
        unit_N = torch.where(lengths_N > 0, 1 / lengths_N, 0)
        self._scale_N = unit_N if metric == "cosine" else torch.ones_like(unit_N)
        sample = slice(0, len(rows_ND), -(-len(rows_ND) // SAMPLED))
        sample_nD = rows_ND[sample].float() * self._scale_N[sample, None]
        self._centre_D = sample_nD.mean(0)
        self._longest = max(float(_lengths(part_nD).max()) for _, part_nD in self._prepared_panels())
        # what rounding takes of a key: of the product, and of values before they are centred
        self._rounding = SLACK * self._longest + EPSILON * (1 if metric == "cosine" else float(lengths_N.max()))
        self._sketched = rows_ND.shape[1] > NARROW
        if self._sketched:
            self._directions_DP = _directions(sample_nD - self._centre_D)
            sketches = [self._sketch(part_nD, self._beside(part_nD)) for _, part_nD in self._prepared_panels()]
            self._sketch_NP = torch.cat(sketches)

    def __call__(self, queries_nD: torch.Tensor, k: int) -> Neighbours:
        """Return the k nearest rows of each query (n, D); all rows where there are fewer than k."""
        k = min(k, len(self.rows_ND))
        positions_nk = torch.empty((len(queries_nD), k), dtype=torch.int64)
        similarity_nk = torch.empty((len(queries_nD), k))
        size = min(MOST_QUERIES, max(16, BLOCK_BYTES // (4 * len(self.rows_ND)))) if self._sketched else MOST_QUERIES
        for start in range(0, len(queries_nD), size):
            part = slice(start, start + size)
            prepared_nD = self._prepare(queries_nD[part].to(self.rows_ND.device))
            found = self._by_bounds(prepared_nD, k) if self._sketched else self._by_keys(prepared_nD, k)
            positions_nk[part], similarity_nk[part] = (one.cpu() for one in found)
        return Neighbours(positions_nk.numpy(), similarity_nk.numpy())

    def _by_bounds(self, prepared_nD: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions and similarities (n, k), from as few comparisons as the bounds allow."""
        widths = [width for width in (k + FEW, 4 * (k + FEW)) if width < len(self.rows_ND)]
        if not widths:
            return self._by_keys(prepared_nD, k)
        sketch_nP = self._sketch(prepared_nD, torch.ones_like(prepared_nD[:, 0]))
        bounds_nm, order_nm = _largest(sketch_nP @ self._sketch_NP.T, widths[-1] + 1)
        bounds_nm += self._rounding * _lengths(prepared_nD).clamp(min=self._longest)[:, None]
        positions_nk = order_nm[:, :k].clone()
        similarity_nk = prepared_nD.new_empty((len(prepared_nD), k))
        open_n = torch.arange(len(prepared_nD), device=prepared_nD.device)
        for width in widths:
            found = self._compare(prepared_nD[open_n], order_nm[open_n, :width], k)
            positions_nk[open_n], similarity_nk[open_n] = found
            open_n = open_n[self._keys(prepared_nD[open_n], found[1][:, -1]) < bounds_nm[open_n, width]]
        if len(open_n):
            positions_nk[open_n], similarity_nk[open_n] = self._by_keys(prepared_nD[open_n], k)
            # the features have no dominant directions: bounds are not worth another try
            self._sketched = 2 * len(open_n) < len(prepared_nD)
        return positions_nk, similarity_nk

    def _by_keys(self, prepared_nD: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions and similarities (n, k), from the keys of all rows."""
        width = min(k + FEW, len(self.rows_ND))
        best_nm = prepared_nD.new_empty((len(prepared_nD), 0))
        order_nm = torch.empty((len(prepared_nD), 0), dtype=torch.int64, device=prepared_nD.device)
        for start, rows_nD in self._prepared_panels():
            keys = (prepared_nD @ rows_nD.T).add_(self._beside(rows_nD))
            keys, places = _largest(keys, min(width, len(rows_nD)))
            best_nm, kept = torch.cat([best_nm, keys], dim=1).topk(min(width, best_nm.shape[1] + keys.shape[1]))
            order_nm = torch.cat([order_nm, places + start], dim=1).gather(1, kept)
        return self._compare(prepared_nD, order_nm, k)

    def _compare(self, prepared_nD: torch.Tensor, order_nm: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k most similar of the candidates of each query, by their distances in full width."""
        queries, width = order_nm.shape
        dim = prepared_nD.shape[1]
        size = max(1, COMPARED_BYTES // (4 * width * dim))
        distance_nm = prepared_nD.new_empty((queries, width))
        stored = torch.empty((min(size, queries) * width, dim), dtype=self.rows_ND.dtype, device=prepared_nD.device)
        widened = torch.empty_like(stored, dtype=torch.float32)
        for start in range(0, queries, size):
            part = slice(start, start + size)
            order = order_nm[part]
            read = torch.index_select(self.rows_ND, 0, order.flatten(), out=stored[: order.numel()])
            rows_nmD = widened[: order.numel()].copy_(read).view(*order.shape, dim)
            minus_n1D = -(prepared_nD[part] + self._centre_D)[:, None]
            torch.addcmul(minus_n1D, rows_nmD, self._scale_N[order][:, :, None], out=rows_nmD)
            torch.linalg.vector_norm(rows_nmD, dim=2, out=distance_nm[part])
        similarity_nm = -distance_nm
        if self.metric == "cosine":  # qp = (qq + pp - |q - p|^2) / 2
            ones_nm = self._unit(prepared_nD)[:, None] + (self._scale_N[order_nm] > 0).float()
            # near 1 float32 has few values: those that it cannot tell apart are ordered before they are rounded
            similarity_nm = (ones_nm - distance_nm.double().square()) / 2
        best = similarity_nm.topk(k)
        return order_nm.gather(1, best.indices), best.values.float()

    def _keys(self, prepared_nD: torch.Tensor, similarity_n: torch.Tensor) -> torch.Tensor:
        """Similarities to a query each -> keys."""
        squares_n = prepared_nD.square().sum(1)
        if self.metric == "cosine":
            return similarity_n + (squares_n - self._unit(prepared_nD)) / 2
        return (squares_n - similarity_n.square()) / 2

    def _unit(self, prepared_nD: torch.Tensor) -> torch.Tensor:
        """Squared lengths of prepared rows before centring, for the cosine: 1, or 0 for a row of zeros."""
        return (prepared_nD + self._centre_D).square().sum(1).round()

    def _prepare(self, values_nD: torch.Tensor) -> torch.Tensor:
        values_nD = values_nD.float()
        if self.metric == "cosine":
            values_nD = functional.normalize(values_nD, dim=1, eps=_TINY)
        return values_nD - self._centre_D

    def _prepared_panels(self) -> Iterator[tuple[int, torch.Tensor]]:
        """All rows in order, prepared, with the number of the first of each panel."""
        start = 0
        for part_nD in self._panels():
            yield start, self._prepare(part_nD)
            start += len(part_nD)

    def _panels(self) -> Iterator[torch.Tensor]:
        """All rows in order, in float32."""
        size = BLOCK_BYTES // (4 * max(self.rows_ND.shape[1], MOST_QUERIES))
        for start in range(0, len(self.rows_ND), size):
            yield self.rows_ND[start : start + size].float()

    def _beside(self, prepared_nD: torch.Tensor) -> torch.Tensor:
        """What the key of a row has beside the product."""
        unit_n = self._unit(prepared_nD) if self.metric == "cosine" else 0
        return (unit_n - prepared_nD.square().sum(1)) / 2

    def _sketch(self, prepared_nD: torch.Tensor, beside_n: torch.Tensor) -> torch.Tensor:
        """Coordinates in the directions, the length of what is left, and one more column: (n, P)."""
        along_nP = prepared_nD @ self._directions_DP
        left_n = (prepared_nD.square().sum(1) * (1 + ROUNDING) - along_nP.square().sum(1)).clamp(min=0).sqrt()
        return torch.cat([along_nP, left_n[:, None], beside_n[:, None]], dim=1)


_TINY = torch.finfo(torch.float32).tiny


def _lengths(values_nD: torch.Tensor) -> torch.Tensor:
    lengths_n: torch.Tensor = torch.linalg.vector_norm(values_nD, dim=1)
    return lengths_n


def _directions(prepared_nD: torch.Tensor) -> torch.Tensor:
    """Orthonormal directions (D, P) that hold most of the rows: subspace iteration (Halko et al. 2011, arXiv:0909.4061)."""
    random = torch.Generator().manual_seed(0)
    directions_DP = torch.randn((prepared_nD.shape[1], DIRECTIONS), generator=random).to(prepared_nD.device)
    for _ in range(ITERATIONS):
        directions_DP = torch.linalg.qr(prepared_nD.T @ (prepared_nD @ directions_DP))[0]
    return directions_DP


def _largest(keys_nN: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest of each row, falling, and their places: looked for in the chunks with the largest maxima."""
    chunks = keys_nN.shape[1] // CHUNK
    if chunks <= count:
        best = keys_nN.topk(count)
        return best.values, best.indices
    whole = chunks * CHUNK
    chunked = keys_nN[:, :whole].reshape(-1, chunks, CHUNK)
    taken = chunked.amax(2).topk(count, sorted=False).indices
    places = (taken[:, :, None] * CHUNK + torch.arange(CHUNK, device=taken.device)).flatten(1)
    rest = torch.arange(whole, keys_nN.shape[1], device=taken.device).expand(len(keys_nN), -1)
    places = torch.cat([places, rest], dim=1)
    best = keys_nN.gather(1, places).topk(count)
    return best.values, places.gather(1, best.indices)
