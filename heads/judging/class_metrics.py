"""Metrics of decided classes (MCC, F1, recall, ...) and of probabilities (Brier, log loss, calibration error).

Axes: N rows, B resamples or cuts, M classes, L labels, P problems: one where rows have one class each, else one per
label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from heads.data.target import Codes, Doubles
from heads.judging.bootstrap import Counts
from heads.judging.ranking import Flags

BINS = 15
"""As many as Guo et al. (2017) take."""

DECIDED = ("mcc", "f1", "acc", "balanced_acc", "precision", "recall")


def decided(confusion_BMM: Doubles) -> Doubles:
    """Return the `DECIDED` metrics (B, 6) of confusion matrices [true, predicted].

    As scikit-learn defines them, 0 where a quotient has no denominator: MCC for any number of classes (Gorodkin, 2004);
    F1, precision and recall of the second of two classes, and for more the means over the classes that are true or
    predicted somewhere; balanced accuracy is the mean recall of the classes that are true somewhere.
    """
    total = confusion_BMM.sum((1, 2))
    hits_BM = np.diagonal(confusion_BMM, axis1=1, axis2=2)
    true_BM, predicted_BM = confusion_BMM.sum(2), confusion_BMM.sum(1)
    hits = hits_BM.sum(1)
    covariance = hits * total - (true_BM * predicted_BM).sum(1)
    spread = (total**2 - (true_BM**2).sum(1)) * (total**2 - (predicted_BM**2).sum(1))
    mcc = _quotient(covariance, np.sqrt(np.maximum(spread, 0)))
    recall_BM = _quotient(hits_BM, true_BM)
    by_class = _quotient(2 * hits_BM, true_BM + predicted_BM), _quotient(hits_BM, predicted_BM), recall_BM
    if confusion_BMM.shape[1] == 2:
        f1, precision, recall = (values_BM[:, 1] for values_BM in by_class)
    else:
        seen = (true_BM + predicted_BM > 0).sum(1)
        f1, precision, recall = (values_BM.sum(1) / seen for values_BM in by_class)
    balanced = recall_BM.sum(1) / (true_BM > 0).sum(1)
    return np.stack([mcc, f1, hits / total, balanced, precision, recall], axis=1)


def _quotient(above: Doubles, below: Doubles) -> Doubles:
    quotient: Doubles = np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0)
    return quotient


class Confusion:
    """The confusion matrix of weighted rows, rows sorted by its cells once."""

    def __init__(self, true_N: Codes, predicted_N: Codes, classes: int) -> None:
        cells_N = true_N * classes + predicted_N
        self.classes = classes
        self.order = np.argsort(cells_N, kind="stable")
        self.cells, self.starts = np.unique(cells_N[self.order], return_index=True)

    def __call__(self, counts_BN: Counts) -> Doubles:
        """Return (B, M, M) [true, predicted]."""
        by_cell_BN = np.take(counts_BN, self.order, axis=1)
        confusion = np.zeros((len(counts_BN), self.classes**2))
        confusion[:, self.cells] = np.add.reduceat(by_cell_BN, self.starts, axis=1)
        return confusion.reshape(-1, self.classes, self.classes)


class Decisions:
    """The `DECIDED` metrics; of several labels their means."""

    names = DECIDED

    def __init__(self, confusions: Sequence[Confusion]) -> None:
        self.confusions = confusions

    def __call__(self, counts_BN: Counts) -> Doubles:
        means: Doubles = np.mean([decided(confusion(counts_BN)) for confusion in self.confusions], axis=0)
        return means


def brier_losses(true_NM: Flags, probability_NM: Doubles) -> Doubles:
    """Brier's (1950) squared distance of each row (N,), in [0, 2]; of two classes half of it, as scikit-learn has it."""
    squares_N: Doubles = ((probability_NM - true_NM) ** 2).sum(1)
    return squares_N / 2 if true_NM.shape[1] == 2 else squares_N


def log_losses(true_NM: Flags, probability_NM: Doubles) -> Doubles:
    """-log of the probability given to the class of each row (N,), that one held above 2e-16 as scikit-learn does."""
    return -np.log(np.maximum(probability_NM[true_NM], np.finfo(np.float64).eps))


class RowLosses:
    """Means over the rows of one loss per row (N, names)."""

    def __init__(self, names: tuple[str, ...], losses_NM: Doubles) -> None:
        self.names = names
        self.losses_NM = losses_NM

    def __call__(self, counts_BN: Counts) -> Doubles:
        means: Doubles = counts_BN.astype(np.float64) @ self.losses_NM / counts_BN.sum(1, keepdims=True)
        return means


class Calibration:
    """The calibration error of probabilities in bins of equal count; of several classes or labels the mean of theirs.

    Mean distance, weighted by rows, between the mean probability of a bin and the share of positive rows in it (Naeini
    et al., 2015), over 15 bins that hold equally many rows, class by class (Nixon et al., 2019, arXiv:1904.01685). Bins
    of equal width would put nearly all rows of a rare class into the first one. Tied probabilities share a bin; the bins
    are those of the rows as they are, in every resample. Chance alone makes an error, of about 0.8 sqrt(15 p (1 - p) / N)
    at a share p of positive rows, so it has an interval of its own kind (`heads.judging.bootstrap.distance_interval`).
    """

    names = ("ece",)

    def __init__(self, problems: Sequence[tuple[Flags, Doubles]]) -> None:
        self.binned = [_Bins(positive_N, probability_N) for positive_N, probability_N in problems]

    def __call__(self, counts_BN: Counts) -> Doubles:
        errors: Doubles = np.mean([bins.error(counts_BN) for bins in self.binned], axis=0)[:, None]
        return errors


class _Bins:
    def __init__(self, positive_N: Flags, probability_N: Doubles) -> None:
        self.order = np.argsort(probability_N, kind="stable")
        rising_N = probability_N[self.order]
        starts = np.arange(BINS) * len(rising_N) // BINS
        # a border inside a run of ties moves to where the run starts
        self.starts: npt.NDArray[np.intp] = np.unique(np.searchsorted(rising_N, rising_N[starts], side="left"))
        self.excess_N = positive_N[self.order] - rising_N

    def error(self, counts_BN: Counts) -> Doubles:
        sorted_BN = np.take(counts_BN, self.order, axis=1) * self.excess_N
        error_B: Doubles = np.abs(np.add.reduceat(sorted_BN, self.starts, axis=1)).sum(1) / counts_BN.sum(1)
        return error_B
