"""Low-rank adapters beside an encoder that stays as it was (Hu et al. 2021, arXiv:2106.09685), in peft's files.

DIR/adapter_config.json, adapter_model.safetensors   as peft writes and reads them
DIR/base.json                                        the encoder that they were trained on, and the digest of its weights

An adapted encoder is loaded by adding alpha / r B A to each weight as it is read; peft is not needed for that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from embedcache.encoders.families import Family
from embedcache.encoders.trunk import ReadTensor
from embedcache.errors import ModelError

CONFIG, TENSORS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
_PREFIX = "base_model.model."
_UNKNOWN = ("rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out", "modules_to_save")
"""Settings of peft that change what is added, and that nothing here writes."""


@dataclass(frozen=True)
class Adapters:
    """Pairs of matrices A (r, in) and B (out, r) by the published names of the weights that they change."""

    scaling: float
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    digest: str

    @classmethod
    def load(cls, folder: Path) -> Adapters:
        """Read peft's two files; raises `ModelError` where they are damaged or ask for more than plain adapters."""
        try:
            settings = json.loads((folder / CONFIG).read_text())
            odd = [name for name in _UNKNOWN if settings.get(name)]
            if odd:
                raise ModelError(
                    f"{folder / CONFIG} has {odd[0]}, which embedcache does not know: merge it with peft first"
                )
            tensors = load_file(folder / TENSORS)
            names = sorted({key.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for key in tensors})
            pairs = {
                name: (tensors[f"{_PREFIX}{name}.lora_A.weight"], tensors[f"{_PREFIX}{name}.lora_B.weight"])
                for name in names
            }
            scaling = float(settings["lora_alpha"]) / int(settings["r"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelError(
                f"the adapters in {folder} are missing or damaged ({error}): copy the folder again"
            ) from None
        digest = hashlib.sha256((folder / TENSORS).read_bytes() + f"{scaling}".encode()).hexdigest()
        return cls(scaling, pairs, digest)

    def added_to(self, family: Family, read: ReadTensor) -> ReadTensor:
        """What reads the parameters of the adapted encoder."""

        def merged(parameter: str) -> Tensor:
            weight = read(parameter)
            stem, kind = parameter.rsplit(".", 1)
            modules = family.modules(stem)
            if kind != "weight" or not any(module in self.pairs for module in modules):
                return weight
            parts = weight.chunk(len(modules))
            return torch.cat([self.merged(module, part) for module, part in zip(modules, parts, strict=True)])

        return merged

    def merged(self, module: str, weight: Tensor) -> Tensor:
        """A weight (out, in) with what its adapter adds."""
        if module not in self.pairs:
            return weight
        a, b = self.pairs[module]
        if (b.shape[0], a.shape[1]) != tuple(weight.shape):
            raise ModelError(f"the adapter of {module} is for a weight of another shape: it is not of this encoder")
        return weight + (b.float() @ a.float()) * self.scaling


def save_adapters(
    folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], base: Mapping[str, Any]
) -> None:
    """Write adapters: peft's settings, tensors by their names in the encoder (``….query.lora_A.weight``), and the base."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {_PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / TENSORS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(dict(settings), indent=1, sort_keys=True, default=list) + "\n")
    (folder / BASE).write_text(json.dumps(dict(base), indent=1) + "\n")
