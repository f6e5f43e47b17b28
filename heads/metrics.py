"""AUROC, AUPRC, MCC, F1 and accuracy as scikit-learn defines them, each with a bootstrap interval.

The scores are sorted once; a resample is a vector of row counts, and every metric of it follows from running sums of
counts, forty times faster than sorting each resample again (measured/heads.md, section 5).

Axes: N rows, B resamples, M classes, R runs of tied rows that hold a positive one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

import numpy as np
import numpy.typing as npt

from heads.labels import MISSING, Codes

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int32]

RESAMPLES = 1000
LEVEL = 0.95
FEW_GROUPS = 10
"""With fewer groups than this the bootstrap has little to draw from."""
_BATCH = 16
_BATCH_COUNTS = 1 << 22
"""Resamples worked on at once: 16, or fewer where their counts would not fit 16 MB."""


@dataclass(frozen=True)
class Scores:
    """The five metrics; for three classes and more AUROC, AUPRC and F1 are means over the classes (one against rest)."""

    auroc: float
    auprc: float
    mcc: float
    f1: float
    acc: float


METRICS = tuple(field.name for field in fields(Scores))


Interval = tuple[float, float] | None
"""Low and high; None where no resample has the metric."""


@dataclass(frozen=True)
class Intervals:
    """95 % percentile intervals of the metrics."""

    auroc: Interval
    auprc: Interval
    mcc: Interval
    f1: Interval
    acc: Interval


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one set of rows. `intervals` is None where no bootstrap was asked for, or it has nothing to draw."""

    scores: Scores
    intervals: Intervals | None
    rows: int
    positives: tuple[int, ...]
    """Rows of each class."""
    notes: tuple[str, ...] = ()
    """What the reader of the intervals should know, to be said of the rows: "has 3 groups: ..."."""

    @property
    def prevalence(self) -> float:
        """Share of the last class, the positive one of two."""
        return self.positives[-1] / self.rows

    def to_json(self) -> dict[str, object]:
        """Plain numbers by the names of the metrics, intervals or null beside them as ``auroc_ci``."""
        values: dict[str, object] = dict(asdict(self.scores))
        values |= {f"{name}_ci": getattr(self.intervals, name, None) for name in METRICS}
        return values | {"rows": self.rows, "class_rows": list(self.positives)}


class _Ranking:
    """Rows of one class against the rest, sorted by falling score.

    Only runs of tied rows that hold a positive one matter to both areas: precision is read off at their ends, and the
    rows between them are one sum.
    """

    def __init__(self, positive_N: npt.NDArray[np.bool_], score_N: Doubles) -> None:
        # rising order read backwards is several times faster than sorting the negated scores stably
        order = np.argsort(score_N, kind="stable")[::-1]
        falling_N = score_N[order]
        first_N = np.append(True, falling_N[1:] != falling_N[:-1])
        run_N = np.cumsum(first_N) - 1
        self.held = bool(positive_N.any()) and not bool(positive_N.all())
        runs_R, first_positive_R = np.unique(run_N[positive_N[order]], return_index=True)
        starts_R = np.flatnonzero(first_N)[runs_R]
        stops_R = np.append(np.flatnonzero(first_N), len(order))[runs_R + 1]
        self.order = order
        self.positives = order[positive_N[order]]
        self.first_positive_R = first_positive_R
        # sums over [start, stop) of each run and over the rows after it up to the next run
        cuts = np.stack([starts_R, stops_R], axis=1).ravel()
        self.cuts = cuts[cuts < len(order)]
        # `reduceat` gives a lone value, not zero, where two cuts fall together
        self.empty = np.flatnonzero(np.diff(self.cuts) == 0)
        self.before = int(cuts[0]) if len(cuts) else 0

    def areas(self, counts_BN: Counts) -> tuple[Doubles, Doubles]:
        """AUROC and average precision of resamples given as row counts; NaN where one side is empty."""
        if not self.held:
            nowhere = np.full(len(counts_BN), np.nan)
            return nowhere, nowhere
        sorted_BN = np.take(counts_BN, self.order, axis=1)
        gained_BR = np.add.reduceat(counts_BN[:, self.positives], self.first_positive_R, axis=1).astype(np.float64)
        sums_BC = np.add.reduceat(sorted_BN, self.cuts, axis=1)
        sums_BC[:, self.empty] = 0
        ahead = sorted_BN[:, : self.before].sum(1, keepdims=True)
        run_ends_BR = (ahead + np.cumsum(sums_BC, axis=1))[:, ::2].astype(np.float64)
        true_BR = np.cumsum(gained_BR, axis=1)
        true_B = true_BR[:, -1]
        false_B = counts_BN.sum(1) - true_B
        false_in_BR = sums_BC[:, ::2] - gained_BR
        false_above_BR = run_ends_BR - true_BR - 0.5 * false_in_BR
        with np.errstate(invalid="ignore", divide="ignore"):
            auroc = 1 - (gained_BR * false_above_BR).sum(1) / (true_B * false_B)
            auprc = (gained_BR * true_BR / np.maximum(run_ends_BR, 1)).sum(1) / true_B
        auroc[(true_B == 0) | (false_B == 0)] = np.nan
        return auroc, auprc


class _Judge:
    """All metrics of weighted rows; built once for a set of rows."""

    def __init__(self, labels: Codes, probabilities: Doubles, predictions: Codes) -> None:
        self.classes = probabilities.shape[1]
        judged = [1] if self.classes == 2 else range(self.classes)
        self.rankings = [_Ranking(labels == one, np.ascontiguousarray(probabilities[:, one])) for one in judged]
        cells_N = labels * self.classes + predictions
        self.by_cell = np.argsort(cells_N, kind="stable")
        self.cells, self.cell_starts = np.unique(cells_N[self.by_cell], return_index=True)

    def metrics(self, counts_BN: Counts) -> Doubles:
        """Return (B, 5) in the order of `METRICS`."""
        areas = np.array([ranking.areas(counts_BN) for ranking in self.rankings])
        auroc, auprc = _mean_known(areas[:, 0]), _mean_known(areas[:, 1])
        by_cell_BN = np.take(counts_BN, self.by_cell, axis=1)
        confusion = np.zeros((len(counts_BN), self.classes**2))
        confusion[:, self.cells] = np.add.reduceat(by_cell_BN, self.cell_starts, axis=1)
        mcc, f1, acc = _decided(confusion.reshape(-1, self.classes, self.classes))
        return np.stack([auroc, auprc, mcc, f1, acc], axis=1)


def _mean_known(values_MB: Doubles) -> Doubles:
    """Mean over classes, leaving out those a resample does not hold; NaN where it holds none."""
    known_MB = ~np.isnan(values_MB)
    totals = np.where(known_MB, values_MB, 0).sum(0)
    means: Doubles = np.divide(totals, known_MB.sum(0), out=np.full_like(totals, np.nan), where=known_MB.any(0))
    return means


def _decided(confusion_BMM: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """MCC (Gorodkin, 2004, for any number of classes), F1 and accuracy of confusion matrices [true, predicted]."""
    total = confusion_BMM.sum((1, 2))
    hits_BM = np.diagonal(confusion_BMM, axis1=1, axis2=2)
    true_BM, predicted_BM = confusion_BMM.sum(2), confusion_BMM.sum(1)
    hits = hits_BM.sum(1)
    covariance = hits * total - (true_BM * predicted_BM).sum(1)
    spread = (total**2 - (true_BM**2).sum(1)) * (total**2 - (predicted_BM**2).sum(1))
    mcc = np.divide(covariance, np.sqrt(spread), out=np.zeros_like(total), where=spread > 0)
    either_BM = true_BM + predicted_BM
    f1_BM = np.divide(2 * hits_BM, either_BM, out=np.zeros_like(either_BM), where=either_BM > 0)
    if f1_BM.shape[1] == 2:
        f1 = f1_BM[:, 1]
    else:
        seen_BM = either_BM > 0
        f1 = (f1_BM * seen_BM).sum(1) / seen_BM.sum(1)
    return mcc, f1, hits / total


def evaluate(
    labels: Codes,
    probabilities: Doubles,
    predictions: Codes,
    *,
    resamples: int = RESAMPLES,
    groups: Codes | None = None,
    seed: int = 0,
) -> Evaluation:
    """Judge predictions of N rows.

    Parameters
    ----------
    labels, predictions : (N,) class codes
    probabilities : (N, classes)
    resamples : bootstrap resamples for the intervals, 0 for none
    groups : (N,) group codes; whole groups are drawn then, since their rows are not independent
    seed : the same seed draws the same resamples for the same rows, so models can be compared pair by pair
    """
    judge = _Judge(labels, probabilities, predictions)
    point = Scores(*judge.metrics(np.ones((1, len(labels)), np.int32))[0].tolist())
    classes = tuple(np.bincount(labels, minlength=probabilities.shape[1]).tolist())
    if resamples == 0:
        return Evaluation(point, None, len(labels), classes)
    units = len(labels) if groups is None else int(_units(groups).max(initial=-1)) + 1
    if units < 2:
        return Evaluation(point, None, len(labels), classes, ("has 1 group: it gets no intervals",))
    few = groups is not None and units < FEW_GROUPS
    notes = [f"has {units} groups: its intervals are rough"] if few else []
    drawn = np.concatenate([judge.metrics(counts) for counts in resample(len(labels), resamples, groups, seed)])
    dropped = int(np.isnan(drawn[:, 0]).sum())
    if dropped:
        notes.append(f"lacks a class in {dropped:,} of {resamples:,} resamples: its AUROC interval does without them")
    intervals = [_interval(values) for values in drawn.T]
    return Evaluation(point, Intervals(*intervals), len(labels), classes, tuple(notes))


def _interval(values: Doubles) -> Interval:
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resample(rows: int, resamples: int, groups: Codes | None, seed: int) -> Iterator[Counts]:
    """Yield bootstrap resamples as row counts (b, N), in batches; with groups, all rows of a drawn group count."""
    rng = np.random.default_rng(seed)
    unit = np.arange(rows) if groups is None else _units(groups)
    units = int(unit.max()) + 1
    batch = max(1, min(_BATCH, _BATCH_COUNTS // rows))
    for start in range(0, resamples, batch):
        counts = np.empty((min(batch, resamples - start), units), np.int32)
        for one in counts:
            one[:] = np.bincount(rng.integers(units, size=units), minlength=units)
        yield counts if groups is None else counts[:, unit]


def _units(groups: Codes) -> Codes:
    """Number the groups from 0; a row without a group is a unit of its own."""
    groups = groups.copy()
    lone = np.flatnonzero(groups == MISSING)
    groups[lone] = groups.max(initial=0) + 1 + np.arange(len(lone))
    return np.unique(groups, return_inverse=True)[1]
