"""Outputs and predictions of a target as prepared statistics, from which every metric and every resample of it follows.

Axes: N rows, M classes, L labels, P problems of two classes: 1 of two classes, M of more, L of labels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt

from embedcache.errors import HeadError
from heads.data.target import Doubles, Target
from heads.judging.bootstrap import Statistic
from heads.judging.class_metrics import DECIDED, Calibration, Confusion, Decisions, RowLosses, brier_losses, log_losses
from heads.judging.ranking import Areas, Flags, Ranking
from heads.judging.regression_metrics import Errors, RankCorrelation, error_names, point_column

Predictions = npt.NDArray[np.generic]
Problem = tuple[Flags, Doubles]
"""Which rows are positive (N,), and their scores (N,)."""

OF_PROBABILITIES = ("brier", "log_loss")


def statistics_of(
    target: Target, outputs: Doubles, predictions: Predictions, quantiles: tuple[float, ...], wanted: Collection[str]
) -> list[Statistic]:
    """Prepare those statistics that give the wanted metrics; each may give others beside them."""
    ways: list[tuple[tuple[str, ...], Callable[[], Statistic]]]
    if target.kind == "regression":
        true_N, point_N = target.values.astype(np.float64), predictions.astype(np.float64)
        ways = [
            (error_names(quantiles), lambda: Errors(true_N, point_N, outputs, quantiles)),
            (RankCorrelation.names, lambda: RankCorrelation(true_N, point_N)),
        ]
    else:
        ways = [
            (Areas.names, lambda: Areas([Ranking(*problem) for problem in problems(target, outputs)])),
            (DECIDED, lambda: Decisions(confusions(target, predictions))),
            (OF_PROBABILITIES, lambda: _losses(target, outputs)),
            (Calibration.names, lambda: Calibration(problems(target, outputs))),
        ]
    return [prepare() for names, prepare in ways if set(names) & set(wanted)]


def problems(target: Target, outputs: Doubles) -> list[Problem]:
    """One problem of the positive one of two classes, of each class against the rest, or of each label."""
    if target.kind == "multilabel":
        positive_NP, score_NP = target.values == 1, outputs
    else:
        positive_NP, score_NP = one_hot(target), outputs
        if target.kind == "binary":
            positive_NP, score_NP = positive_NP[:, 1:], score_NP[:, 1:]
    return list(zip(np.ascontiguousarray(positive_NP.T), np.ascontiguousarray(score_NP.T), strict=True))


def confusions(target: Target, predictions: Predictions) -> list[Confusion]:
    """The confusion matrix of the classes, or one of each label."""
    true, predicted = target.values.astype(np.int64), predictions.astype(np.int64)
    if target.has_classes:
        return [Confusion(true, predicted, len(target.names))]
    return [Confusion(true_N, predicted_N, 2) for true_N, predicted_N in zip(true.T, predicted.T, strict=True)]


def one_hot(target: Target) -> Flags:
    """(N, M): whether a row is of a class."""
    flags: Flags = target.values[:, None] == np.arange(len(target.names))
    return flags


def _losses(target: Target, outputs: Doubles) -> RowLosses:
    """Brier and log loss of each row; of several labels their means over the labels."""
    if target.has_classes:
        of = [(one_hot(target), outputs)]
    else:
        of = [(np.stack([~yes, yes], axis=1), np.stack([1 - p, p], axis=1)) for yes, p in problems(target, outputs)]
    losses = np.mean([(brier_losses(*one), log_losses(*one)) for one in of], axis=0)
    return RowLosses(OF_PROBABILITIES, np.ascontiguousarray(losses.T))


def most_probable(target: Target, outputs: Doubles, quantiles: tuple[float, ...] = ()) -> Predictions:
    """Predictions without a threshold: the most probable class, labels from 0.5 on, the quantile nearest the median."""
    if target.has_classes:
        return np.asarray(np.argmax(outputs, axis=1))
    if target.kind == "multilabel":
        return (outputs >= 0.5).astype(np.int64)
    return outputs[:, point_column(quantiles)]


def checked_outputs(target: Target, outputs: Doubles, quantiles: tuple[float, ...]) -> Doubles:
    """Return the outputs as float64; raises HeadError where there are none or they do not fit the target."""
    if not len(target):
        raise HeadError("there are no rows to evaluate")
    columns = (len(quantiles) or 1) if target.kind == "regression" else len(target.names)
    if np.shape(outputs) != (len(target), columns):
        raise HeadError(
            f"{len(target)} rows of a {target.kind} target need outputs of shape ({len(target)}, {columns}), and these "
            f"have {np.shape(outputs)}"
        )
    return np.asarray(outputs, np.float64)


def checked_predictions(target: Target, predictions: Predictions) -> Predictions:
    """Return the predictions; raises HeadError where they do not fit the target."""
    if predictions.shape != target.values.shape:
        raise HeadError(
            f"predictions of these rows need the shape {target.values.shape}, and these have {predictions.shape}"
        )
    if target.kind == "regression":
        if not np.isfinite(predictions.astype(np.float64)).all():
            raise HeadError("predictions hold values that are not finite numbers")
        return predictions
    classes = len(target.names) if target.has_classes else 2
    if not np.isin(predictions, np.arange(classes)).all():
        raise HeadError(
            f"predictions of this {target.kind} target are codes from 0 to {classes - 1}; others were given"
        )
    return predictions
