"""Linear quantile regression with an L2 penalty: every quantile and every strength in the same passes over the features.

y counts in its mean distance from its median, d, so that a strength means the same in any unit, as it does for ridge: in
the unit of y the objective is sum_i s_i rho(y_i - b - z_i w) + alpha/2 |w|^2 / d.

The corner of rho is rounded over a width h, and the rounded objective f_h is never above f (`heads.linear.pinball`). So no
f is farther above its minimum than f - f_h where the search for the minimum of f_h ends, plus what f_h has left. h is
brought down until the sum of both is small; as f - f_h falls with the square of h, a few rounds of L-BFGS do.

Axes: N rows, D features, A strengths, Q quantiles, K = A Q problems, k of them open, P = D + 1 parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch

from embedcache.errors import HeadError
from embedcache.search.standardising import standardise
from heads.data.features import Design, Rows, RowSource
from heads.data.moments import Basis, eigenbasis
from heads.data.target import Doubles
from heads.deciding.rearrangement import rearrange
from heads.fitting import Fitted, Problem
from heads.head import Settings, load_tensors, save_tensors
from heads.judging.metrics import score
from heads.linear.lbfgs import BatchedLBFGS
from heads.linear.linear_map import LinearMap, linear_outputs
from heads.linear.pinball import Pinball, weighted_quantiles
from heads.linear.ridge import best_trial, check_alphas, end_of_path

ALPHAS = tuple(10.0**power for power in range(-1, 7))
QUANTILES = (0.1, 0.5, 0.9)

CERTIFIED = 1e-4
"""Relative distance to the minimum at which an objective counts as reached."""
ROUGH, FINE = 1e-5, 1e-7
"""Estimated relative gaps of the rounded objective at which the float32 and the float64 passes of a round end. The estimate
may be a hundred times too small where few rows are inside the rounding, as with fewer rows than features."""
FIRST_WIDTH = 0.5
"""Width of the rounding in the first round, in mean distances of y from its median."""
MOST_PASSES = 1000


@dataclass(frozen=True)
class QuantileOptions:
    """Quantiles, and strengths of the penalty; the strength of the best score on the validation rows is taken.

    Raises HeadError where a quantile is not between 0 and 1 or does not rise, or a strength is not a positive number.
    """

    quantiles: tuple[float, ...] = QUANTILES
    alphas: tuple[float, ...] = ALPHAS

    def __post_init__(self) -> None:
        check_alphas(self.alphas)
        check_quantiles(self.quantiles)


def check_quantiles(quantiles: tuple[float, ...]) -> None:
    """Raise HeadError unless every quantile lies between 0 and 1, above the one before it, and there is one."""
    bounded = (0.0, *quantiles, 1.0)
    if not quantiles or not all(a < b for a, b in pairwise(bounded)):
        given = ",".join(f"{quantile:g}" for quantile in quantiles) or "none"
        raise HeadError(f"--quantiles takes rising numbers between 0 and 1, such as 0.1,0.5,0.9, not {given}")


@dataclass(frozen=True)
class QuantilePath:
    """A fitted path: weights (A, Q, D) in float32 on standardised features, intercepts (A, Q) in float64.

    `objectives` and `gaps`, how far these may be above their minimum, relative to them, are (A, Q); `passes` is the
    number of passes over the rows that all took together.
    """

    weights: torch.Tensor
    intercepts: torch.Tensor
    objectives: Doubles
    gaps: Doubles
    passes: int

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        return self.gaps <= CERTIFIED


def fit_path(
    design: Design,
    values_N: Doubles,
    quantiles: tuple[float, ...],
    alphas: tuple[float, ...],
    weights_N: Doubles | None = None,
    *,
    basis: Basis | None = None,
    most_passes: int = MOST_PASSES,
) -> QuantilePath:
    """Fit every quantile at every strength.

    Parameters
    ----------
    design : the standardised rows, N x D
    values_N : what is to be predicted, finite
    weights_N : how much each row counts; None where all count alike
    basis : `heads.data.moments.eigenbasis` of the same rows from an earlier fit, which saves its computation
    most_passes : passes over the rows before the fit stops where it stands
    """
    counts_N = np.ones(len(design)) if weights_N is None else weights_N
    median = weighted_quantiles(values_N, counts_N, (0.5,))[0]
    unit = float(np.average(np.abs(values_N - median), weights=counts_N))
    shape = (len(alphas), len(quantiles))
    if not unit:  # one value in all rows that count
        nothing = torch.zeros((*shape, design.dim))
        return QuantilePath(
            nothing, torch.full(shape, median, dtype=torch.float64), np.zeros(shape), np.zeros(shape), 0
        )
    scaled_N = (values_N - median) / unit
    pinball = Pinball(design, scaled_N, counts_N, quantiles, alphas, basis or eigenbasis(design))
    points_KP = pinball.start()
    everyone = torch.arange(len(points_KP), device=design.device)
    widths_K = torch.full_like(points_KP[:, 0], FIRST_WIDTH)
    objectives_K = torch.zeros_like(widths_K)
    gaps_K = torch.full_like(widths_K, math.inf)
    passes = 0
    open_k = everyone
    while len(open_k) and passes < most_passes:
        search = BatchedLBFGS(points_KP[open_k])
        for dtype, tolerance in ((torch.float32, ROUGH), (torch.float64, FINE)):
            left = max(1, most_passes - passes - int(search.passes.max()))
            minimum = search.run(pinball.searched(open_k, widths_K, dtype), tolerance, left)
        passes += int(search.passes.max()) + 1
        points_KP[open_k] = minimum.points
        found = pinball.evaluate(minimum.points, open_k, widths_K, torch.float64)
        rounding_k = (found.exact - found.rounded) / found.exact
        objectives_K[open_k], gaps_K[open_k] = found.exact, rounding_k + minimum.gaps
        # what the rounding costs falls with the square of its width
        widths_K[open_k] *= (0.5 * CERTIFIED / rounding_k).sqrt().clamp(0.1, 0.5)
        open_k = everyone[gaps_K > CERTIFIED]
    weights_KD = unit * pinball.basis.to_features(points_KP[:, :-1]) * (design.standardisation.factor != 0)
    return QuantilePath(
        weights=weights_KD.float().cpu().view(*shape, -1),
        intercepts=(median + unit * points_KP[:, -1]).cpu().view(shape),
        objectives=(unit * objectives_K).cpu().numpy().reshape(shape),
        gaps=gaps_K.cpu().numpy().reshape(shape),
        passes=passes,
    )


@dataclass(frozen=True)
class QuantileModel:
    """Fitted quantile regressions, as they are saved: a linear map with one column for each quantile."""

    map: LinearMap
    quantiles: tuple[float, ...]

    kind: ClassVar[str] = "quantile"

    @property
    def dim(self) -> int:
        return self.map.dim

    @property
    def outputs(self) -> int:
        return self.map.columns

    def __call__(self, source: RowSource, rows: Rows, device: torch.device | str = "cpu") -> Doubles:
        """Return (n, quantiles), rising along the row, for the given rows.

        Raises `HeadError` where a feature is not finite.
        """
        return rearrange(self.map(source, rows, device))

    def save(self, folder: Path) -> Settings:
        """Write head.safetensors; the settings hold the quantiles."""
        save_tensors(folder, self.map.tensors())
        return {"quantiles": list(self.quantiles)}

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        """Invert `save`; raises as `heads.head.Head.load` does."""
        quantiles = tuple(map(float, settings["quantiles"]))
        fitted = LinearMap.restore(load_tensors(folder))
        rising = all(a < b for a, b in pairwise((0.0, *quantiles, 1.0)))
        if not rising or len(quantiles) != fitted.columns:
            raise ValueError("the quantiles of the head do not fit its tensors")
        return cls(fitted, quantiles)


def fit(problem: Problem, options: QuantileOptions) -> Fitted:
    """Fit the whole path to the training rows and choose the strength by the validation rows.

    Raises HeadError where the target is not a measured quantity or a feature is not finite.
    """
    train, val, quantiles = problem.train, problem.val, options.quantiles
    if train.target.kind != "regression":
        raise HeadError(f"--head quantile learns a measured quantity, not {train.target.kind} classes: take --head lr")
    standardisation = standardise(problem.source, train.rows)
    design = Design(
        problem.source, train.rows, standardisation, device=problem.device, memory_bytes=problem.memory_bytes
    )
    problem.progress(0, 1, f"{len(options.alphas)} strengths of {len(quantiles)} quantiles")
    values_N = train.target.values.astype(np.float64)
    path = fit_path(design, values_N, quantiles, options.alphas, train.weights)
    outputs_NK = linear_outputs(
        Design(problem.source, val.rows, standardisation, device=problem.device, memory_bytes=0),
        path.weights.flatten(0, 1),
        path.intercepts.flatten(),
    )
    outputs_ANQ = outputs_NK.reshape(len(val), len(options.alphas), len(quantiles)).swapaxes(0, 1)
    scores = [score(val.target, rearrange(outputs_NQ), problem.select, quantiles) for outputs_NQ in outputs_ANQ]
    best = best_trial(problem.select, scores)
    problem.progress(1, 1, f"alpha {options.alphas[best]:g}, val {problem.select} {scores[best]:.4f}")
    trials = tuple(
        {"alpha": alpha, f"val_{problem.select}": value, "objective": objective, "gap": gap}
        for alpha, value, objective, gap in zip(
            options.alphas, scores, path.objectives.sum(1).tolist(), path.gaps.max(1).tolist(), strict=True
        )
    )
    notes = end_of_path(options.alphas, best)
    if not path.converged[best].all():
        notes = (*notes, f"the fit stopped after {path.passes} passes {above_minimum(path.gaps[best].max())}")
    model = QuantileModel(
        LinearMap(standardisation.on("cpu"), path.weights[best], path.intercepts[best]), options.quantiles
    )
    return Fitted(model, trials, best, notes=notes)


def above_minimum(gap: float) -> str:
    return f"up to {gap:.0e} of the objective above its minimum; a larger alpha converges sooner"
