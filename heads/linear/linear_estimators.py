"""Linear heads as scikit-learn's estimators.

Axes: N rows, n rows, D features, L labels, T targets.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils import Tags, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, is_multilabel
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from embedcache.search.standardising import standardise
from heads.data.features import ArrayRows, Design
from heads.data.target import Doubles, Examples, Kind, Target
from heads.data.weights import ClassWeight
from heads.fitting import Problem
from heads.linear.linear_map import LinearMap
from heads.linear.logistic import LogisticOptions, NotConvergedWarning, fit_points
from heads.linear.logistic_grid import CERTIFIED, MOST_PASSES
from heads.linear.quantile import MOST_PASSES as QUANTILE_PASSES
from heads.linear.quantile import QuantileModel, QuantileOptions, above_minimum
from heads.linear.quantile import fit_path as fit_quantile_path
from heads.linear.ridge import RidgeModel, check_alphas
from heads.linear.ridge import fit_path as fit_ridge_path

_DTYPES = [np.float32, np.float64, np.float16]


class LogisticHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Standardisation and L2 logistic regression as one scikit-learn classifier: two classes, more, or several labels.

    Minimises what ``make_pipeline(StandardScaler(), LogisticRegression(C=C))`` minimises in float64, to a relative
    objective gap of 1e-6, and takes float16, float32 or float64 features.

    Parameters
    ----------
    C : inverse strength of the penalty
    class_weight : None, "balanced", or {class: weight}; of several labels {number of the label: weight of its ones}
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

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        """Fit to X (N, D) and y, (N,) labels of at least two classes or (N, L) zeros and ones of L labels.

        Rows count by `sample_weight` (N,), in the standardisation too, as if they were repeated.
        """
        values, labels = validate_data(self, X, y, dtype=_DTYPES, multi_output=True)
        labels = labels if is_multilabel(labels) else column_or_1d(labels, warn=True)
        check_classification_targets(labels)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, values, dtype=np.float64, ensure_non_negative=True)
            counted = weights > 0
            values, labels, weights = values[counted], labels[counted], weights[counted]
        rows = np.arange(len(values))
        train = Examples(rows, self._read(labels), weights)
        problem = Problem(
            ArrayRows(values), train, train.take(rows[:0]), select="log_loss", device=torch.device(self.device)
        )
        fitted = fit_points(problem, LogisticOptions((self.C,), (self._class_weight(),), self.most_passes))
        self.model_ = fitted.model(0)
        self.objective_ = float(fitted.grid.objectives.sum())
        self.gap_ = float(fitted.grid.gaps.max())
        self.n_iter_ = int(fitted.grid.passes.max())
        if self.gap_ > CERTIFIED:
            warnings.warn(
                f"C = {self.C:g}: stopped after {self.n_iter_} passes, about {self.gap_:.0e} of the objective above its "
                "minimum; a smaller C or a larger most_passes converges",
                NotConvergedWarning,
                stacklevel=2,
            )
        return self

    def _class_weight(self) -> ClassWeight:
        if self.class_weight is None or self.class_weight == "balanced":
            return self.class_weight or "none"
        return {str(name): weight for name, weight in self.class_weight.items()}

    def _read(self, y: npt.NDArray[np.generic]) -> Target:
        if y.ndim == 2:
            self.classes_ = np.arange(y.shape[1])
            return Target("multilabel", tuple(range(y.shape[1])), y.astype(np.int64))
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"LogisticHead needs at least two classes, the labels hold one class: {self.classes_[0]!r}"
            )
        kind: Kind = "binary" if len(self.classes_) == 2 else "multiclass"
        return Target(kind, tuple(self.classes_.tolist()), codes.astype(np.int64))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def predict_proba(self, X: npt.ArrayLike) -> Doubles:
        """Return the probability of each class, (n, classes), or of each label, (n, L)."""
        check_is_fitted(self)
        source = ArrayRows(validate_data(self, X, reset=False, dtype=_DTYPES))
        return self.model_(source, np.arange(len(source)), self.device)

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """Return the most probable class of each row, (n,), or zeros and ones of the labels, (n, L)."""
        probabilities = self.predict_proba(X)
        if self.model_.multilabel:
            return np.asarray(probabilities > 0.5, np.int64)
        return np.asarray(self.classes_[probabilities.argmax(1)])


class RidgeHead(MultiOutputMixin, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Standardisation and ridge regression as one scikit-learn regressor of one or several targets.

    Minimises what ``make_pipeline(StandardScaler(), Ridge(alpha=alpha))`` minimises in float64, to a relative gap far
    below 1e-6, and takes float16, float32 or float64 features.

    Parameters
    ----------
    alpha : strength of the penalty
    device : "cpu" or "cuda"
    """

    def __init__(self, alpha: float = 1.0, device: str = "cpu") -> None:
        self.alpha = alpha
        self.device = device

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        """Fit to X (N, D) and y (N,) or (N, T); `sample_weight` (N,) says how much each row counts."""
        check_alphas((self.alpha,))
        X, y = validate_data(self, X, y, dtype=_DTYPES, multi_output=True, y_numeric=True)
        weights_N = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        source = ArrayRows(np.asarray(X))
        rows = np.arange(len(source))
        design = Design(source, rows, standardise(source, rows), device=self.device)
        targets_NT = np.asarray(y, np.float64).reshape(len(rows), -1)
        path = fit_ridge_path(design, targets_NT, (self.alpha,), weights_N)
        self.model_ = RidgeModel(LinearMap(design.standardisation.on("cpu"), path.weights[0], path.intercepts[0]))
        self.gap_ = float(path.gaps.max())
        self.one_target_ = np.ndim(y) == 1
        return self

    def predict(self, X: npt.ArrayLike) -> Doubles:
        """Return (n,) or (n, T), as y was given."""
        check_is_fitted(self)
        source = ArrayRows(validate_data(self, X, reset=False, dtype=_DTYPES))
        outputs_nT = self.model_(source, np.arange(len(source)), self.device)
        return outputs_nT[:, 0] if self.one_target_ else outputs_nT


class QuantileHead(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Standardisation and L2 quantile regression as one scikit-learn regressor of one quantile.

    Takes float16, float32 or float64 features. Minimises the sum of the pinball losses and alpha/2 |w|^2 / d, where d is
    the mean distance of y from its median, to a relative gap of 1e-4.

    Parameters
    ----------
    quantile : between 0 and 1
    alpha : strength of the penalty
    most_passes : passes over the rows before the fit gives up with a `NotConvergedWarning`
    device : "cpu" or "cuda"
    """

    def __init__(
        self, quantile: float = 0.5, alpha: float = 1.0, most_passes: int = QUANTILE_PASSES, device: str = "cpu"
    ) -> None:
        self.quantile = quantile
        self.alpha = alpha
        self.most_passes = most_passes
        self.device = device

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        """Fit to X (N, D) and y (N,); `sample_weight` (N,) says how much each row counts."""
        options = QuantileOptions((self.quantile,), (self.alpha,))
        X, y = validate_data(self, X, y, dtype=_DTYPES, y_numeric=True)
        weights_N = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
        source = ArrayRows(np.asarray(X))
        rows = np.arange(len(source))
        design = Design(source, rows, standardise(source, rows), device=self.device)
        path = fit_quantile_path(
            design,
            np.asarray(y, np.float64),
            options.quantiles,
            options.alphas,
            weights_N,
            most_passes=self.most_passes,
        )
        standardisation = design.standardisation.on("cpu")
        self.model_ = QuantileModel(LinearMap(standardisation, path.weights[0], path.intercepts[0]), options.quantiles)
        self.objective_ = float(path.objectives[0, 0])
        self.gap_ = float(path.gaps[0, 0])
        self.n_iter_ = path.passes
        if not path.converged.all():
            warnings.warn(
                f"stopped after {path.passes} passes, {above_minimum(self.gap_)}", NotConvergedWarning, stacklevel=2
            )
        return self

    def predict(self, X: npt.ArrayLike) -> Doubles:
        """Return the quantile of each row, (n,)."""
        check_is_fitted(self)
        source = ArrayRows(validate_data(self, X, reset=False, dtype=_DTYPES))
        outputs_n1: Doubles = self.model_(source, np.arange(len(source)), self.device)
        return outputs_n1[:, 0]
