"""What a quantile regression minimises: values, slopes and curvatures of many of them in one pass over the rows.

Objective for the quantile q (Koenker and Bassett, 1978), on standardised features z, the intercept b not penalised::

    f(w, b) = sum_i s_i rho(y_i - b - z_i w) + alpha/2 |w|^2,     rho(r) = max(q r, (q - 1) r)

rho has a corner at 0. Rounded over a width h it is rho_h(r) = max over t in [q - 1, q] of t r - h t^2 / 2, which has a
slope everywhere and is never above rho (Nesterov, 2005; for quantiles Fernandes, Guerre and Horta, 2021).

Axes: N rows, n rows of a block, D features, A strengths, Q quantiles, K = A Q problems, k of them open, C of these padded,
P = D + 1 parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from heads.data.features import Design
from heads.data.moments import Basis
from heads.data.target import Doubles
from heads.linear.lbfgs import Evaluate
from heads.linear.objective import COLUMNS


def weighted_quantiles(values_N: Doubles, counts_N: Doubles, quantiles: tuple[float, ...]) -> Doubles:
    """The least value at which the weights of the values up to it reach each share of all weights."""
    order = np.argsort(values_N, kind="stable")
    reached_N = np.cumsum(counts_N[order])
    places_Q = np.searchsorted(reached_N, np.array(quantiles) * reached_N[-1])
    return np.asarray(values_N[order][np.minimum(places_Q, len(order) - 1)], np.float64)


@dataclass(frozen=True)
class Pass:
    """What one pass over the rows finds at the points of k problems: objectives (k,) with the corner rounded and as it is,
    and of the rounded one slopes and inverse curvatures (k, P)."""

    rounded: torch.Tensor
    exact: torch.Tensor
    slopes: torch.Tensor
    diagonals: torch.Tensor


class Pinball:
    """Objectives of all problems, in the eigenbasis of the correlation matrix, in which their Hessians are near diagonal."""

    def __init__(
        self,
        design: Design,
        values_N: Doubles,
        counts_N: Doubles,
        quantiles: tuple[float, ...],
        alphas: tuple[float, ...],
        basis: Basis,
    ) -> None:
        device = design.device
        self.design = design
        self.basis = basis
        self.values_N1 = torch.tensor(values_N, device=device)[:, None]
        self.counts_N1 = torch.tensor(counts_N, device=device)[:, None]
        self.quantiles_K = torch.tensor(quantiles * len(alphas), dtype=torch.float64, device=device)
        self.alphas_K = torch.tensor(alphas, dtype=torch.float64, device=device).repeat_interleave(len(quantiles))
        intercepts_Q = weighted_quantiles(values_N, counts_N, quantiles)
        self.intercepts_K = torch.tensor(np.tile(intercepts_Q, len(alphas)), device=device)

    def start(self) -> torch.Tensor:
        """Points (K, P): no weights, intercepts at the quantiles of the values."""
        points_KP = self.alphas_K.new_zeros((len(self.alphas_K), self.design.dim + 1))
        points_KP[:, -1] = self.intercepts_K
        return points_KP

    def searched(self, open_k: torch.Tensor, widths_K: torch.Tensor, dtype: torch.dtype) -> Evaluate:
        """The rounded objectives of the open problems, as `heads.linear.lbfgs` takes them."""

        def evaluate(points_kP: torch.Tensor, some: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            found = self.evaluate(points_kP, open_k[some], widths_K, dtype)
            return found.rounded, found.slopes, found.diagonals

        return evaluate

    def evaluate(
        self, points_kP: torch.Tensor, problems_k: torch.Tensor, widths_K: torch.Tensor, dtype: torch.dtype
    ) -> Pass:
        """One pass over the rows with products in `dtype` and sums in float64."""
        problems = len(problems_k)
        padding = -problems % COLUMNS
        weights_kD, alphas_k1 = self.basis.to_features(points_kP[:, :-1]), self.alphas_K[problems_k, None]
        weights_DC = functional.pad(weights_kD, (0, 0, 0, padding)).T.to(dtype).contiguous()
        intercepts_C = functional.pad(points_kP[:, -1], (0, padding)).to(dtype)
        upper_k = self.quantiles_K[problems_k].to(dtype)
        lower_k, widths_k = upper_k - 1, widths_K[problems_k].to(dtype)

        sums_4k = self.alphas_K.new_zeros((4, problems))
        slopes_kD = torch.zeros_like(weights_kD)
        for block in self.design.blocks():
            values_nD = block.values_nD.to(dtype)
            counts_n1 = self.counts_N1[block.start : block.stop].to(dtype)
            scores_nk = torch.addmm(intercepts_C, values_nD, weights_DC)[:, :problems]
            residuals_nk = self.values_N1[block.start : block.stop].to(dtype) - scores_nk
            tilts_nk = torch.maximum(torch.minimum(residuals_nk / widths_k, upper_k), lower_k)
            weighted_nk = tilts_nk * counts_n1
            sums_4k[0] += (weighted_nk * (residuals_nk - 0.5 * widths_k * tilts_nk)).sum(0, dtype=torch.float64)
            corner_nk = torch.maximum(upper_k * residuals_nk, lower_k * residuals_nk)
            sums_4k[1] += (counts_n1 * corner_nk).sum(0, dtype=torch.float64)
            sums_4k[2] -= weighted_nk.sum(0, dtype=torch.float64)
            sums_4k[3] += (counts_n1 * ((tilts_nk > lower_k) & (tilts_nk < upper_k))).sum(0, dtype=torch.float64)
            slopes_kD -= (functional.pad(weighted_nk, (0, padding)).T @ values_nD)[:problems]

        rounded_k, exact_k, intercept_slopes_k, inside_k = sums_4k
        penalty_k = 0.5 * alphas_k1[:, 0] * weights_kD.square().sum(1)
        slopes_kP = torch.cat(
            [self.basis.from_features(slopes_kD + alphas_k1 * weights_kD), intercept_slopes_k[:, None]], dim=1
        )
        # where no row is inside the rounding, one is taken to be
        curvature_k1 = (inside_k.clamp(min=1) / widths_K[problems_k])[:, None]
        diagonals_kP = torch.cat([1 / (curvature_k1 * self.basis.values + alphas_k1), 1 / curvature_k1], dim=1)
        return Pass(rounded_k + penalty_k, exact_k + penalty_k, slopes_kP, diagonals_kP)
