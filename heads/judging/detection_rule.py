"""From which value on a quantity counts as detected: ``20`` or more, ``abs:20`` either way, ``below:-20`` or less."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from embedcache.errors import HeadError
from heads.data.target import Doubles

Flags = npt.NDArray[np.bool_]
Side = Literal["above", "abs", "below"]


@dataclass(frozen=True)
class DetectionRule:
    """When a value counts as detected."""

    side: Side
    threshold: float

    @classmethod
    def parse(cls, given: str) -> Self:
        """Read ``20``, ``abs:20`` or ``below:-20``; raises HeadError else."""
        side, colon, figure = given.rpartition(":")
        try:
            threshold = float(figure)
            if math.isfinite(threshold) and (side, colon) == ("", ""):
                return cls("above", threshold)
            if math.isfinite(threshold) and side == "below":
                return cls("below", threshold)
            if math.isfinite(threshold) and side == "abs" and threshold > 0:
                return cls("abs", threshold)
        except ValueError:
            pass
        raise HeadError(
            f"--detect {given}: give the value from which a row counts as detected (20), abs:20 for either sign, or "
            "below:-20"
        )

    def __str__(self) -> str:
        return f"{self.threshold:g}" if self.side == "above" else f"{self.side}:{self.threshold:g}"

    @property
    def words(self) -> str:
        """The rule as a formula."""
        return {"above": "{} >= {:g}", "abs": "|{}| >= {:g}", "below": "{} <= {:g}"}[self.side].format(
            "y", self.threshold
        )

    def of(self, values_N: Doubles) -> Flags:
        """Which values are detected."""
        if self.side == "below":
            return np.asarray(values_N <= self.threshold, np.bool_)
        return np.asarray((np.abs(values_N) if self.side == "abs" else values_N) >= self.threshold, np.bool_)
