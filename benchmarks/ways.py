"""Ways of encoding the same job, timed in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[list[str], int], NDArray[np.float32]]
"""From sequences and a batch size to their vectors."""


@dataclass
class Way:
    """One program at one precision: how it is called, and how long it took."""

    program: str
    encode: Encode
    sequences: list[str]
    batch_sizes: tuple[int, ...]
    once: bool = False
    """Too slow to be run more than once."""
    seconds: dict[int, list[float]] = field(default_factory=dict)
    """Of each batch size that was run."""
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """Of the last run."""

    @property
    def batch_size(self) -> int:
        """The fastest so far."""
        return min(self.seconds, key=lambda size: min(self.seconds[size]))

    @property
    def median(self) -> float:
        """Median seconds at the fastest batch size."""
        return statistics.median(self.seconds[self.batch_size])

    def time(self) -> None:
        """Run at each batch size; once they are known, at the fastest alone."""
        for size in [self.batch_size] if self.seconds else self.batch_sizes:
            start = time.perf_counter()
            self.vectors = self.encode(self.sequences, size)
            self.seconds.setdefault(size, []).append(time.perf_counter() - start)


def in_turn(ways: Sequence[Way], rounds: int) -> None:
    """Time all ways forth and back; those that run once do so in the first round."""
    for turn in range(rounds):
        for way in ways[:: -1 if turn % 2 else 1]:
            if turn == 0 or not way.once:
                way.time()


def least_cosine(vectors: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """Least cosine between rows of two (n, D) arrays."""
    a, b = vectors.astype(np.float64), others.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())
