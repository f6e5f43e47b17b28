"""Split-conformal sets of classes and intervals of a quantity: they hold the truth in a stated share of new rows.

Whatever the head, for new rows that are drawn as the validation rows were, the share is at least 1 - alpha, and without ties
at most 1 / (N + 1) more (Vovk, Gammerman and Shafer, 2005; Lei et al., 2018). It is a mean over draws of the N validation
rows: one draw has a share that is about sqrt(alpha (1 - alpha) / N) off. Nothing is promised for rows drawn otherwise (other
donors, other lengths), nor for each kind of rows by itself; `by_class` gives the promise for each class. The promise is for
rows that had no part in the fit: see `heads.deciding.decisions.CHOSEN_ON`.

Axes: N validation rows, n rows, C classes, Q quantiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from heads.data.target import Doubles, Target
from heads.json_values import mapping, number, numbers, whole

Flags = npt.NDArray[np.bool_]
LEVELS = (0.001, 0.5)
"""The least and the most share of rows that may be missed."""


def fewest_rows(alpha: float) -> int:
    """Rows below which no finite score is high enough for the level: 9 for alpha 0.1, 19 for 0.05."""
    return math.ceil(1 / alpha - 1 - 1e-9)


def conformal_quantile(scores_N: Doubles, alpha: float) -> float:
    """Return the ceil((N + 1)(1 - alpha))-th smallest score, for N of at least `fewest_rows`."""
    rank = math.ceil((len(scores_N) + 1) * (1 - alpha) - 1e-9)
    return float(np.sort(scores_N)[rank - 1])


@dataclass(frozen=True)
class Sets:
    """Every class whose probability is at least 1 minus its limit.

    These are the LAC sets (least ambiguous set-valued classifiers) of Sadinle, Lei and Wasserman (2019), the smallest sets
    of their level on average where the probabilities are right. A row that is like no class may have an empty set.
    """

    alpha: float
    limits: tuple[float, ...]
    """(C,), all alike unless each class has its own."""

    def apply(self, outputs: Doubles) -> Flags:
        """Return the classes in the set of each row, (n, C)."""
        return np.asarray(1 - outputs <= np.array(self.limits))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"alpha": self.alpha, "limits": list(self.limits)}

    @classmethod
    def from_json(cls, values: Any, columns: int) -> Self:
        """Invert `to_json`; raises TypeError, ValueError or KeyError for anything else."""
        fields = mapping(values, "alpha", "limits")
        return cls(number(fields["alpha"], *LEVELS), numbers(fields["limits"], 0, 1, columns))


@dataclass(frozen=True)
class Intervals:
    """From the column `low` of the outputs less `margin` to the column `high` plus `margin`.

    One column on both sides: its absolute residuals (Lei et al., 2018), and intervals of one width. Two quantiles:
    conformalised quantile regression (Romano, Patterson and Candès, 2019), as wide as the quantiles are apart, give or take.
    """

    alpha: float
    margin: float
    """In units of the quantity; below 0 where quantiles are farther apart than they need to be."""
    low: int
    high: int

    def apply(self, outputs: Doubles) -> Doubles:
        """Return low and high end of each row, (n, 2)."""
        ends_n2 = np.stack([outputs[:, self.low] - self.margin, outputs[:, self.high] + self.margin], axis=1)
        # a negative margin can be more than half of what two quantiles are apart; turned round, the ends cover no less
        return np.sort(ends_n2, axis=1)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"alpha": self.alpha, "margin": self.margin, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, values: Any, columns: int) -> Self:
        """Invert `to_json`; raises TypeError, ValueError or KeyError for anything else."""
        fields = mapping(values, "alpha", "margin", "low", "high")
        low, high = (whole(fields[end], columns) for end in ("low", "high"))
        return cls(number(fields["alpha"], *LEVELS), number(fields["margin"]), low, high)


def fit_sets(
    target: Target, outputs: Doubles, alpha: float, *, by_class: bool = False
) -> tuple[Sets | None, tuple[str, ...]]:
    """Find the limits of sets that miss the class of at most a share `alpha` of new rows.

    Parameters
    ----------
    outputs : (N, C) probabilities, as they will be given for new rows.
    by_class : at most a share `alpha` of the rows of each class (Vovk, 2012), so that a rare class is not left to miss more
        often. A class with too few rows is in every set.

    The notes that are returned say where rows were too few.
    """
    names = [str(name) for name in target.names]
    classes_N = target.values.astype(np.int64)
    scores_N = 1 - outputs[np.arange(len(target)), classes_N]
    fewest = fewest_rows(alpha)
    if len(target) < fewest:
        return None, (
            f"no conformal sets: {len(target):,} validation rows are too few for alpha {alpha:g} ({fewest:,})",
        )
    if not by_class:
        return Sets(alpha, (conformal_quantile(scores_N, alpha),) * len(names)), ()
    limits, notes = [], []
    for code, name in enumerate(names):
        own_N = scores_N[classes_N == code]
        if len(own_N) < fewest:
            limits.append(1.0)
            notes.append(
                f"{name} is in every conformal set: {len(own_N):,} validation rows of it are too few ({fewest:,})"
            )
        else:
            limits.append(conformal_quantile(own_N, alpha))
    return Sets(alpha, tuple(limits)), tuple(notes)


def fit_intervals(
    target: Target, outputs: Doubles, alpha: float, quantiles: tuple[float, ...] = ()
) -> tuple[Intervals | None, tuple[str, ...]]:
    """Find the margin of intervals that miss the value of at most a share `alpha` of new rows.

    Parameters
    ----------
    outputs : (N, 1) values, or (N, Q) quantiles that rise along the row.
    quantiles : which ones they are; those nearest to alpha / 2 and 1 - alpha / 2 carry the interval.
    """
    fewest = fewest_rows(alpha)
    if len(target) < fewest:
        return None, (
            f"no conformal intervals: {len(target):,} validation rows are too few for alpha {alpha:g} ({fewest:,})",
        )
    low, high = nearest(quantiles, alpha / 2), nearest(quantiles, 1 - alpha / 2)
    values_N = target.values.astype(np.float64)
    scores_N = np.maximum(outputs[:, low] - values_N, values_N - outputs[:, high])
    return Intervals(alpha, conformal_quantile(scores_N, alpha), low, high), ()


def nearest(quantiles: tuple[float, ...], level: float) -> int:
    """Return the column of the quantile nearest to a level, of two the lower; 0 where there are no quantiles."""
    return int(np.argmin(np.abs(np.array(quantiles) - level))) if quantiles else 0
