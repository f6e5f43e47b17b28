"""How one number is distributed over the training rows, kept as its quantiles, and how far other rows are from that.

Axes: N training rows, n other rows, Q levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from heads.data.target import Doubles

LEVELS = np.concatenate([[0, 0.005], np.arange(1, 100) / 100, [0.995, 1]])
"""(Q,) of the quantiles that are kept; the second and the last but one bound the central 99 %."""
INSIDE = 0.99
MARGIN = 1.1
"""A tenth beyond the central 99 % is no departure: rows that all have one length would leave no room."""


@dataclass(frozen=True)
class Distribution:
    """One number of each training row: its mean, its deviation, and its quantiles (Q,) at `LEVELS`."""

    mean: float
    deviation: float
    quantiles: Doubles

    @classmethod
    def of(cls, values_N: Doubles) -> Self:
        """Describe the values of all rows."""
        return cls(float(values_N.mean()), float(values_N.std()), np.quantile(values_N, LEVELS))

    @property
    def median(self) -> float:
        """The value of the row in the middle."""
        return float(self.quantiles[len(LEVELS) // 2])

    @property
    def range(self) -> tuple[float, float]:
        """The central 99 %."""
        return float(self.quantiles[1]), float(self.quantiles[-2])

    def outside(self, values_n: Doubles) -> float:
        """Share of values more than a tenth beyond the central 99 %; one that is not finite is outside."""
        low, high = self.range
        return float(1 - ((values_n >= low / MARGIN) & (values_n <= high * MARGIN)).mean())

    def beyond(self, values_n: Doubles) -> float:
        """Share of values off all training rows by more than twice their range, and by a tenth of the highest."""
        low, high = float(self.quantiles[0]), float(self.quantiles[-1])
        margin = max(2 * (high - low), (MARGIN - 1) * abs(high))
        return float(((values_n < low - margin) | (values_n > high + margin)).mean())

    def distance(self, values_n: Doubles) -> float:
        """Kolmogorov-Smirnov distance of values from the training rows, to the 1 % that the levels are apart."""
        points, first, count = np.unique(self.quantiles, return_index=True, return_counts=True)
        ordered = np.sort(values_n)
        below = np.searchsorted(ordered, points, "left") / len(ordered) - LEVELS[first]
        up_to = np.searchsorted(ordered, points, "right") / len(ordered) - LEVELS[first + count - 1]
        return float(np.abs([below, up_to]).max())


def chance_of_outside(count: int, rows: int, trained: int) -> float:
    """Chance that so many of n rows, or more, lie outside the central 99 % of N training rows from the same source.

    Of all rows there are, a share that is Beta(k, N + 1 - k) distributed lies beyond the k outermost ones of N (Wilks,
    1941), so that the count is beta-binomial.
    """
    from scipy.special import betaln

    beyond = min(2 + (1 - INSIDE) * (trained - 1), trained)
    within = trained + 1 - beyond
    counts = np.arange(count, rows + 1)
    log_choices = -np.log(rows + 1) - betaln(rows - counts + 1, counts + 1)
    log_chances = log_choices + betaln(counts + beyond, rows - counts + within) - betaln(beyond, within)
    return float(np.exp(log_chances).sum())
