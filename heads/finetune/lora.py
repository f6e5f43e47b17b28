"""Low-rank adapters through peft, on the linear layers of an encoder under their published names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from embedcache.encoders.trainable import TrainableTrunk
from heads.finetune.options import LoraOptions

_LINEAR = ("qkv", "output", "up", "down")
_NAME = "default"
"""What peft calls an adapter that has no name."""


def targets(trunk: TrainableTrunk) -> list[str]:
    """The published names of the linear layers of attention and feed-forward, whatever the family calls them."""
    return [path for stem, paths in trunk.paths.items() if stem.rpartition(".")[2] in _LINEAR for path in paths]


def add_adapters(trunk: TrainableTrunk, options: LoraOptions, seed: int) -> None:
    """Put an adapter beside each of them, drawn with a seed; nothing else of the trunk learns then."""
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(_config(trunk, options), trunk)


def settings(trunk: TrainableTrunk, options: LoraOptions, base: str) -> dict[str, Any]:
    """peft's own record of the adapters, as its files have it."""
    config = _config(trunk, options).to_dict()
    return {
        **{key: sorted(value) if isinstance(value, set) else value for key, value in config.items()},
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "inference_mode": True,
    }


def adapter_tensors(trunk: TrainableTrunk) -> dict[str, Tensor]:
    """The adapters' matrices as peft names them in its files."""
    return {name.replace(f".{_NAME}.", "."): tensor for name, tensor in trunk.state_dict().items() if ".lora_" in name}


def merged_weights(trunk: TrainableTrunk, options: LoraOptions) -> Mapping[str, Tensor]:
    """The changed weights by their published names, with what the adapters add."""
    scaling = options.alpha / options.rank
    state, weights = trunk.state_dict(), {}
    for path in targets(trunk):
        a, b = (state[f"{path}.lora_{half}.{_NAME}.weight"] for half in "AB")
        weights[f"{path}.weight"] = state[f"{path}.base_layer.weight"] + (b.float() @ a.float()) * scaling
    return weights


def _config(trunk: TrainableTrunk, options: LoraOptions) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets(trunk),
        bias="none",
    )
