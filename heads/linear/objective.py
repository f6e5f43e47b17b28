"""What a logistic regression minimises: values, slopes and curvatures of many heads in one pass over the rows.

Objective of one head (scikit-learn's parametrisation, on standardised features, intercept b not penalised), with
C the inverse strength and s_i the weight of row i, its own times that of its class::

    f(w, b) = |w|^2 / 2C + sum_i s_i log(1 + exp(-y_i z_i)),   z = Xw + b,  y = -1 | +1        two classes
    f(W, b) = |W|^2 / 2C - sum_i s_i log softmax(z_i)[class of i],  z = XW + b                   more classes

A pass is a sweep of the compiled kernel (`heads.linear.kernel_pass`), or, on a GPU and where there is no compiler,
products by torch.

Axes: N rows, n rows of a block, D features, e = D + 1 with the intercept, L labels with class codes of their own, K heads,
k of them open, c classes, M outputs of a head (1 for two classes, else one per class), C = k M columns, P = M e
parameters of a head.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from heads.data.features import Design
from heads.data.moments import Basis
from heads.data.target import Codes, Doubles
from heads.linear.kernel import Kernel, NoKernel, find_kernel
from heads.linear.kernel_pass import Columns, Sums, sweep

COLUMNS = 16
"""Matrix products are padded to a multiple of this width: other widths can be ten times slower."""


class Objective:
    """Values and gradients of all heads, in coordinates in which their Hessians are close to diagonal.

    Along the features these are the eigenvectors of the correlation matrix; along the outputs those of the covariance
    diag(p) - pp' of the classes at the base rates. One of these, the shift of all outputs alike, has no curvature but
    the penalty's: without them it would be taken for one that has, and the fit would stop too early.

    Parameters
    ----------
    codes_NL : class codes, a column for each label
    labels_K : the label that each head learns
    row_weights_N : how much each row counts, beside its class
    kernel : None: the one of this machine, where it can serve
    """

    def __init__(
        self,
        design: Design,
        codes_NL: Codes,
        strengths_K: Doubles,
        class_weights_Kc: Doubles,
        basis: Basis,
        *,
        labels_K: Codes,
        row_weights_N: Doubles,
        kernel: Kernel | NoKernel | None = None,
    ) -> None:
        self.design = design
        self.basis = basis
        serves = design.device.type == "cpu" and design.source.dtype.kind == "f"
        self.kernel = kernel or (find_kernel() if serves else NoKernel("it is for floating-point rows on a CPU"))
        self.codes_NL = torch.from_numpy(codes_NL.astype(np.int32)).contiguous().to(design.device)
        self.labels_K = torch.from_numpy(labels_K).to(design.device)
        self.strengths_K = torch.from_numpy(strengths_K).to(design.device)
        self.class_weights_Kc = torch.from_numpy(class_weights_Kc).to(design.device)
        weights_N = torch.from_numpy(row_weights_N)
        self._row_weights_N = {real: weights_N.to(design.device, real) for real in (torch.float32, torch.float64)}
        classes = class_weights_Kc.shape[1]
        self.outputs = 1 if classes == 2 else classes
        rows_Lc = [np.bincount(column, weights=row_weights_N, minlength=classes) for column in codes_NL.T]
        mass_Kc = self.class_weights_Kc * torch.from_numpy(np.array(rows_Lc)).to(design.device)[self.labels_K]
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
        weights_kMD, intercepts_kM = self.parameters(points_kP, heads_k)
        axes_kMM = self.axes_KMM[heads_k]
        columns = Columns(
            weights_kMD.flatten(0, 1).to(dtype),
            intercepts_kM.flatten().to(dtype),
            self.class_weights_Kc[heads_k].to(dtype),
            self.labels_K[heads_k],
            axes_kMM.to(dtype),
        )
        row_weights_N = self._row_weights_N[dtype]
        if isinstance(self.kernel, Kernel):
            sums = sweep(self.kernel, self.design, self.codes_NL, row_weights_N, columns)
        else:
            sums = _products(self.design, self.codes_NL, row_weights_N, columns)

        inverse_k = 1 / self.strengths_K[heads_k]
        values_k = sums.losses_k + 0.5 * inverse_k * weights_kMD.square().sum((1, 2))
        penalty_slopes_kMD = inverse_k[:, None, None] * weights_kMD
        slopes_CD = self.basis.from_features(sums.slopes_CD + penalty_slopes_kMD.flatten(0, 1))
        slopes_Ce = torch.cat([slopes_CD, sums.intercept_slopes_C[:, None]], dim=1)
        slopes_kMe = slopes_Ce.view(len(heads_k), self.outputs, -1)
        diagonal_kP = self._inverse_diagonal(sums.curvatures_C.view(len(heads_k), self.outputs, 1), inverse_k)
        return values_k, (axes_kMM.mT @ slopes_kMe).flatten(1), diagonal_kP


def _products(design: Design, codes_NL: torch.Tensor, row_weights_N: torch.Tensor, columns: Columns) -> Sums:
    """What `heads.linear.kernel_pass.sweep` sums, by matrix products of blocks of rows."""
    dtype, device = columns.weights_CD.dtype, design.device
    width, dim = columns.weights_CD.shape
    heads = len(columns.labels_k)
    padding = -width % COLUMNS
    weights_DC = functional.pad(columns.weights_CD, (0, 0, 0, padding)).T.contiguous()
    intercepts_C = functional.pad(columns.intercepts_C, (0, padding))
    every_k = torch.arange(heads, device=device)

    sizes = ((heads,), (width, dim), (width,), (width,))
    losses_k, slopes_CD, intercept_slopes_C, curvatures_C = (
        torch.zeros(size, dtype=torch.float64, device=device) for size in sizes
    )
    for block in design.blocks():
        values_nD = block.values_nD.to(dtype)
        codes_nk = codes_NL[block.start : block.stop].long()[:, columns.labels_k]
        weights_nk = columns.class_weights_kc[every_k, codes_nk] * row_weights_N[block.start : block.stop, None]
        scores_nC = torch.addmm(intercepts_C, values_nD, weights_DC)[:, :width]
        if width == heads:
            losses_nk, residuals_nC, curvatures_nC = _two_class_loss(scores_nC, codes_nk, weights_nk)
        else:
            losses_nk, residuals_nC, curvatures_nC = _softmax_loss(scores_nC, codes_nk, weights_nk, columns.axes_kMM)
        losses_k += losses_nk.sum(0, dtype=torch.float64)
        curvatures_C += curvatures_nC.sum(0, dtype=torch.float64)
        intercept_slopes_C += residuals_nC.sum(0, dtype=torch.float64)
        slopes_CD += (functional.pad(residuals_nC, (0, padding)).T @ values_nD)[:width]
    return Sums(losses_k, slopes_CD, intercept_slopes_C, curvatures_C)


def _two_class_loss(
    scores_nk: torch.Tensor, codes_nk: torch.Tensor, weights_nk: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weighted losses, first and second derivatives by the score, all (n, k); exact for scores of any size."""
    sign_nk = (1 - 2 * codes_nk).to(scores_nk.dtype)
    wrong_nk = scores_nk * sign_nk
    losses_nk = functional.softplus(wrong_nk, threshold=40) * weights_nk
    error_nk = torch.sigmoid(wrong_nk)
    residuals_nk = error_nk * weights_nk
    return losses_nk, residuals_nk * sign_nk, error_nk.sub_(1).neg_().mul_(residuals_nk)


def _softmax_loss(
    scores_nC: torch.Tensor, codes_nk: torch.Tensor, weights_nk: torch.Tensor, axes_kMM: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weighted losses (n, k), first derivatives by the scores and second ones along the axes (n, k M).

    The loss is that of two classes, the own one against the rest: log(1 + exp(lse(others) - own)) keeps its digits
    where the own class is all but certain; 1 - p would lose them.
    """
    scores_nkM = scores_nC.reshape(*weights_nk.shape, -1)
    own_nkM = functional.one_hot(codes_nk, scores_nkM.shape[2]).bool()
    others_nk1 = scores_nkM.masked_fill(own_nkM, -torch.inf).logsumexp(2, keepdim=True)
    own_nk1 = scores_nkM.masked_fill(~own_nkM, 0).sum(2, keepdim=True)
    wrong_nk1 = others_nk1 - own_nk1
    losses_nk = functional.softplus(wrong_nk1[..., 0], threshold=40) * weights_nk
    share_nkM = (scores_nkM - others_nk1).masked_fill(own_nkM, 0).exp()
    error_nkM = torch.where(own_nkM, 1, share_nkM) * torch.sigmoid(wrong_nk1)  # 1 - p of the own class, p of the others
    weighted_nkM = error_nkM * weights_nk[..., None]
    residuals_nkM = torch.where(own_nkM, -weighted_nkM, weighted_nkM)
    rates_knM = torch.where(own_nkM, 1 - error_nkM, error_nkM).transpose(0, 1)
    # u' (diag(p) - pp') u of each row, for each axis u
    curvature_knM = (rates_knM @ axes_kMM.square() - (rates_knM @ axes_kMM).square()).clamp_(min=0)
    curvature_nkM = curvature_knM.transpose(0, 1) * weights_nk[..., None]
    return losses_nk, residuals_nkM.flatten(1), curvature_nkM.flatten(1)
