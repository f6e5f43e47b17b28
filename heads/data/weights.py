"""How much the rows count in a loss: by their class, and by a column of their own.

A class weight has one meaning for every head: the loss of a row is multiplied by the weight of its class.

Axes: N rows, L labels of a multilabel target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from embedcache.errors import HeadError
from heads.data.target import Doubles, Target

ClassWeight = Literal["none", "balanced"] | Mapping[str, float]
"""All alike; every class as much as every other; or weights by the classes' names as text, 1 for those not named."""


def class_weights(target: Target, given: ClassWeight) -> Doubles:
    """Weight of each class, (classes,); of a multilabel target (L, 2), the weights of 0 and of 1 of each label.

    ``balanced`` is scikit-learn's N / (classes * rows of the class), of each label by itself; a class without rows has
    weight 0. A mapping weighs the classes that it names, or the ones of the labels that it names. A measured quantity
    has no classes: (0,).

    Raises HeadError for a name that is no class, a weight that is not a number above 0, and weights for a measured
    quantity.
    """
    if target.kind == "regression":
        if given != "none":
            raise HeadError(
                f"--class-weight {weight_text(given)}: {target.names[0]} is a measured quantity and has no classes; "
                "leave it out, or weigh rows by a column of sample weights"
            )
        return np.ones(0)
    counts = _counts(target)
    if isinstance(given, Mapping):
        return _named(target, given, counts.shape)
    if given == "none":
        return np.ones(counts.shape)
    if given == "balanced":
        balanced = np.zeros(counts.shape)
        np.divide(counts.sum(-1, keepdims=True), counts.shape[-1] * counts, out=balanced, where=counts > 0)
        return balanced
    raise HeadError(f"--class-weight {given}: give none, balanced, or a weight for each class such as sick=3")


def row_weights(target: Target, given: ClassWeight, sample_weights: Doubles | None = None) -> Doubles:
    """What the loss of each row is multiplied by: weight of its class times its own, (N,), multilabel (N, L).

    The mean is what it is, not brought to 1. Raises HeadError as `class_weights`, and for sample weights below 0, not
    finite, or all 0.
    """
    return weights_of(target, class_weights(target, given), sample_weights)


def weights_of(target: Target, table: Doubles, sample_weights: Doubles | None = None) -> Doubles:
    """`row_weights` for a table of class weights that was made of other rows."""
    if target.kind == "regression":
        weights = np.ones(len(target))
    elif target.kind == "multilabel":
        weights = np.take_along_axis(table, target.values.T.astype(np.int64), axis=1).T
    else:
        weights = table[target.values]
    if sample_weights is None:
        return np.asarray(weights, np.float64)
    if not np.isfinite(sample_weights).all() or (sample_weights < 0).any() or not sample_weights.any():
        raise HeadError("sample weights must be finite and at least 0, and one of them above 0")
    return np.asarray(weights * (sample_weights[:, None] if weights.ndim == 2 else sample_weights), np.float64)


def _counts(target: Target) -> Doubles:
    """Rows of each class, (classes,); of each label's 0 and 1, (L, 2)."""
    if target.kind == "multilabel":
        ones = target.values.sum(0)
        return np.stack([len(target) - ones, ones], axis=1).astype(np.float64)
    return np.bincount(target.values, minlength=len(target.names)).astype(np.float64)


def _named(target: Target, given: Mapping[str, float], shape: tuple[int, ...]) -> Doubles:
    places = {str(name): place for place, name in enumerate(target.names)}
    unknown = [name for name in given if name not in places]
    if unknown:
        raise HeadError(
            f"--class-weight {weight_text(given)}: {unknown[0]!r} is none of the classes {', '.join(places)}"
        )
    weights = np.ones(shape)
    for name, weight in given.items():
        if not (np.isfinite(weight) and weight > 0):
            raise HeadError(f"--class-weight {weight_text(given)}: the weight of {name} must be a number above 0")
        if weights.ndim == 2:
            weights[places[name], 1] = weight
        else:
            weights[places[name]] = weight
    return weights


def weight_text(given: ClassWeight) -> str:
    """A class weight as the command line has it."""
    return given if isinstance(given, str) else ",".join(f"{name}={weight:g}" for name, weight in given.items())
