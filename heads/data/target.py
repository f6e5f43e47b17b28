"""What a head learns: classes, several labels at once, or a measured quantity.

Axes: N rows, L labels of a multilabel target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from heads.data.features import Rows

ClassName = str | int
"""A class as the label column names it."""
Kind = Literal["binary", "multiclass", "multilabel", "regression"]
Doubles = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Target:
    """What is to be learned of N rows."""

    kind: Kind
    names: tuple[ClassName, ...]
    """Classes in the order of their codes, of two the last is the positive one; the labels of a multilabel target; the
    column of a measured quantity."""
    values: npt.NDArray[np.generic]
    """(N,) int64 class codes; (N, L) int64 of 0 and 1; (N,) float64."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def has_classes(self) -> bool:
        """Whether each row belongs to one of two or more classes."""
        return self.kind in ("binary", "multiclass")

    @property
    def outputs(self) -> int:
        """Columns that a head gives: one probability a class, one a label, one value of a quantity."""
        return len(self.names)

    def take(self, positions: Rows) -> Target:
        """The target of some of the rows."""
        return replace(self, values=self.values[positions])


@dataclass(frozen=True)
class Examples:
    """Rows of a source, what is to be learned of each, how much it counts, and its group."""

    rows: Rows
    """(N,) row numbers in the source, rising."""
    target: Target
    weights: Doubles | None = None
    """(N,) of a column of sample weights; None where every row counts alike."""
    groups: Codes | None = None
    """(N,) group codes, -1 for a row without a group."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Rows) -> Examples:
        """Some of the examples."""
        return Examples(
            self.rows[positions],
            self.target.take(positions),
            None if self.weights is None else self.weights[positions],
            None if self.groups is None else self.groups[positions],
        )
