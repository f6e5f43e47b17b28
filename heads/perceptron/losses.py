"""What an MLP minimises: cross-entropy and its focal form for classes and labels; squared, Huber, pinball and correlation
losses for a measured quantity.

The truth of a row travels as one vector, linear in everything that may be mixed: of classes the weight of the row spread
over them, of a quantity its value and its weight.

Axes: N rows, n rows of a batch, H heads, K classes, L labels, O outputs, Q quantiles, T of a truth vector. A leading ``...``
is any number of axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch.nn import functional as F

from embedcache.errors import HeadError
from heads.data.target import Kind

RegressionLoss = Literal["mse", "huber", "pinball", "correlation"]


@dataclass(frozen=True)
class Loss:
    """The loss of one kind of target.

    Raises HeadError where an option does not fit.
    """

    target: Kind
    regression: RegressionLoss = "mse"
    focal_gamma: float = 0.0
    """Rows that are right by p lose (1 - p)^gamma of what they would; 0 is the plain cross-entropy."""
    label_smoothing: float = 0.0
    """Share of a row that is spread evenly over all classes, its own included."""
    quantiles: tuple[float, ...] = ()
    """Of the pinball loss, rising."""

    def __post_init__(self) -> None:
        if self.regression not in get_args(RegressionLoss):
            raise HeadError(f"--loss {self.regression}: choose from {', '.join(get_args(RegressionLoss))}")
        if not self.focal_gamma >= 0:
            raise HeadError(f"--focal-gamma {self.focal_gamma:g}: it must be 0 (off) or above, such as 2")
        if not 0 <= self.label_smoothing < 1:
            raise HeadError(f"--label-smoothing {self.label_smoothing:g}: it must be from 0 to below 1, such as 0.1")
        rising = tuple(sorted(set(self.quantiles)))
        if self.quantiles != rising or not all(0 < level < 1 for level in rising):
            said = ",".join(f"{level:g}" for level in self.quantiles)
            raise HeadError(f"--quantiles {said}: give different numbers between 0 and 1, rising, such as 0.1,0.5,0.9")
        if bool(self.quantiles) != (self.regression == "pinball"):
            raise HeadError("--quantiles and --loss pinball belong together: give both or neither")

    def outputs(self, names: int) -> int:
        """Scores that a head must give for a target of so many classes, labels, or one quantity."""
        if self.target == "binary":
            return 1
        return len(self.quantiles) or 1 if self.target == "regression" else names

    def truth(self, values: torch.Tensor, weights: torch.Tensor, classes: int) -> torch.Tensor:
        """Truth vectors (..., T) in float32 of values and weights as `heads.data.target` and `heads.data.weights` have them.

        Two classes and more: (..., K). Labels: (..., L, 2), for 0 and for 1. A quantity: (..., 2), value and weight.
        """
        if self.target == "regression":
            return torch.stack([values, weights], dim=-1).float()
        if self.target == "multilabel":
            classes = 2
        own = torch.eye(classes, device=values.device)
        shares = (1 - self.label_smoothing) * own + self.label_smoothing / classes
        return shares[values] * weights[..., None].float()

    def __call__(self, scores_HnO: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Mean over the rows (and labels) of what each loses times its weight, (H,), from truth (H, n, ...)."""
        if self.target != "regression":
            return cross_entropy(self._log_probabilities(scores_HnO), truth, self.focal_gamma).flatten(1).mean(1)
        values_Hn, weights_Hn = truth.unbind(-1)
        if self.regression == "correlation":
            return correlation(scores_HnO[..., 0], values_Hn, weights_Hn)
        if self.regression == "pinball":
            levels_Q = torch.tensor(self.quantiles, device=scores_HnO.device)
            losses_Hn = pinball(scores_HnO, values_Hn, levels_Q)
        elif self.regression == "huber":
            losses_Hn = F.huber_loss(scores_HnO[..., 0], values_Hn, reduction="none")
        else:
            losses_Hn = F.mse_loss(scores_HnO[..., 0], values_Hn, reduction="none")
        return (losses_Hn * weights_Hn).mean(1)

    def _log_probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        if self.target == "multiclass":
            return scores.log_softmax(-1)
        of_both = torch.stack([F.logsigmoid(-scores), F.logsigmoid(scores)], dim=-1)
        return of_both if self.target == "multilabel" else of_both[..., 0, :]


def predictions(target: Kind, scores: torch.Tensor) -> torch.Tensor:
    """Scores (..., O) -> outputs (..., outputs) in float64 as `heads.head.Head` has them.

    Quantiles are sorted, which puts crossing ones in order and never makes the loss larger (Chernozhukov,
    Fernandez-Val and Galichon, 2010).
    """
    scores = scores.double()
    if target == "regression":
        return scores.sort(-1).values
    if target == "multiclass":
        return scores.softmax(-1)
    if target == "multilabel":
        return scores.sigmoid()
    return torch.cat([torch.sigmoid(-scores), torch.sigmoid(scores)], dim=-1)


def cross_entropy(log_probabilities: torch.Tensor, truth: torch.Tensor, focal_gamma: float = 0.0) -> torch.Tensor:
    """-sum_k t_k (1 - p_k)^gamma log p_k over the last axis (Lin et al., 2017); gamma 0 is the cross-entropy.

    `truth` need not sum to 1: the weight of a row is in it, and so is what label smoothing and mixup spread.
    """
    losses = log_probabilities
    if focal_gamma:
        # the floor keeps the slope of x^gamma finite at p = 1 where gamma is below 1
        losses = losses * (-torch.expm1(losses)).clamp(min=1e-7) ** focal_gamma
    return -(truth * losses).sum(-1)


def pinball(values_nQ: torch.Tensor, truth_n: torch.Tensor, levels_Q: torch.Tensor) -> torch.Tensor:
    """Mean over the quantiles of max(q (y - v), (q - 1) (y - v)), (..., n) (Koenker and Bassett, 1978)."""
    short_nQ = truth_n[..., None] - values_nQ
    return torch.maximum(levels_Q * short_nQ, (levels_Q - 1) * short_nQ).mean(-1)


def correlation(values_Hn: torch.Tensor, truth_Hn: torch.Tensor, weights_Hn: torch.Tensor) -> torch.Tensor:
    """1 - Pearson's weighted correlation over the rows of a batch, (H,); 1 where either of the two does not vary."""
    shares_Hn = weights_Hn / weights_Hn.sum(1, keepdim=True).clamp(min=1e-12)
    values_Hn = values_Hn - (shares_Hn * values_Hn).sum(1, keepdim=True)
    truth_Hn = truth_Hn - (shares_Hn * truth_Hn).sum(1, keepdim=True)
    together_H = (shares_Hn * values_Hn * truth_Hn).sum(1)
    # the floor keeps the slope of the square root finite where nothing varies
    spread_H = ((shares_Hn * values_Hn**2).sum(1) * (shares_Hn * truth_Hn**2).sum(1)).clamp(min=1e-16).sqrt()
    return 1 - together_H / spread_H
