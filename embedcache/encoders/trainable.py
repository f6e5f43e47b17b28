"""The transformer trunk with gradients: the same packed forward pass as `trunk`, of plain torch modules.

The modules bear the names that they are published under, so that `state_dict` is a published checkpoint, and peft's adapters
fit transformers' own models. Parameters stay in float32; torch.autocast brings products to a lower precision. Letters at the
end of a name are axes, as in `trunk`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from embedcache.encoders.attention import Alibi, Attend, Rotary, Varlen
from embedcache.encoders.families import Family
from embedcache.encoders.linear import ACTIVATIONS
from embedcache.encoders.packed import PackedBatch
from embedcache.encoders.trunk import ReadTensor, TrunkConfig, parameter_shapes, token_scales
from embedcache.encoders.weights import Weights
from embedcache.errors import ModelError

_TABLES = ("tokens", "positions", "types")


@dataclass(frozen=True)
class DropoutRates:
    """Shares of values that training drops: of hidden states, and of attention weights."""

    hidden: float = 0.0
    attention: float = 0.0

    @classmethod
    def published(cls, config: Mapping[str, Any]) -> Self:
        """Those of a config.json; 0 where it names none."""
        return cls(*(float(config.get(f"{name}_dropout_prob") or 0.0) for name in ("hidden", "attention_probs")))


class TrainableTrunk(nn.Module):
    """Layers `first` to `stop` of an encoder, to be trained.

    Parameters
    ----------
    family, config, read : of `Weights`.
    rates : dropout, at the places where the published model has it.
    first : layers below it are not built; above 0 the embeddings are left out too, and `states` starts from hidden states.
    stop : layers from it on are not built; None builds all, and the final norm.
    recompute : keep no values inside a layer for the backward pass, but compute them again there.
    """

    def __init__(
        self,
        family: Family,
        config: TrunkConfig,
        read: ReadTensor,
        *,
        rates: DropoutRates | None = None,
        first: int = 0,
        stop: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.rates, self.recompute = config, rates or DropoutRates(), recompute
        self.first, self.stop = first, config.layers if stop is None else stop
        self.paths: dict[str, tuple[str, ...]] = {}
        shapes = parameter_shapes(config)
        for stem in dict.fromkeys(name.rsplit(".", 1)[0] for name in shapes):
            if self._builds(stem):
                self.paths[stem] = family.modules(stem)
                bias = read(f"{stem}.bias") if f"{stem}.bias" in shapes else None
                self._add(stem, read(f"{stem}.weight"), bias)
        self._tables: dict[torch.device, tuple[Rotary | None, Alibi | None]] = {}

    @classmethod
    def of(cls, weights: Weights, **options: Any) -> Self:
        """Build it from an encoder's weights; raises `ModelError` for families without a trunk of this kind."""
        if not isinstance(weights.config, TrunkConfig):
            raise ModelError(
                f"encoders of the family {weights.family.name} cannot be trained here: take --mode frozen, or another "
                "encoder (see `embedcache models`)"
            )
        return cls(weights.family, weights.config, weights.read, **options)

    def _builds(self, stem: str) -> bool:
        head, _, _ = stem.partition(".")
        if head.isdigit():
            return self.first <= int(head) < self.stop
        return self.stop == self.config.layers if stem == "final_norm" else self.first == 0

    def _add(self, stem: str, weight: Tensor, bias: Tensor | None) -> None:
        """Put the published modules that make one of ours into their places."""
        paths = self.paths[stem]
        biases = [None] * len(paths) if bias is None else bias.chunk(len(paths))
        for path, part, own in zip(paths, weight.chunk(len(paths)), biases, strict=True):
            *folders, name = path.split(".")
            place: nn.Module = self
            for folder in folders:
                if not hasattr(place, folder):
                    place.add_module(folder, nn.Module())
                place = getattr(place, folder)
            place.add_module(
                name, _module(stem, part.clone(), None if own is None else own.clone(), self.config.norm_eps)
            )

    def layer_of(self, parameter: str) -> int:
        """The layer that a parameter of `named_parameters` belongs to; -1 for the embeddings, `stop` for the final norm."""
        for stem, paths in self.paths.items():
            if any(parameter.startswith(f"{path}.") for path in paths):
                head, _, _ = stem.partition(".")
                return int(head) if head.isdigit() else self.stop if stem == "final_norm" else -1
        raise KeyError(parameter)

    def pack(
        self, ids_T: NDArray[np.integer], lengths_B: NDArray[np.int64], device: torch.device, inputs: bool = True
    ) -> PackedBatch:
        """Lay out B tokenized sequences, those of equal length beside each other."""
        scale_T = token_scales(self.config, ids_T, lengths_B) if inputs else None
        return PackedBatch.of(ids_T, lengths_B, device, scale_T=scale_T)

    def states(self, batch: PackedBatch, x_TD: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield number and values (T, D) of the hidden states, from that of layer `first` on, as `Trunk.states` counts them.

        `x_TD` are the states of layer `first` where the layers below it were not built, a row for each of the batch's rows.
        """
        x_TD = self._embed(batch) if x_TD is None else x_TD
        yield self.first, x_TD[: batch.tokens]
        rotary, alibi = self._positions(x_TD.device)
        angles = None if rotary is None else rotary.angles(batch.positions_T, batch.longest)
        attend = self._attention(batch, alibi)
        for index in range(self.first, self.stop):
            if self.recompute and self.training and torch.is_grad_enabled():
                x_TD = checkpoint(self._layer, index, x_TD, angles, attend, use_reentrant=False)
            else:
                x_TD = self._layer(index, x_TD, angles, attend)
            if index == self.config.layers - 1 and "final_norm" in self.paths:
                x_TD = self._run("final_norm", x_TD)
            yield index + 1, x_TD[: batch.tokens]

    def _positions(self, device: torch.device) -> tuple[Rotary | None, Alibi | None]:
        config = self.config
        if device not in self._tables:
            self._tables[device] = (
                Rotary(config.head_dim, device) if config.positions == "rotary" else None,
                Alibi(config.heads, device) if config.positions == "alibi" else None,
            )
        return self._tables[device]

    def _attention(self, batch: PackedBatch, alibi: Alibi | None) -> Attend:
        """FlashAttention over cumulative lengths where there are no weights to drop or to bias; else group by group."""
        dropped = self.rates.attention if self.training else 0.0
        half = torch.is_autocast_enabled(batch.ids_T.device.type)
        fits = self.config.head_dim % 8 == 0 and self.config.head_dim <= 256
        if batch.ids_T.device.type == "cuda" and half and alibi is None and not dropped and fits:
            return Varlen()(batch)
        return lambda qkv_T3HE: grouped_attention(qkv_T3HE, batch, alibi, dropped)

    def _run(self, stem: str, x_TD: Tensor) -> Tensor:
        """The outputs of the modules that make one of ours, side by side."""
        parts = [self.get_submodule(path)(x_TD) for path in self.paths[stem]]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.rates.hidden, self.training) if self.rates.hidden else x

    def _embed(self, batch: PackedBatch) -> Tensor:
        config = self.config
        x_TD = self._run("tokens", batch.ids_T)
        if "types" in self.paths:
            x_TD = x_TD + self._run("types", torch.zeros_like(batch.ids_T[:1]))
        if len(batch.scale_T):
            x_TD = x_TD * batch.scale_T[:, None]
        if "positions" in self.paths:
            x_TD = x_TD + self._run("positions", batch.positions_T + config.position_offset)
        if "embedding_norm" in self.paths:
            x_TD = self._run("embedding_norm", x_TD)
        # BERT and MosaicBERT drop here; transformers' ESM has the line commented out
        return x_TD if config.norm_first else self._drop(x_TD)

    def _layer(self, index: int, x_TD: Tensor, angles_2TE2: Tensor | None, attend: Attend) -> Tensor:
        """One layer, with norms first (ESM) or last (BERT); see `trunk.Layer`."""
        config, T = self.config, len(x_TD)
        normed_TD = self._run(f"{index}.attention_norm", x_TD) if config.norm_first else x_TD
        qkv_T3HE = self._run(f"{index}.qkv", normed_TD).view(T, 3, config.heads, config.head_dim)
        if angles_2TE2 is not None:
            qkv_T3HE = rotated(qkv_T3HE, angles_2TE2)
        x_TD = x_TD + self._drop(self._run(f"{index}.output", attend(qkv_T3HE)))
        if config.norm_first:
            return x_TD + self._feed_forward(index, self._run(f"{index}.feed_forward_norm", x_TD))
        x_TD = self._run(f"{index}.attention_norm", x_TD)
        return self._run(f"{index}.feed_forward_norm", x_TD + self._feed_forward(index, x_TD))

    def _feed_forward(self, index: int, x_TD: Tensor) -> Tensor:
        config, activation = self.config, ACTIVATIONS[self.config.activation]
        inner_TF = self._run(f"{index}.up", x_TD)
        if not config.gated:
            return self._drop(self._run(f"{index}.down", activation(inner_TF)))
        gate_TF, up_TF = inner_TF.chunk(2, dim=-1)
        inner_TF = activation(gate_TF) * up_TF
        if config.norm_first:  # Nucleotide Transformer v2
            return self._drop(self._run(f"{index}.down", inner_TF))
        return self._run(f"{index}.down", self._drop(inner_TF))  # MosaicBERT


def _module(stem: str, weight: Tensor, bias: Tensor | None, eps: float) -> nn.Module:
    if stem in _TABLES:
        return nn.Embedding.from_pretrained(weight, freeze=False)  # type: ignore[no-untyped-call,no-any-return]
    module: nn.Module
    if stem.endswith("norm"):
        module = nn.LayerNorm(len(weight), eps, device="meta")
    else:
        module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    module.weight = nn.Parameter(weight)
    if bias is not None:
        module.register_parameter("bias", nn.Parameter(bias))
    return module


def grouped_attention(qkv_T3HE: Tensor, batch: PackedBatch, alibi: Alibi | None, dropped: float) -> Tensor:
    """Attention within each sequence, (T, H * E), by runs of equal length; `dropped` is the share of weights left out."""
    T, _, H, E = qkv_T3HE.shape
    mixed = []
    for group in batch.groups:
        n, L = group.count, group.length
        q_nHLE, k_nHLE, v_nHLE = qkv_T3HE[group.start : group.start + n * L].view(n, L, 3, H, E).permute(2, 0, 3, 1, 4)
        bias_1HLL = None if alibi is None else alibi(L).to(q_nHLE.dtype)
        out_nHLE = F.scaled_dot_product_attention(q_nHLE, k_nHLE, v_nHLE, attn_mask=bias_1HLL, dropout_p=dropped)
        mixed.append(out_nHLE.transpose(1, 2).reshape(n * L, H * E))
    return torch.cat([*mixed, qkv_T3HE.new_zeros(T - batch.tokens, H * E)])


def rotated(qkv_T3HE: Tensor, angles_2TE2: Tensor) -> Tensor:
    """`attention.rotate_` with gradients."""
    cos_T11E2, sin_T11E2 = angles_2TE2[:, :, None, None, :]
    wide = torch.promote_types(qkv_T3HE.dtype, torch.float32)
    low_T2HE2, high_T2HE2 = qkv_T3HE[:, :2].to(wide).chunk(2, dim=-1)
    turned = (low_T2HE2 * cos_T11E2 - high_T2HE2 * sin_T11E2, high_T2HE2 * cos_T11E2 + low_T2HE2 * sin_T11E2)
    return torch.cat((torch.cat(turned, dim=-1).to(qkv_T3HE.dtype), qkv_T3HE[:, 2:]), dim=1)
