"""Which parameters learn how fast: slower toward the input, norms and biases without decay, the head apart."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from heads.finetune.model import FinetuneModel
from heads.finetune.options import FinetuneOptions


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters of one rate and one decay."""

    parameters: list[nn.Parameter]
    lr: float
    weight_decay: float


def parameter_groups(model: FinetuneModel, options: FinetuneOptions) -> list[ParameterGroup]:
    """The groups of all parameters that learn: of the encoder from its last layer down, then of the head."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(_settings(name, parameter, model, options), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda group: (group[0][0] == options.head.lr[0], -group[0][0]))
    return [ParameterGroup(parameters, lr, decay) for (lr, decay), parameters in ordered]


def _settings(
    name: str, parameter: nn.Parameter, model: FinetuneModel, options: FinetuneOptions
) -> tuple[float, float]:
    head = options.head
    if name.startswith("head."):
        _, kind, number = name.split(".")
        below = len(model.head.weights) - 1 - int(number)
        return head.lr[0] * head.layer_lr_decay**below, head.weight_decay[0] if kind == "weights" else 0.0
    assert model.trunk is not None
    layer = model.trunk.layer_of(name.removeprefix("trunk."))
    below = max(model.trunk.stop - 1 - layer, 0)
    return options.lr * options.layer_lr_decay**below, options.weight_decay if parameter.ndim > 1 else 0.0
