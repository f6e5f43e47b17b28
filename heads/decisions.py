"""From probabilities to decisions: the threshold that serves a metric best on the validation rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from heads.labels import Codes

Doubles = npt.NDArray[np.float64]
ThresholdMetric = Literal["f1", "mcc"]


@dataclass(frozen=True)
class Threshold:
    """Predict the positive class from probability `value` on; `score` is the metric it reached where it was tuned."""

    value: float
    metric: ThresholdMetric
    score: float


def tune_threshold(positive: npt.NDArray[np.bool_], scores: Doubles, metric: ThresholdMetric) -> Threshold:
    """Try every cut between two distinct scores (N,), and take the best; of equals the highest.

    The threshold lies halfway between the last score taken and the first one left, so that rounding moves no row.
    """
    order = np.argsort(scores, kind="stable")[::-1]
    falling = scores[order]
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    taken = (ends + 1).astype(np.float64)
    hits = np.cumsum(positive[order])[ends].astype(np.float64)
    reached = (_f1 if metric == "f1" else _mcc)(hits, taken, float(positive.sum()), float(len(positive)))
    best = int(np.argmax(reached))
    last = falling[ends[best]]
    value = (last + falling[ends[best] + 1]) / 2 if best + 1 < len(ends) else last
    return Threshold(float(value), metric, float(reached[best]))


def _f1(hits: Doubles, taken: Doubles, positives: float, rows: float) -> Doubles:
    return 2 * hits / (taken + positives)


def _mcc(hits: Doubles, taken: Doubles, positives: float, rows: float) -> Doubles:
    spread = taken * (rows - taken) * positives * (rows - positives)
    return np.divide(hits * rows - taken * positives, np.sqrt(spread), out=np.zeros_like(hits), where=spread > 0)


def decide(probabilities: Doubles, threshold: float | None) -> Codes:
    """Return the class of each row (N,) from probabilities (N, classes); without a threshold the most probable one."""
    if threshold is None:
        return np.asarray(np.argmax(probabilities, axis=1), np.int64)
    return (probabilities[:, 1] >= threshold).astype(np.int64)
