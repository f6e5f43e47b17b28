"""One row of the table: a model's probabilities judged on every split, with the threshold tuned on validation rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from heads.decisions import ThresholdMetric, decide, tune_threshold
from heads.labels import Codes
from heads.logistic import Doubles
from heads.metrics import Evaluation, Scores, evaluate
from heads.splits import NAMES, VAL
from heads.task import Task


@dataclass(frozen=True)
class Judging:
    """How models are judged."""

    threshold_metric: ThresholdMetric = "f1"
    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class PartResult:
    """Metrics of one split, at the tuned threshold and, for two classes, at probability 0.5."""

    evaluation: Evaluation
    at_half: Scores | None

    def to_json(self) -> dict[str, object]:
        """The metrics by name; those that depend on the threshold once more under ``at_half``."""
        values = self.evaluation.to_json()
        if self.at_half is not None:
            values["prevalence"] = self.evaluation.prevalence
            values["at_half"] = {name: asdict(self.at_half)[name] for name in ("mcc", "f1", "acc")}
        return values


@dataclass(frozen=True)
class Result:
    """A model on train, val and test."""

    name: str
    threshold: float | None
    train: PartResult
    val: PartResult
    test: PartResult

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of the intervals, split by split."""
        return tuple(f"{name} {note}" for name in NAMES for note in getattr(self, name).evaluation.notes)

    def to_json(self) -> dict[str, object]:
        """The splits by name, and the threshold."""
        return {"threshold": self.threshold} | {name: getattr(self, name).to_json() for name in NAMES}


def judge(task: Task, name: str, probabilities: Doubles, judging: Judging) -> Result:
    """Tune the threshold on validation rows and evaluate all splits; probabilities are (n, classes) of the task's rows."""
    threshold = None
    if task.binary:
        val = task.part(VAL)
        threshold = tune_threshold(task.labels[val] == 1, probabilities[val, 1], judging.threshold_metric).value
    train, validation, test = (_judge_part(task, part, probabilities, threshold, judging) for part in range(len(NAMES)))
    return Result(name, threshold, train, validation, test)


def _judge_part(task: Task, part: int, probabilities: Doubles, threshold: float | None, judging: Judging) -> PartResult:
    chosen = task.part(part)
    return judge_rows(
        task.labels[chosen],
        probabilities[chosen],
        threshold,
        judging,
        groups=None if task.groups is None else task.groups[chosen],
    )


def judge_rows(
    labels: Codes, probabilities: Doubles, threshold: float | None, judging: Judging, groups: Codes | None = None
) -> PartResult:
    """Evaluate rows at a given threshold."""
    evaluation = evaluate(
        labels,
        probabilities,
        decide(probabilities, threshold),
        resamples=judging.resamples,
        groups=groups,
        seed=judging.seed,
    )
    if threshold is None:
        return PartResult(evaluation, None)
    return PartResult(evaluation, evaluate(labels, probabilities, decide(probabilities, 0.5), resamples=0).scores)
