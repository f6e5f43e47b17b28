"""What a logistic regression minimises: values, slopes and curvatures of many heads in one pass over the rows.

Objective of one head (scikit-learn's parametrisation, on standardised features, intercept b not penalised), with
C the inverse strength and s_i the weight of the class of row i::

    f(w, b) = |w|^2 / 2C + sum_i s_i log(1 + exp(-y_i z_i)),   z = Xw + b,  y = -1 | +1        two classes
    f(W, b) = |W|^2 / 2C - sum_i s_i log softmax(z_i)[class of i],  z = XW + b                   more classes

Axes: N rows, n rows of a block, D features, e = D + 1 with the intercept, K heads, k of them open, c classes, M outputs
of a head (1 for two classes, else one per class), C = k M columns, P = M e parameters of a head.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from heads.features import Design
from heads.moments import Basis

COLUMNS = 16
"""Matrix products are padded to a multiple of this width: other widths can be ten times slower."""


class Objective:
    """Values and gradients of all heads, in coordinates in which their Hessians are close to diagonal.

    Along the features these are the eigenvectors of the correlation matrix; along the outputs those of the covariance
    diag(p) - pp' of the classes at the base rates. One of these, the shift of all outputs alike, has no curvature but
    the penalty's: without them it would be taken for one that has, and the fit would stop too early.
    """

    def __init__(
        self,
        design: Design,
        codes: npt.NDArray[np.int64],
        strengths: npt.NDArray[np.float64],
        class_weights: npt.NDArray[np.float64],
        basis: Basis,
    ) -> None:
        self.design = design
        self.basis = basis
        self.codes_N = torch.from_numpy(codes).to(design.device)
        self.strengths_K = torch.from_numpy(strengths).to(design.device)
        self.class_weights_Kc = torch.from_numpy(class_weights).to(design.device)
        classes = class_weights.shape[1]
        self.outputs = 1 if classes == 2 else classes
        mass_Kc = self.class_weights_Kc * torch.bincount(self.codes_N, minlength=classes)
        self.rates_Kc = mass_Kc / mass_Kc.sum(1, keepdim=True)
        if self.outputs == 1:
            self.axes_KMM = torch.ones_like(self.strengths_K)[:, None, None]
        else:
            covariance_KMM = torch.diag_embed(self.rates_Kc) - self.rates_Kc[:, :, None] * self.rates_Kc[:, None]
            self.axes_KMM = torch.linalg.eigh(covariance_KMM)[1]

    def start(self) -> torch.Tensor:
        """Points (K, P): no weights, intercepts at the weighted base rates."""
        logs_Kc = self.rates_Kc.log()
        intercepts_KM = (
            logs_Kc[:, 1:] - logs_Kc[:, :1] if self.outputs == 1 else logs_Kc - logs_Kc.mean(1, keepdim=True)
        )
        points_KMe = intercepts_KM.new_zeros((*intercepts_KM.shape, self.design.dim + 1))
        points_KMe[..., -1] = intercepts_KM
        return (self.axes_KMM.mT @ points_KMe).flatten(1)

    def parameters(self, points_kP: torch.Tensor, heads_k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (k, M, D) and intercepts (k, M) on the standardised features."""
        points_kMe = self.axes_KMM[heads_k] @ points_kP.view(len(heads_k), self.outputs, -1)
        weights_CD = self.basis.to_features(points_kMe[..., :-1].flatten(0, 1))
        return weights_CD.view(len(heads_k), self.outputs, -1), points_kMe[..., -1]

    def _inverse_diagonal(self, curvature_kM1: torch.Tensor, inverse_k: torch.Tensor) -> torch.Tensor:
        """Inverse curvature (k, P) along each eigenvector and the intercept, where sum_i s_i p_i (1 - p_i) is given."""
        if self.outputs > 1:
            curvature_kM1[:, 0] = 0  # the first axis shifts all outputs alike; what was summed up there is rounding
        along_kMD = curvature_kM1 * self.basis.values + inverse_k[:, None, None]
        # along a shift of all intercepts there is no slope to follow either
        intercept_kM1 = torch.where(curvature_kM1 > 0, 1 / curvature_kM1, 0.0)
        return torch.cat([1 / along_kMD, intercept_kM1], dim=2).flatten(1)

    def evaluate(
        self, points_kP: torch.Tensor, heads_k: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One pass over the rows with products in `dtype` and sums in float64: values, slopes, inverse curvature."""
        heads = len(heads_k)
        columns = heads * self.outputs
        padding = -columns % COLUMNS
        weights_kMD, intercepts_kM = self.parameters(points_kP, heads_k)
        weights_DC = functional.pad(weights_kMD.flatten(0, 1), (0, 0, 0, padding)).T.to(dtype).contiguous()
        intercepts_C = functional.pad(intercepts_kM.flatten(), (0, padding)).to(dtype)
        axes_kMM = self.axes_KMM[heads_k]
        weight_of_ck = self.class_weights_Kc[heads_k].T.to(dtype).contiguous()

        values_k = torch.zeros_like(self.strengths_K[heads_k])
        slopes_CD = torch.zeros_like(weights_kMD.flatten(0, 1))
        intercept_slopes_C = torch.zeros_like(slopes_CD[:, 0])
        curvature_C = torch.zeros_like(intercept_slopes_C)
        for block in self.design.blocks():
            values_nD = block.values_nD.to(dtype)
            codes_n = self.codes_N[block.start : block.stop]
            scores_nC = torch.addmm(intercepts_C, values_nD, weights_DC)[:, :columns]
            loss = _two_class_loss if self.outputs == 1 else _softmax_loss
            losses_nk, residuals_nC, curvatures_nC = loss(scores_nC, codes_n, weight_of_ck[codes_n], axes_kMM.to(dtype))
            values_k += losses_nk.sum(0, dtype=torch.float64)
            curvature_C += curvatures_nC.sum(0, dtype=torch.float64)
            intercept_slopes_C += residuals_nC.sum(0, dtype=torch.float64)
            slopes_CD += (functional.pad(residuals_nC, (0, padding)).T @ values_nD)[:columns]

        inverse_k = 1 / self.strengths_K[heads_k]
        values_k += 0.5 * inverse_k * weights_kMD.square().sum((1, 2))
        slopes_kMD = self.basis.from_features(slopes_CD + (inverse_k[:, None, None] * weights_kMD).flatten(0, 1))
        slopes_kMe = torch.cat([slopes_kMD, intercept_slopes_C[:, None]], dim=1).view(heads, self.outputs, -1)
        diagonal_kP = self._inverse_diagonal(curvature_C.view(heads, self.outputs, 1), inverse_k)
        return values_k, (axes_kMM.mT @ slopes_kMe).flatten(1), diagonal_kP


def _two_class_loss(
    scores_nk: torch.Tensor, codes_n: torch.Tensor, weights_nk: torch.Tensor, _: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weighted losses, first and second derivatives by the score, all (n, k); exact for scores of any size."""
    sign_n1 = (1 - 2 * codes_n).to(scores_nk.dtype)[:, None]
    wrong_nk = scores_nk * sign_n1
    losses_nk = functional.softplus(wrong_nk, threshold=40) * weights_nk
    error_nk = torch.sigmoid(wrong_nk)
    residuals_nk = error_nk * weights_nk
    return losses_nk, residuals_nk * sign_n1, error_nk.sub_(1).neg_().mul_(residuals_nk)


def _softmax_loss(
    scores_nC: torch.Tensor, codes_n: torch.Tensor, weights_nk: torch.Tensor, axes_kMM: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weighted losses (n, k), first derivatives by the scores and second ones along the axes (n, k M).

    The loss is that of two classes, the own one against the rest: log(1 + exp(lse(others) - own)) keeps its digits
    where the own class is all but certain; 1 - p would lose them.
    """
    scores_nkM = scores_nC.reshape(*weights_nk.shape, -1)
    own_n1M = functional.one_hot(codes_n, scores_nkM.shape[2]).bool()[:, None]
    others_nk1 = scores_nkM.masked_fill(own_n1M, -torch.inf).logsumexp(2, keepdim=True)
    own_nk1 = scores_nkM.masked_fill(~own_n1M, 0).sum(2, keepdim=True)
    wrong_nk1 = others_nk1 - own_nk1
    losses_nk = functional.softplus(wrong_nk1[..., 0], threshold=40) * weights_nk
    share_nkM = (scores_nkM - others_nk1).masked_fill(own_n1M, 0).exp()
    error_nkM = torch.where(own_n1M, 1, share_nkM) * torch.sigmoid(wrong_nk1)  # 1 - p of the own class, p of the others
    weighted_nkM = error_nkM * weights_nk[..., None]
    residuals_nkM = torch.where(own_n1M, -weighted_nkM, weighted_nkM)
    rates_knM = torch.where(own_n1M, 1 - error_nkM, error_nkM).transpose(0, 1)
    # u' (diag(p) - pp') u of each row, for each axis u
    curvature_knM = (rates_knM @ axes_kMM.square() - (rates_knM @ axes_kMM).square()).clamp_(min=0)
    curvature_nkM = curvature_knM.transpose(0, 1) * weights_nk[..., None]
    return losses_nk, residuals_nkM.flatten(1), curvature_nkM.flatten(1)
