"""What came of a sweep: its runs, those of one point together, and the best point by validation rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heads.judging.metrics import better
from heads.running.sweep_plan import Point

SEED = "seed"
"""The option whose values are repetitions of a point, not points."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: where it lies, and its metrics or why it has none."""

    point: Point
    folder: Path
    metrics: Mapping[str, Any] | None
    failure: str = ""
    earlier: bool = False
    """Made by an earlier call with other points, and no part of this one."""

    @property
    def baselines(self) -> Mapping[str, Mapping[str, Any]]:
        """The metrics of the baselines by their names, as metrics.json has them."""
        found: Mapping[str, Mapping[str, Any]] = (self.metrics or {}).get("baselines", {})
        return found

    def value(self, part: str, metric: str, baseline: str | None = None) -> float:
        """A metric of a split, of the head or of a baseline; NaN where there is none."""
        judged = (self.metrics or {}) if baseline is None else self.baselines.get(baseline, {})
        found = judged.get(part, {}).get(metric)
        return float(found) if isinstance(found, int | float) else float("nan")


@dataclass(frozen=True)
class SweptPoint:
    """The runs of one point, which differ in their seeds alone."""

    point: Point
    """Without the seed."""
    runs: tuple[SweepRun, ...]

    def values(self, part: str, metric: str) -> list[float]:
        """A metric of all runs that have it."""
        found = [run.value(part, metric) for run in self.runs]
        return [value for value in found if value == value]

    def mean(self, part: str, metric: str) -> float:
        """Mean over the seeds; NaN where one of them failed, for the others may be the lucky ones."""
        values = self.values(part, metric)
        return statistics.fmean(values) if len(values) == len(self.runs) else float("nan")


@dataclass(frozen=True)
class Swept:
    """All runs of a sweep."""

    runs: tuple[SweepRun, ...]
    metric: str

    @property
    def points(self) -> tuple[SweptPoint, ...]:
        """The points in the order of the sweep."""
        grouped: dict[tuple[tuple[str, str], ...], list[SweepRun]] = {}
        for run in self.runs:
            key = tuple((name, value) for name, value in run.point.items() if name != SEED)
            grouped.setdefault(key, []).append(run)
        return tuple(SweptPoint(dict(key), tuple(runs)) for key, runs in grouped.items())

    @property
    def failed(self) -> tuple[SweepRun, ...]:
        """The runs of this call that have no metrics."""
        return tuple(run for run in self.runs if run.metrics is None and not run.earlier)

    @property
    def best(self) -> SweptPoint | None:
        """The point with the best mean of the metric on validation rows, of equals the first; None where all failed."""
        best: SweptPoint | None = None
        for point in self.points:
            value = point.mean("val", self.metric)
            if value == value and (best is None or better(self.metric, value, best.mean("val", self.metric))):
                best = point
        return best
