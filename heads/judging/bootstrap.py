"""Bootstrap resamples as row counts, and percentile intervals of everything that can be computed from them.

A resample never copies rows: it says how often each row was drawn, and a statistic that was prepared once for the rows
(sorted, binned, centred) is computed for many such vectors of counts at once (measured/heads.md, section 5).

Axes: N rows, B resamples, U units that are drawn (groups, or rows where there are none).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from heads.data.target import Codes, Doubles

Counts = npt.NDArray[np.int32]
Interval = tuple[float, float] | None
"""Low and high; None where no resample has the metric, or none was drawn."""

RESAMPLES = 1000
LEVEL = 0.95
FEW_GROUPS = 10
"""With fewer groups than this the bootstrap has little to draw from."""
CHANCE = 0.2
"""A distance that resampling raises by more than this share is not told from 0."""
_MOST_RESAMPLES = 256
_BATCH_COUNTS = 1 << 18
"""Counts worked on at once: 1 MB, which stays in the cache."""


class Statistic(Protocol):
    """Metrics of rows that were given once, for any number of times that each of them counts."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics."""
        ...

    def __call__(self, counts_BN: Counts) -> Doubles:
        """Return (B, names); NaN where a metric is not defined."""
        ...


def once(rows: int) -> Counts:
    """The counts (1, N) of the rows as they are."""
    return np.ones((1, rows), np.int32)


def evaluate_all(statistics: Iterable[Statistic], counts_BN: Counts) -> Doubles:
    """Return the metrics of all statistics side by side, (B, names)."""
    return np.concatenate([statistic(counts_BN) for statistic in statistics], axis=1)


def resample(rows: int, resamples: int, groups: Codes | None, seed: int) -> Iterator[Counts]:
    """Yield bootstrap resamples as row counts (b, N), in batches; with groups, all rows of a drawn group count.

    The same seed draws the same resamples for the same rows and groups, whatever is computed from them, so that models
    can be compared pair by pair.
    """
    rng = np.random.default_rng(seed)
    unit_N = np.arange(rows) if groups is None else number_units(groups)
    units = int(unit_N.max()) + 1
    batch = max(1, min(_MOST_RESAMPLES, _BATCH_COUNTS // rows))
    for start in range(0, resamples, batch):
        counts_BU = np.empty((min(batch, resamples - start), units), np.int32)
        for counts_U in counts_BU:
            counts_U[:] = np.bincount(rng.integers(units, size=units), minlength=units)
        yield counts_BU if groups is None else counts_BU[:, unit_N]


def number_units(groups: Codes) -> Codes:
    """Number the groups (N,) from 0; a row without a group (-1) is a unit of its own."""
    lone = np.flatnonzero(groups < 0)
    units = groups.copy()
    units[lone] = groups.max(initial=0) + 1 + np.arange(len(lone))
    return np.unique(units, return_inverse=True)[1].astype(np.int64)


def interval(values_B: Doubles, level: float = LEVEL) -> Interval:
    """The percentile interval of the resamples that have the metric (Efron and Tibshirani, 1993, section 13.3)."""
    known = values_B[~np.isnan(values_B)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def distance_interval(values_B: Doubles, value: float) -> Interval:
    """The interval of a distance, which is never negative and which chance raises, such as a calibration error.

    Resamples lie above the value about as the value lies above the truth, so their percentiles miss it. The ends are
    mirrored at the value (the basic interval of Davison and Hinkley, 1997, section 5.2), which itself stays inside; 0 is the
    low end where `mostly_chance`.
    """
    ends = interval(values_B)
    if ends is None:
        return None
    low = 0.0 if mostly_chance(values_B, value) else max(0.0, 2 * value - ends[1])
    return low, max(value, 2 * value - ends[0])


def mostly_chance(values_B: Doubles, value: float) -> bool:
    """Whether resampling raises a distance so far that it is not told from 0."""
    return bool(values_B.mean() > (1 + CHANCE) * value)
