"""Ridge regression: every strength of the penalty and every target from one eigenvalue decomposition.

Objective, in scikit-learn's parametrisation halved, on standardised features z, the intercept b not penalised::

    f(w, b) = 1/2 sum_i s_i (y_i - b - z_i w)^2 + alpha/2 |w|^2

With the centred moments V diag(v) V' of `heads.data.gram` its minimum is w = V (V'c / (v + alpha)), c = sum_i s_i z_i (y_i -
mean y): after one pass over the rows for the moments, and one for c, a strength costs a product of D x D. Nothing is
iterated, so nothing has to converge; the residual in float64 still says how far above its minimum each objective is.

Axes: N rows, D features, T targets, A strengths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch

from embedcache.errors import HeadError
from embedcache.search.standardising import standardise
from heads.data.features import Design, Rows, RowSource
from heads.data.gram import Spectrum, cross_products, spectrum
from heads.data.target import Doubles
from heads.fitting import Fitted, Problem
from heads.head import Settings, load_tensors, save_tensors
from heads.judging.metrics import better, score
from heads.linear.linear_map import LinearMap, linear_outputs

ALPHAS = tuple(10.0**power for power in range(-2, 8))


@dataclass(frozen=True)
class RidgeOptions:
    """Strengths of the penalty; the one of the best score on the validation rows is taken.

    Raises HeadError where one is not a positive number.
    """

    alphas: tuple[float, ...] = ALPHAS

    def __post_init__(self) -> None:
        check_alphas(self.alphas)


def check_alphas(alphas: tuple[float, ...]) -> None:
    """Raise HeadError unless every strength is a positive number and there is one."""
    wrong = [alpha for alpha in alphas if not (alpha > 0 and math.isfinite(alpha))]
    if wrong or not alphas:
        raise HeadError(f"--alpha takes positive numbers, not {wrong[0] if wrong else 'none'}")


@dataclass(frozen=True)
class RidgePath:
    """A fitted path: weights (A, T, D) in float32 on standardised features, intercepts (A, T) in float64.

    `objectives` (A, T) at these weights, and `gaps`, how far they are above the minimum, relative to it.
    """

    weights: torch.Tensor
    intercepts: torch.Tensor
    objectives: Doubles
    gaps: Doubles


def fit_path(
    design: Design,
    targets_NT: Doubles,
    alphas: tuple[float, ...],
    weights_N: Doubles | None = None,
    *,
    moments: Spectrum | None = None,
) -> RidgePath:
    """Fit every strength to every target.

    Parameters
    ----------
    design : the standardised rows, N x D
    targets_NT : what is to be predicted, finite
    alphas : A strengths, positive
    weights_N : how much each row counts; None where all count alike
    moments : `spectrum` of the same design and weights from an earlier fit, which saves its computation
    """
    device = design.device
    counts_N = torch.tensor(np.ones(len(design)) if weights_N is None else weights_N, device=device)
    moments = moments or spectrum(design, None if weights_N is None else counts_N)
    values_TN = torch.tensor(targets_NT.T, dtype=torch.float64, device=device)
    mean_T = (values_TN @ counts_N) / moments.mass
    centred_TN = values_TN - mean_T[:, None]
    squares_T = centred_TN.square() @ counts_N
    products_TD = cross_products(design, centred_TN * counts_N)

    alphas_A11 = torch.tensor(alphas, dtype=torch.float64, device=device)[:, None, None]
    inverse_A1D = 1 / (moments.values + alphas_A11)
    exact_ATD = _times(inverse_A1D * (products_TD @ moments.vectors), moments.vectors.T)
    # a constant feature is zero in every row: what the change of basis leaves on it is rounding
    weights_ATD = (exact_ATD * (design.standardisation.factor != 0)).float()

    rounded_ATD = weights_ATD.double()
    curved_ATD = _times(rounded_ATD, moments.gram) + alphas_A11 * rounded_ATD
    # f = 1/2 (y'y - 2 w'c + w'(G + alpha) w), and f - min f = 1/2 g'(G + alpha)^-1 g of its gradient g
    objectives_AT = 0.5 * (squares_T + (rounded_ATD * (curved_ATD - 2 * products_TD)).sum(2)).clamp(min=0)
    gradient_ATD = _times(curved_ATD - products_TD, moments.vectors)
    above_AT = 0.5 * (inverse_A1D * gradient_ATD.square()).sum(2)
    tiny = torch.finfo(torch.float64).tiny
    return RidgePath(
        weights=weights_ATD.cpu(),
        intercepts=(mean_T - rounded_ATD @ moments.mean).cpu(),
        objectives=objectives_AT.cpu().numpy(),
        gaps=(above_AT / objectives_AT.clamp(min=tiny)).cpu().numpy(),
    )


def _times(values_ATD: torch.Tensor, matrix_DD: torch.Tensor) -> torch.Tensor:
    """All rows times one matrix, as one product."""
    return (values_ATD.flatten(0, 1) @ matrix_DD).view_as(values_ATD)


@dataclass(frozen=True)
class RidgeModel:
    """One fitted ridge regression, as it is saved: a linear map with one column for each target."""

    map: LinearMap

    kind: ClassVar[str] = "ridge"

    @property
    def dim(self) -> int:
        return self.map.dim

    @property
    def outputs(self) -> int:
        return self.map.columns

    @property
    def quantiles(self) -> tuple[float, ...]:
        return ()

    def __call__(self, source: RowSource, rows: Rows, device: torch.device | str = "cpu") -> Doubles:
        """Return (n, targets) for the given rows; raises `HeadError` where a feature is not finite."""
        return self.map(source, rows, device)

    def save(self, folder: Path) -> Settings:
        """Write head.safetensors."""
        save_tensors(folder, self.map.tensors())
        return {}

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        """Invert `save`; raises as `heads.head.Head.load` does."""
        return cls(LinearMap.restore(load_tensors(folder)))


def fit(problem: Problem, options: RidgeOptions) -> Fitted:
    """Fit the whole path to the training rows and choose by the validation rows.

    Raises HeadError where the target is not a measured quantity or a feature is not finite.
    """
    train, val = problem.train, problem.val
    if train.target.kind != "regression":
        raise HeadError(f"--head ridge learns a measured quantity, not {train.target.kind} classes: take --head lr")
    standardisation = standardise(problem.source, train.rows)
    design = Design(problem.source, train.rows, standardisation, device=problem.device, memory_bytes=0)
    problem.progress(0, 1, f"moments of {len(train):,} x {design.dim:,} features")
    values_N1 = train.target.values.astype(np.float64)[:, None]
    path = fit_path(design, values_N1, options.alphas, train.weights)
    outputs_NA = linear_outputs(
        Design(problem.source, val.rows, standardisation, device=problem.device, memory_bytes=0),
        path.weights[:, 0],
        path.intercepts[:, 0],
    )
    scores = [score(val.target, outputs_NA[:, [a]], problem.select) for a in range(len(options.alphas))]
    best = best_trial(problem.select, scores)
    problem.progress(1, 1, f"alpha {options.alphas[best]:g}, val {problem.select} {scores[best]:.4f}")
    records = zip(options.alphas, scores, path.objectives[:, 0].tolist(), path.gaps[:, 0].tolist(), strict=True)
    trials = tuple(
        {"alpha": alpha, f"val_{problem.select}": value, "objective": objective, "gap": gap}
        for alpha, value, objective, gap in records
    )
    model = RidgeModel(LinearMap(standardisation.on("cpu"), path.weights[best], path.intercepts[best]))
    return Fitted(model, trials, best, notes=end_of_path(options.alphas, best))


def best_trial(metric: str, scores: list[float]) -> int:
    """The first trial that no other is better than."""
    best = 0
    for trial, value in enumerate(scores):
        if better(metric, value, scores[best]):
            best = trial
    return best


def end_of_path(alphas: tuple[float, ...], best: int) -> tuple[str, ...]:
    """A note where the best strength is the least or the greatest that was tried."""
    alpha = alphas[best]
    if len(alphas) < 2 or min(alphas) < alpha < max(alphas):
        return ()
    smaller = alpha == min(alphas)
    return (
        f"the best alpha, {alpha:g}, is the {'smallest' if smaller else 'largest'} that was tried: "
        f"{'smaller' if smaller else 'larger'} --alpha may do better",
    )
