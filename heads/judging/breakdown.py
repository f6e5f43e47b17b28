"""The same metrics stratum by stratum or group by group, of a head beside its baselines.

Axes: N rows, S strata.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedcache.errors import HeadError
from heads.data.strata import Strata
from heads.data.target import Codes, Target
from heads.fitting import Record, Scalar
from heads.judging.bootstrap import RESAMPLES
from heads.judging.metrics import Evaluation, evaluate
from heads.judging.results import Model


@dataclass(frozen=True)
class Part:
    """The rows of one stratum or group."""

    column: str
    name: str
    models: tuple[tuple[str, Evaluation], ...]
    """By the name of the model; the head first, then its baselines."""

    @property
    def evaluation(self) -> Evaluation:
        """Of the head."""
        return self.models[0][1]


def breakdown(
    target: Target,
    models: Sequence[Model],
    strata: Strata,
    *,
    resamples: int = RESAMPLES,
    groups: Codes | None = None,
    seed: int = 0,
    intervals_of: Collection[str] | None = None,
) -> tuple[Part, ...]:
    """Evaluate models on the rows of each stratum that has any, all by the same resamples.

    The first model is the head; the other parameters are those of `heads.judging.metrics.evaluate`.

    Groups as strata are one unit each where `groups` is given too, and get no intervals; without it their intervals say
    what chance among the rows of a group does.

    Raises HeadError as `evaluate` does, and where the strata are not those of the rows.
    """
    _check_rows(strata, len(target))
    parts = []
    for code, name in enumerate(strata.names):
        rows = np.flatnonzero(strata.codes == code)
        if len(rows):
            judged = [
                evaluate(
                    target.take(rows),
                    model.decided.outputs[rows],
                    model.decided.predictions[rows],
                    quantiles=model.decisions.quantiles,
                    resamples=resamples,
                    groups=None if groups is None else groups[rows],
                    seed=seed,
                    intervals_of=intervals_of,
                )
                for model in models
            ]
            names = [model.name for model in models]
            parts.append(Part(strata.column, name, tuple(zip(names, judged, strict=True))))
    return tuple(parts)


def _check_rows(strata: Strata, rows: int) -> None:
    if strata.codes.shape != (rows,):
        raise HeadError(f"{rows} rows need one stratum each, and '{strata.column}' has {len(strata.codes)}")


def records(parts: Sequence[Part]) -> list[Record]:
    """One flat line per part and model for a CSV file: column, stratum, model, rows, metrics with their intervals, counts by
    class, notes.

    What is not defined is None.
    """
    return [_record(part, model, found) for part in parts for model, found in part.models]


def _record(part: Part, model: str, found: Evaluation) -> Record:
    line: dict[str, Scalar] = {"column": part.column, "stratum": part.name, "model": model, "rows": found.rows}
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
    return line | {"note": "; ".join(found.notes)}


def _means(parts: Sequence[Part]) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Column, model, and its means of the metrics over the strata or groups, weighted by their rows, such as AUPRC by
    chromosome (TraitGym, Benegas et al. 2025); a part in which a metric is not defined takes no part in its mean."""
    for column in dict.fromkeys(part.column for part in parts):
        held = [part.models for part in parts if part.column == column]
        for model, *others in zip(*held, strict=True) if len(held) > 1 else ():
            judged = [evaluation for _, evaluation in (model, *others)]
            found = {}
            for name in judged[0].values:
                known = [(one.values[name], one.rows) for one in judged if math.isfinite(one.values[name])]
                if known and not name.endswith("_p"):
                    found[name] = sum(value * rows for value, rows in known) / sum(rows for _, rows in known)
            yield column, model[0], found


def mean_records(parts: Sequence[Part]) -> list[Record]:
    """The means as lines below those of `records`."""
    return [
        {"column": column, "stratum": "mean, weighted by rows", "model": model, **found}
        for column, model, found in _means(parts)
    ]


def means(parts: Sequence[Part]) -> dict[str, dict[str, Any]]:
    """The means by column: those of the head by name, those of the baselines under ``baselines``."""
    found: dict[str, dict[str, Any]] = {}
    for column, model, values in _means(parts):
        if column in found:
            found[column]["baselines"][model] = values
        else:
            found[column] = {**values, "baselines": {}}
    return found


def to_json(parts: Sequence[Part]) -> dict[str, dict[str, dict[str, Any]]]:
    """The evaluations by column and stratum: those of the head by name, those of the baselines under ``baselines``."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for part in parts:
        (_, head), *rivals = part.models
        baselines = {"baselines": {name: _evaluation_json(rival) for name, rival in rivals}}
        found.setdefault(part.column, {})[part.name] = _evaluation_json(head) | baselines
    return found


def _evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    return evaluation.to_json() | ({"notes": list(evaluation.notes)} if evaluation.notes else {})


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
