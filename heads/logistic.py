"""L2 logistic regression: a whole grid of heads in the same passes over the features.

All heads are columns of one matrix, minimised together by L-BFGS in the eigenbasis of the correlation matrix, each
head scaled by its curvature there (see `heads.objective`). Ten to fifteen passes reach the optimum where plain L-BFGS
takes hundreds (measured/heads.md, section 1). Products run in float32; the last pass runs in float64 and says how far
above its minimum each objective is.

Axes: N rows, n rows of a selection, D features, K heads of the grid, M outputs of a head (1 for two classes, else one
per class), C = K M columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.nn import functional

from embedcache.errors import HeadError
from heads.features import ArrayRows, Design, Rows, RowSource, Standardisation
from heads.lbfgs import BatchedLBFGS
from heads.moments import Basis, eigenbasis, standardise
from heads.objective import COLUMNS, Objective

Doubles = npt.NDArray[np.float64]

TOLERANCE = 5e-8
"""Estimated relative gap at which the float32 passes stop."""
CERTIFIED = 2e-7
"""Relative gap that the float64 pass must confirm; estimates are within a factor of three of the true gap."""
MOST_PASSES = 400


class NotConvergedWarning(UserWarning):
    """A fit used up its passes before it reached its optimum."""


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

    def rankings(self, design: Design) -> Iterator[Doubles]:
        """Yield (N, classes) of each head, all heads in one pass: what ranks the rows for each class.

        The score itself for two classes, since probabilities near 1 fall together; the probabilities for more.
        """
        heads, outputs, _ = self.weights.shape
        scores_NC = _scores(design, self.weights.flatten(0, 1), self.intercepts.flatten())
        for scores_NM in scores_NC.view(-1, heads, outputs).unbind(1):
            if outputs == 1:
                yield torch.cat([-scores_NM, scores_NM], dim=-1).double().numpy()
            else:
                yield _to_probabilities(scores_NM).numpy()


def fit_grid(
    design: Design,
    codes: npt.NDArray[np.int64],
    strengths: Doubles,
    class_weights: Doubles,
    *,
    basis: Basis | None = None,
    most_passes: int = MOST_PASSES,
    progress: Callable[[int], None] | None = None,
) -> LogisticGrid:
    """Fit K heads to their optimum.

    Parameters
    ----------
    design : the standardised rows, N x D
    codes : (N,) class of each row, 0 ... classes - 1, every class present
    strengths : (K,) C of each head, the inverse strength of its penalty
    class_weights : (K, classes) weight of the rows of each class in each head
    basis : the eigenbasis of an earlier fit on (a part of) the same rows, which saves its computation
    progress : told after every pass how many heads are still open
    """
    objective = Objective(design, codes, strengths, class_weights, basis or eigenbasis(design))
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


def balanced(codes: npt.NDArray[np.int64], classes: int) -> Doubles:
    """Class weights N / (classes * rows of the class), scikit-learn's ``balanced``."""
    return np.asarray(len(codes) / (classes * np.bincount(codes, minlength=classes)), np.float64)


def _scores(design: Design, weights_CD: torch.Tensor, intercepts_C: torch.Tensor) -> torch.Tensor:
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


def _to_probabilities(scores: torch.Tensor) -> torch.Tensor:
    """Scores (..., M) -> probabilities (..., classes) in float64."""
    scores = scores.double()
    if scores.shape[-1] > 1:
        return scores.softmax(-1)
    return torch.cat([torch.sigmoid(-scores), torch.sigmoid(scores)], dim=-1)


@dataclass(frozen=True)
class LogisticModel:
    """One fitted logistic regression, as it is saved: standardisation (D,), weights (M, D), intercepts (M,)."""

    standardisation: Standardisation
    weights: torch.Tensor
    intercepts: torch.Tensor

    kind = "lr"

    @property
    def dim(self) -> int:
        return self.weights.shape[1]

    @property
    def classes(self) -> int:
        return max(2, len(self.weights))

    def probabilities(self, source: RowSource, rows: Rows, device: torch.device | str = "cpu") -> Doubles:
        """Return (n, classes) for the given rows."""
        design = Design(source, rows, self.standardisation, device=device, memory_bytes=0)
        return _to_probabilities(_scores(design, self.weights, self.intercepts)).numpy()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that is fitted, as it goes into the safetensors file."""
        return {
            "centre": self.standardisation.centre,
            "factor": self.standardisation.factor,
            "weights": self.weights,
            "intercepts": self.intercepts,
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Invert `tensors`; raises KeyError or ValueError where they do not belong together."""
        weights, intercepts = tensors["weights"], tensors["intercepts"]
        standardisation = Standardisation(tensors["centre"], tensors["factor"])
        outputs, dim = weights.shape
        shapes = {tensors["centre"].shape, tensors["factor"].shape}
        if shapes != {(dim,)} or intercepts.shape != (outputs,) or outputs == 2:
            raise ValueError("the tensors of the head do not fit each other")
        if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError("the head holds values that are not finite")
        return cls(standardisation, weights, intercepts)


class LogisticHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Standardisation and L2 logistic regression as one scikit-learn classifier, multinomial for three classes and more.

    Minimises what ``make_pipeline(StandardScaler(), LogisticRegression(C=C))`` minimises in float64, to a relative
    objective gap of 1e-6, and takes float16, float32 or float64 features.

    Parameters
    ----------
    C : inverse strength of the penalty
    class_weight : None, "balanced", or {class: weight}
    most_passes : passes over the rows before the fit gives up with a `NotConvergedWarning`
    device : "cpu" or "cuda"
    """

    def __init__(
        self,
        C: float = 1.0,
        class_weight: Literal["balanced"] | Mapping[object, float] | None = None,
        most_passes: int = MOST_PASSES,
        device: str = "cpu",
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.most_passes = most_passes
        self.device = device

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Fit to X (N, D) and the labels y (N,) of at least two classes."""
        X, y = validate_data(self, X, y, dtype=[np.float32, np.float64, np.float16])
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"LogisticHead needs at least two classes, the labels hold one class: {self.classes_[0]!r}"
            )
        weights = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        source, rows = ArrayRows(np.asarray(X)), np.arange(len(codes))
        design = Design(source, rows, standardise(source, rows), device=self.device)
        grid = fit_grid(
            design,
            codes.astype(np.int64),
            np.array([self.C], np.float64),
            weights[None].astype(np.float64),
            most_passes=self.most_passes,
        )
        self.model_ = LogisticModel(design.standardisation.on("cpu"), grid.weights[0], grid.intercepts[0])
        self.objective_ = float(grid.objectives[0])
        self.gap_ = float(grid.gaps[0])
        self.n_iter_ = int(grid.passes[0])
        if not grid.converged[0]:
            warnings.warn(
                f"C = {self.C:g}: stopped after {self.n_iter_} passes, about {self.gap_:.0e} of the objective above its "
                "minimum; a smaller C or a larger most_passes converges",
                NotConvergedWarning,
                stacklevel=2,
            )
        return self

    def predict_proba(self, X: npt.ArrayLike) -> Doubles:
        """Return the probability of each class, (n, classes)."""
        check_is_fitted(self)
        source = ArrayRows(validate_data(self, X, reset=False, dtype=[np.float32, np.float64, np.float16]))
        return self.model_.probabilities(source, np.arange(len(source)), self.device)

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """Return the most probable class of each row, (n,)."""
        probabilities = self.predict_proba(X)
        return np.asarray(self.classes_[probabilities.argmax(1)])
