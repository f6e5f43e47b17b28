"""Multilayer perceptrons of one shape, several at once: the axis of the heads comes first, and may be 1.

Axes: H heads, n rows, D features, O outputs; in and out of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import nn
from torch.nn import functional as F


class Dropout:
    """Dropout with a rate and a random stream for each head, so that a head drops the same alone and among others.

    Each value is dropped by 16 random bits, four values by one draw of the generator: on a CPU drawing takes longer than
    the products of a narrow layer. Rates are rounded to 1/65536.
    """

    def __init__(self, rates: Sequence[float], generators: Sequence[torch.Generator]) -> None:
        self.rates = rates
        self.generators = generators

    def __call__(self, hidden_Hnd: torch.Tensor) -> torch.Tensor:
        if not any(self.rates):
            return hidden_Hnd
        factors_Hnd = torch.empty_like(hidden_Hnd)
        for factors_nd, rate, generator in zip(factors_Hnd, self.rates, self.generators, strict=True):
            factors_nd.copy_(_kept(factors_nd, rate, generator)).div_(1 - rate)
        return hidden_Hnd * factors_Hnd


def _kept(values_nd: torch.Tensor, rate: float, generator: torch.Generator) -> torch.Tensor:
    """Which of the values stay, (n, d)."""
    draws = torch.empty(-(-values_nd.numel() // 4), dtype=torch.int64, device=values_nd.device)
    draws.random_(-(2**63), None, generator=generator)
    bits_nd = draws.view(torch.int16)[: values_nd.numel()].view(values_nd.shape)
    return bits_nd >= min(round(rate * 2**16), 2**16 - 1) - 2**15


class Perceptrons(nn.Module):
    """Linear layers with ReLU between them: weights (H, in, out) and biases (H, 1, out) of each layer."""

    def __init__(self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(biases)

    @classmethod
    def drawn(cls, sizes: Sequence[int], generators: Sequence[torch.Generator]) -> Self:
        """New heads, each from its own generator (on the CPU), uniform as torch's `nn.Linear` (He et al., 2015).

        `sizes` are D, the widths of the hidden layers, and O.
        """
        weights, biases = [], []
        for wide, narrow in pairwise(sizes):
            bound = wide**-0.5
            weights.append(torch.empty(len(generators), wide, narrow))
            biases.append(torch.empty(len(generators), 1, narrow))
            for head, generator in enumerate(generators):
                weights[-1][head].uniform_(-bound, bound, generator=generator)
                biases[-1][head].uniform_(-bound, bound, generator=generator)
        return cls(weights, biases)

    @property
    def sizes(self) -> tuple[int, ...]:
        """D, the widths of the hidden layers, and O."""
        return (self.weights[0].shape[1], *(weight.shape[2] for weight in self.weights))

    def forward(self, values_HnD: torch.Tensor, dropout: Dropout | None = None) -> torch.Tensor:
        """Scores (H, n, O); dropout acts on the hidden layers."""
        hidden_Hnd = values_HnD
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer:
                hidden_Hnd = F.relu(hidden_Hnd)
                hidden_Hnd = hidden_Hnd if dropout is None else dropout(hidden_Hnd)
            hidden_Hnd = torch.baddbmm(bias, hidden_Hnd, weight)
        return hidden_Hnd

    def head(self, head: int) -> Self:
        """A copy of one of the heads, H = 1, that does not learn."""
        one = slice(head, head + 1)
        copy = type(self)(
            [weight[one].detach().clone() for weight in self.weights],
            [bias[one].detach().clone() for bias in self.biases],
        )
        return copy.requires_grad_(False)
