"""Bootstrap intervals of AUROC, AUPRC and MCC beside a scikit-learn loop: the same resamples, the same values.

45,000 rows, 2.4 % positives, 1,000 resamples, one thread. The peer is what a user writes: draw rows with replacement,
take labels, scores and decisions of these, call the three functions of scikit-learn. It is really run on 40 resamples
and scaled to 1,000; on each of these its values are held against ours. Seconds are those of the processor, which are the
seconds of the clock where no other program runs: both sides have one thread.

    python -m benchmarks.metrics [--quick]
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from heads.data.target import Codes, Doubles, Target
from heads.judging.bootstrap import evaluate_all, resample
from heads.judging.metrics import METRICS_OF, evaluate
from heads.judging.statistics import statistics_of

GATE = 1e-9
"""Largest difference to scikit-learn on the same resample."""
COMPARED = ("auroc", "auprc", "mcc")
RESAMPLES = 1000
PEER_RESAMPLES = 40
BEST_OF = 3


def simulate(rows: int, digits: int | None, positives: float = 0.024, seed: int = 0) -> tuple[Codes, Doubles, Codes]:
    """Labels, scores rounded to `digits` (tied; None for no ties) and decisions that predict as many positives."""
    rng = np.random.default_rng(seed)
    codes = (rng.random(rows) < positives).astype(np.int64)
    scores = 1 / (1 + np.exp(2 - 1.5 * codes - rng.standard_normal(rows)))
    scores = scores if digits is None else np.round(scores, digits)
    return codes, scores, (scores >= np.quantile(scores, 1 - positives)).astype(np.int64)


def scikit_learn_loop(
    codes: Codes, scores: Doubles, decided: Codes, resamples: int, seed: int = 0
) -> tuple[float, list[Codes], Doubles]:
    """Return the seconds of the loop, the rows that it drew, and its values (resamples, 3)."""
    from sklearn.metrics import average_precision_score, matthews_corrcoef, roc_auc_score

    rng = np.random.default_rng(seed)
    drawn, values = [], []
    start = time.process_time()
    for _ in range(resamples):
        rows = rng.integers(len(codes), size=len(codes))
        y, s, d = codes[rows], scores[rows], decided[rows]
        values.append((roc_auc_score(y, s), average_precision_score(y, s), matthews_corrcoef(y, d)))
        drawn.append(rows)
    return time.process_time() - start, drawn, np.array(values)


def seconds(work: Callable[[], object]) -> float:
    """The least seconds of three times."""
    least = float("inf")
    for _ in range(BEST_OF):
        start = time.process_time()
        work()
        least = min(least, time.process_time() - start)
    return least


def compare(rows: int, digits: int | None, resamples: int, peer_resamples: int) -> dict[str, float]:
    """Time both on the same rows, and hold their values against each other on the resamples of the peer."""
    codes, scores, decided = simulate(rows, digits)
    target, outputs = Target("binary", ("no", "yes"), codes), np.stack([1 - scores, scores], axis=1)

    def intervals(of: tuple[str, ...] | None) -> None:
        evaluate(target, outputs, decided, resamples=resamples, intervals_of=of)

    scikit_learn_loop(codes, scores, decided, 1)  # loads it
    loop, drawn, theirs = scikit_learn_loop(codes, scores, decided, peer_resamples)
    ours = seconds(lambda: intervals(COMPARED))
    every = seconds(lambda: intervals(None))
    draws = seconds(lambda: deque(resample(rows, resamples, None, 0), maxlen=0))

    statistics = statistics_of(target, outputs, decided, (), COMPARED)
    names = [name for statistic in statistics for name in statistic.names]
    counts = np.stack([np.bincount(one, minlength=rows) for one in drawn]).astype(np.int32)
    values = evaluate_all(statistics, counts)[:, [names.index(name) for name in COMPARED]]
    scaled = loop * resamples / peer_resamples
    return {
        "seconds": ours,
        "seconds_all_metrics": every,
        "seconds_of_drawing": draws,
        "seconds_peer": scaled,
        "ratio": scaled / ours,
        "largest_difference": float(np.abs(values - theirs).max()),
    }


def run(quick: bool = False) -> dict[str, Any]:
    """Run with and without ties; `quick` takes few rows and resamples and shows only that it works."""
    rows, resamples, peer = (3000, 100, 5) if quick else (45_000, RESAMPLES, PEER_RESAMPLES)
    with threadpool_limits(1):
        found = {"without_ties": compare(rows, None, resamples, peer), "with_ties": compare(rows, 3, resamples, peer)}
    return {
        "name": "bootstrap intervals of AUROC, AUPRC and MCC",
        "peer": f"scikit-learn loop, {peer} resamples run and scaled to {resamples:,}",
        "rows": rows,
        "resamples": resamples,
        "peer_resamples": peer,
        **found,
        "ratio": min(one["ratio"] for one in found.values()),
        "within_gate": all(one["largest_difference"] <= GATE for one in found.values()),
    }


def main() -> None:
    """Print one run; ends with code 1 where a value differs from scikit-learn's."""
    found = run(quick="--quick" in sys.argv[1:])
    print(f"{found['name']}: {found['rows']:,} rows, 2.4 % positives, {found['resamples']:,} resamples")
    for ties in ("without_ties", "with_ties"):
        one = found[ties]
        print(f"  {ties.replace('_', ' ')}")
        print(f"    {found['peer']}: {one['seconds_peer']:.1f} s")
        print(
            f"    heads: {one['seconds']:.2f} s, {one['ratio']:.0f}x; {one['seconds_of_drawing']:.2f} s of it draw; "
            f"all {len(METRICS_OF['binary'])} metrics {one['seconds_all_metrics']:.2f} s"
        )
        print(f"    largest difference on the same resample: {one['largest_difference']:.0e}")
    if not found["within_gate"]:
        sys.exit(f"a value differs from scikit-learn's by more than {GATE:.0e}")


if __name__ == "__main__":
    main()
