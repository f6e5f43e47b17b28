"""A large job of sequences, and the few batches of it that a benchmark runs.

A program that sorts by length leaves next to no padding in a job of thousands, but a third in one of a hundred. So
that no program is charged for the smallness of the benchmark, a job of `SEQUENCES` is drawn and whole batches of it
are run: of the job in input order for the plain loop, of the job sorted by length for everybody else. Rates are in
real tokens a second and therefore comparable between the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.published import Published

SEQUENCES = 2048
PLAIN_BATCH = 32
"""Sequences of a plain loop's batch; where so many take too long, fewer that are padded as much."""


@dataclass(frozen=True)
class Job:
    """Sequences of a job."""

    unsorted: list[str]
    """Neighbours in input order whose padding is that of the median batch of `PLAIN_BATCH`."""
    by_length: list[str]
    """Batches of neighbours in length, evenly spaced from the shortest to the longest; shuffled."""


def sample(encoder: Published, unsorted: int, batch: int, batches: int) -> Job:
    """Draw a job; take `unsorted` neighbours in input order, and `batches` of `batch` neighbours in length."""
    rng = np.random.default_rng(7)
    job = encoder.simulate(SEQUENCES, encoder.lengths, rng)
    lengths = np.array([len(sequence) for sequence in job])

    def padding(size: int) -> NDArray[np.float64]:
        batches = lengths[: SEQUENCES // size * size].reshape(-1, size)
        return np.asarray(batches.max(axis=1) / batches.mean(axis=1))

    typical = int(np.argmin(abs(padding(unsorted) - np.median(padding(PLAIN_BATCH))))) * unsorted
    by_length = np.argsort(lengths, kind="stable").reshape(-1, batch)
    spaced = (np.arange(batches) + 0.5) * len(by_length) / batches
    chosen = rng.permutation(by_length[spaced.astype(int)].ravel())
    return Job(job[typical : typical + unsorted], [job[row] for row in chosen])
