"""Near-duplicate rows: every pair of rows whose cosine is over a threshold, without multiplying out all pairs.

Rows are scaled to length 1 and seen in 63 directions that hold most of them. For rows a, b with coordinates p, q there
and residuals of length r, s the inequality of Cauchy and Schwarz bounds the cosine: ab <= pq + rs. So the bounds of all
pairs are one short product, of sketches (p, r) and (q, s), and only pairs whose bound is over the threshold are
multiplied in full width. Any directions give the same pairs; good ones save work. Where the bounds rule out too little,
a block is multiplied as a whole, and the bounds were in vain: in features without dominant directions faiss' range search
can be faster.

Axes: n rows of the queries, m rows that they are held against, k pairs, D features, P = 64 columns of a sketch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from embedcache.errors import HeadError
from embedcache.search.rows import MEMORY_BYTES, Block, Rows, RowSource, Standardisation, raw_blocks

DIRECTIONS = 63
SAMPLED = 4096
"""Rows that the directions are found in."""
ITERATIONS = 3
BLOCK = 4096
"""Queries, and rows they are held against, of a block that is multiplied in full width where it must be."""
TILE = 1024
"""Rows of a tile of bounds: 4 MB, which stay in the cache until they are compared."""
ROUNDING = 2e-6
"""Above the float32 rounding of a squared length in the directions, for rows of length 1."""
SLACK = 1e-5
"""Above the float32 rounding of a bound."""
DENSE = 1 / 64
"""A block in which more than this share of the pairs may be over the threshold is multiplied as a whole."""
AT_ONCE = 4096
"""Pairs multiplied together in full width."""
MOST_PAIRS = 50_000_000


@dataclass(frozen=True)
class Pairs:
    """Near-duplicates: k queries, rising, the row that each is like, and their cosines (k,)."""

    query: Rows
    against: Rows
    cosine: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.query)


def near_duplicates(
    source: RowSource,
    queries: Rows,
    against: Rows,
    threshold: float,
    *,
    standardisation: Standardisation | None = None,
    device: torch.device | str = "cpu",
    memory_bytes: int = MEMORY_BYTES,
) -> Pairs:
    """Find all pairs of a query and another row whose cosine is over `threshold`, as row numbers of the source.

    With a `standardisation` the cosine is that of the standardised rows. A row of zeros has no direction, and no pair.
    Sketches take 256 bytes a row; a block of rows in full width takes `memory_bytes` at most.

    Raises HeadError where the threshold is not between 0 and 1, a feature is not finite, or there are more than 50
    million pairs.
    """
    found: list[Pairs] = []
    total = 0
    for pairs in _pairs(source, queries, against, threshold, standardisation, torch.device(device), memory_bytes):
        found.append(pairs)
        total += len(pairs)
        if total > MOST_PAIRS:
            raise HeadError(
                f"more than {MOST_PAIRS:,} pairs of rows have a cosine over {threshold:g}: take a higher threshold, or "
                "remove rows that repeat each other"
            )
    joined = _joined(found)
    query, other = queries[joined.query], against[joined.against]
    order = np.lexsort((other, query))
    return Pairs(query[order], other[order], joined.cosine[order])


def nearest(
    source: RowSource,
    queries: Rows,
    against: Rows,
    threshold: float,
    *,
    standardisation: Standardisation | None = None,
    device: torch.device | str = "cpu",
    memory_bytes: int = MEMORY_BYTES,
) -> Pairs:
    """Find for each query that has any `near_duplicates` the nearest of them, however many pairs there are."""
    cosine_n = np.full(len(queries), -np.inf, np.float32)
    other_n = np.full(len(queries), -1, np.int64)
    for pairs in _pairs(source, queries, against, threshold, standardisation, torch.device(device), memory_bytes):
        rising = np.argsort(pairs.cosine, kind="stable")
        rising = rising[pairs.cosine[rising] > cosine_n[pairs.query[rising]]]
        # of several values for one query the last, which is the greatest, stays
        cosine_n[pairs.query[rising]] = pairs.cosine[rising]
        other_n[pairs.query[rising]] = pairs.against[rising]
    found = np.flatnonzero(other_n >= 0)
    found = found[np.argsort(queries[found], kind="stable")]
    return Pairs(queries[found], against[other_n[found]], cosine_n[found])


def closest(
    source: RowSource,
    queries: Rows,
    against: Rows,
    *,
    standardisation: Standardisation | None = None,
    device: torch.device | str = "cpu",
) -> npt.NDArray[np.float32]:
    """Return the cosine of each query and the row nearest to it (n,), whatever it is; all pairs are multiplied out.

    Rows as in `nearest`; a row of zeros has the cosine 0. -1 where there are no other rows.

    Raises HeadError where a feature is not finite.
    """
    asked = _UnitRows(source, queries, standardisation, torch.device(device))
    held = _UnitRows(source, against, standardisation, torch.device(device))
    found_n = np.full(len(queries), -1, np.float32)
    for start in range(0, len(queries), BLOCK):
        query = np.arange(start, min(start + BLOCK, len(queries)))
        unit_nD = asked.read(query)
        for first in range(0, len(against), BLOCK):
            other = np.arange(first, min(first + BLOCK, len(against)))
            nearest_n = (unit_nD @ held.read(other).T).amax(1).clamp_(max=1).cpu().numpy()
            found_n[query] = np.maximum(found_n[query], nearest_n)
    return found_n


def _joined(found: Sequence[Pairs]) -> Pairs:
    """All pairs one after another."""
    empty = np.empty(0, np.int64)
    return Pairs(
        np.concatenate([empty, *(pairs.query for pairs in found)]),
        np.concatenate([empty, *(pairs.against for pairs in found)]),
        np.concatenate([np.empty(0, np.float32), *(pairs.cosine for pairs in found)]),
    )


def _pairs(
    source: RowSource,
    queries: Rows,
    against: Rows,
    threshold: float,
    standardisation: Standardisation | None,
    device: torch.device,
    memory_bytes: int,
) -> Iterator[Pairs]:
    """Yield the pairs of one block after another, as positions in `queries` and `against`."""
    if not 0 < threshold < 1:
        raise HeadError(f"the cosine of near-duplicates must be between 0 and 1, not {threshold:g}")
    if not len(queries) or not len(against):
        return
    asked = _UnitRows(source, queries, standardisation, device)
    held = _UnitRows(source, against, standardisation, device)
    directions_DP = _directions(held)
    asked_nP, held_mP = asked.sketch(directions_DP), held.sketch(directions_DP)
    size = BLOCK
    while size > TILE and 4 * size * (2 * source.dim + size) > memory_bytes:
        size //= 2
    for start in range(0, len(queries), size):
        query = np.arange(start, min(start + size, len(queries)))
        for first in range(0, len(against), size):
            other = np.arange(first, min(first + size, len(against)))
            candidates = _candidates(asked_nP[query], held_mP[other], threshold - SLACK)
            if candidates is None:
                pairs = _multiply_all(asked, held, query, other, threshold)
            else:
                pairs = _multiply(asked, held, query[candidates[0]], other[candidates[1]], threshold)
            different = queries[pairs.query] != against[pairs.against]
            if different.any():
                yield Pairs(pairs.query[different], pairs.against[different], pairs.cosine[different])


class _UnitRows:
    """Rows of a source scaled to length 1, read when they are asked for; rows of zeros stay zero."""

    def __init__(
        self, source: RowSource, rows: Rows, standardisation: Standardisation | None, device: torch.device
    ) -> None:
        self.source = source
        self.rows = rows
        self.standardisation = None if standardisation is None else standardisation.on(device)
        self.device = device

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, positions: Rows) -> torch.Tensor:
        """Return some of the rows (k, D) in float32."""
        unit_kD = torch.empty((len(positions), self.source.dim), device=self.device)
        for block, length_n1 in self._blocks(self.rows[positions]):
            torch.div(block.values_nD, length_n1, out=unit_kD[block.start : block.stop])
        return unit_kD

    def sketch(self, directions_DP: torch.Tensor) -> torch.Tensor:
        """Return the coordinates of all rows in the directions, and the length of what is left (n, P)."""
        sketch_nP = torch.empty((len(self), directions_DP.shape[1] + 1), device=self.device)
        for block, length_n1 in self._blocks(self.rows):
            # scaling the few coordinates is scaling the row
            coordinates_nP = torch.mm(block.values_nD, directions_DP).div_(length_n1)
            left_n = (1 - coordinates_nP.square().sum(1)).clamp_(min=0).add_(ROUNDING).sqrt_()
            sketch_nP[block.start : block.stop, :-1] = coordinates_nP
            sketch_nP[block.start : block.stop, -1] = left_n * torch.isfinite(length_n1[:, 0])
        return sketch_nP

    def _blocks(self, rows: Rows) -> Iterator[tuple[Block, torch.Tensor]]:
        """Yield blocks, not scaled yet, and the length of each row (n, 1), infinite for a row of zeros."""
        for block in raw_blocks(self.source, rows):
            values_nD = block.values_nD.to(self.device)
            if self.standardisation is not None:
                values_nD = self.standardisation.apply_(values_nD)
            values_nD = values_nD.float()
            length_n1 = torch.linalg.vector_norm(values_nD, dim=1, keepdim=True)
            bad_n = ~torch.isfinite(length_n1[:, 0])
            if bad_n.any():
                row = int(rows[block.start + int(bad_n.nonzero()[0])])
                raise HeadError(f"the features of row {row} are not finite numbers; see `embedcache verify`")
            yield Block(block.start, block.stop, values_nD), length_n1.masked_fill_(length_n1 == 0, torch.inf)


def _directions(held: _UnitRows) -> torch.Tensor:
    """Return orthonormal directions (D, P - 1) that hold most of the rows: subspace iteration on evenly spaced ones."""
    sample_nD = held.read(np.arange(0, len(held), -(-len(held) // SAMPLED)))
    dim = sample_nD.shape[1]
    random = torch.Generator().manual_seed(0)
    directions_DP = torch.randn((dim, min(DIRECTIONS, dim)), generator=random).to(sample_nD.device)
    for _ in range(ITERATIONS):
        directions_DP = sample_nD.T @ (sample_nD @ directions_DP)
        directions_DP = torch.linalg.qr(directions_DP.double())[0].float()
    return directions_DP


def _candidates(asked_nP: torch.Tensor, held_mP: torch.Tensor, limit: float) -> tuple[Rows, Rows] | None:
    """Return the pairs of a block whose bound is over the limit; None where they are too many to go one by one."""
    found: list[torch.Tensor] = []
    left = int(DENSE * len(asked_nP) * len(held_mP))
    for start in range(0, len(asked_nP), TILE):
        for first in range(0, len(held_mP), TILE):
            bounds_nm = asked_nP[start : start + TILE] @ held_mP[first : first + TILE].T
            if bounds_nm.amax() <= limit:
                continue
            over_k2 = (bounds_nm > limit).nonzero()
            left -= len(over_k2)
            if left < 0:
                return None
            found.append(over_k2 + torch.tensor([start, first], device=over_k2.device))
    pairs_k2 = torch.cat(found).cpu().numpy() if found else np.empty((0, 2), np.int64)
    return pairs_k2[:, 0], pairs_k2[:, 1]


def _multiply(asked: _UnitRows, held: _UnitRows, query: Rows, other: Rows, threshold: float) -> Pairs:
    """Return those of the given pairs (k,) whose cosine is over the threshold."""
    found = []
    for start in range(0, len(query), AT_ONCE):
        query_k, other_k = query[start : start + AT_ONCE], other[start : start + AT_ONCE]
        cosine_k = (_read_each(asked, query_k) * _read_each(held, other_k)).sum(1).cpu().numpy()
        over = cosine_k > threshold
        found.append(Pairs(query_k[over], other_k[over], cosine_k[over]))
    return _joined(found)


def _read_each(rows: _UnitRows, positions: Rows) -> torch.Tensor:
    """Read rows of which some are wanted several times."""
    once, places = np.unique(positions, return_inverse=True)
    return rows.read(once)[torch.from_numpy(places).to(rows.device)]


def _multiply_all(asked: _UnitRows, held: _UnitRows, query: Rows, other: Rows, threshold: float) -> Pairs:
    """Return the pairs of a whole block whose cosine is over the threshold."""
    cosine_nm = asked.read(query) @ held.read(other).T
    over_k2 = (cosine_nm > threshold).nonzero()
    cosine_k = cosine_nm[over_k2[:, 0], over_k2[:, 1]].cpu().numpy()
    pairs_k2 = over_k2.cpu().numpy()
    return Pairs(query[pairs_k2[:, 0]], other[pairs_k2[:, 1]], cosine_k)
