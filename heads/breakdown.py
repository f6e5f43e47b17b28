"""The same metrics stratum by stratum or group by group, and strata from the bins of a numeric column.

Axes: N rows, S strata.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from embedcache.errors import HeadError
from heads.bootstrap import RESAMPLES
from heads.fitting import Record, Scalar
from heads.metrics import Evaluation, evaluate
from heads.statistics import Predictions
from heads.target import Codes, Doubles, Target


@dataclass(frozen=True)
class Strata:
    """The stratum of each row: codes (N,) into `names`, -1 for a row without one."""

    column: str
    codes: Codes
    names: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """The rows of one stratum or group."""

    column: str
    name: str
    evaluation: Evaluation


def parse_strata(text: str) -> tuple[str, tuple[float, ...]]:
    """Split ``length:200,500`` into a column and the edges of its bins; a column alone has none.

    Raises HeadError where the edges are not rising numbers.
    """
    column, colon, listed = text.rpartition(":")
    if not colon:
        return text, ()
    way_out = "name a column, or a numeric column and rising edges, such as length:200,500"
    try:
        edges = tuple(float(edge) for edge in listed.split(","))
    except ValueError:
        raise HeadError(f"--strata {text}: '{listed}' is no list of numbers; {way_out}") from None
    if not column:
        raise HeadError(f"--strata {text} names no column; {way_out}")
    if not all(map(math.isfinite, edges)) or any(low >= high for low, high in pairwise(edges)):
        raise HeadError(f"--strata {text}: the edges do not rise from number to number; {way_out}")
    return column, edges


def numeric_bins(values: npt.NDArray[np.generic], edges: Sequence[float], name: str) -> tuple[Codes, tuple[str, ...]]:
    """Codes (N,) of the bins of numbers (N,), -1 for NaN, and the names of the bins: ``length < 200``, ``200 <= length <
    500``, ``length >= 500``.

    Raises HeadError where the values are not numbers.
    """
    if not edges:
        raise HeadError(f"the bins of column '{name}' need one edge or more, such as {name}:200,500")
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == np.bool_):
        raise HeadError(
            f"column '{name}' holds no numbers and cannot be cut into bins; take it as it is: --strata {name}"
        )
    numbers = values.astype(np.float64)
    codes = np.searchsorted(np.asarray(edges, np.float64), numbers, side="right").astype(np.int64)
    codes[np.isnan(numbers)] = -1
    shown = [f"{edge:.15g}" for edge in edges]
    inner = [f"{low} <= {name} < {high}" for low, high in pairwise(shown)]
    return codes, (f"{name} < {shown[0]}", *inner, f"{name} >= {shown[-1]}")


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
    """Evaluate the rows of each stratum that has any; the parameters are those of `heads.metrics.evaluate`.

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


def to_json(parts: Sequence[Part]) -> dict[str, dict[str, Mapping[str, object]]]:
    """The evaluations by column and stratum."""
    found: dict[str, dict[str, Mapping[str, object]]] = {}
    for part in parts:
        notes = {"notes": list(part.evaluation.notes)} if part.evaluation.notes else {}
        found.setdefault(part.column, {})[part.name] = part.evaluation.to_json() | notes
    return found


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
