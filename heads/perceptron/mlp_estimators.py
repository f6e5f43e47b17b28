"""Multilayer perceptrons as scikit-learn's estimators.

Axes: N rows, n rows, D features, L labels, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from heads.data.features import ArrayRows, pick_device
from heads.data.sampling import Sampler
from heads.data.target import ClassName, Doubles, Examples, Kind, Target
from heads.fitting import Fitted, Problem
from heads.perceptron.losses import RegressionLoss
from heads.perceptron.mlp import MLPOptions, fit
from heads.perceptron.schedule import Schedule

DTYPES = [np.float32, np.float64, np.float16]


class MLPClassifierHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Standardisation and a multilayer perceptron as one classifier, of classes or of several labels at once.

    Parameters
    ----------
    hidden : widths of the hidden layers
    lr : peak of the learning rate
    weight_decay : of AdamW
    dropout : share of the hidden units that a step leaves out
    epochs : passes over the rows
    batch_size : rows of a step
    schedule : "onecycle", "cosine" or "constant"
    patience : epochs without a better `select` on the validation rows after which the fit stops; 0 never stops
    select : metric of `heads.judging.metrics` on the validation rows that decides which epoch is kept
    class_weight : None, "balanced", or {class: weight}
    focal_gamma, label_smoothing, mixup_alpha : 0 is off
    sampler : "none", or "class" to draw classes equally often
    random_state : seed of the fit; None takes another each time
    device : "cpu", "cuda" or "auto"
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64,),
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        dropout: float = 0.1,
        epochs: int = 40,
        batch_size: int = 64,
        schedule: Schedule = "onecycle",
        patience: int = 5,
        select: str = "log_loss",
        class_weight: Literal["balanced"] | Mapping[object, float] | None = None,
        focal_gamma: float = 0.0,
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
        sampler: Sampler = "none",
        random_state: int | np.random.RandomState | None = 0,
        device: str = "cpu",
    ) -> None:
        self.hidden = hidden
        self.lr = lr
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.schedule = schedule
        self.patience = patience
        self.select = select
        self.class_weight = class_weight
        self.focal_gamma = focal_gamma
        self.label_smoothing = label_smoothing
        self.mixup_alpha = mixup_alpha
        self.sampler = sampler
        self.random_state = random_state
        self.device = device

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        *,
        X_val: npt.ArrayLike | None = None,
        y_val: npt.ArrayLike | None = None,
    ) -> Self:
        """Fit to X (N, D) and labels y (N,), or y (N, L) of 0 and 1; with validation rows the best epoch is kept."""
        features_ND, labels = validate_data(self, X, y, dtype=DTYPES, multi_output=True)
        check_classification_targets(labels)
        self.multilabel_ = type_of_target(labels) == "multilabel-indicator"
        if not self.multilabel_:
            labels = column_or_1d(labels, warn=True)
        self.classes_ = np.arange(labels.shape[1]) if self.multilabel_ else np.unique(labels)
        if len(self.classes_) < 2:
            raise ValueError(f"MLPClassifierHead needs two classes or labels, y holds one class: {self.classes_[0]!r}")
        kind: Kind = "multilabel" if self.multilabel_ else "binary" if len(self.classes_) == 2 else "multiclass"
        given = self.class_weight
        options = replace(
            _options(self),
            class_weight={str(name): float(weight) for name, weight in given.items()}
            if isinstance(given, Mapping)
            else given or "none",
            focal_gamma=self.focal_gamma,
            label_smoothing=self.label_smoothing,
            sampler=self.sampler,
        )
        names = tuple(str(name) for name in self.classes_)
        _fit(self, features_ND, self._codes(labels), kind, names, options, sample_weight, X_val, y_val)
        return self

    def predict_proba(self, X: npt.ArrayLike) -> Doubles:
        """Return the probability of each class, (n, classes), or of each label, (n, L)."""
        return _outputs(self, X)

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """Return the most probable class of each row, (n,), or 0 and 1 of each label, (n, L)."""
        probabilities = self.predict_proba(X)
        if self.multilabel_:
            return (probabilities >= 0.5).astype(np.int64)
        return np.asarray(self.classes_[probabilities.argmax(1)])

    def _codes(self, y: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
        if self.multilabel_:
            return y.astype(np.int64)
        codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if (self.classes_[codes] != y).any():
            raise ValueError("y_val holds a class that y does not")
        return codes.astype(np.int64)

    def __sklearn_tags__(self):  # type: ignore[no-untyped-def]
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressorHead(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Standardisation and a multilayer perceptron as one regressor, of a mean or of quantiles that do not cross.

    Parameters
    ----------
    loss : "mse", "huber" (linear beyond one standard deviation), "correlation" (1 - Pearson, brought to scale by a line)
        or "pinball"; None is "mse", or "pinball" where quantiles are given
    quantiles : different ones between 0 and 1
    select : metric on the validation rows; None is rmse, or pinball for quantiles
    others : as those of `MLPClassifierHead`
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64,),
        lr: float = 1e-2,
        weight_decay: float = 1e-2,
        dropout: float = 0.0,
        epochs: int = 40,
        batch_size: int = 64,
        schedule: Schedule = "onecycle",
        patience: int = 5,
        select: str | None = None,
        loss: RegressionLoss | None = None,
        quantiles: Sequence[float] = (),
        mixup_alpha: float = 0.0,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "cpu",
    ) -> None:
        self.hidden = hidden
        self.lr = lr
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.schedule = schedule
        self.patience = patience
        self.select = select
        self.loss = loss
        self.quantiles = quantiles
        self.mixup_alpha = mixup_alpha
        self.random_state = random_state
        self.device = device

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        *,
        X_val: npt.ArrayLike | None = None,
        y_val: npt.ArrayLike | None = None,
    ) -> Self:
        """Fit to X (N, D) and the values y (N,); with validation rows the best epoch is kept."""
        features_ND, values = validate_data(self, X, y, dtype=DTYPES, y_numeric=True)
        options = replace(_options(self), loss=self.loss, quantiles=tuple(self.quantiles))
        _fit(self, features_ND, self._codes(values), "regression", ("y",), options, sample_weight, X_val, y_val)
        return self

    def predict(self, X: npt.ArrayLike) -> Doubles:
        """Return a value for each row, (n,); for two quantiles and more (n, Q), in rising order."""
        outputs = _outputs(self, X)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    def _codes(self, y: npt.NDArray[np.generic]) -> Doubles:
        return y.astype(np.float64)


_Estimator = MLPClassifierHead | MLPRegressorHead


def _options(estimator: _Estimator) -> MLPOptions:
    """The options that both estimators have."""
    return MLPOptions(
        hidden=tuple(estimator.hidden),
        lr=(estimator.lr,),
        weight_decay=(estimator.weight_decay,),
        dropout=(estimator.dropout,),
        epochs=estimator.epochs,
        batch_size=estimator.batch_size,
        schedule=estimator.schedule,
        patience=estimator.patience,
        mixup_alpha=estimator.mixup_alpha,
    )


def _fit(
    estimator: _Estimator,
    X: npt.NDArray[np.floating],
    values: npt.NDArray[np.generic],
    kind: Kind,
    names: tuple[ClassName, ...],
    options: MLPOptions,
    sample_weight: npt.ArrayLike | None,
    X_val: npt.ArrayLike | None,
    y_val: npt.ArrayLike | None,
) -> None:
    """Fit and set what an estimator has after it: ``model_``, ``history_`` and ``n_epochs_`` (of the epoch kept)."""
    if (X_val is None) != (y_val is None):
        raise ValueError("X_val and y_val belong together: give both or neither")
    weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64)
    train_rows = len(X)
    if X_val is not None:
        X_val = validate_data(estimator, X_val, reset=False, dtype=DTYPES)
        X = np.concatenate([X, X_val])
        values = np.concatenate([values, estimator._codes(np.asarray(y_val))])
    target = Target(kind, names, values)
    rows = np.arange(len(X))
    train = Examples(rows[:train_rows], target.take(rows[:train_rows]), weights)
    val = Examples(rows[train_rows:], target.take(rows[train_rows:]))
    seed = estimator.random_state
    if seed is None or isinstance(seed, np.random.RandomState):
        seed = int(check_random_state(seed).randint(2**31 - 1))
    select = estimator.select or ("pinball" if options.quantiles else "rmse")
    found: Fitted = fit(
        Problem(ArrayRows(X), train, val, select, int(seed), pick_device(estimator.device)),
        options,
    )
    estimator.model_ = found.head
    estimator.history_ = found.history
    estimator.n_epochs_ = found.chosen["best_epoch"]


def _outputs(estimator: _Estimator, X: npt.ArrayLike) -> Doubles:
    check_is_fitted(estimator)
    source = ArrayRows(validate_data(estimator, X, reset=False, dtype=DTYPES))
    outputs: Doubles = estimator.model_(source, np.arange(len(source)), pick_device(estimator.device))
    return outputs
