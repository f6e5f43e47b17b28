"""Small problems for the heads that are trained step by step."""

from __future__ import annotations

import numpy as np

from heads.data.features import ArrayRows
from heads.data.target import Examples, Target
from heads.fitting import Problem
from heads.judging.metrics import score
from heads.perceptron.mlp import MLPOptions, fit
from tests.heads.stores import planted

ROWS, TRAIN, DIM = 900, 600, 12
SMALL = MLPOptions(hidden=(16,), epochs=4, batch_size=64, lr=(1e-2,))


def features(classes: int = 2):
    return planted(ROWS, DIM, classes)


def problem(X, target: Target, select: str = "auprc", *, train=TRAIN, **fields) -> Problem:
    every = Examples(np.arange(len(X)), target, fields.pop("weights", None), fields.pop("groups", None))
    parts = every.take(np.arange(train)), every.take(np.arange(train, len(X)))
    return Problem(ArrayRows(X), *parts, select, **fields)


def of_classes(classes: int = 2, select: str = "auprc", **fields) -> Problem:
    X, codes = features(classes)
    kind = "binary" if classes == 2 else "multiclass"
    return problem(X, Target(kind, tuple("abcde"[:classes]), codes), select, **fields)


def of_a_quantity(select: str = "r2", **fields) -> Problem:
    X, _ = features()
    noise = np.random.default_rng(1).standard_normal(ROWS)
    values = 1000 + 50 * (np.tanh(X[:, 0].astype(float) - X[:, 0].mean()) + 0.3 * noise)
    return problem(X, Target("regression", ("height",), values), select, **fields)


def outputs(fitted, given: Problem) -> np.ndarray:
    return fitted.head(given.source, given.val.rows)


def learned(given: Problem, options: MLPOptions, metric: str | None = None) -> float:
    fitted = fit(given, options)
    return score(given.val.target, outputs(fitted, given), metric or given.select, options.quantiles)
