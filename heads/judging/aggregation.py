"""What the windows of a parent say together: the mean, the maximum or the median of their scores, or their votes.

mean     of the calibrated probabilities, or of the quantity; of quantiles of each one
max      the highest of each column; of three classes and more put right to sum to 1
median   of a quantity, of each quantile
vote     the share of windows that were decided so; of equally many votes the mean decides

After mean and max the head's own thresholds decide, that of a stratum where all windows of a parent are of one.

Axes: n windows of a block, P parents, C columns of the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from embedcache.errors import HeadError
from heads.data.labels import MISSING
from heads.data.target import Codes, Doubles
from heads.deciding.decisions import Decided, Decisions

How = Literal["mean", "max", "median", "vote"]
HOWS: tuple[How, ...] = get_args(How)
SEVERAL = "several strata"
"""Stands for the stratum of a parent whose windows do not agree."""


@dataclass(frozen=True)
class Aggregated:
    """What is said of P parents."""

    decided: Decided
    windows: Codes
    """(P,) how many windows each has."""
    notes: tuple[str, ...]
    """Each a sentence without a full stop."""


class Aggregation:
    """Takes windows block by block; memory holds the parents only, but for the median, which takes all scores.

    Raises HeadError where what is decided cannot be put together so.
    """

    def __init__(self, how: How, decisions: Decisions) -> None:
        if decisions.kind == "regression" and how == "vote":
            raise HeadError("--aggregate vote: a measured quantity has no votes; take mean, median or max")
        if decisions.kind != "regression" and how == "median":
            raise HeadError(
                "--aggregate median is for measured quantities; of classes and labels take mean, max or vote"
            )
        self.how, self.decisions = how, decisions
        columns = decisions.columns
        self._sums = np.zeros((0, columns))
        self._most = np.zeros((0, columns))
        self._votes = np.zeros((0, columns), np.int64)
        self._windows = np.zeros(0, np.int64)
        self._stratum = np.zeros(0, np.int64)
        self._strata: dict[str, int] = {SEVERAL: 0}
        self._kept: list[tuple[Codes, Doubles]] = []
        self._left_out = 0
        self._parts_lost = False

    def add(self, codes: Codes, parents: int, decided: Decided, strata: Sequence[str] | None = None) -> None:
        """Take a block of windows.

        Parameters
        ----------
        codes : (n,) the number of each window's parent, `MISSING` for a window without one, which is left out.
        parents : how many parents are known by now.
        decided : of the n windows.
        strata : (n,) names, where thresholds are by stratum.
        """
        self._grow(parents)
        held = codes != MISSING
        self._left_out += int((~held).sum())
        self._parts_lost |= decided.sets is not None or decided.intervals is not None
        codes, outputs = codes[held], decided.outputs[held]
        np.add.at(self._windows, codes, 1)
        np.add.at(self._sums, codes, outputs)
        if self.how == "max":
            np.maximum.at(self._most, codes, outputs)
        elif self.how == "median":
            self._kept.append((codes, outputs))
        elif self.how == "vote":
            np.add.at(self._votes, codes, self._as_votes(decided.predictions[held]))
        if strata is not None:
            self._note_strata(codes, [name for name, one in zip(strata, held, strict=True) if one])

    def _grow(self, parents: int) -> None:
        more = parents - len(self._windows)
        if more <= 0:
            return
        more = max(more, len(self._windows))  # so that many small blocks do not copy everything each time
        columns = self._sums.shape[1]
        self._sums = np.concatenate([self._sums, np.zeros((more, columns))])
        self._most = np.concatenate([self._most, np.full((more, columns), -np.inf)])
        self._votes = np.concatenate([self._votes, np.zeros((more, columns), np.int64)])
        self._windows = np.concatenate([self._windows, np.zeros(more, np.int64)])
        self._stratum = np.concatenate([self._stratum, np.full(more, MISSING)])

    def _as_votes(self, predictions: npt.NDArray[np.generic]) -> Codes:
        codes = np.asarray(predictions, np.int64)
        if self.decisions.kind == "multilabel":
            return codes
        return np.eye(self.decisions.columns, dtype=np.int64)[codes]

    def _note_strata(self, codes: Codes, strata: list[str]) -> None:
        numbers = np.array([self._strata.setdefault(name, len(self._strata)) for name in strata], np.int64)
        new = self._stratum[codes] == MISSING
        self._stratum[codes[new]] = numbers[new]
        self._stratum[codes[self._stratum[codes] != numbers]] = 0

    def finish(self, parents: int) -> Aggregated:
        """Decide on all parents; raises HeadError where no window has one."""
        if not parents:
            raise HeadError("--aggregate: no row names its parent; name another column with --by")
        windows = self._windows[:parents]
        mean = self._sums[:parents] / windows[:, None]
        strata = None
        if len(self._strata) > 1:
            names = list(self._strata)
            strata = [names[code] for code in self._stratum[:parents].tolist()]
        if self.how == "vote":
            decided = self._voted(mean, windows, strata)
        elif self.how == "max":
            decided = self.decisions.decide(self._highest(self._most[:parents]), strata)
        else:
            decided = self.decisions.decide(mean if self.how == "mean" else self._medians(), strata)
        return Aggregated(decided, windows, self._notes(decided))

    def _highest(self, most: Doubles) -> Doubles:
        if self.decisions.kind == "binary":  # the highest probability of the positive class
            return np.stack([1 - most[:, 1], most[:, 1]], axis=1)
        return most / most.sum(1, keepdims=True) if self.decisions.kind == "multiclass" else most

    def _medians(self) -> Doubles:
        codes = np.concatenate([codes for codes, _ in self._kept])
        outputs = np.concatenate([values for _, values in self._kept])
        starts = np.append(0, np.cumsum(np.bincount(codes)))
        columns = []
        for values in outputs.T:
            rising = values[np.lexsort((values, codes))]
            low, high = starts[:-1] + (np.diff(starts) - 1) // 2, starts[:-1] + np.diff(starts) // 2
            columns.append((rising[low] + rising[high]) / 2)
        return np.stack(columns, axis=1)

    def _voted(self, mean: Doubles, windows: Codes, strata: list[str] | None) -> Decided:
        votes = self._votes[: len(windows)]
        shares = votes / windows[:, None]
        by_mean = self.decisions.decide(mean, strata)
        if self.decisions.kind == "multiclass":
            chosen = np.where(votes == votes.max(1, keepdims=True), mean, -1).argmax(1)
            return Decided(shares, chosen.astype(np.int64), notes=by_mean.notes)
        positive, of = (votes[:, 1], windows) if self.decisions.kind == "binary" else (votes, windows[:, None])
        said = np.where(2 * positive == of, by_mean.predictions, 2 * positive > of)
        return Decided(shares, said.astype(np.int64), notes=by_mean.notes)

    def _notes(self, decided: Decided) -> tuple[str, ...]:
        notes = list(decided.notes)
        if self._left_out:
            notes.append(f"{self._left_out:,} windows without a parent are left out")
        if self._parts_lost:
            notes.append("conformal sets and intervals are of single windows: parents have none")
        if self.how == "max" and self.decisions.thresholds is not None:
            notes.append(
                "the threshold was tuned on single windows, and the maximum of several reaches it more often: --aggregate "
                "mean or vote keeps to it"
            )
        return tuple(notes)
