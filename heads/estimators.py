"""scikit-learn's estimators of trees, neighbours and prototypes: the same fits, with one point of the grid each.

All rows that are given train. Features are float16, float32 or float64; labels may have any type that scikit-learn takes.
Of several labels (a matrix of 0 and 1) `predict_proba` gives one column for each.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from embedcache.search.nearest import Metric
from heads import neighbours
from heads.data.features import ArrayRows
from heads.data.target import Doubles, Examples, Target
from heads.data.weights import ClassWeight
from heads.fitting import Fitted, Problem, Scalar
from heads.linear import prototype
from heads.linear.prototype import PrototypeOptions
from heads.neighbours import Index, KNNOptions, Vote
from heads.trees import boosting
from heads.trees.boosting import BoostingOptions

GivenWeight = Literal["balanced"] | Mapping[Any, float] | None
"""None, "balanced", or {class: weight}; of several labels {number of the label: weight of its ones}."""
_DTYPES = [np.float32, np.float64, np.float16]


class _Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What the classifiers have in common: labels in, codes to the fit, labels out."""

    _labels = True
    """Whether it learns several labels at once."""

    @abstractmethod
    def _fit(self, problem: Problem) -> Fitted: ...

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = self._labels
        return tags

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        """Fit to X (N, D) and the labels y (N,), or (N, L) of 0 and 1; `sample_weight` (N,) says how much a row counts."""
        self._several = self._labels and np.asarray(y).ndim == 2 and type_of_target(y) == "multilabel-indicator"
        features, labels = validate_data(self, X, y, dtype=_DTYPES, multi_output=self._several)
        check_classification_targets(labels)
        if self._several:
            self.classes_ = np.arange(labels.shape[1])
            target = Target("multilabel", tuple(map(str, self.classes_)), np.asarray(labels, np.int64))
        else:
            self.classes_, codes = np.unique(labels, return_inverse=True)
            if len(self.classes_) < 2:
                raise ValueError(
                    f"{type(self).__name__} needs at least two classes, the labels hold one class: {self.classes_[0]!r}"
                )
            kind: Literal["binary", "multiclass"] = "binary" if len(self.classes_) == 2 else "multiclass"
            target = Target(kind, tuple(map(str, self.classes_)), codes.astype(np.int64))
        self.model_ = self._fit(_problem(features, target, sample_weight, "brier")).head
        return self

    def predict_proba(self, X: npt.ArrayLike) -> Doubles:
        """Return the probability of each class, (n, classes), or of each label, (n, L)."""
        check_is_fitted(self)
        source = ArrayRows(validate_data(self, X, reset=False, dtype=_DTYPES))
        return self.model_(source, np.arange(len(source)))

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """Return the most probable class of each row, (n,), or which labels it has, (n, L)."""
        probabilities = self.predict_proba(X)
        if self._several:
            return np.asarray(probabilities > 0.5, np.int64)
        return np.asarray(self.classes_[probabilities.argmax(1)])


class _Regressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """What the regressors have in common."""

    @abstractmethod
    def _fit(self, problem: Problem) -> Fitted: ...

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        """Fit to X (N, D) and values y (N,); `sample_weight` (N,) says how much a row counts."""
        features, values = validate_data(self, X, y, dtype=_DTYPES, y_numeric=True)
        target = Target("regression", ("y",), np.asarray(values, np.float64))
        self.model_ = self._fit(_problem(features, target, sample_weight, "rmse")).head
        return self

    def predict(self, X: npt.ArrayLike) -> Doubles:
        """Return the values (n,), or the quantiles (n, Q) where these were asked for."""
        check_is_fitted(self)
        source = ArrayRows(validate_data(self, X, reset=False, dtype=_DTYPES))
        values = self.model_(source, np.arange(len(source)))
        return values if self.model_.quantiles else values[:, 0]


def _problem(X: npt.NDArray[np.floating], target: Target, sample_weight: npt.ArrayLike | None, select: str) -> Problem:
    """All rows to train on. With one point to choose from, and no early stop, what they are judged by does not matter."""
    weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
    examples = Examples(np.arange(len(X)), target, weights)
    return Problem(ArrayRows(X), examples, examples, select)


def _class_weight(given: GivenWeight) -> ClassWeight:
    if given is None:
        return "none"
    return given if isinstance(given, str) else {str(name): float(weight) for name, weight in given.items()}


class LightGBMClassifierHead(_Classifier):
    """LightGBM with the settings for embeddings of `heads.trees.boosting`, all rounds, no early stop.

    Parameters are those of `heads.trees.boosting.BoostingOptions`; `feature_fraction` None is its default.
    """

    def __init__(
        self,
        rounds: int = 100,
        learning_rate: float = 0.05,
        leaves: int = 15,
        feature_fraction: float | None = None,
        min_data: int = 100,
        max_bin: int = 63,
        class_weight: GivenWeight = None,
        focal_gamma: float = 0.0,
        random_state: int = 0,
        extra: Mapping[str, Scalar] | None = None,
    ) -> None:
        self.rounds = rounds
        self.learning_rate = learning_rate
        self.leaves = leaves
        self.feature_fraction = feature_fraction
        self.min_data = min_data
        self.max_bin = max_bin
        self.class_weight = class_weight
        self.focal_gamma = focal_gamma
        self.random_state = random_state
        self.extra = extra

    def _fit(self, problem: Problem) -> Fitted:
        return _fit_trees(self, problem, class_weight=_class_weight(self.class_weight), focal_gamma=self.focal_gamma)


class LightGBMRegressorHead(_Regressor):
    """LightGBM with the settings for embeddings of `heads.trees.boosting`, all rounds, no early stop; mean or `quantiles`.

    Parameters are those of `heads.trees.boosting.BoostingOptions`; `feature_fraction` None is its default.
    """

    def __init__(
        self,
        rounds: int = 100,
        learning_rate: float = 0.05,
        leaves: int = 15,
        feature_fraction: float | None = None,
        min_data: int = 100,
        max_bin: int = 63,
        quantiles: tuple[float, ...] = (),
        random_state: int = 0,
        extra: Mapping[str, Scalar] | None = None,
    ) -> None:
        self.rounds = rounds
        self.learning_rate = learning_rate
        self.leaves = leaves
        self.feature_fraction = feature_fraction
        self.min_data = min_data
        self.max_bin = max_bin
        self.quantiles = quantiles
        self.random_state = random_state
        self.extra = extra

    def _fit(self, problem: Problem) -> Fitted:
        return _fit_trees(self, problem, quantiles=self.quantiles)


def _fit_trees(head: LightGBMClassifierHead | LightGBMRegressorHead, problem: Problem, **more: Any) -> Fitted:
    options = BoostingOptions(
        rounds=head.rounds,
        patience=0,
        learning_rate=(head.learning_rate,),
        leaves=(head.leaves,),
        feature_fraction=() if head.feature_fraction is None else (head.feature_fraction,),
        min_data=(head.min_data,),
        max_bin=head.max_bin,
        seeds=(head.random_state,),
        extra=head.extra or {},
        cache=None,
        **more,
    )
    return boosting.fit(problem, options)


class KNNClassifierHead(_Classifier):
    """Votes of the k nearest training rows, found exactly by default; parameters are those of `KNNOptions`."""

    def __init__(
        self,
        k: int = 5,
        metric: Metric = "cosine",
        vote: Vote = "count",
        temperature: float = 0.07,
        class_weight: GivenWeight = None,
        index: Index = "exact",
    ) -> None:
        self.k = k
        self.metric = metric
        self.vote = vote
        self.temperature = temperature
        self.class_weight = class_weight
        self.index = index

    def _fit(self, problem: Problem) -> Fitted:
        return _fit_neighbours(self, problem, class_weight=_class_weight(self.class_weight))


class KNNRegressorHead(_Regressor):
    """Mean or quantiles of the k nearest training rows; parameters are those of `KNNOptions`."""

    def __init__(
        self,
        k: int = 5,
        metric: Metric = "cosine",
        vote: Vote = "count",
        temperature: float = 0.07,
        quantiles: tuple[float, ...] = (),
        index: Index = "exact",
    ) -> None:
        self.k = k
        self.metric = metric
        self.vote = vote
        self.temperature = temperature
        self.quantiles = quantiles
        self.index = index

    def _fit(self, problem: Problem) -> Fitted:
        return _fit_neighbours(self, problem, quantiles=self.quantiles)


def _fit_neighbours(head: KNNClassifierHead | KNNRegressorHead, problem: Problem, **more: Any) -> Fitted:
    options = KNNOptions(
        k=(head.k,), metric=head.metric, vote=head.vote, temperature=(head.temperature,), index=head.index, **more
    )
    return neighbours.fit(problem, options)


class PrototypeHead(_Classifier):
    """The nearest class mean after whitening (`heads.linear.prototype`), with the given shrinkage of the covariance."""

    _labels = False

    def __init__(self, shrinkage: float = 0.3, class_weight: GivenWeight = None) -> None:
        self.shrinkage = shrinkage
        self.class_weight = class_weight

    def _fit(self, problem: Problem) -> Fitted:
        return prototype.fit(problem, PrototypeOptions((self.shrinkage,), _class_weight(self.class_weight)))
