"""One row of the table: a model's outputs judged on every split, with its decisions made on validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from heads.data.target import Codes, Doubles, Target
from heads.deciding.decisions import Decided, DecisionOptions, Decisions, fit_decisions
from heads.judging.bootstrap import RESAMPLES
from heads.judging.metrics import Evaluation, evaluate
from heads.splitting.splits import NAMES, VAL
from heads.splitting.task import Task

OF_DECISIONS = ("mcc", "f1", "acc", "balanced_acc", "precision", "recall")
"""Metrics that a threshold changes: they are given at 0.5 too."""


@dataclass(frozen=True)
class Judging:
    """How models are judged."""

    decisions: DecisionOptions = field(default_factory=DecisionOptions)
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True)
class Model:
    """A head or a baseline, and what it said of n rows."""

    name: str
    decisions: Decisions
    decided: Decided


@dataclass(frozen=True)
class Held:
    """What conformal sets or intervals are worth: the share of rows that they hold, and their size."""

    coverage: float
    mean_size: float
    """Classes in a set, or width of an interval in units of the quantity."""

    @classmethod
    def of(cls, target: Target, decided: Decided) -> Held | None:
        """Of rows with sets or intervals; None for others."""
        if decided.sets is not None:
            holds = decided.sets[np.arange(len(target)), np.asarray(target.values, np.int64)]
            return cls(float(holds.mean()), float(decided.sets.sum(1).mean()))
        if decided.intervals is not None:
            low, high = decided.intervals.T
            values = np.asarray(target.values, np.float64)
            return cls(float(((low <= values) & (values <= high)).mean()), float((high - low).mean()))
        return None

    def __str__(self) -> str:
        return f"{self.coverage:.1%} of the rows are held, mean size {self.mean_size:.4g}"


@dataclass(frozen=True)
class PartResult:
    """Metrics of one split as decided, and, where there are thresholds, at probability 0.5."""

    evaluation: Evaluation
    at_half: Evaluation | None
    conformal: Held | None = None

    def to_json(self) -> dict[str, object]:
        """The metrics by name; those that depend on the threshold once more under ``at_half``."""
        values = self.evaluation.to_json()
        if self.at_half is not None:
            values["at_half"] = {name: self.at_half.values[name] for name in OF_DECISIONS}
        if self.conformal is not None:
            values["conformal"] = asdict(self.conformal)
        return values


@dataclass(frozen=True)
class Result:
    """A model on each part of the split, or, of many folds, on the rows that each fold held out."""

    name: str
    decisions: Decisions
    decided: Decided
    """Of all rows of the task."""
    parts: Mapping[str, PartResult]

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of the decisions and, split by split, of the intervals."""
        rough = (f"{name} {note}" for name, part in self.parts.items() for note in part.evaluation.notes)
        return (*self.decisions.notes, *self.decided.notes, *rough)

    def on(self, rows: Codes) -> Model:
        """The model and what it said of some of the rows."""
        return Model(self.name, self.decisions, take(self.decided, rows))

    def to_json(self) -> dict[str, object]:
        """The splits by name, and the decisions."""
        return {
            "threshold": self.decisions.threshold,
            "decisions": self.decisions.to_json(),
            **{name: part.to_json() for name, part in self.parts.items()},
        }


def judge(
    task: Task,
    name: str,
    outputs: Doubles,
    judging: Judging,
    *,
    quantiles: tuple[float, ...] = (),
    trained_shares: Doubles | None = None,
) -> Result:
    """Make the decisions on validation rows, and evaluate all splits.

    Parameters
    ----------
    outputs : of the n rows of the task, as heads give them.
    quantiles : that the columns of the outputs are, of a measured quantity.
    trained_shares : of the classes, as weights or samplers made them in training.
    """
    val, strata = task.part(VAL), task.stratum_names
    decisions = fit_decisions(
        task.target.take(val),
        outputs[val],
        judging.decisions,
        strata=None if strata is None else [strata[row] for row in val],
        trained_shares=trained_shares,
        natural_shares=task.train_shares,
        quantiles=quantiles,
    )
    decided = decisions.apply(outputs, strata)
    parts = {}
    for part, part_name in enumerate(NAMES):
        rows = task.part(part)
        if not len(rows):
            continue
        groups = None if task.groups is None else task.groups[rows]
        parts[part_name] = judge_rows(task.target.take(rows), take(decided, rows), decisions, judging, groups)
    return Result(name, decisions, decided, parts)


def take(decided: Decided, rows: Codes) -> Decided:
    """What was decided of some of the rows."""
    return replace(
        decided,
        outputs=decided.outputs[rows],
        predictions=decided.predictions[rows],
        thresholds=None if decided.thresholds is None else decided.thresholds[rows],
        sets=None if decided.sets is None else decided.sets[rows],
        intervals=None if decided.intervals is None else decided.intervals[rows],
    )


def gather(parts: Sequence[tuple[Codes, Decided]]) -> Decided:
    """What was decided of all rows, each taken from the part that names it; every part has them all."""

    def chosen(arrays: Sequence[npt.NDArray[Any] | None]) -> npt.NDArray[Any] | None:
        if any(array is None for array in arrays):
            return None
        out: npt.NDArray[Any] = np.zeros_like(arrays[0])
        for (rows, _), array in zip(parts, arrays, strict=True):
            assert array is not None
            out[rows] = array[rows]
        return out

    found = [decided for _, decided in parts]
    outputs = chosen([one.outputs for one in found])
    predictions = chosen([one.predictions for one in found])
    assert outputs is not None
    assert predictions is not None
    return Decided(
        outputs,
        predictions,
        chosen([one.thresholds for one in found]),
        chosen([one.sets for one in found]),
        chosen([one.intervals for one in found]),
    )


def judge_rows(
    target: Target, decided: Decided, decisions: Decisions, judging: Judging, groups: Codes | None = None
) -> PartResult:
    """Evaluate rows as they were decided, and at 0.5."""
    evaluation = evaluate(
        target,
        decided.outputs,
        decided.predictions,
        quantiles=decisions.quantiles,
        resamples=judging.resamples,
        groups=groups,
        seed=judging.seed,
    )
    held = Held.of(target, decided)
    if target.kind not in ("binary", "multilabel"):
        return PartResult(evaluation, None, held)
    positive = decided.outputs[:, 1] if target.kind == "binary" else decided.outputs
    half = (positive >= 0.5).astype(np.int64)
    return PartResult(evaluation, evaluate(target, decided.outputs, half, resamples=0), held)
