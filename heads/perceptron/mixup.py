"""Mixup on features: a batch becomes a mixture of itself and of its own rows in another order (Zhang et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedcache.errors import HeadError
from heads.data.features import Rows


@dataclass(frozen=True)
class Mix:
    """Row i becomes share * row i + (1 - share) * row partners[i], in features and in truth."""

    share: float
    partners: Rows


@dataclass(frozen=True)
class Mixup:
    """Which batches are mixed, and how much.

    Raises HeadError where a value is out of bounds.
    """

    alpha: float = 0.0
    """Shares are drawn from Beta(alpha, alpha): 1 all alike, small ones near 0 and 1. 0 mixes nothing."""
    probability: float = 1.0
    """Of a batch being mixed at all."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < np.inf:
            raise HeadError(f"--mixup-alpha {self.alpha:g}: it must be 0 (off) or above, such as 0.3")
        if not 0 <= self.probability <= 1:
            raise HeadError(f"--mixup-probability {self.probability:g}: it must be from 0 to 1")

    @property
    def active(self) -> bool:
        return self.alpha > 0 and self.probability > 0

    def draw(self, rows: int, rng: np.random.Generator) -> Mix:
        """The mixture of one batch; one that is not mixed has share 1."""
        share = float(rng.beta(self.alpha, self.alpha)) if rng.random() < self.probability else 1.0
        return Mix(share, rng.permutation(rows))
