"""Which training rows an epoch takes, and how often: all once, or balanced by class, or by class and by group within it.

An epoch always has as many draws as there are rows. A balanced one takes some rows of a large class and none twice, and
every row of a small class equally often, give or take one.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from embedcache.errors import HeadError
from heads.data.features import Rows
from heads.data.target import Codes, Doubles, Examples, Target
from heads.data.weights import ClassWeight, row_weights

Sampler = Literal["none", "class", "class-group"]


class EpochSampler:
    """Draws the rows of one epoch after another.

    ``class`` draws every class equally often. ``class-group`` does so too, and within a class every group that has rows of
    it; rows without a group are one more group.

    Raises HeadError where the examples have no classes, or no groups, to balance by.
    """

    def __init__(self, examples: Examples, sampler: Sampler) -> None:
        cells_N = _cells(examples, sampler)
        self._rows = len(cells_N)
        order = np.argsort(cells_N, kind="stable")
        self._members = np.split(order, np.cumsum(np.bincount(cells_N))[:-1])
        self._shares = _shares(examples, sampler, cells_N)

    @classmethod
    def plain(cls, rows: int) -> EpochSampler:
        """Takes every one of so many rows once."""
        return cls(Examples(np.arange(rows), Target("regression", ("",), np.zeros(rows))), "none")

    def draw(self, rng: np.random.Generator) -> Rows:
        """Positions (N,) of the examples in the order in which an epoch takes them."""
        draws = _whole_numbers(self._shares * self._rows, rng)
        taken = [_draw_evenly(members, int(n), rng) for members, n in zip(self._members, draws, strict=True)]
        return rng.permutation(np.concatenate(taken))

    def frequencies(self) -> Doubles:
        """How often an epoch draws each row on average, (N,)."""
        often_N = np.empty(self._rows)
        for members, share in zip(self._members, self._shares, strict=True):
            often_N[members] = share * self._rows / len(members)
        return often_N


def sampled_shares(examples: Examples, given: ClassWeight, sampler: Sampler = "none") -> Doubles:
    """Shares of the classes (classes,) as training sees them, after sampling and weighting; they sum to 1.

    Probabilities that were learned under these shares are those of the true shares times a factor for each class.
    """
    target = examples.target
    if not target.has_classes:
        raise HeadError(f"shares of classes were asked for, and {target.names[0]} is no class")
    seen_N = row_weights(target, given, examples.weights) * EpochSampler(examples, sampler).frequencies()
    shares = np.bincount(target.values, weights=seen_N, minlength=len(target.names))
    return np.asarray(shares / shares.sum(), np.float64)


def _cells(examples: Examples, sampler: Sampler) -> Codes:
    """The cell that each row is drawn with, (N,), numbered 0 and up, none of them empty."""
    if sampler not in get_args(Sampler):
        raise HeadError(f"--sampler {sampler}: choose from {', '.join(get_args(Sampler))}")
    if sampler == "none":
        return np.zeros(len(examples), np.int64)
    if not examples.target.has_classes:
        raise HeadError(
            f"--sampler {sampler} draws classes equally often, and {examples.target.names[0]} is no class: leave it out, "
            "or weigh rows by a column of sample weights"
        )
    keys = [examples.target.values]
    if sampler == "class-group":
        if examples.groups is None:
            raise HeadError("--sampler class-group balances groups within a class: name their column with --group")
        keys.append(examples.groups)
    return np.unique(np.stack(keys), axis=1, return_inverse=True)[1].ravel()


def _shares(examples: Examples, sampler: Sampler, cells_N: Codes) -> Doubles:
    """Share of the draws that each cell has: as much as every other of its class."""
    if sampler == "none":
        return np.ones(1)
    class_of_cell = np.empty(cells_N.max() + 1, np.int64)
    class_of_cell[cells_N] = examples.target.values
    cells_of_class = np.bincount(class_of_cell)
    return 1 / (cells_of_class[class_of_cell] * np.count_nonzero(cells_of_class))


def _whole_numbers(expected: Doubles, rng: np.random.Generator) -> Codes:
    """Round numbers that have a whole sum to whole ones with the same sum, each up or down by less than 1.

    One uniform offset for all of them: each is rounded up as often as its fraction says (systematic sampling).
    """
    ends = np.floor(np.cumsum(expected) + rng.random())
    ends[-1] = np.round(expected.sum())
    return np.diff(ends, prepend=0).astype(np.int64)


def _draw_evenly(members: Rows, draws: int, rng: np.random.Generator) -> Rows:
    """Every member equally often, give or take one."""
    whole, rest = divmod(draws, len(members))
    return np.concatenate([np.tile(members, whole), rng.choice(members, rest, replace=False)])
