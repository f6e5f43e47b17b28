"""The same metrics stratum by stratum or group by group.

Axes: N rows, S strata.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedcache.errors import HeadError
from heads.data.strata import Strata
from heads.data.target import Codes, Doubles, Target
from heads.fitting import Record, Scalar
from heads.judging.bootstrap import RESAMPLES
from heads.judging.metrics import Evaluation, evaluate
from heads.judging.statistics import Predictions


@dataclass(frozen=True)
class Part:
    """The rows of one stratum or group."""

    column: str
    name: str
    evaluation: Evaluation


def breakdown(
    target: Target,
    outputs: Doubles,
    predictions: Predictions | None,
    strata: Strata,
    *,
    quantiles: tuple[float, ...] = (),
    resamples: int = RESAMPLES,
    groups: Codes | None = None,
    seed: int = 0,
    intervals_of: Collection[str] | None = None,
) -> tuple[Part, ...]:
    """Evaluate the rows of each stratum that has any; the parameters are those of `heads.judging.metrics.evaluate`.

    Groups as strata are one unit each where `groups` is given too, and get no intervals; without it their intervals say
    what chance among the rows of a group does.

    Raises HeadError as `evaluate` does, and where the strata are not those of the rows.
    """
    _check_rows(strata, len(target))
    parts = []
    for code, name in enumerate(strata.names):
        rows = np.flatnonzero(strata.codes == code)
        if len(rows):
            evaluation = evaluate(
                target.take(rows),
                outputs[rows],
                None if predictions is None else predictions[rows],
                quantiles=quantiles,
                resamples=resamples,
                groups=None if groups is None else groups[rows],
                seed=seed,
                intervals_of=intervals_of,
            )
            parts.append(Part(strata.column, name, evaluation))
    return tuple(parts)


def _check_rows(strata: Strata, rows: int) -> None:
    if strata.codes.shape != (rows,):
        raise HeadError(f"{rows} rows need one stratum each, and '{strata.column}' has {len(strata.codes)}")


def records(parts: Sequence[Part]) -> list[Record]:
    """One flat line per part for a CSV file: column, stratum, rows, metrics with their intervals, counts by class, notes.

    What is not defined is None.
    """
    lines: list[Record] = []
    for part in parts:
        found = part.evaluation
        line: dict[str, Scalar] = {"column": part.column, "stratum": part.name, "rows": found.rows}
        if found.class_rows:
            line["prevalence"] = _known(found.prevalence)
        for name, value in found.values.items():
            line[name] = _known(value)
            if name in found.intervals:
                line[f"{name}_low"], line[f"{name}_high"] = found.intervals[name] or (None, None)
        if found.class_rows:
            line["positive_rate"] = found.positive_rate
        for (name, detected), count in zip(found.detection_by_class.items(), found.class_rows, strict=True):
            line[f"rows_{name}"] = count
            line[f"mean_score_{name}"] = _known(found.mean_score_by_class[name])
            line[f"detection_{name}"] = _known(detected)
        lines.append(line | {"note": "; ".join(found.notes)})
    return lines


def means(parts: Sequence[Part]) -> dict[str, dict[str, float]]:
    """Means of the metrics over the strata or groups of each column, weighted by their rows, such as AUPRC by chromosome
    (TraitGym, Benegas et al. 2025); a part in which a metric is not defined takes no part in its mean."""
    found: dict[str, dict[str, float]] = {}
    for column in dict.fromkeys(part.column for part in parts):
        held = [part.evaluation for part in parts if part.column == column]
        for name in held[0].values if len(held) > 1 else ():
            known = [(one.values[name], one.rows) for one in held if math.isfinite(one.values[name])]
            if known and not name.endswith("_p"):
                total = sum(rows for _, rows in known)
                found.setdefault(column, {})[name] = sum(value * rows for value, rows in known) / total
    return found


def to_json(parts: Sequence[Part]) -> dict[str, dict[str, Mapping[str, object]]]:
    """The evaluations by column and stratum."""
    found: dict[str, dict[str, Mapping[str, object]]] = {}
    for part in parts:
        notes = {"notes": list(part.evaluation.notes)} if part.evaluation.notes else {}
        found.setdefault(part.column, {})[part.name] = part.evaluation.to_json() | notes
    return found


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
