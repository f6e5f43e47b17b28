"""The exact search of nearest rows beside faiss's flat index: the same neighbours, and how long each takes.

Simulated embeddings (`benchmarks.logistic.simulate`), 100,000 x 2048 rows of length 1 and queries from the same source,
k = 20, cosine. faiss.IndexFlatIP holds its rows in float32, ours in float16 as a store does. Recall of both is against
float64, on `JUDGED` of the queries; a row that is as similar as the k-th to 1e-7 counts as found. faiss multiplies all
pairs, so that its time grows as the number of queries: it is given fewer of them where that is said.

    python -m benchmarks.neighbours [--quick]
"""

from __future__ import annotations

import sys
from typing import Any

import faiss
import torch
from torch.nn import functional

from benchmarks.logistic import simulate, timed
from embedcache.search.nearest import ExactSearch
from heads.data.features import Rows

K = 20
JUDGED = 200
PEER_QUERIES = 2_000
"""Queries that faiss is timed on; its time for all is in proportion."""
TIES = 1e-7


def run(quick: bool = False) -> dict[str, Any]:
    """Time both on the same data in one run; `quick` takes a small matrix and shows only that it works."""
    rows, queries = (3_000, 300) if quick else (100_000, 10_000)
    features, _ = simulate(rows + queries, 256 if quick else 2048)
    held, asked = torch.from_numpy(features[:rows]), torch.from_numpy(features[rows:])
    build, search = timed(lambda: ExactSearch(held, "cosine"))
    search(asked[:64], K)  # loads the kernels
    seconds, found = timed(lambda: search(asked, K))

    index = faiss.IndexFlatIP(features.shape[1])
    index.add(functional.normalize(held.float()).numpy())
    some = functional.normalize(asked[: min(queries, PEER_QUERIES)].float()).numpy()
    part, (_, theirs) = timed(lambda: index.search(some, K))
    peer = part * queries / len(some)
    own_recall = _recall(held, asked[:JUDGED], found.positions[:JUDGED])
    peer_recall = _recall(held, asked[:JUDGED], theirs[:JUDGED])
    return {
        "name": f"{K} nearest rows",
        "peer": "faiss.IndexFlatIP",
        "rows": rows,
        "queries": queries,
        "queries_peer": len(some),
        "dim": features.shape[1],
        "seconds": seconds,
        "seconds_build": build,
        "seconds_peer": peer,
        "ratio": peer / seconds,
        "ratio_with_build": peer / (seconds + build),
        "recall": own_recall,
        "recall_peer": peer_recall,
        "within_gate": own_recall >= 0.999,
    }


def _recall(held: torch.Tensor, asked: torch.Tensor, positions: Rows) -> float:
    """Share of the given neighbours whose cosine in float64 is among the K largest."""
    queries = functional.normalize(asked.double())
    cosines = torch.cat([queries @ functional.normalize(part.double()).T for part in torch.split(held, 8192)], dim=1)
    least = cosines.topk(K).values[:, -1:]
    return float((cosines.gather(1, torch.from_numpy(positions)) >= least - TIES).double().mean())


def main() -> None:
    """Print one run; ends with code 1 where neighbours are missed."""
    found = run(quick="--quick" in sys.argv[1:])
    print(f"{found['name']}: {found['queries']:,} queries, {found['rows']:,} x {found['dim']} rows")
    print(
        f"  {found['peer']}: {found['seconds_peer']:.1f} s (from {found['queries_peer']:,} queries), "
        f"recall {found['recall_peer']:.5f}"
    )
    print(f"  heads: {found['seconds']:.1f} s, and {found['seconds_build']:.1f} s once, recall {found['recall']:.5f}")
    print(f"  ratio: {found['ratio']:.1f}x, {found['ratio_with_build']:.1f}x with what is done once")
    print(f"  instruction set: {torch.backends.cpu.get_cpu_capability()}")
    if not found["within_gate"]:
        sys.exit("neighbours are missed")


if __name__ == "__main__":
    main()
