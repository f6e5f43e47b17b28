"""AdamW for stacked heads, each with a learning rate and a decay of its own (Loshchilov and Hutter, 2019).

The arithmetic is torch's fused kernel. Its optimizer class takes one rate for a whole tensor, and imports torch's compiler
at its first use, which takes two seconds.

Axes: H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.optim.adamw import adamw

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass
class _Group:
    """Heads' parts of parameters that have the same rate and decay, with their moments."""

    places: list[tuple[torch.nn.Parameter, int]] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    means: list[torch.Tensor] = field(default_factory=list)
    squares: list[torch.Tensor] = field(default_factory=list)
    steps: list[torch.Tensor] = field(default_factory=list)

    def add(self, parameter: torch.nn.Parameter, head: int) -> None:
        value = parameter.detach()[head]
        self.places.append((parameter, head))
        self.values.append(value)
        self.means.append(torch.zeros_like(value))
        self.squares.append(torch.zeros_like(value))
        self.steps.append(torch.zeros((), device=value.device))


class StackedAdamW:
    """Steps of parameters (H, ...) by their gradients."""

    def __init__(self) -> None:
        self._groups: dict[tuple[float, float], _Group] = {}

    def add(self, parameter: torch.nn.Parameter, lr_H: Sequence[float], weight_decay_H: Sequence[float]) -> None:
        """Take in a parameter with the peak learning rate and the decay of each head."""
        for head, settings in enumerate(zip(lr_H, weight_decay_H, strict=True)):
            self._groups.setdefault(settings, _Group()).add(parameter, head)

    def step(self, share: float) -> None:
        """Go one step at a share of the peak learning rates; the gradients are used up."""
        for (lr, weight_decay), group in self._groups.items():
            gradients = [parameter.grad[head] for parameter, head in group.places if parameter.grad is not None]
            adamw(
                group.values,
                gradients,
                group.means,
                group.squares,
                [],
                group.steps,
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=lr * share,
                weight_decay=weight_decay,
                eps=EPSILON,
                maximize=False,
            )
        for group in self._groups.values():
            for parameter, _ in group.places:
                parameter.grad = None
