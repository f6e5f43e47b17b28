"""One booster, grown round by round on binned features until a metric on the validation rows is no longer better.

Axes: n validation rows, M scores of a booster: one, or one for each class.
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
    weights: Doubles | None
    """(N,) of the training rows."""
    quantiles: tuple[float, ...] = ()
    """The one quantile, where it is one."""


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
    scores: tuple[tuple[int, float], ...]
    """Rounds, and the metric after each that it was taken after."""
    at_the_end: bool
    """Whether the last round that was allowed was the best one."""


def grow(part: Part, growth: Growth, train: Binned, val: Binned, tell: Callable[[int, float], None]) -> Grown:
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
    _label(train, part.train, None if loss else part.weights, start if loss else None)
    _label(val, part.val, None, start if loss else None)
    stopping = EarlyStopping(growth.select, growth.patience)
    scores: list[tuple[int, float]] = []
    kept, last = np.empty((0, 0)), 1

    def judge(values: Doubles, _: object) -> tuple[str, float, bool]:
        nonlocal kept, last
        # the boosters of LightGBM's own objectives give what their scores stand for, those of other losses raw scores
        columns = values.reshape(len(part.val), -1).astype(np.float64)
        columns = link(growth.link, columns) if loss else columns
        value = score(part.val, outputs([columns], part.val.kind), growth.select, part.quantiles)
        scores.append((done, value))
        if stopping.update(done, value) or stopping.epoch is None:
            kept, last = columns, max(1, booster.current_iteration())
        return growth.select, value, True

    try:
        booster = lightgbm.Booster(parameters, train.dataset).add_valid(val.dataset, "val")
        for done in range(1, growth.rounds + 1):
            booster.update(fobj=loss)
            if growth.patience or done == growth.rounds:
                booster.eval_valid(judge)
            if stopping.stopped:
                break
            if scores and done % 25 == 0:
                tell(done, stopping.value)
    except lightgbm.basic.LightGBMError as error:
        raise HeadError(f"LightGBM does not take these settings: {error}") from None
    trees = Trees.parse(booster.model_to_string(num_iteration=last))
    at_the_end = bool(growth.patience) and stopping.epoch == growth.rounds
    return Grown(trees, tuple(start.tolist()), kept, tuple(scores), at_the_end)


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


def records(trial: int, part: Part, scores: tuple[tuple[int, float], ...], select: str) -> tuple[Record, ...]:
    """Lines of the history of a fit."""
    named = {"part": part.name} if part.name else {}
    return tuple({"trial": trial, "epoch": epoch, **named, f"val_{select}": value} for epoch, value in scores)
