"""The one shape of every kind of head's fit: a problem and options in, a fitted head and all that was tried out.

A kind of head is a module with three things: a frozen dataclass of options, a function
``fit(problem: Problem, options) -> Fitted``, and a class of fitted heads (`heads.head.Head`). scikit-learn's estimator
of the kind calls the same `fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from heads.data.features import MEMORY_BYTES, RowSource
from heads.data.target import Examples, Target
from heads.head import Head

Scalar = str | int | float | bool | None
Record = Mapping[str, Scalar]
"""One line of a table, flat, for a CSV file."""
Made = TypeVar("Made")
Progress = Callable[[int, int, str], None]
"""Told how much is done, of how much, and a few words such as ``epoch 3, val AUPRC 0.412``."""


def say_nothing(done: int, total: int, text: str) -> None:
    """The progress of a fit that nobody watches."""


@dataclass(frozen=True)
class Problem:
    """What a head is fitted to: features, training rows, and the validation rows that choose.

    `source` gives the features after the steps (`heads.steps`) that were fitted on the training rows.
    """

    source: RowSource
    train: Examples
    val: Examples
    select: str
    """The metric (`heads.judging.metrics.METRICS`) that stops a fit, and chooses from a grid by the validation rows."""
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memory_bytes: int = MEMORY_BYTES
    progress: Progress = say_nothing
    stop: Examples | None = None
    """Rows by whose metric a fit stops early and its best epoch or round is kept; None for the validation rows."""

    @property
    def stopping(self) -> Examples:
        """The rows that stop a fit."""
        return self.val if self.stop is None else self.stop

    def of_stopping(self, train: Made, val: Made, make: Callable[[Examples], Made]) -> Made:
        """What was made of the training or the validation rows where these stop a fit; else it is made of those that do."""
        if self.stop is None:
            return val
        return train if self.stop is self.train else make(self.stop)

    @property
    def target(self) -> Target:
        """Of the training rows; kind and names hold for all rows."""
        return self.train.target


@dataclass(frozen=True)
class Fitted:
    """The chosen head, and everything it was chosen from."""

    head: Head
    trials: tuple[Record, ...]
    """One record for each point of the grid, all with the same fields: its settings, then ``val_METRIC`` and what else is
    known of it: ``stop_METRIC`` where other rows than the validation rows stopped its fit."""
    best: int
    """Which of the trials the head is."""
    history: tuple[Record, ...] = ()
    """One record for each epoch of each trial, with the fields ``trial`` and ``epoch`` first; empty for kinds of heads
    that have no epochs."""
    notes: tuple[str, ...] = ()
    """What the user should know, each a sentence without a full stop."""

    @property
    def chosen(self) -> Record:
        """The trial of the head."""
        return self.trials[self.best]
