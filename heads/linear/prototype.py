"""Nearest class mean after whitening, for a handful of rows in each class and for many.

A row goes to the class whose mean is nearest by the Mahalanobis distance of a shrunk covariance within the classes: linear
discriminant analysis (Fisher 1936; with a shrunk covariance Friedman 1989, "Regularized discriminant analysis"; on deep
features Mensink et al. 2013, "Distance-based image classification", and Wang et al. 2019, arXiv:1911.04623).

With features of deviation 1 over all training rows, covariance S within the classes, shrinkage g, class means m_c and
shares s_c of the classes:

    d_c(x)^2 = (x - m_c)' ((1 - g) S + g I)^-1 (x - m_c),    p_c(x) ~ s_c exp(-d_c(x)^2 / 2)

Shrinking towards the deviations over all rows, not those within the classes, keeps it defined where S is zero: with one
row in each class. At g = 1 it is the nearest mean of standardised features. The squares of x cancel, so what is kept is
linear in x.

Axes: N rows, n rows of a block, D features, K classes, G shrinkages.
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
from heads.data.target import Codes, Doubles, Examples
from heads.data.weights import ClassWeight, row_weights
from heads.fitting import Fitted, Problem, Record
from heads.head import Settings, load_tensors, save_tensors
from heads.judging.metrics import better, score
from heads.linear.linear_map import LinearMap, linear_outputs

LEAST_LOGIT = -1e9
"""Of a class without training rows, which has no mean to be near to."""


@dataclass(frozen=True)
class PrototypeOptions:
    """Shrinkages to choose from by the validation rows, above 0 and at most 1; HeadError where one is not.

    A class weight multiplies what each row of the class adds to the covariance and to the share of its class: with
    ``balanced`` all classes have the same share.
    """

    shrinkages: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
    class_weight: ClassWeight = "none"

    def __post_init__(self) -> None:
        if not self.shrinkages or any(not 0 < shrinkage <= 1 for shrinkage in self.shrinkages):
            raise HeadError(f"--shrinkage {self.shrinkages}: give numbers above 0 and at most 1")


@dataclass(frozen=True)
class ClassMoments:
    """What one pass leaves of standardised rows: means (K, D), covariance within the classes (D, D), shares (K,).

    All in float64. A class without rows has share 0.
    """

    means: torch.Tensor
    within: torch.Tensor
    shares: torch.Tensor

    def rule(self, shrinkage: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (K, D) and intercepts (K,) of the logits ln s_c - d_c^2 / 2 without what all classes have alike."""
        covariance_DD = (1 - shrinkage) * self.within
        covariance_DD.diagonal().add_(shrinkage)
        factor_DD, failed = torch.linalg.cholesky_ex(covariance_DD)
        if failed:
            raise HeadError(f"--shrinkage {shrinkage:g} leaves a covariance that has no inverse: give a larger one")
        weights_DK = torch.cholesky_solve(self.means.T, factor_DD)
        intercepts_K = self.shares.log() - (self.means.T * weights_DK).sum(0) / 2
        return weights_DK.T, intercepts_K


def class_moments(design: Design, codes: Codes, weights: Doubles, classes: int) -> ClassMoments:
    """Return the moments of weighted rows (N,) of the given classes in one pass.

    Products run in float32 and are summed up in float64: shrinking covers what rounding leaves.
    """
    squares_DD = torch.zeros((design.dim, design.dim), dtype=torch.float64, device=design.device)
    sums_KD = squares_DD.new_zeros((classes, design.dim))
    codes_N, weights_N = torch.from_numpy(codes).to(design.device), torch.from_numpy(weights).to(design.device)
    for block in design.blocks():
        part = slice(block.start, block.stop)
        weighted_nD = block.values_nD * weights_N[part, None].float()
        sums_KD.index_add_(0, codes_N[part], weighted_nD.double())
        squares_DD += weighted_nD.T @ block.values_nD
    rows_K = squares_DD.new_zeros(classes).index_add_(0, codes_N, weights_N)
    means_KD = sums_KD / rows_K.clamp(min=torch.finfo(torch.float64).tiny)[:, None]
    within_DD = (squares_DD - means_KD.T @ sums_KD) / rows_K.sum()
    return ClassMoments(means_KD, (within_DD + within_DD.T) / 2, rows_K / rows_K.sum())


@dataclass(frozen=True)
class PrototypeModel:
    """A fitted rule: a linear map of standardised features to the logits of the classes."""

    map: LinearMap

    kind: ClassVar[str] = "prototype"

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
        """Return the probability of each class, (n, K); raises `HeadError` where a feature is not finite."""
        return _probabilities(self.map(source, rows, device))

    def save(self, folder: Path) -> Settings:
        """Write head.safetensors."""
        save_tensors(folder, self.map.tensors())
        return {}

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        """Invert `save`; raises as `heads.head.Head.load` does."""
        model = cls(LinearMap.restore(load_tensors(folder)))
        if model.outputs < 2:
            raise ValueError("the tensors of the head do not fit each other")
        return model


def fit(problem: Problem, options: PrototypeOptions) -> Fitted:
    """Fit every shrinkage from one pass over the training rows, and choose by the validation rows.

    Raises HeadError where the target is not one of classes or a feature is not finite.
    """
    train, val, target = problem.train, problem.val, problem.target
    if not target.has_classes:
        raise HeadError(f"--head prototype learns classes, and {target.names[0]} is none: take --head knn")
    standardisation = standardise(problem.source, train.rows)
    design, held = (
        Design(problem.source, rows, standardisation, device=problem.device, memory_bytes=0)
        for rows in (train.rows, val.rows)
    )
    problem.progress(0, 1, f"moments of {len(train):,} x {design.dim:,} features")
    moments = class_moments(design, target.values.astype(np.int64), _weights(train, options), len(target.names))
    rules = [moments.rule(shrinkage) for shrinkage in options.shrinkages]
    weights_CD = torch.cat([weights_KD for weights_KD, _ in rules]).float().cpu()
    intercepts_C = torch.cat([intercepts_K for _, intercepts_K in rules]).clamp(min=LEAST_LOGIT).cpu()
    logits_NC = linear_outputs(held, weights_CD, intercepts_C)
    trials: list[Record] = []
    best, best_value = 0, math.nan
    for trial, shrinkage in enumerate(options.shrinkages):
        own = slice(trial * len(target.names), (trial + 1) * len(target.names))
        value = score(val.target, _probabilities(logits_NC[:, own]), problem.select)
        trials.append({"shrinkage": shrinkage, f"val_{problem.select}": value})
        if better(problem.select, value, best_value):
            best, best_value = trial, value
    own = slice(best * len(target.names), (best + 1) * len(target.names))
    model = PrototypeModel(LinearMap(standardisation.on("cpu"), weights_CD[own], intercepts_C[own]))
    return Fitted(model, tuple(trials), best)


def _weights(train: Examples, options: PrototypeOptions) -> Doubles:
    return row_weights(train.target, options.class_weight, train.weights)


def _probabilities(logits_nK: Doubles) -> Doubles:
    return torch.from_numpy(logits_nK).softmax(1).numpy()
