"""From a head's probabilities to ones that come true as often as they say, fitted on the validation rows.

Axes: N validation rows, n rows, C columns of the outputs (one per class, or one per label), J columns that are calibrated
each by itself: the positive one of two classes; each of more classes, brought to sum 1 again (Zadrozny and Elkan, 2002, as
scikit-learn does); each label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from embedcache.errors import HeadError
from heads.data.target import Doubles, Kind, Target
from heads.json_values import array, mapping, number, numbers

Flags = npt.NDArray[np.bool_]
Method = Literal["temperature", "platt", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)

FEWEST_ROWS = {"temperature": 50, "platt": 50, "isotonic": 1000}
"""Validation rows that a fit needs. Isotonic regression has as many parameters as steps: scikit-learn's guide advises
against it for much fewer than a thousand rows."""
FEWEST_OF_CLASS = 10
"""Rows that say yes, and that say no, of a column: of fewer the slope is a guess."""
STEEPEST = 20.0
"""Bound of 1 / temperature, and of temperature: where no validation row is wrong the best temperature is 0."""
LEAST = float(np.finfo(np.float64).eps)
"""Probabilities are at least this before their logarithm is taken."""


@dataclass(frozen=True)
class Line:
    """A line through the log odds: ``slope * log odds + offset``. Ranks stay."""

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, yes_n: Doubles, no_n: Doubles) -> tuple[Doubles, Doubles]:
        """Return calibrated probabilities (n,) of yes and of no."""
        line_n = self.slope * log_odds(yes_n, no_n) + self.offset
        return _sigmoid(line_n), _sigmoid(-line_n)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"slope": self.slope, "offset": self.offset}

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Invert `to_json`; raises TypeError, ValueError or KeyError for anything else."""
        fields = mapping(values, "slope", "offset")
        return cls(number(fields["slope"], LEAST), number(fields["offset"]))


@dataclass(frozen=True)
class Curve:
    """A rising curve through probabilities, straight from knot to knot and level outside them."""

    scores: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, yes_n: Doubles, no_n: Doubles) -> tuple[Doubles, Doubles]:
        """Return calibrated probabilities (n,) of yes and of no."""
        values_n = np.interp(yes_n, self.scores, self.values)
        return values_n, 1 - values_n

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"scores": list(self.scores), "values": list(self.values)}

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Invert `to_json`; raises TypeError, ValueError or KeyError for anything else."""
        fields = mapping(values, "scores", "values")
        scores = numbers(fields["scores"], 0, 1)
        curve = cls(scores, numbers(fields["values"], 0, 1, len(scores)))
        if not scores or (np.diff(scores) <= 0).any() or (np.diff(curve.values) < 0).any():
            raise ValueError("the knots of a calibration curve do not rise")
        return curve


@dataclass(frozen=True)
class Calibrator:
    """A fitted calibration: one line or curve for each of J columns.

    temperature : log odds divided by one number for each column, of three classes and more by the same for all
        (Guo et al., 2017)
    platt : a line through the log odds (Platt, 1999)
    isotonic : the best rising curve (Zadrozny and Elkan, 2002). Where it is level, scores that differed are tied: AUROC and
        AUPRC change, and a threshold has fewer cuts to choose from. Its ends may be 0 and 1, so that the log loss of one new
        row that is wrong there is infinite.
    """

    method: Method
    columns: tuple[Line | Curve, ...]

    def apply(self, kind: Kind, outputs: Doubles) -> Doubles:
        """Return calibrated probabilities (n, C) for those of a head."""
        if kind == "multiclass" and self.method == "temperature":
            (line,) = self.columns
            assert isinstance(line, Line)
            return _softmax(line.slope * np.log(np.maximum(outputs, LEAST)))
        yes_nJ, no_nJ = yes_and_no(kind, outputs)
        parts = [column(yes_n, no_n) for column, yes_n, no_n in zip(self.columns, yes_nJ.T, no_nJ.T, strict=True)]
        yes_nJ, no_nJ = (np.stack(part, axis=1) for part in zip(*parts, strict=True))
        if kind == "binary":
            return np.concatenate([no_nJ, yes_nJ], axis=1)
        return _to_sum_1(yes_nJ) if kind == "multiclass" else yes_nJ

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"method": self.method, "columns": [column.to_json() for column in self.columns]}

    @classmethod
    def from_json(cls, values: Any, kind: Kind, columns: int) -> Self:
        """Invert `to_json` for heads of so many columns; raises TypeError, ValueError or KeyError for anything else."""
        fields = mapping(values, "method", "columns")
        method, saved = fields["method"], array(fields["columns"])
        if method not in METHODS or kind == "regression":
            raise ValueError(f"no calibration is called {method!r} for {kind}")
        lone = kind == "binary" or (kind == "multiclass" and method == "temperature")
        if len(saved) != (1 if lone else columns):
            raise ValueError(f"{len(saved)} columns are calibrated, of {columns}")
        if method == "isotonic":
            return cls(method, tuple(Curve.from_json(column) for column in saved))
        return cls(method, tuple(Line.from_json(column) for column in saved))


def fit_calibrator(target: Target, outputs: Doubles, method: Method) -> tuple[Calibrator | None, tuple[str, ...]]:
    """Fit a calibration to the outputs (N, C) of the validation rows.

    A column with fewer rows than `FEWEST_ROWS` and `FEWEST_OF_CLASS` stays as it is, and so does one whose Platt line would
    fall; the notes that are returned say so. There is no calibrator where all stay.

    Raises HeadError for a measured quantity.
    """
    if target.kind == "regression":
        raise HeadError(f"--calibration {method}: {target.names[0]} is a measured quantity and has no probabilities")
    if target.kind == "multiclass" and method == "temperature":
        return _fit_one_temperature(target, outputs)
    unchanged = Curve((0.0, 1.0), (0.0, 1.0)) if method == "isotonic" else Line()
    fitted: list[Line | Curve] = []
    notes = []
    names = target.names[1:] if target.kind == "binary" else target.names
    yes_NJ, no_NJ = yes_and_no(target.kind, outputs)
    for name, true_N, yes_N, no_N in zip(names, answers(target).T, yes_NJ.T, no_NJ.T, strict=True):
        try:
            fitted.append(_fit_column(true_N, yes_N, no_N, method))
        except _UnfitError as reason:
            fitted.append(unchanged)
            notes.append(f"{method} calibration leaves {name} as it is: {reason}")
    if len(notes) == len(names):
        return None, tuple(notes)
    return Calibrator(method, tuple(fitted)), tuple(notes)


class _UnfitError(Exception):
    """Why a column is not calibrated."""


def _fit_column(true_N: Flags, yes_N: Doubles, no_N: Doubles, method: Method) -> Line | Curve:
    positives, fewest = int(true_N.sum()), FEWEST_ROWS[method]
    if len(true_N) < fewest or min(positives, len(true_N) - positives) < FEWEST_OF_CLASS:
        raise _UnfitError(
            f"{len(true_N):,} validation rows with {positives:,} positive ones are too few (it takes {fewest:,}, and "
            f"{FEWEST_OF_CLASS} of either class)"
        )
    if method == "isotonic":
        return _fit_curve(true_N, yes_N)
    odds_N = log_odds(yes_N, no_N)
    if method == "temperature":
        signed_N = np.where(true_N, odds_N, -odds_N)
        return Line(_best_slope(lambda slope: float(np.logaddexp(0, -slope * signed_N).mean())))
    line = _fit_platt(true_N, odds_N)
    if line.slope < LEAST:
        raise _UnfitError("its probabilities are higher where it is not true")
    return line


def _fit_platt(true_N: Flags, odds_N: Doubles) -> Line:
    """Fit slope and offset to Platt's targets, which are short of 0 and 1 by as much as the rows are few."""
    from scipy.optimize import minimize

    positives, negatives = true_N.sum(), (~true_N).sum()
    aims_N = np.where(true_N, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    scale = max(float(np.abs(odds_N).max()), 1.0)
    design_N2 = np.stack([odds_N / scale, np.ones(len(odds_N))], axis=1)

    def loss(line: Doubles) -> tuple[float, Doubles]:
        line_N = design_N2 @ line
        value = np.logaddexp(0, line_N).mean() - (aims_N * line_N).mean()
        return float(value), design_N2.T @ (_sigmoid(line_N) - aims_N) / len(line_N)

    found = minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-9})
    return Line(float(found.x[0] / scale), float(found.x[1]))


def _fit_curve(true_N: Flags, yes_N: Doubles) -> Curve:
    """Validation rows of equal score are one point, at their mean."""
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1).fit(yes_N, true_N)
    return Curve(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))


def _fit_one_temperature(target: Target, outputs: Doubles) -> tuple[Calibrator | None, tuple[str, ...]]:
    """All classes share one number, so that it takes no rows of each."""
    rows, fewest = len(target), FEWEST_ROWS["temperature"]
    if rows < fewest:
        return None, (f"no temperature calibration: {rows:,} validation rows are too few (it takes {fewest:,})",)
    logs_NC = np.log(np.maximum(outputs, LEAST))
    true_N = logs_NC[np.arange(rows), target.values.astype(np.int64)]

    def loss(slope: float) -> float:
        return float((np.logaddexp.reduce(slope * logs_NC, axis=1) - slope * true_N).mean())

    return Calibrator("temperature", (Line(_best_slope(loss)),)), ()


def _best_slope(loss: Callable[[float], float]) -> float:
    """Return the inverse temperature of least log loss; the loss is convex in it."""
    from scipy.optimize import minimize_scalar

    end = np.log(STEEPEST)
    found = minimize_scalar(
        lambda log_slope: loss(np.exp(log_slope)), bounds=(-end, end), method="bounded", options={"xatol": 1e-10}
    )
    return float(np.exp(found.x))


def answers(target: Target) -> Flags:
    """What is true of each row, for each of J columns, (N, J)."""
    if target.kind == "multilabel":
        return np.asarray(target.values == 1)
    columns = np.arange(1, 2) if target.kind == "binary" else np.arange(len(target.names))
    return np.asarray(target.values[:, None] == columns)


def yes_and_no(kind: Kind, outputs: Doubles) -> tuple[Doubles, Doubles]:
    """Return probabilities (n, J) of yes and of no, from outputs (n, C). Of two classes both are known exactly."""
    if kind == "binary":
        return outputs[:, 1:], outputs[:, :1]
    return outputs, 1 - outputs


def log_odds(yes: Doubles, no: Doubles) -> Doubles:
    """ln(yes / no) of probabilities, finite."""
    return np.asarray(np.log(np.maximum(yes, LEAST)) - np.log(np.maximum(no, LEAST)))


def _sigmoid(values: Doubles) -> Doubles:
    from scipy.special import expit

    return np.asarray(expit(values), np.float64)


def _softmax(values_nC: Doubles) -> Doubles:
    from scipy.special import softmax

    return np.asarray(softmax(values_nC, axis=1), np.float64)


def _to_sum_1(yes_nC: Doubles) -> Doubles:
    """Divide each row by its sum; a row of zeros becomes all alike."""
    sums_n1 = yes_nC.sum(1, keepdims=True)
    alike_nC = np.full_like(yes_nC, 1 / yes_nC.shape[1])
    return np.asarray(np.divide(yes_nC, sums_n1, out=alike_nC, where=sums_n1 > 0))
