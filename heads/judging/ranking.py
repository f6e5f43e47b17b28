"""What the order of the scores decides: AUROC, average precision, and every possible cut between two scores.

Axes: N rows, B resamples, R runs of tied rows that hold a positive one, C cuts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from heads.data.target import Doubles
from heads.judging.bootstrap import Counts

Flags = npt.NDArray[np.bool_]


class Ranking:
    """Positive rows against the rest, sorted by falling score.

    Only runs of tied rows that hold a positive one matter to both areas: precision is read off at their ends, and the
    rows between them are one sum.
    """

    def __init__(self, positive_N: Flags, score_N: Doubles) -> None:
        # rising order read backwards is several times faster than sorting the negated scores stably
        order = np.argsort(score_N, kind="stable")[::-1]
        falling_N = score_N[order]
        first_N = np.append(True, falling_N[1:] != falling_N[:-1])
        run_N = np.cumsum(first_N) - 1
        self.held = bool(positive_N.any()) and not bool(positive_N.all())
        runs_R, first_positive_R = np.unique(run_N[positive_N[order]], return_index=True)
        starts_R = np.flatnonzero(first_N)[runs_R]
        stops_R = np.append(np.flatnonzero(first_N), len(order))[runs_R + 1]
        self.order = order
        self.positives = order[positive_N[order]]
        self.first_positive_R = first_positive_R
        # sums over [start, stop) of each run and over the rows after it up to the next run
        cuts = np.stack([starts_R, stops_R], axis=1).ravel()
        self.cuts = cuts[cuts < len(order)]
        # `reduceat` gives a lone value, not zero, where two cuts fall together
        self.empty = np.flatnonzero(np.diff(self.cuts) == 0)
        self.before = int(cuts[0]) if len(cuts) else 0

    def areas(self, counts_BN: Counts) -> tuple[Doubles, Doubles]:
        """AUROC and average precision (B,), as scikit-learn defines them; NaN where either side is empty."""
        if not self.held:
            nowhere = np.full(len(counts_BN), np.nan)
            return nowhere, nowhere
        sorted_BN = np.take(counts_BN, self.order, axis=1)
        gained_BR = np.add.reduceat(counts_BN[:, self.positives], self.first_positive_R, axis=1).astype(np.float64)
        sums_BC = np.add.reduceat(sorted_BN, self.cuts, axis=1)
        sums_BC[:, self.empty] = 0
        ahead = sorted_BN[:, : self.before].sum(1, keepdims=True)
        run_ends_BR = (ahead + np.cumsum(sums_BC, axis=1))[:, ::2].astype(np.float64)
        true_BR = np.cumsum(gained_BR, axis=1)
        true_B = true_BR[:, -1]
        false_B = counts_BN.sum(1) - true_B
        false_above_BR = run_ends_BR - true_BR - 0.5 * (sums_BC[:, ::2] - gained_BR)
        with np.errstate(invalid="ignore", divide="ignore"):
            auroc = 1 - (gained_BR * false_above_BR).sum(1) / (true_B * false_B)
            auprc = (gained_BR * true_BR / np.maximum(run_ends_BR, 1)).sum(1) / true_B
        missing = (true_B == 0) | (false_B == 0)
        auroc[missing] = auprc[missing] = np.nan
        return auroc, auprc


class Areas:
    """AUROC and AUPRC of one ranking; of several their means over those that have both sides."""

    names = ("auroc", "auprc")

    def __init__(self, rankings: Sequence[Ranking]) -> None:
        self.rankings = rankings

    def __call__(self, counts_BN: Counts) -> Doubles:
        areas = np.array([ranking.areas(counts_BN) for ranking in self.rankings])
        return mean_known(areas).T


def mean_known(values: Doubles) -> Doubles:
    """Mean over the first axis, leaving out NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    totals = np.where(known, values, 0).sum(0)
    means: Doubles = np.divide(totals, known.sum(0), out=np.full_like(totals, np.nan), where=known.any(0))
    return means


def all_cuts(positive_N: Flags, score_N: Doubles) -> Doubles:
    """Confusion matrices (C, 2, 2) [true, predicted] of every cut: first none predicted positive, at last all rows."""
    order = np.argsort(score_N, kind="stable")[::-1]
    falling_N = score_N[order]
    ends = np.flatnonzero(np.append(falling_N[1:] != falling_N[:-1], True))
    taken = np.append(0, ends + 1)
    hits = np.append(0, np.cumsum(positive_N[order])[ends])
    rows, positives = len(score_N), int(positive_N.sum())
    matrices = [[rows - positives - taken + hits, taken - hits], [positives - hits, hits]]
    return np.moveaxis(np.array(matrices, np.float64), 2, 0)
