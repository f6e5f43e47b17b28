"""The baselines of a sweep: each once for the runs that agree on it, and by how much the best point stands over them.

Baselines depend on the rows, the label, the strata and the split, and thresholds and calibrations decide about them too; the
head makes no difference to them. Where an option does, they have a line for each of its values.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from heads.judging.metrics import better
from heads.running.sweep_plan import Point
from heads.running.swept import SweepRun, Swept

Metric = tuple[str, str]
"""A split and the name of a metric."""


@dataclass(frozen=True)
class SweptBaseline:
    """A baseline with the metrics that it has in some of the runs."""

    name: str
    point: Point
    """The options of these runs that other runs with this baseline have other values of."""
    values: Mapping[Metric, tuple[float, ...]]
    """One value where the seeds agree, else one for each; () where there is none."""
    earlier: bool
    """Whether all of its runs were made by an earlier call."""


def swept_baselines(
    swept: Swept, groups: Sequence[tuple[SweepRun, ...]], metrics: Sequence[Metric]
) -> list[SweptBaseline]:
    """The baselines of a sweep in the order of their first runs.

    Parameters
    ----------
    groups : all runs, in groups that stay together, such as those of one point.
    metrics : those by which groups agree on a baseline or do not.
    """
    found = []
    for name in dict.fromkeys(name for run in swept.runs for name in run.baselines):
        having = [run for run in swept.runs if name in run.baselines]
        agreeing: dict[tuple[tuple[float, ...], ...], list[SweepRun]] = {}
        for group in groups:
            runs = [run for run in group if name in run.baselines]
            if runs:
                agreeing.setdefault(tuple(_values(runs, name, metric) for metric in metrics), []).extend(runs)
        for values, runs in agreeing.items():
            held = dict(zip(metrics, values, strict=True))
            found.append(SweptBaseline(name, _own_options(runs, having), held, all(run.earlier for run in runs)))
    return found


def _values(runs: Sequence[SweepRun], name: str, metric: Metric) -> tuple[float, ...]:
    found = [run.value(*metric, name) for run in runs]
    held = tuple(value for value in found if value == value)
    return held[:1] if len(set(held)) == 1 else held


def _own_options(runs: Sequence[SweepRun], among: Sequence[SweepRun]) -> Point:
    """The options that have one value in some runs, and others in the rest of all that have the baseline."""
    return {
        name: value
        for name, value in runs[0].point.items()
        if all(run.point.get(name) == value for run in runs) and any(run.point.get(name) != value for run in among)
    }


def comparison(swept: Swept) -> str | None:
    """By how much the best point stands over the best baseline of its own runs on test rows, or that it does not.

    None where there is no best point, or nothing to compare. The point was chosen by validation rows, and it has to stand
    over each baseline: of these the best on test rows is taken.
    """
    point, metric = swept.best, swept.metric
    if point is None or (mean := point.mean("test", metric)) != mean:
        return None
    best, value = "", float("nan")
    for name in dict.fromkeys(name for run in point.runs for name in run.baselines):
        rival = statistics.fmean(run.value("test", metric, name) for run in point.runs)
        if better(metric, rival, value):
            best, value = name, rival
    if not best:
        return None
    both = f"test {metric} {mean:.4f} to {value:.4f}"
    if better(metric, mean, value):
        return f"The best point stands over the best baseline, {best}, by {abs(mean - value):.4f}: {both}."
    return f"The best point does not stand over the best baseline, {best}: {both}."
