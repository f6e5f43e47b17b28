"""The search for near-duplicates beside faiss: the same pairs over the same threshold, and the time to find them.

10,000 queries against 100,000 rows of 2,048 float16 features with a power-law spectrum, as embeddings have, 50 queries
being noisy copies of other rows. The peer is faiss' exact range search (IndexFlatIP) over the same rows standardised,
scaled to length 1 and held in memory as float32, which is not timed; ours is timed from the float16 rows on.

    python -m benchmarks.leakage [--quick]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from embedcache.search.near_duplicates import Pairs, near_duplicates
from embedcache.search.standardising import standardise
from heads.data.features import ArrayRows, Rows, RowSource, Standardisation, raw_blocks

T = TypeVar("T")
Singles = npt.NDArray[np.float32]

THRESHOLD = 0.999
PLANTED = 50
NOISE = 0.01
"""Deviation of a noisy copy, in deviations of the feature: a cosine of 0.9999 for most."""
CHUNK = 8192


def simulate(rows: int, dim: int, queries: int, seed: int = 0) -> npt.NDArray[np.float16]:
    """Make features (rows, dim) in eight clusters, means far from zero; some of the last `queries` rows are noisy copies."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((8, dim), dtype=np.float32)
    rank = np.arange(1, dim + 1, dtype=np.float32)
    basis = np.linalg.qr(rng.standard_normal((dim, dim), dtype=np.float32))[0]
    mixing = rank[:, None] ** np.float32(-1.1) * basis * np.sqrt(np.float32(dim))
    scale = rng.lognormal(-1, 0.5, dim).astype(np.float32)
    mean = rng.normal(0, 1.5, dim).astype(np.float32)
    values = np.empty((rows, dim), np.float16)
    for start in range(0, rows, CHUNK):
        latent = rng.standard_normal((min(CHUNK, rows - start), dim), dtype=np.float32)
        latent += centres[rng.integers(8, size=len(latent))]
        values[start : start + CHUNK] = (latent @ mixing + mean) * scale
    originals = rng.choice(rows - queries, PLANTED, replace=False)
    copies = rows - 1 - rng.choice(queries, PLANTED, replace=False)
    deviation = values[::16].std(0, dtype=np.float32)
    values[copies] = values[originals] + NOISE * deviation * rng.standard_normal((PLANTED, dim), dtype=np.float32)
    return values


def unit_rows(source: RowSource, rows: Rows, standardisation: Standardisation) -> Singles:
    """Rows (n, D) as the peer wants them."""
    unit_ND = torch.empty((len(rows), source.dim))
    for block in raw_blocks(source, rows):
        values_nD = standardisation.apply_(block.values_nD)
        unit_ND[block.start : block.stop] = torch.nn.functional.normalize(values_nD)
    values: Singles = unit_ND.numpy()
    return values


def range_search(index: Any, queries: Rows, unit_ND: Singles) -> Pairs:
    """The peer: pairs as row numbers, in the order of `near_duplicates`."""
    limits, cosines, others = index.range_search(unit_ND, THRESHOLD)
    asked = np.repeat(queries, np.diff(limits.astype(np.int64)))
    order = np.lexsort((others, asked))
    return Pairs(asked[order], others[order], cosines[order])


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that `work` took, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def run(quick: bool = False) -> dict[str, Any]:
    """Search with both, ours before and after the peer; return seconds, their ratio, and whether the pairs are equal."""
    import faiss

    count, held, dim = (1_000, 6_000, 256) if quick else (10_000, 100_000, 2_048)
    source = ArrayRows(simulate(held + count, dim, count))
    against, queries = np.arange(held), np.arange(held, held + count)
    standardisation = standardise(source, against)

    def screened() -> Pairs:
        return near_duplicates(source, queries, against, THRESHOLD, standardisation=standardisation)

    before, pairs = timed(screened)
    index = faiss.IndexFlatIP(dim)
    for start in range(0, held, CHUNK):
        index.add(unit_rows(source, against[start : start + CHUNK], standardisation))
    asked_ND = unit_rows(source, queries, standardisation)
    peer, expected = timed(lambda: range_search(index, queries, asked_ND))
    after, _ = timed(screened)
    seconds = (before + after) / 2
    return {
        "name": "near-duplicates",
        "peer": "faiss IndexFlatIP.range_search",
        "queries": count,
        "rows": held,
        "dim": dim,
        "threshold": THRESHOLD,
        "seconds": seconds,
        "seconds_peer": peer,
        "ratio": peer / seconds,
        "pairs": len(pairs),
        "planted": PLANTED,
        "same_pairs": np.array_equal(pairs.query, expected.query) and np.array_equal(pairs.against, expected.against),
        "largest_difference": float(np.abs(pairs.cosine - expected.cosine).max())
        if len(pairs) == len(expected)
        else float("nan"),
    }


def main() -> None:
    """Print one run; ends with code 1 where the pairs differ."""
    found = run(quick="--quick" in sys.argv[1:])
    print(
        f"{found['name']}: {found['queries']:,} queries, {found['rows']:,} rows x {found['dim']}, cosine > {THRESHOLD}"
    )
    print(f"  {found['peer']}: {found['seconds_peer']:.2f} s")
    print(
        f"  heads: {found['seconds']:.2f} s, {found['pairs']} pairs, cosines within {found['largest_difference']:.0e}"
    )
    print(f"  ratio: {found['ratio']:.1f}x")
    if not found["same_pairs"]:
        sys.exit("the pairs are not those of the peer")


if __name__ == "__main__":
    main()
