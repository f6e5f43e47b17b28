"""A ridge path of ten strengths beside scikit-learn: the same ten regressions, and how far each is from its optimum.

Simulated embeddings as in `benchmarks.logistic`, 45,000 x 2,048 float16, and a value of which about two thirds depend
on them. The peer is a real loop of scikit-learn's Ridge at its defaults (Cholesky) over standardised float32, with as
many BLAS threads as serve it best. Warm is a new target on features whose moments are at hand, standardised in memory as
the peer's are; cold begins with the float16 rows. Every objective is judged in float64.

    python -m benchmarks.ridge [--quick]
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits

from benchmarks.logistic import GATE, simulate, timed
from embedcache.search.standardising import standardise
from heads.data.features import ArrayRows, Design, Standardisation
from heads.data.gram import Spectrum, spectrum
from heads.linear.ridge import ALPHAS, RidgePath, fit_path

Doubles = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]


def measured(features: npt.NDArray[np.float16], seed: int = 1) -> Doubles:
    """A value of each row that is linear in the standardised features, and as much noise as half of that."""
    rng = np.random.default_rng(seed)
    scale = features.std(0, dtype=np.float64)
    signal = features.astype(np.float32) @ (rng.standard_normal(len(scale)) / scale).astype(np.float32)
    return np.asarray(3 + (signal - signal.mean()) / signal.std() + 0.7 * rng.standard_normal(len(signal)), np.float64)


def scikit_learn_loop(
    Z: npt.NDArray[np.float32], y: npt.NDArray[np.float32], threads: int | None
) -> tuple[Doubles, Doubles]:
    """Fit the strengths one after another; coefficients (A, D) and intercepts (A,)."""
    from scipy.linalg import LinAlgWarning
    from sklearn.linear_model import Ridge

    with threadpool_limits(threads, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)  # of float32 products, at the weaker strengths
        fitted = [Ridge(alpha=alpha).fit(Z, y) for alpha in ALPHAS]
    coefficients = np.array([model.coef_ for model in fitted], np.float64)
    return coefficients, np.array([model.intercept_ for model in fitted], np.float64)


def best_threads(Z: Singles, y: Singles) -> int | None:
    """BLAS threads with which one fit of scikit-learn is fastest: one, or as many as there are (None)."""
    from sklearn.linear_model import Ridge

    seconds: dict[int | None, float] = {}
    for threads in (None, 1):
        with threadpool_limits(threads, "blas"):
            seconds[threads], _ = timed(lambda: Ridge().fit(Z, y))
    return min(seconds, key=seconds.__getitem__)


class Reference:
    """Objectives in float64 and their minima, from features standardised in float64."""

    def __init__(self, features: npt.NDArray[np.float16], y: Doubles) -> None:
        self.values_ND = torch.from_numpy(features).double()
        self.mean_D, self.deviation_D = self.values_ND.mean(0), self.values_ND.std(0, unbiased=False)
        self.values_ND.sub_(self.mean_D).div_(self.deviation_D)
        self.y_N = torch.from_numpy(y)
        gram_DD = self.values_ND.T @ self.values_ND
        products_D = self.values_ND.T @ (self.y_N - self.y_N.mean())
        self.minima = []
        for alpha in ALPHAS:
            factor_DD = torch.linalg.cholesky(gram_DD + alpha * torch.eye(len(gram_DD), dtype=torch.float64))
            weights_D = torch.cholesky_solve(products_D[:, None], factor_DD)[:, 0]
            self.minima.append(self.objective(alpha, weights_D, float(self.y_N.mean())))

    def objective(self, alpha: float, weights_D: torch.Tensor, intercept: float) -> float:
        """Half the squared errors and half the penalty."""
        errors_N = self.y_N - intercept - self.values_ND @ weights_D
        return float(0.5 * errors_N.square().sum() + 0.5 * alpha * weights_D.square().sum())

    def gaps(self, weights_AD: Doubles, intercepts_A: Doubles) -> Doubles:
        """Relative distance of each solution to its minimum."""
        return np.array(
            [
                self.objective(alpha, torch.from_numpy(weights_D), float(intercept)) / least - 1
                for alpha, least, weights_D, intercept in zip(
                    ALPHAS, self.minima, weights_AD, intercepts_A, strict=True
                )
            ]
        )

    def moved(self, path: RidgePath, standardisation: Standardisation) -> Doubles:
        """Intercepts (A,) of a path as they are on the features here, whose centre is not rounded to float32."""
        shift_D = (self.mean_D - standardisation.centre.double()) / self.deviation_D
        moved: Doubles = (path.intercepts[:, 0] + path.weights[:, 0].double() @ shift_D).numpy()
        return moved


def run(quick: bool = False) -> dict[str, Any]:
    """Time both on the same data in one run; `quick` takes a small matrix and shows only that it works."""
    features, _ = simulate(2000, 64) if quick else simulate(dim=2048)
    y = measured(features)
    rows, source = np.arange(len(y)), ArrayRows(features)

    def prepare() -> tuple[Design, Spectrum]:
        design = Design(source, rows, standardise(source, rows))
        return design, spectrum(design)

    def fit(design: Design, moments: Spectrum) -> RidgePath:
        return fit_path(design, y[:, None], ALPHAS, moments=moments)

    once, (design, moments) = timed(prepare)
    fit(design, moments)  # loads the kernels
    repeats = [timed(partial(fit, design, moments)) for _ in range(3)]
    warm, path = float(np.median([seconds for seconds, _ in repeats])), repeats[0][1]
    standardisation = design.standardisation
    del design, moments

    values = features.astype(np.float32)
    Z = (values - values.mean(0, dtype=np.float64)) / values.std(0, dtype=np.float64)
    Z, short_y = Z.astype(np.float32), y.astype(np.float32)
    del values
    threads = best_threads(Z, short_y)
    loop, (coefficients, intercepts) = timed(partial(scikit_learn_loop, Z, short_y, threads))
    del Z

    reference = Reference(features, y)
    ours = reference.gaps(path.weights[:, 0].double().numpy(), reference.moved(path, standardisation))
    theirs = reference.gaps(coefficients, intercepts)
    return {
        "name": "ridge path of 10",
        "peer": f"scikit-learn Ridge loop, BLAS threads: {'default' if threads is None else threads}",
        "rows": len(y),
        "dim": features.shape[1],
        "seconds_warm": warm,
        "seconds_cold": once + warm,
        "seconds_peer": loop,
        "ratio_warm": loop / warm,
        "ratio_cold": loop / (once + warm),
        "largest_gap": float(ours.max()),
        "largest_gap_peer": float(theirs.max()),
        "within_gate": bool(ours.max() <= GATE),
    }


def main() -> None:
    """Print one run; ends with code 1 where a strength misses the gate."""
    found = run(quick="--quick" in sys.argv[1:])
    print(f"{found['name']} on {found['rows']:,} x {found['dim']} float16")
    print(f"  {found['peer']}: {found['seconds_peer']:.2f} s, gaps up to {found['largest_gap_peer']:.0e}")
    print(
        f"  heads: {found['seconds_warm']:.3f} s warm, {found['seconds_cold']:.2f} s with standardisation and moments, "
        f"gaps up to {found['largest_gap']:.0e}"
    )
    print(f"  ratio: {found['ratio_warm']:.0f}x warm, {found['ratio_cold']:.1f}x cold")
    if not found["within_gate"]:
        sys.exit(f"a strength is further than {GATE:.0e} from its optimum")


if __name__ == "__main__":
    main()
