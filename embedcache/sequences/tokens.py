"""Tokenized sequences, end to end in one array."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embedcache.sequences.alphabet import take_runs


@dataclass(frozen=True)
class Tokens:
    """n tokenized sequences end to end: `ids` (T,) integers and `offsets` (n+1,) int64; special tokens included."""

    ids: NDArray[np.integer]
    offsets: NDArray[np.int64]
    focus: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """For each pooling that looks at a place (``center:W``, ``at:COLUMN``): (n, 2), the first of the tokens that cover
    it in each sequence and the one after the last; equal where there are none."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, (n,)."""
        return np.diff(self.offsets)

    def take(self, indices: NDArray[np.int64]) -> Tokens:
        """The sequences at `indices`, in that order."""
        focus = {pooling: ranges_n2[indices] for pooling, ranges_n2 in self.focus.items()}
        return Tokens(*take_runs(self.ids, self.offsets, indices), focus)

    def __getitem__(self, index: int) -> NDArray[np.integer]:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]
