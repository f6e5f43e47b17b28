"""Boosted trees from the cached binned features, beside LightGBM's own classifier as a user would write it.

Simulated embeddings, 45,000 x 2048 float16, 2.4 % positives (`benchmarks.logistic.simulate`), and 9,000 more rows that
judge. The peer is LGBMClassifier at its defaults on all 45,000 rows in float32, construction of its bins included. Ours
takes four rows of five to train on and the fifth to stop by AUPRC, and finds the bins in the cache, as every fit of a sweep
but the first does; the first is timed too. Both have all cores.

    python -m benchmarks.boosting [--quick]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.logistic import simulate, timed
from heads.data.features import ArrayRows
from heads.data.target import Doubles, Examples, Target
from heads.fitting import Fitted, Problem
from heads.judging.metrics import score
from heads.trees.boosting import BoostingOptions, fit

REPEATS = 3


def run(quick: bool = False) -> dict[str, Any]:
    """Time both on the same data in one run; `quick` takes a small matrix and shows only that it works."""
    from lightgbm import LGBMClassifier

    fitting, judging = (2500, 500) if quick else (45_000, 9_000)
    features, codes = simulate(fitting + judging, 128 if quick else 2048)
    source, rows = ArrayRows(features), np.arange(fitting + judging)
    examples = Examples(rows, Target("binary", (0, 1), codes))
    held = examples.take(rows[fitting:])
    val = rows[:fitting] % 5 == 0
    problem = Problem(source, examples.take(rows[:fitting][~val]), examples.take(rows[:fitting][val]), "auprc")

    def auprc(outputs: Doubles) -> float:
        return score(held.target, outputs, "auprc")

    with tempfile.TemporaryDirectory() as folder:
        options = BoostingOptions(cache=Path(folder) / "binned")

        def ours() -> Fitted:
            return fit(problem, options)

        cold, fitted = timed(ours)
        warm = [timed(ours)[0] for _ in range(1 if quick else REPEATS)]
    wide = features[:fitting].astype(np.float32)
    peer, theirs = timed(lambda: LGBMClassifier(verbosity=-1).fit(wide, codes[:fitting]))
    peer_auprc = auprc(theirs.booster_.predict(features[fitting:].astype(np.float32))[:, None] * [-1, 1] + [1, 0])
    own_auprc = auprc(fitted.head(source, held.rows))
    seconds = float(np.median(warm))
    return {
        "name": "boosted trees",
        "peer": "LGBMClassifier at its defaults",
        "rows": fitting,
        "dim": features.shape[1],
        "seconds_warm": seconds,
        "seconds_cold": cold,
        "seconds_peer": peer,
        "ratio_warm": peer / seconds,
        "ratio_cold": peer / cold,
        "rounds": fitted.chosen["rounds"],
        "auprc": own_auprc,
        "auprc_peer": peer_auprc,
        "prevalence": float(codes[fitting:].mean()),
        "within_gate": own_auprc >= peer_auprc,
    }


def main() -> None:
    """Print one run; ends with code 1 where the peer ranks the rows better."""
    found = run(quick="--quick" in sys.argv[1:])
    print(f"{found['name']} on {found['rows']:,} x {found['dim']} float16, {100 * found['prevalence']:.1f} % positives")
    print(f"  {found['peer']}: {found['seconds_peer']:.1f} s, AUPRC {found['auprc_peer']:.4f}")
    print(
        f"  heads: {found['seconds_warm']:.1f} s from cached bins ({found['seconds_cold']:.1f} s the first time), "
        f"{found['rounds']:.0f} rounds, AUPRC {found['auprc']:.4f}"
    )
    print(f"  ratio: {found['ratio_warm']:.1f}x, {found['ratio_cold']:.1f}x the first time")
    if not found["within_gate"] and "--quick" not in sys.argv[1:]:
        sys.exit("the peer has the better AUPRC")


if __name__ == "__main__":
    main()
