"""Predictions as the columns of a table: what was said of each row, by name.

classes        y_prob of the positive one of two, or y_prob_CLASS of each; y_pred; y_set where sets were asked for
labels         y_prob_LABEL and y_pred_LABEL of each
a quantity     y_pred; y_q0.1 ... of each quantile; y_low and y_high where intervals were asked for
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from heads.data.target import ClassName, Kind, Target
from heads.deciding.decisions import Decided


def said(
    kind: Kind, names: tuple[ClassName, ...], decided: Decided, quantiles: tuple[float, ...]
) -> dict[str, pa.Array]:
    """Columns of what was decided of n rows."""
    outputs, predictions = decided.outputs, decided.predictions
    if kind == "regression":
        columns = {"y_pred": pa.array(np.asarray(predictions, np.float64))}
        if quantiles:
            columns |= {f"y_q{q:g}": pa.array(column) for q, column in zip(quantiles, outputs.T, strict=True)}
        if decided.intervals is not None:
            low, high = decided.intervals.T
            columns |= {"y_low": pa.array(low), "y_high": pa.array(high)}
        return columns
    if kind == "multilabel":
        probabilities = {f"y_prob_{name}": pa.array(column) for name, column in zip(names, outputs.T, strict=True)}
        return probabilities | {
            f"y_pred_{name}": pa.array(column) for name, column in zip(names, predictions.T, strict=True)
        }
    columns = probability_columns(outputs, names) | {"y_pred": pa.array(names).take(pa.array(predictions))}
    if decided.sets is not None:
        texts = np.array([str(name) for name in names], object)
        columns["y_set"] = pa.array([texts[row].tolist() for row in decided.sets], pa.list_(pa.string()))
    return columns


def probability_columns(outputs: np.ndarray, names: tuple[ClassName, ...]) -> dict[str, pa.Array]:
    """Two classes: ``y_prob`` of the positive one; more: one ``y_prob_CLASS`` each."""
    if len(names) == 2:
        return {"y_prob": pa.array(outputs[:, 1])}
    return {f"y_prob_{name}": pa.array(column) for name, column in zip(names, outputs.T, strict=True)}


def true(target: Target) -> dict[str, pa.Array]:
    """Columns of what is true of n rows."""
    if target.kind == "multilabel":
        return {f"y_true_{name}": pa.array(column) for name, column in zip(target.names, target.values.T, strict=True)}
    if target.kind == "regression":
        return {"y_true": pa.array(target.values)}
    return {"y_true": pa.array(target.names).take(pa.array(target.values))}
