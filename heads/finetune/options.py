"""What a fine-tuning was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Literal, get_args

import numpy as np

from embedcache.errors import HeadError
from heads.finetune.trackers import check_trackers
from heads.perceptron.mlp_options import MLPOptions

Mode = Literal["frozen", "top", "full"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters in place of changed weights (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int
    alpha: float
    """What an adapter adds is multiplied by alpha / rank."""
    dropout: float = 0.0
    merge: bool = False
    """Whether they are added to the weights at the end, or kept beside them."""


@dataclass(frozen=True)
class FinetuneOptions:
    """How encoder and head are trained; what both share is in `head`."""

    mode: Mode = "top"
    top_layers: int = 4
    """Layers that ``top`` trains, counted from the one that is read out."""
    head: MLPOptions = field(default_factory=MLPOptions)
    """The head's, with one value each; its learning rate is the head's own, its schedule and epochs are everybody's."""
    lr: float = 5e-5
    """Peak of the learning rate of the encoder's last layer."""
    layer_lr_decay: float = 1.0
    """Each layer's rate relative to that of the layer above it."""
    weight_decay: float = 1e-2
    """Of the encoder's matrices; norms and biases have none."""
    batch_tokens: int | None = None
    """Tokens of a batch, in place of the head's `batch_size` rows."""
    accumulate: int = 1
    """Batches of a step."""
    clip: float = 1.0
    """Norm that gradients are scaled down to; 0 leaves them as they are."""
    mask: float = 0.0
    """Share of the tokens that training hides behind the mask token."""
    hidden_dropout: float | None = None
    attention_dropout: float | None = None
    """None takes those of the encoder's config.json."""
    recompute: bool = False
    """Whether the backward pass computes the values inside a layer again, for memory."""
    precision: Precision = "auto"
    lora: LoraOptions | None = None
    cache: bool | None = None
    """Whether ``top`` keeps the states below its layers; None does where nothing changes them."""
    cache_dtype: Literal["float16", "float32"] = "float32"
    save_steps: int = 0
    """Steps between checkpoints; 0 makes one after each epoch."""
    report_to: tuple[str, ...] = ()
    """Trackers: tensorboard, mlflow, wandb."""

    @property
    def trains_encoder(self) -> bool:
        """Whether any weight of the encoder changes."""
        return self.mode != "frozen"

    @property
    def caches(self) -> bool:
        """Whether the states below the trained layers are computed once."""
        return self.mode == "top" and (self.mask == 0 if self.cache is None else self.cache)

    def check(self) -> None:
        """Raise HeadError for the first option that cannot be, by its name on the command line."""
        self.head.check()
        several = [name for name in ("lr", "weight_decay", "dropout", "seeds") if len(getattr(self.head, name)) > 1]
        if several or self.head.ensemble:
            raise HeadError("heads finetune trains one head: give one value to --head-lr, --dropout and --seed")
        for name, value, fits, expected in (
            ("mode", self.mode in get_args(Mode), True, f"choose from {', '.join(get_args(Mode))}"),
            ("lr", 0 < self.lr < np.inf, True, "give a learning rate above 0, such as 2e-5"),
            ("layer-lr-decay", 0 < self.layer_lr_decay <= 1, True, "give a factor above 0, at most 1"),
            ("mask", 0 <= self.mask < 1, True, "give a share from 0 to below 1, such as 0.05"),
            ("accumulate", self.accumulate >= 1, True, "give at least 1"),
        ):
            if value is not fits:
                raise HeadError(f"--{name}: {expected}")
        self._check_mode()
        check_trackers(self.report_to)

    def _check_mode(self) -> None:
        frozen = self.mode == "frozen"
        for given, option, why in (
            (self.lora is not None and frozen, "--lora", "trains adapters in the encoder"),
            (self.mask > 0 and frozen, "--mask", "hides tokens from the encoder"),
            (self.recompute and frozen, "--recompute", "is for layers that are trained"),
            (self.batch_tokens is not None and frozen, "--batch-tokens", "counts tokens of the encoder"),
        ):
            if given:
                raise HeadError(f"{option} {why}, and --mode frozen trains the head alone: take --mode top or full")
        if self.cache and self.mode != "top":
            raise HeadError(f"--cache keeps the states below the layers of --mode top; this is --mode {self.mode}")
        if self.cache and self.mask:
            raise HeadError(
                "--mask changes what the lower layers see in every epoch, so --cache cannot keep it: leave one out"
            )
        if self.lora is not None and self.lora.rank < 1:
            raise HeadError(f"--lora {self.lora.rank}: give a rank of 1 or more, such as 8")


def require_packages(options: FinetuneOptions) -> None:
    """Raise HeadError naming the line to type where a package is missing."""
    needed = ["accelerate", *(["peft"] if options.lora is not None else [])]
    _require([name for name in needed if find_spec(name) is None])


def _require(missing: Sequence[str]) -> None:
    if missing:
        raise HeadError(
            f"heads finetune needs {' and '.join(missing)}, which is not installed: pip install 'embedcache[finetune]'"
        )


def usual(mode: Mode, lora: bool = False) -> FinetuneOptions:
    """What a mode starts from where nothing else is asked for: a frozen encoder as in ``heads train --head mlp``."""
    if mode == "frozen":
        return FinetuneOptions("frozen", clip=0.0)
    head = MLPOptions(epochs=5, batch_size=32, patience=3)
    rate = 2e-4 if lora else {"top": 5e-5, "full": 2e-5}[mode]
    return replace(FinetuneOptions(mode), head=head, lr=rate)
