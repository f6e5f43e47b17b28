"""Many logistic regressions fitted together: each a column, or one column per class, of one matrix of weights.

They are minimised by L-BFGS in the eigenbasis of the correlation matrix, each head scaled by its curvature there (see
`objective.py`). Ten to twenty passes over the features serve all of them, where plain L-BFGS takes hundreds for each
(measured/heads.md, section 1). Products run in float32; the last passes run in float64 and say how far above its minimum
each objective is.

Axes: N rows, D features, L labels, K heads, M outputs of a head (1 for two classes, else one per class), C = K M columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from embedcache.errors import HeadError
from heads.data.features import Design
from heads.data.moments import Basis, eigenbasis
from heads.data.target import Codes, Doubles
from heads.linear.kernel import Kernel, NoKernel
from heads.linear.lbfgs import BatchedLBFGS
from heads.linear.objective import COLUMNS, Objective

TOLERANCE = 1e-7
"""Estimated relative gap at which the float32 passes stop."""
CERTIFIED = 2e-7
"""Relative gap that the float64 pass must confirm; estimates are within a factor of three of the true gap."""
MOST_PASSES = 400


@dataclass(frozen=True)
class LogisticGrid:
    """The fitted grid: weights (K, M, D) and intercepts (K, M) in float32 on standardised features.

    `objectives`, estimated relative `gaps` to the minimum, and `passes` over the rows are (K,).
    """

    weights: torch.Tensor
    intercepts: torch.Tensor
    objectives: Doubles
    gaps: Doubles
    passes: npt.NDArray[np.int64]

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        return self.gaps <= CERTIFIED

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """The heads of several grids in one."""
        return cls(
            torch.cat([part.weights for part in parts]),
            torch.cat([part.intercepts for part in parts]),
            np.concatenate([part.objectives for part in parts]),
            np.concatenate([part.gaps for part in parts]),
            np.concatenate([part.passes for part in parts]),
        )


def fit_grid(
    design: Design,
    codes: Codes,
    strengths: Doubles,
    class_weights: Doubles,
    *,
    labels: Codes | None = None,
    row_weights: Doubles | None = None,
    basis: Basis | None = None,
    kernel: Kernel | NoKernel | None = None,
    most_passes: int = MOST_PASSES,
    progress: Callable[[int], None] | None = None,
) -> LogisticGrid:
    """Fit K heads to their optimum.

    Parameters
    ----------
    design : the standardised rows, N x D
    codes : class of each row, 0 ... classes - 1, every class present; (N,), or (N, L) for heads that learn different labels
    strengths : (K,) C of each head, the inverse strength of its penalty
    class_weights : (K, classes) weight of the rows of each class in each head
    labels : (K,) the column of `codes` that each head learns; None: the first
    row_weights : (N,) how much each row counts; None: all alike
    basis : the eigenbasis of an earlier fit on (a part of) the same rows, which saves its computation
    kernel : None: the compiled one where this machine has it; `NoKernel` for products by torch
    progress : told after every pass how many heads are still open
    """
    objective = Objective(
        design,
        codes.reshape(len(codes), -1),
        strengths,
        class_weights,
        basis or eigenbasis(design),
        labels_K=np.zeros(len(strengths), np.int64) if labels is None else labels,
        row_weights_N=np.ones(len(codes)) if row_weights is None else row_weights,
        kernel=kernel,
    )
    search = BatchedLBFGS(objective.start())
    search.run(
        lambda points_kP, heads_k: objective.evaluate(points_kP, heads_k, torch.float32),
        TOLERANCE,
        most_passes // 4,
        progress,
    )
    minimum = search.run(
        lambda points_kP, heads_k: objective.evaluate(points_kP, heads_k, torch.float64),
        CERTIFIED,
        most_passes - most_passes // 4,
        progress,
    )
    weights_KMD, intercepts_KM = objective.parameters(minimum.points, torch.arange(len(strengths)))
    # a constant feature is zero in every row: what the change of basis leaves on it is rounding
    weights_KMD = weights_KMD * (design.standardisation.factor != 0)
    return LogisticGrid(
        weights=weights_KMD.float().cpu(),
        intercepts=intercepts_KM.float().cpu(),
        objectives=minimum.objectives.cpu().numpy(),
        gaps=minimum.gaps.cpu().numpy(),
        passes=minimum.passes.cpu().numpy(),
    )


def scores(design: Design, weights_CD: torch.Tensor, intercepts_C: torch.Tensor) -> torch.Tensor:
    """Return x W + b of all rows, (N, C) in float32 on the CPU; raises HeadError where a feature is not finite."""
    columns = len(weights_CD)
    padding = -columns % COLUMNS
    weights_DC = functional.pad(weights_CD, (0, 0, 0, padding)).T.contiguous().to(design.device)
    intercepts_C = functional.pad(intercepts_C, (0, padding)).to(design.device)
    scores_NC = torch.empty((len(design), columns))
    for block in design.blocks():
        products_nC = torch.addmm(intercepts_C, block.values_nD, weights_DC)
        scores_NC[block.start : block.stop] = products_nC[:, :columns]
    bad_N = ~torch.isfinite(scores_NC).all(1)
    if bad_N.any():
        row = int(design.rows[int(bad_N.nonzero()[0])])
        raise HeadError(
            f"the features of row {row} (and {int(bad_N.sum()) - 1:,} more) are not finite numbers; see `embedcache verify`"
        )
    return scores_NC
