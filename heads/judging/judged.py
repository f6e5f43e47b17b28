"""Models side by side on one set of rows, or on the parents of these rows: metrics of each, over all and by stratum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from heads.data.strata import Strata
from heads.data.target import Codes, Target
from heads.judging.breakdown import Part, breakdown, means, to_json
from heads.judging.detection import Detection, Detector, detect
from heads.judging.results import Judging, Model, PartResult, judge_rows


@dataclass(frozen=True)
class Judged:
    """Models on the same n rows; the first is the head."""

    what: str
    """Which rows, in words."""
    results: tuple[tuple[str, PartResult], ...]
    """By the name of the model."""
    parts: tuple[Part, ...]
    """The same by stratum, where strata were asked for."""
    notes: tuple[str, ...]
    detections: tuple[Detection, ...] = ()

    @property
    def head(self) -> PartResult:
        """What the head reached."""
        return self.results[0][1]

    def to_json(self) -> dict[str, object]:
        """The head's metrics by name, those of the baselines, and those by stratum."""
        return {
            "rows_of": self.what,
            **self.head.to_json(),
            "baselines": {name: result.to_json() for name, result in self.results[1:]},
            "breakdown": to_json(self.parts),
            "breakdown_mean": means(self.parts),
            **({"detection": self._detection()} if self.detections else {}),
            "notes": list(self.notes),
        }

    def _detection(self) -> dict[str, object]:
        return {str(one.rule): {"by": one.by, "models": one.to_json()} for one in self.detections}


def judge_models(
    what: str,
    target: Target,
    models: Sequence[Model],
    judging: Judging,
    *,
    groups: Codes | None = None,
    strata: Strata | None = None,
    detector: Detector | None = None,
    unit: str = "rows",
) -> Judged:
    """Judge models on the n rows of a target, all by the same resamples.

    Raises HeadError as `heads.judging.metrics.evaluate` does.
    """
    results = [(model.name, judge_rows(target, model.decided, model.decisions, judging, groups)) for model in models]
    parts: tuple[Part, ...] = ()
    head = models[0]
    if strata is not None:
        parts = breakdown(target, models, strata, resamples=judging.resamples, groups=groups, seed=judging.seed)
    notes = (*head.decided.notes, *(f"this set of {unit} {note}" for note in results[0][1].evaluation.notes))
    said = [(model.name, np.asarray(model.decided.predictions, np.float64)) for model in models]
    true = np.asarray(target.values, np.float64)
    detections = () if detector is None else detect(detector, true, said, judging, groups)
    return Judged(what, tuple(results), parts, notes, detections)


def of_rows(strata: Strata, rows: Codes) -> Strata:
    """The strata of some of the rows."""
    return replace(strata, codes=np.asarray(strata.codes[rows], np.int64))
