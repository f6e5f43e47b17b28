"""How good outputs are: every metric of a kind of target, each with a bootstrap interval, and the one that chooses.

Classes are judged as scikit-learn judges them (`ranking.py`, `class_metrics.py`), measured quantities as
scikit-learn and scipy do (`regression_metrics.py`). Of three classes and more, and of several labels, a metric is the
mean over the classes (one against the rest) or labels; accuracy, MCC, Brier and log loss of three classes and more are
defined for all of them together.

Axes: N rows, B resamples, S metrics of statistics, M classes, L labels, Q quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedcache.errors import HeadError
from heads.data.target import Codes, Doubles, Kind, Target
from heads.judging.bootstrap import (
    FEW_GROUPS,
    RESAMPLES,
    Interval,
    Statistic,
    distance_interval,
    evaluate_all,
    interval,
    mostly_chance,
    number_units,
    once,
    resample,
)
from heads.judging.class_metrics import DECIDED, Calibration, decided
from heads.judging.ranking import Areas, all_cuts
from heads.judging.regression_metrics import correlation_p, pinball_name
from heads.judging.statistics import (
    OF_PROBABILITIES,
    Predictions,
    checked_outputs,
    checked_predictions,
    confusions,
    most_probable,
    problems,
    statistics_of,
)

OF_CLASSES = (*Areas.names, *DECIDED, *OF_PROBABILITIES, *Calibration.names)
OF_QUANTITIES = ("pearson", "spearman", "r2", "rmse", "mae", "pinball")
METRICS_OF: Mapping[Kind, tuple[str, ...]] = {
    "binary": OF_CLASSES,
    "multiclass": OF_CLASSES,
    "multilabel": OF_CLASSES,
    "regression": OF_QUANTITIES,
}
METRICS = OF_CLASSES + OF_QUANTITIES
"""Every metric that can choose a head."""
LOWER_IS_BETTER = frozenset({"brier", "log_loss", "ece", "rmse", "mae", "pinball"})
OF_CUTS = ("mcc", "f1", "acc", "balanced_acc")
"""Metrics that choose a head by its best cut point; precision and recall have none, since each is 1 at one end."""
FEW_ROWS = 10
"""With fewer rows of a class than this the metrics say little."""


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one set of rows."""

    kind: Kind
    values: Mapping[str, float]
    """By name, NaN where a metric is not defined; of a quantity also ``pearson_p``, ``spearman_p`` and, of quantiles, the
    pinball loss of each, such as ``pinball_0.9``."""
    intervals: Mapping[str, Interval]
    """95 % bootstrap intervals of all metrics but the p values."""
    rows: int
    class_rows: tuple[int, ...]
    """Rows of each class, or with each label; () of a quantity."""
    confusion: tuple[tuple[int, ...], ...] | None
    """Rows of each class [true][predicted]; of several labels (true negatives, false positives, false negatives, true
    positives) of each; None of a quantity."""
    mean_score_by_class: Mapping[str, float]
    """Of two classes the mean probability of the positive one in rows of each; of more that of the class itself in its
    rows, of labels likewise; empty of a quantity."""
    positive_rate: float | None
    """Share of rows predicted positive, of several labels of rows times labels; None of more classes and quantities."""
    detection_by_class: Mapping[str, float]
    """Of two classes the share predicted positive of the rows of each: false positives, then detected ones; of more the
    share of the rows of each class predicted as that class, of labels likewise; empty of a quantity."""
    notes: tuple[str, ...] = ()
    """What the reader of the numbers should know, to be said of the rows: "has 3 groups: ..."."""

    @property
    def prevalence(self) -> float:
        """Share of the positive one of two classes, the mean share of labels; NaN of other kinds."""
        if self.kind == "binary":
            return self.class_rows[1] / self.rows
        if self.kind == "multilabel":
            return sum(self.class_rows) / (self.rows * len(self.class_rows))
        return math.nan

    def to_json(self) -> dict[str, object]:
        """Plain numbers by the names of the metrics, intervals beside them as ``auroc_ci``; null for what is not defined."""
        values: dict[str, object] = {name: _json(value) for name, value in self.values.items()}
        values |= {f"{name}_ci": None if ends is None else list(ends) for name, ends in self.intervals.items()}
        values["rows"] = self.rows
        if self.kind == "regression":
            return values
        return values | {
            "class_rows": list(self.class_rows),
            "prevalence": _json(self.prevalence),
            "positive_rate": self.positive_rate,
            "confusion": None if self.confusion is None else [list(row) for row in self.confusion],
            "mean_score_by_class": {name: _json(value) for name, value in self.mean_score_by_class.items()},
            "detection_by_class": {name: _json(value) for name, value in self.detection_by_class.items()},
        }


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None


def check_metric(kind: Kind, metric: str) -> None:
    """Raise HeadError listing the metrics of the kind where `metric` is none of them."""
    if metric not in METRICS_OF[kind]:
        raise HeadError(f"'{metric}' is no metric of a {kind} target; it has {', '.join(METRICS_OF[kind])}")


def better(metric: str, a: float, b: float) -> bool:
    """Whether `a` is a better value of the metric than `b`; NaN never is, and anything else is better than NaN."""
    if math.isnan(a) or math.isnan(b):
        return not math.isnan(a)
    return a < b if metric in LOWER_IS_BETTER else a > b


def score(target: Target, outputs: Doubles, metric: str, quantiles: tuple[float, ...] = ()) -> float:
    """One metric of outputs, to choose a head by.

    MCC, F1, accuracy and balanced accuracy of two classes are taken at the cut point that is best for them, of several
    labels at the best one of each; other decisions are the most probable class. Outputs that are not finite score NaN.

    Raises
    ------
    HeadError : the kind of target has no such metric, or the outputs do not fit it.
    """
    check_metric(target.kind, metric)
    outputs = checked_outputs(target, outputs, quantiles)
    if not np.isfinite(outputs).all():
        return math.nan
    if metric in OF_CUTS and target.kind != "multiclass":
        column = DECIDED.index(metric)
        return float(np.mean([decided(all_cuts(*one))[:, column].max() for one in problems(target, outputs)]))
    (statistic,) = statistics_of(target, outputs, most_probable(target, outputs, quantiles), quantiles, {metric})
    values: list[float] = statistic(once(len(target)))[0].tolist()
    return values[statistic.names.index(metric)]


def evaluate(
    target: Target,
    outputs: Doubles,
    predictions: Predictions | None = None,
    *,
    quantiles: tuple[float, ...] = (),
    resamples: int = RESAMPLES,
    groups: Codes | None = None,
    seed: int = 0,
    intervals_of: Collection[str] | None = None,
) -> Evaluation:
    """Judge outputs and predictions of N rows by every metric of the target's kind.

    Parameters
    ----------
    outputs : (N, M) probabilities, (N, L) probabilities, (N, 1) values or (N, Q) quantiles.
    predictions : (N,) class codes, (N, L) of 0 and 1, or (N,) values; None for `most_probable`.
    quantiles : what the columns of the outputs are, of a quantity; () for a mean.
    resamples : bootstrap resamples for the intervals, 0 for none.
    groups : (N,) group codes, -1 for a row that is a group of its own; whole groups are drawn, since their rows are not
        independent.
    seed : the same seed draws the same resamples for the same rows, so models can be compared pair by pair.
    intervals_of : the metrics that get an interval; None for all. Fewer take less time.

    Raises
    ------
    HeadError : there are no rows, or the parts do not fit each other, or outputs are not finite.
    """
    outputs = checked_outputs(target, outputs, quantiles)
    if not np.isfinite(outputs).all():
        raise HeadError(f"{int((~np.isfinite(outputs)).any(1).sum()):,} rows have outputs that are not finite numbers")
    if predictions is None:
        predictions = most_probable(target, outputs, quantiles)
    predictions = checked_predictions(target, np.asarray(predictions))
    names = METRICS_OF[target.kind] + tuple(map(pinball_name, quantiles))
    wanted = names if intervals_of is None else tuple(intervals_of)
    for metric in set(wanted) - set(names):
        check_metric(target.kind, metric)

    statistics = statistics_of(target, outputs, predictions, quantiles, names)
    found = _by_name(statistics, evaluate_all(statistics, once(len(target))))
    values = {name: float(found[name][0]) for name in names}
    drawn, notes = _draw(
        [one for one in statistics if set(one.names) & set(wanted)], len(target), resamples, groups, seed
    )
    intervals = {name: _interval(name, drawn, values) if name in wanted else None for name in names}
    notes = [*_notes_on_rows(target), *notes, *_notes_on_resamples(drawn, values)]
    if target.kind == "regression":
        values |= {f"{name}_p": correlation_p(values[name], len(target)) for name in ("pearson", "spearman")}
        return Evaluation(target.kind, values, intervals, len(target), (), None, {}, None, {}, tuple(notes))
    return _of_classes(target, outputs, predictions, values, intervals, notes)


def _draw(
    statistics: Sequence[Statistic], rows: int, resamples: int, groups: Codes | None, seed: int
) -> tuple[dict[str, Doubles], list[str]]:
    """Return the metrics of all resamples by name, nothing where none can be drawn, and what is to be said of them."""
    if resamples < 0:
        raise HeadError(f"{resamples} bootstrap resamples: 0 (no intervals) or more can be drawn")
    if groups is not None and groups.shape != (rows,):
        raise HeadError(f"{rows} rows need one group each, and the groups have the shape {groups.shape}")
    if not resamples or not statistics:
        return {}, []
    units = rows if groups is None else int(number_units(groups).max()) + 1
    if units < 2:
        return {}, [f"has 1 {'row' if groups is None else 'group'}: it gets no intervals"]
    values_BS = [evaluate_all(statistics, counts_BN) for counts_BN in resample(rows, resamples, groups, seed)]
    few = groups is not None and units < FEW_GROUPS
    return _by_name(statistics, np.concatenate(values_BS)), [f"has {units} groups: its intervals are rough"] * few


def _interval(name: str, drawn: Mapping[str, Doubles], values: Mapping[str, float]) -> Interval:
    if name not in drawn:
        return None
    return distance_interval(drawn[name], values[name]) if name == "ece" else interval(drawn[name])


def _of_classes(
    target: Target,
    outputs: Doubles,
    predictions: Predictions,
    values: Mapping[str, float],
    intervals: Mapping[str, Interval],
    notes: Sequence[str],
) -> Evaluation:
    """Add what is counted by class."""
    matrices = np.stack([matrix(once(len(target)))[0] for matrix in confusions(target, predictions)]).astype(np.int64)
    true, hit = matrices.sum(2), matrices.diagonal(axis1=1, axis2=2)
    if target.kind == "binary":
        ((positive_N, score_N),) = problems(target, outputs)
        chosen = [(~positive_N, score_N), (positive_N, score_N)]
        class_rows, detected = true[0], matrices[0, :, 1]
    else:
        chosen = problems(target, outputs)
        class_rows, detected = (true[0], hit[0]) if target.has_classes else (true[:, 1], hit[:, 1])
    names = [str(name) for name in target.names]
    rates = [
        part / rows if rows else math.nan for part, rows in zip(detected.tolist(), class_rows.tolist(), strict=True)
    ]
    scores = [float(score_N[flags_N].mean()) if flags_N.any() else math.nan for flags_N, score_N in chosen]
    return Evaluation(
        target.kind,
        values,
        intervals,
        len(target),
        tuple(class_rows.tolist()),
        tuple(tuple(row) for row in (matrices[0] if target.has_classes else matrices.reshape(-1, 4)).tolist()),
        dict(zip(names, scores, strict=True)),
        None if target.kind == "multiclass" else float(matrices[:, :, 1].sum() / matrices.sum()),
        dict(zip(names, rates, strict=True)),
        tuple(notes),
    )


def _by_name(statistics: Sequence[Statistic], values_BS: Doubles) -> dict[str, Doubles]:
    names = [name for statistic in statistics for name in statistic.names]
    return dict(zip(names, values_BS.T, strict=True))


def _notes_on_rows(target: Target) -> list[str]:
    """Say what the rows do not allow, and what they are few for."""
    values, rows = target.values, len(target)
    if target.kind == "regression":
        notes = [f"has few rows ({rows}): its metrics are rough"] if rows < FEW_ROWS else []
        if values.min() == values.max():
            notes.append("has one true value only: correlations and R2 are not defined")
        return notes
    if target.kind == "multilabel":
        having = values.sum(0)
        counts, lacks, few = (
            np.minimum(having, rows - having),
            "one value only of label",
            "few rows with or without label",
        )
    else:
        counts, lacks, few = np.bincount(values, minlength=len(target.names)), "no rows of class", "few rows of class"
    counted = list(zip(map(str, target.names), counts.tolist(), strict=True))
    missing = ", ".join(name for name, count in counted if not count)
    rare = ", ".join(f"{name} ({count})" for name, count in counted if 0 < count < FEW_ROWS)
    left_out = "AUROC and AUPRC are not defined" if target.kind == "binary" else "mean AUROC and AUPRC do without"
    notes = [f"has {lacks} {missing}: {left_out}"] if missing else []
    return [*notes, f"has {few} {rare}: its metrics are rough"] if rare else notes


def _notes_on_resamples(drawn: Mapping[str, Doubles], values: Mapping[str, float]) -> list[str]:
    """Say how many resamples have no AUROC or correlation where the rows have, and whether the ECE is mostly chance."""
    notes = []
    if "ece" in drawn and mostly_chance(drawn["ece"], values["ece"]):
        notes.append("has a calibration error (ECE) no larger than chance gives calibrated scores")
    for name, shown, lacks in (("auroc", "AUROC", "a class"), ("pearson", "Pearson", "a second value")):
        missing = int(np.isnan(drawn[name]).sum()) if name in drawn else 0
        if missing and not math.isnan(values[name]):
            share = f"{missing:,} of {len(drawn[name]):,}"
            notes.append(f"lacks {lacks} in {share} resamples: its {shown} interval does without them")
    return notes
