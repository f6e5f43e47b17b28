"""Metrics of a measured quantity: correlations with their p values, R2, errors, pinball losses.

Axes: N rows, B resamples, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from heads.data.target import Doubles
from heads.judging.bootstrap import Counts

CONSTANT = 1e-12
"""A variance below this share of the mean square is rounding: the values are one value."""


def point_column(quantiles: Sequence[float]) -> int:
    """The column of the outputs that is the prediction: the quantile nearest the median, the lower of two; 0 of a mean."""
    return int(np.argmin(np.abs(np.asarray(quantiles) - 0.5))) if quantiles else 0


def pinball_name(quantile: float) -> str:
    """Name of the pinball loss of one quantile, such as ``pinball_0.9``."""
    return f"pinball_{quantile:g}"


def error_names(quantiles: Sequence[float]) -> tuple[str, ...]:
    """Names of what `Errors` gives."""
    return ("pearson", "r2", "rmse", "mae", "pinball", *map(pinball_name, quantiles))


def pinball_losses(true_N: Doubles, outputs_NQ: Doubles, quantiles: Sequence[float]) -> Doubles:
    """Koenker and Bassett's (1978) loss (N, Q): a value above the q-quantile costs q times its distance, below 1 - q."""
    over_NQ = true_N[:, None] - outputs_NQ
    taus_Q = np.asarray(quantiles, np.float64)
    losses: Doubles = np.maximum(taus_Q * over_NQ, (taus_Q - 1) * over_NQ)
    return losses


class Errors:
    """Pearson's r, R2, RMSE, MAE and pinball losses, from weighted sums over the rows.

    Values are centred and scaled once, so that a mean far above the deviation does not cancel. Of a head without
    quantiles the pinball loss is that of the median, half the MAE. R2 and r are NaN where the true values are constant,
    r also where the predictions are.
    """

    def __init__(self, true_N: Doubles, point_N: Doubles, outputs_NQ: Doubles, quantiles: Sequence[float]) -> None:
        self.names = error_names(quantiles)
        losses_NQ = pinball_losses(true_N, outputs_NQ if quantiles else point_N[:, None], quantiles or (0.5,))
        t_N, p_N = _standardised(true_N), _standardised(point_N)
        error_N = true_N - point_N
        sums = [t_N, p_N, t_N**2, p_N**2, t_N * p_N, error_N**2, np.abs(error_N), losses_NQ.mean(1)]
        self.columns = np.column_stack([*sums, losses_NQ] if quantiles else sums)
        self.scale = float(true_N.std())

    def __call__(self, counts_BN: Counts) -> Doubles:
        means = (counts_BN.astype(np.float64) @ self.columns / counts_BN.sum(1, keepdims=True)).T
        t, p, tt, pp, tp, squared, absolute = means[:7]
        var_t, var_p = _variance(t, tt), _variance(p, pp)
        pearson = np.clip((tp - t * p) / np.sqrt(var_t * var_p), -1, 1)
        r2 = 1 - squared / (var_t * self.scale**2)
        return np.stack([pearson, r2, np.sqrt(squared), absolute, *means[7:]], axis=1)


def _standardised(values_N: Doubles) -> Doubles:
    """Values of mean 0 and deviation 1; zeros where they are constant, which the mean's rounding would hide."""
    if values_N.min() == values_N.max():
        return np.zeros(len(values_N))
    standardised: Doubles = (values_N - values_N.mean()) / values_N.std()
    return standardised


def _variance(mean_B: Doubles, square_B: Doubles) -> Doubles:
    """Variance of resamples, NaN where they are constant."""
    variance = square_B - mean_B**2
    return np.where(variance > CONSTANT * square_B, variance, np.nan)


class RankCorrelation:
    """Spearman's rho: Pearson's r of the average ranks, ranked anew in every resample.

    Ranks fixed once would save half of the time, but leave out that the ranks themselves are estimates, and the intervals
    would not be those of rho. Both columns are sorted once; a rank is the running sum of counts.
    """

    names = ("spearman",)

    def __init__(self, true_N: Doubles, point_N: Doubles) -> None:
        # rows in the order of the true values, once; then positions of these in the order of the predictions
        self.order = np.argsort(true_N, kind="stable")
        self.true = _Ranks(true_N[self.order])
        self.by_point = np.argsort(point_N[self.order], kind="stable")
        self.point = _Ranks(point_N[self.order][self.by_point])
        self.back = np.argsort(self.by_point)

    def __call__(self, counts_BN: Counts) -> Doubles:
        counts_BN = np.take(counts_BN, self.order, axis=1)
        true_BN, true_square_B = self.true(counts_BN)
        point_BN, point_square_B = self.point(np.take(counts_BN, self.by_point, axis=1))
        product_B = np.einsum("bn,bn,bn->b", counts_BN, true_BN, np.take(point_BN, self.back, axis=1), dtype=np.float64)
        rho_B: Doubles = np.clip(product_B / np.sqrt(true_square_B * point_square_B), -1, 1)
        return rho_B[:, None]


class _Ranks:
    """Average ranks of rising values that each count several times, twice their distance to the mean rank.

    They are whole numbers then. Of n rows in runs of w tied ones the squares sum to (n^3 - sum of w^3) / 3.
    """

    def __init__(self, rising_N: Doubles) -> None:
        first_N = np.append(True, rising_N[1:] != rising_N[:-1])
        self.starts = np.flatnonzero(first_N)
        self.run_N = None if first_N.all() else np.cumsum(first_N) - 1

    def __call__(self, counts_BN: Counts) -> tuple[Counts, Doubles]:
        """Return the doubled centred ranks (B, N), and the sum (B,) of their squares, NaN where all values are one."""
        tied_BR = counts_BN if self.run_N is None else np.add.reduceat(counts_BN, self.starts, axis=1)
        ends_BR = np.cumsum(tied_BR, axis=1, dtype=np.int32)
        ranks_BR = 2 * ends_BR - tied_BR - ends_BR[:, -1:]
        cubes_B = np.einsum("br,br,br->b", tied_BR, tied_BR, tied_BR, dtype=np.float64)
        whole_B = ends_BR[:, -1].astype(np.float64) ** 3
        squares_B = np.where(whole_B - cubes_B > CONSTANT * whole_B, (whole_B - cubes_B) / 3, np.nan)
        return (ranks_BR if self.run_N is None else np.take(ranks_BR, self.run_N, axis=1)), squares_B


def correlation_p(correlation: float, rows: int) -> float:
    """Two-sided p value of no correlation, as scipy's pearsonr and spearmanr give it.

    P(|t| > ...) of Student's t with n - 2 degrees of freedom, which is the regularised incomplete beta function
    I(1 - r^2; (n - 2) / 2, 1 / 2); exact for Pearson's r of normal values, an approximation for Spearman's rho. NaN of
    fewer than three rows.
    """
    from scipy.special import betainc

    if rows < 3 or np.isnan(correlation):
        return float("nan")
    return float(betainc((rows - 2) / 2, 0.5, 1 - correlation**2))
