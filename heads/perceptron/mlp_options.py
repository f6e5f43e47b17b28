"""How multilayer perceptrons are trained: the options of ``--head mlp``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import numpy as np

from embedcache.errors import HeadError
from heads.data.sampling import Sampler
from heads.data.weights import ClassWeight
from heads.perceptron.losses import RegressionLoss
from heads.perceptron.mlp_training import Setting
from heads.perceptron.schedule import Schedule


@dataclass(frozen=True)
class MLPOptions:
    """How perceptrons are trained. Every seed with every rate, decay and dropout is one point of the grid."""

    hidden: tuple[int, ...] = (512,)
    """Widths of the hidden layers, from the input on."""
    lr: tuple[float, ...] = (1e-3,)
    """Peaks of the learning rate."""
    weight_decay: tuple[float, ...] = (1e-2,)
    """Decoupled decay of AdamW (Loshchilov and Hutter, 2019), relative to the learning rate; biases have none."""
    dropout: tuple[float, ...] = (0.1,)
    """Shares of the hidden units that a training step leaves out."""
    seeds: tuple[int, ...] = (0,)
    ensemble: bool = False
    """Whether the head is all seeds at the best of the other settings, averaged, and not the best seed."""
    epochs: int = 20
    batch_size: int = 256
    schedule: Schedule = "onecycle"
    warmup: float = 0.1
    """Share of all steps in which the learning rate rises."""
    patience: int = 5
    """Epochs without a better metric on the rows that stop a fit, after which a head does; 0 trains them all. The best one
    is kept."""
    class_weight: ClassWeight = "none"
    focal_gamma: float = 0.0
    label_smoothing: float = 0.0
    loss: RegressionLoss | None = None
    """Of a measured quantity: mse, or pinball where quantiles are given. Huber's is linear beyond one standard deviation
    of the training values."""
    quantiles: tuple[float, ...] = ()
    sampler: Sampler = "none"
    mixup_alpha: float = 0.0
    mixup_probability: float = 1.0
    freeze: Literal["none", "hidden"] = "none"
    """Of a head that starts from another: whether only the output layer learns."""
    layer_lr_decay: float = 1.0
    """Each layer's learning rate relative to that of the layer after it."""

    def grid(self) -> list[Setting]:
        """All points, seeds of the same settings beside each other."""
        return [
            Setting(seed, lr, decay, dropout)
            for lr, decay, dropout, seed in product(self.lr, self.weight_decay, self.dropout, self.seeds)
        ]

    def check(self) -> None:
        """Raise HeadError for the first option that cannot be, by its name on the command line."""
        for name, (fits, expected) in _BOUNDS.items():
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if not values or not all(fits(one) for one in values):
                said = ",".join(f"{one:g}" for one in values)
                raise HeadError(f"--{name.replace('_', '-')} {said}: {expected}")
        for name, value, choices in (
            ("schedule", self.schedule, get_args(Schedule)),
            ("freeze", self.freeze, ("none", "hidden")),
        ):
            if value not in choices:
                raise HeadError(f"--{name} {value}: choose from {', '.join(choices)}")


_BOUNDS: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "hidden": (lambda width: width >= 1, "give the widths of one hidden layer or more, such as 512 or 512,128"),
    "lr": (lambda rate: 0 < rate < np.inf, "give learning rates above 0, such as 1e-3"),
    "weight_decay": (lambda decay: 0 <= decay < np.inf, "give decays of 0 or above, such as 0.01"),
    "dropout": (lambda share: 0 <= share < 1, "give shares from 0 to below 1, such as 0.1"),
    "seeds": (lambda seed: seed >= 0, "give whole numbers of 0 or above, such as 0,1,2"),
    "epochs": (lambda epochs: epochs >= 1, "give at least 1"),
    "batch_size": (lambda rows: rows >= 1, "give at least 1"),
    "warmup": (lambda share: 0 <= share < 1, "give a share from 0 to below 1, such as 0.1"),
    "patience": (lambda epochs: epochs >= 0, "give 0 (never stop early) or more epochs"),
    "layer_lr_decay": (lambda factor: 0 < factor <= 1, "give a factor above 0, at most 1"),
}
