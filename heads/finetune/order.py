"""Which rows each step takes: a function of seed and epoch alone, so that a training that goes on takes the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from heads.data.features import Rows
from heads.data.sampling import EpochSampler


@dataclass(frozen=True)
class Ticket:
    """One batch, which several processes share."""

    rows: Rows
    """Of all processes."""
    own: Rows
    """Places in `rows` of those that this process takes."""
    weight: float
    """See `heads.finetune.batch.Batch`."""
    seed: tuple[int, ...]
    """Of its mixture, which is that of all processes."""
    process: int


@dataclass(frozen=True)
class Order:
    """The batches of every epoch.

    The rows are drawn as `heads train --head mlp` draws them, and cut into a number of batches that is the same in every
    epoch: into parts of equal rows, or of equal tokens. Nothing is padded, so sequences of like length need not share a
    batch. Of several processes each takes every so-many-th row of a batch.
    """

    sampler: EpochSampler
    seed: tuple[int, ...]
    rows: int
    batch_rows: int
    lengths: NDArray[np.int64] | None = None
    """(rows,) tokens of each row, where batches are of `batch_tokens`."""
    batch_tokens: int = 0
    sizes: NDArray[np.int64] | None = None
    """(rows,) what each counts in the loss; None where all count alike."""
    process: int = 0
    processes: int = 1

    @property
    def batches(self) -> int:
        """Batches of an epoch."""
        if self.lengths is None:
            return -(-self.rows // self.batch_rows)
        tokens = int((self.lengths * self.sampler.frequencies()).sum())
        return min(max(1, -(-tokens // self.batch_tokens)), self.rows)

    def epoch(self, epoch: int) -> list[Ticket]:
        """The batches of an epoch, counted from 0."""
        stream, _ = np.random.SeedSequence(list(self.seed)).spawn(2)
        random = np.random.default_rng(stream)
        for _ in range(epoch + 1):
            rows = self.sampler.draw(random)
        return [self._ticket(part, epoch, number) for number, part in enumerate(self._cut(rows))]

    def _cut(self, rows: Rows) -> list[Rows]:
        if self.lengths is None:
            return np.array_split(rows, self.batches)
        ends = np.cumsum(self.lengths[rows])
        numbers = np.arange(1, self.batches)
        borders = np.searchsorted(ends, ends[-1] * numbers / self.batches)
        # a row at least in every batch, however long one row may be
        beyond = np.clip(np.maximum.accumulate(borders - numbers), 0, len(rows) - self.batches)
        return np.split(rows, beyond + numbers)

    def _ticket(self, rows: Rows, epoch: int, number: int) -> Ticket:
        own = np.arange(len(rows))[self.process :: self.processes]
        weight = self._counted(rows[own]) * self.processes / max(self._counted(rows), 1)
        # a process for which no row is left takes the first one, which then counts nothing
        return Ticket(rows, own if len(own) else np.arange(1), weight, (*self.seed, epoch, number), self.process)

    def _counted(self, rows: Rows) -> int:
        return len(rows) if self.sizes is None else int(self.sizes[rows].sum())


class Tickets:
    """The batch sampler of torch's `DataLoader`: each batch is one ticket."""

    def __init__(self, order: Order) -> None:
        self.order, self.epoch = order, 0
        self.batch_size, self.drop_last = 1, False

    def set_epoch(self, epoch: int) -> None:
        """The epoch that is drawn next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.order.batches

    def __iter__(self) -> Iterator[list[Ticket]]:
        return iter([[ticket] for ticket in self.order.epoch(self.epoch)])


class EpochLoader(DataLoader[Ticket]):
    """Tells its batch sampler which epoch it is, as the Trainer expects."""

    def set_epoch(self, epoch: int) -> None:
        """The epoch that is drawn next."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class Identity(torch.utils.data.Dataset[Ticket]):
    """A data set whose items are what it is asked for: a ticket says itself which rows it has."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, ticket: Ticket) -> Ticket:
        return ticket
