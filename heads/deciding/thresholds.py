"""From a probability to yes or no: the cut point that serves best on the validation rows, for all rows or by stratum.

Axes: N validation rows, n rows to decide on, L labels (1 where there are two classes), C cut points, S
strata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from embedcache.errors import HeadError
from heads.data.target import ClassName, Doubles
from heads.json_values import mapping, numbers

Flags = npt.NDArray[np.bool_]
Aim = Literal["f1", "mcc", "balanced_acc", "cost", "recall", "fixed"]
TUNED: tuple[Aim, ...] = ("f1", "mcc", "balanced_acc")

FEWEST_ROWS = 50
"""Validation rows below which no threshold is tuned: AutoGluon's limit (its pull request 4632)."""
FEWEST_OF_CLASS = 5
"""Rows of either class that a threshold of all rows needs. Tuned on so few, F1 of new rows was four fifths of the best there
is or more (normal scores one and two deviations apart, 5 % and 30 % positive); at 0.5 it is often 0 where positives are
rare."""
FEWEST_OF_CLASS_IN_STRATUM = 20
"""A stratum needs more, since it has the threshold of all rows to fall back on: with 20 F1 was nine tenths of the best."""
UNTUNED = 0.5
MOST_COST = 1e12
NAMED = 5
"""Strata that a note names before it counts."""
_ABOVE = float(np.nextafter(1.0, 2.0))
"""The cut that no probability reaches."""


@dataclass(frozen=True)
class ThresholdRule:
    """What a cut point is to serve, and its figures: two costs, a least recall, or the cut itself."""

    aim: Aim
    figures: tuple[float, ...] = ()

    @classmethod
    def parse(cls, given: str) -> Self:
        """Read ``f1``, ``mcc``, ``balanced_acc``, ``cost:FN:FP``, ``recall:0.9`` or ``0.5``; raises HeadError else."""
        for tuned in TUNED:
            if given == tuned:
                return cls(tuned)
        aim, *figures = given.split(":")
        try:
            if aim == "cost" and len(figures) == 2:
                return cls("cost", tuple(_between(figure, 0, MOST_COST) for figure in figures))
            if aim == "recall" and len(figures) == 1:
                return cls("recall", (_between(figures[0], 0, 1),))
            if not figures:
                return cls("fixed", (_between(aim, 0, 1),))
        except ValueError:
            pass
        raise HeadError(
            f"--threshold {given}: give f1, mcc or balanced_acc, cost:FN:FP with the costs of a miss and of a false alarm "
            "(cost:10:1), recall:R with the least recall (recall:0.9), or a number between 0 and 1"
        )


def _between(given: str, low: float, high: float) -> float:
    """A number above `low`, up to `high`; raises ValueError else."""
    value = float(given)
    if not low < value <= high:
        raise ValueError(f"{given} is not above {low:g} and up to {high:g}")
    return value


def best_cut(positive_N: Flags, scores_N: Doubles, rule: ThresholdRule) -> float:
    """Return the cut that serves the rule best: rows whose score is at least the cut are called positive.

    Every cut between two distinct scores is tried, and those above and below all of them. It lies halfway between the last
    score taken and the first one left, so that rounding moves no row. Of equally good cuts the highest is taken, but the
    lowest for a least recall, where it finds more at the same precision.

    Parameters
    ----------
    scores_N : probabilities, 0 to 1.
    """
    if rule.aim == "fixed":
        return rule.figures[0]
    order = np.argsort(scores_N, kind="stable")[::-1]
    falling_N = scores_N[order]
    ends = np.flatnonzero(np.append(falling_N[1:] != falling_N[:-1], True))
    taken_C = np.append(0, ends + 1).astype(np.float64)
    hits_C = np.append(0, np.cumsum(positive_N[order])[ends]).astype(np.float64)
    worth_C = _worth(rule, hits_C, taken_C, float(positive_N.sum()), float(len(positive_N)))
    if rule.aim == "recall":
        best = len(worth_C) - 1 - int(np.argmax(worth_C[::-1]))
    else:
        best = int(np.argmax(worth_C))
    bounds = np.concatenate([[_ABOVE], falling_N[ends], [0.0]])
    last, left = bounds[best], bounds[best + 1]
    halfway = (last + left) / 2
    return float(halfway if halfway > left else last)


def _worth(rule: ThresholdRule, hits_C: Doubles, taken_C: Doubles, positives: float, rows: float) -> Doubles:
    """How well each cut serves, more is better, from the positive rows (`hits_C`) among the rows above it (`taken_C`)."""
    negatives = rows - positives
    alarms_C = taken_C - hits_C
    if rule.aim == "f1":
        return _quotient(2 * hits_C, taken_C + positives)
    if rule.aim == "mcc":
        spread_C = taken_C * (rows - taken_C) * positives * negatives
        return _quotient(hits_C * rows - taken_C * positives, np.sqrt(spread_C))
    if rule.aim == "balanced_acc":
        return hits_C / max(positives, 1) - alarms_C / max(negatives, 1)
    if rule.aim == "cost":
        miss, alarm = rule.figures
        return -(miss * (positives - hits_C) + alarm * alarms_C)
    # a recall of 0.7 of ten rows is seven rows, whatever the rounding of 0.7 * 10
    reached_C = hits_C >= rule.figures[0] * positives - 1e-9
    return np.where(reached_C, _quotient(hits_C, taken_C), -1.0)


def _quotient(above_C: Doubles, below_C: Doubles) -> Doubles:
    """0 where there is nothing to divide by, as scikit-learn has it."""
    quotient: Doubles = np.divide(above_C, below_C, out=np.zeros_like(above_C), where=below_C > 0)
    return quotient


@dataclass(frozen=True)
class Thresholds:
    """Cut points of each label (L): `overall`, and of each stratum that the validation rows have.

    A stratum that had too few rows for its own is there with the ones of all rows.
    """

    overall: tuple[float, ...]
    strata: Mapping[str, tuple[float, ...]]

    def each(self, rows: int, strata: Sequence[str] | None) -> tuple[Doubles, tuple[str, ...]]:
        """Return the cuts (n, L) of each row, and a note of the rows that got the overall ones for want of their own."""
        if not self.strata:
            return np.tile(self.overall, (rows, 1)), ()
        if strata is None:
            note = f"thresholds are by stratum, and the {rows:,} rows have none: all take that of all validation rows"
            return np.tile(self.overall, (rows, 1)), (note,)
        names, stratum_n = _encode(strata)
        table = np.array([self.strata.get(name, self.overall) for name in names]).reshape(len(names), -1)
        unseen = [place for place, name in enumerate(names) if name not in self.strata]
        lost = int(np.isin(stratum_n, unseen).sum())
        note = (
            f"{lost:,} rows are of strata that have no threshold of their own, and take that of all validation rows: "
            f"{_list([name or 'no stratum' for name in names], unseen)}"
        )
        return table[stratum_n], (note,) if lost else ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"overall": list(self.overall), "strata": {name: list(cuts) for name, cuts in self.strata.items()}}

    @classmethod
    def from_json(cls, values: Any, labels: int) -> Self:
        """Invert `to_json`; raises TypeError, ValueError or KeyError for anything else."""
        fields = mapping(values, "overall", "strata")
        strata = mapping(fields["strata"])
        return cls(
            numbers(fields["overall"], 0, _ABOVE, labels),
            {name: numbers(cuts, 0, _ABOVE, labels) for name, cuts in strata.items()},
        )


def fit_thresholds(
    positive_NL: Flags,
    scores_NL: Doubles,
    rule: ThresholdRule,
    names: Sequence[ClassName],
    strata: Sequence[str] | None = None,
) -> tuple[Thresholds, tuple[str, ...]]:
    """Tune the cut of each label on all validation rows, and of each stratum on its own.

    A stratum whose rows all have one score gets the cut of all rows, and so does one with fewer than `FEWEST_ROWS` rows or
    `FEWEST_OF_CLASS_IN_STRATUM` of either class; where all rows are too few, the cut is `UNTUNED`. The latter two are said
    in the notes that are returned.

    Parameters
    ----------
    names : (L,) of the labels; of two classes the positive one alone.
    strata : (N,) the name of each row's stratum; None for one threshold for all.
    """
    if rule.aim == "fixed":
        note = ("a fixed threshold is the same in every stratum",) if strata is not None else ()
        return Thresholds(rule.figures * len(names), {}), note
    overall, notes = [], []
    for name, positive_N, scores_N in zip(names, positive_NL.T, scores_NL.T, strict=True):
        if _enough(positive_N, FEWEST_OF_CLASS):
            overall.append(best_cut(positive_N, scores_N, rule))
        else:
            overall.append(UNTUNED)
            of = "" if len(names) == 1 else f" of label {name}"
            notes.append(
                f"the threshold{of} is {UNTUNED:g} and not tuned: {len(positive_N):,} validation rows, {positive_N.sum():,} "
                f"of them positive, are too few (it takes {FEWEST_ROWS}, and {FEWEST_OF_CLASS} of either class)"
            )
    if strata is None:
        return Thresholds(tuple(overall), {}), tuple(notes)
    found, stratum_N = _encode(strata)
    cuts_SL = np.tile(overall, (len(found), 1))
    for label, name in enumerate(names):
        poor = _tune_strata(positive_NL[:, label], scores_NL[:, label], rule, stratum_N, cuts_SL[:, label])
        if poor:
            of = "" if len(names) == 1 else f" of label {name}"
            notes.append(
                f"{len(poor)} of {len(found)} strata have no threshold{of} of their own, and take that of all validation "
                f"rows: {_list(found, poor)} (a stratum needs {FEWEST_ROWS} validation rows, and "
                f"{FEWEST_OF_CLASS_IN_STRATUM} of either class)"
            )
    return Thresholds(tuple(overall), dict(zip(found, map(tuple, cuts_SL.tolist()), strict=True))), tuple(notes)


def _tune_strata(
    positive_N: Flags, scores_N: Doubles, rule: ThresholdRule, stratum_N: npt.NDArray[np.intp], cuts_S: Doubles
) -> list[int]:
    """Write the cut of each stratum that has the rows for it into `cuts_S`, and return the strata that have not."""
    poor = []
    for stratum in range(len(cuts_S)):
        rows = stratum_N == stratum
        if rows.any() and scores_N[rows].min() == scores_N[rows].max():
            continue  # no cut tells these rows apart: that of all rows serves them too
        if _enough(positive_N[rows], FEWEST_OF_CLASS_IN_STRATUM):
            cuts_S[stratum] = best_cut(positive_N[rows], scores_N[rows], rule)
        else:
            poor.append(stratum)
    return poor


def _enough(positive_N: Flags, of_class: int) -> bool:
    positives = int(positive_N.sum())
    return len(positive_N) >= FEWEST_ROWS and min(positives, len(positive_N) - positives) >= of_class


def _encode(strata: Sequence[str]) -> tuple[list[str], npt.NDArray[np.intp]]:
    """The distinct names, sorted, and which of them each row has."""
    names, places = np.unique(np.asarray(strata, dtype=str), return_inverse=True)
    return names.tolist(), places


def _list(names: Sequence[str], places: Sequence[int]) -> str:
    more = len(places) - NAMED
    said = ", ".join(names[place] for place in places[:NAMED])
    return f"{said} and {more:,} more" if more > 0 else said
