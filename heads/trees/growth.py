"""One booster, grown round by round on binned features until a metric on the rows that stop it is no longer better.

Axes: n rows, M scores of a booster: one, or one for each class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax

from embedcache.errors import HeadError
from heads.data.target import Codes, Doubles, Kind, Target
from heads.deciding.rearrangement import rearrange
from heads.fitting import Record, Scalar
from heads.judging.metrics import score
from heads.perceptron.early_stopping import EarlyStopping
from heads.trees.binned import Binned
from heads.trees.boosting_parameters import Link
from heads.trees.focal import FocalLoss
from heads.trees.model import Trees


@dataclass(frozen=True)
class Part:
    """What one booster learns: all of a target, one label of several, or one quantile."""

    name: str
    """Of the label or quantile; empty for all of a target."""
    train: Target
    val: Target
    stop: Target
    """Of the rows that stop it."""
    weights: Doubles | None
    """(N,) of the training rows."""
    quantiles: tuple[float, ...] = ()
    """The one quantile, where it is one."""


@dataclass(frozen=True)
class Bins:
    """The rows that all boosters of a fit learn from and are held against."""

    train: Binned
    val: Binned
    stop: Binned
    """By these a booster stops: `val`, `train`, or rows of their own."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Of the binning."""
        return (*self.train.notes, *self.val.notes, *(self.stop.notes if self.stop_alone else ()))

    @property
    def stop_alone(self) -> bool:
        """Whether the rows that stop neither train nor validate."""
        return self.stop is not self.train and self.stop is not self.val

    @property
    def stop_apart(self) -> bool:
        """Whether other rows than the validation rows stop."""
        return self.stop is not self.val


@dataclass(frozen=True)
class Growth:
    """How a booster grows."""

    parameters: Mapping[str, Scalar]
    """LightGBM's."""
    link: Link
    focal_gamma: float
    rounds: int
    patience: int
    """Rounds without a better metric after which it stops; 0 for all rounds."""
    select: str


@dataclass(frozen=True)
class Grown:
    """A booster at its best round."""

    trees: Trees
    start: tuple[float, ...]
    """(M,) what its raw scores begin with, which LightGBM does not save with the trees."""
    val: Doubles
    """(n, M) what its scores stand for on the validation rows."""
    stop: Doubles
    """The same on the rows that stop."""
    scores: tuple[tuple[int, float, float], ...]
    """Rounds, and the metric on the validation rows and on those that stop after each that it was taken after."""
    at_the_end: bool
    """Whether the last round that was allowed was the best one."""


def grow(part: Part, growth: Growth, bins: Bins, tell: Callable[[int, float], None]) -> Grown:
    """Grow one booster; `tell` hears the round and the metric now and then.

    Raises HeadError where LightGBM does not take a parameter.
    """
    import lightgbm

    loss = None
    start = np.zeros(len(part.train.names) if part.train.kind == "multiclass" else 1)
    parameters = {**growth.parameters, "metric": "None"}
    if part.train.kind == "multiclass":
        parameters["num_class"] = len(part.train.names)
    if part.quantiles:
        parameters |= {"objective": "quantile", "alpha": part.quantiles[0]}
    if growth.focal_gamma:
        loss, start = _focal(part, growth.focal_gamma)
        parameters["objective"] = "none"
    # with a loss of our own the weights are in its derivatives
    _label(bins.train, part.train, None if loss else part.weights, start if loss else None)
    _label(bins.val, part.val, None, start if loss else None)
    if bins.stop_alone:
        _label(bins.stop, part.stop, None, start if loss else None)
    stopping = EarlyStopping(growth.select, growth.patience)
    scores: list[tuple[int, float, float]] = []
    kept_val = kept_stop = np.empty((0, 0))
    last = 1

    def judged(binned: Binned, target: Target) -> tuple[Doubles, float]:
        """What the scores of the booster stand for on some rows, and the metric."""
        columns = np.empty((0, 0))

        def take(values: Doubles, _: object) -> tuple[str, float, bool]:
            nonlocal columns
            columns = values.reshape(len(target), -1).astype(np.float64)
            return growth.select, 0.0, True

        booster.eval(binned.dataset, "rows", take)
        # the boosters of LightGBM's own objectives give what their scores stand for, those of other losses raw scores
        columns = link(growth.link, columns) if loss else columns
        return columns, score(target, outputs([columns], target.kind), growth.select, part.quantiles)

    try:
        booster = lightgbm.Booster(parameters, bins.train.dataset).add_valid(bins.val.dataset, "val")
        if bins.stop_alone:
            booster.add_valid(bins.stop.dataset, "stop")
        for done in range(1, growth.rounds + 1):
            booster.update(fobj=loss)
            if growth.patience or done == growth.rounds:
                said, value = judged(bins.val, part.val)
                said_stop, stop_value = judged(bins.stop, part.stop) if bins.stop_apart else (said, value)
                scores.append((done, value, stop_value))
                if stopping.update(done, stop_value) or stopping.epoch is None:
                    kept_val, kept_stop, last = said, said_stop, max(1, booster.current_iteration())
            if stopping.stopped:
                break
            if scores and done % 25 == 0:
                tell(done, stopping.value)
    except lightgbm.basic.LightGBMError as error:
        raise HeadError(f"LightGBM does not take these settings: {error}") from None
    trees = Trees.parse(booster.model_to_string(num_iteration=last))
    at_the_end = bool(growth.patience) and stopping.epoch == growth.rounds
    return Grown(trees, tuple(start.tolist()), kept_val, kept_stop, tuple(scores), at_the_end)


def _label(binned: Binned, target: Target, weights: Doubles | None, start: Doubles | None) -> None:
    """Give binned rows what they are to be taken for, in place of what another booster left there."""
    binned.dataset.set_field("label", target.values.astype(np.float32))
    binned.dataset.set_field("weight", None if weights is None else weights.astype(np.float32))
    binned.dataset.set_field("init_score", None if start is None else np.repeat(start, len(target)))


def _focal(part: Part, gamma: float) -> tuple[Callable[[Doubles, object], tuple[Doubles, Doubles]], Doubles]:
    """The focal loss for LightGBM, and the scores (M,) of the shares of the classes, which it starts from."""
    codes: Codes = part.train.values.astype(np.int64)
    weights = np.ones(len(codes)) if part.weights is None else part.weights
    focal = FocalLoss(gamma, codes)

    def derivatives(scores: Doubles, _: object) -> tuple[Doubles, Doubles]:
        slope, curvature = focal.newton(scores)
        each = weights if scores.ndim == 1 else weights[:, None]
        return slope * each, curvature * each

    rows = np.bincount(codes, weights, minlength=max(2, len(part.train.names)))
    logs = np.log((rows / rows.sum()).clip(1e-6))
    return derivatives, logs if part.train.kind == "multiclass" else logs[1:] - logs[:1]


def link(name: Link, scores: Doubles) -> Doubles:
    """Raw scores (n, M) -> what they stand for."""
    if name == "identity":
        return scores
    if name == "exp":
        return np.asarray(np.exp(scores))
    return np.asarray(expit(scores) if name == "sigmoid" else softmax(scores, axis=1))


def outputs(boosters: list[Doubles], target: Kind) -> Doubles:
    """What the scores of each booster stand for, (n, M), -> outputs of a head."""
    values = np.concatenate(boosters, axis=1)
    if target == "binary":
        return np.concatenate([1 - values, values], axis=1)
    if target == "multiclass":  # one against rest does not sum to 1 of itself
        return np.asarray(values / values.sum(1, keepdims=True).clip(1e-300))
    return values if target == "multilabel" else rearrange(values)


def records(trial: int, part: Part, grown: Grown, val: str, stop: str) -> tuple[Record, ...]:
    """Lines of the history of a fit; `val` and `stop` name the metrics, equally where the validation rows stop."""
    named = {"part": part.name} if part.name else {}
    return tuple(
        {"trial": trial, "epoch": epoch, **named, val: value, stop: stop_value}
        for epoch, value, stop_value in grown.scores
    )
