"""The transformer trunk: one padding-free forward pass for every family, with the differences as configuration.

A batch is one flat run of tokens and the length of each sequence; no pad token is ever computed. Letters at the end of a
name are its axes: T tokens of the batch, B sequences, D hidden size, F feed-forward size, H heads, E values a head.

Products run in the encoder's precision; the residual, the norms, the softmax and the pooling stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from embedcache.encoders.attention import Group, Rotary, attend, equal_length_groups
from embedcache.encoders.linear import Linear
from embedcache.memory import give_freed_pages_back

ROW_STEP = 32
"""Batches are brought to a multiple of this many rows: no product is ever below `linear.MIN_ROWS`, and the buffers and
kernels of a few dozen shapes serve all batches, where every shape of its own would cost 14 MB of memory."""

ReadTensor = Callable[[str], Tensor]
"""Returns one of our named parameters in float32 (see `parameter_shapes`)."""


@dataclass(frozen=True)
class TrunkConfig:
    """Everything that decides the architecture; sizes as in the published config.json."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    positions: str
    """``learned`` or ``rotary``."""
    max_positions: int
    """Rows of the learned position table, for rotary the length the encoder was trained with."""
    position_offset: int
    """Row of the learned position table that the first token takes."""
    norm_eps: float
    norm_embeddings: bool
    """Whether a LayerNorm follows the embeddings (ESM-1b)."""
    mask_token: int
    token_dropout: bool
    """ESM's rescaling of the embeddings by the share of masked tokens it saw in training."""

    @property
    def head_dim(self) -> int:
        """Values a head, E."""
        return self.hidden // self.heads

    def flops(self, tokens: float, length: float) -> float:
        """Floating-point operations of a forward pass over `tokens` tokens in sequences of `length` tokens.

        2 a multiply-add of every matrix, and 4 d L a token and layer for the two attention products.
        """
        matrices = 4 * self.hidden**2 + 2 * self.hidden * self.feed_forward
        return self.layers * tokens * (2.0 * matrices + 4.0 * self.hidden * length)


def parameter_shapes(config: TrunkConfig) -> dict[str, tuple[int, ...]]:
    """The trunk's parameters by our names, with their shapes; one source for loading, checking and random weights."""
    D, F_ = config.hidden, config.feed_forward
    shapes: dict[str, tuple[int, ...]] = {"tokens.weight": (config.vocabulary, D)}
    if config.positions == "learned":
        shapes["positions.weight"] = (config.max_positions, D)
    norms = ["final_norm"] + ["embedding_norm"] * config.norm_embeddings
    for i in range(config.layers):
        norms += [f"{i}.attention_norm", f"{i}.feed_forward_norm"]
        linears = {"query": (D, D), "key": (D, D), "value": (D, D), "output": (D, D), "up": (F_, D), "down": (D, F_)}
        for name, shape in linears.items():
            shapes[f"{i}.{name}.weight"] = shape
            shapes[f"{i}.{name}.bias"] = shape[:1]
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (D,)
    return shapes


@dataclass(frozen=True)
class PackedBatch:
    """The tokens of B sequences end to end, on the device of the trunk, and their layout on the host."""

    ids_T: Tensor
    positions_T: Tensor
    """Position of each token in its own sequence, from 0."""
    lengths_B: Tensor
    groups: list[Group]
    tokens: int
    """Real tokens; the rows after them are dummies up to the next multiple of `ROW_STEP`."""

    @classmethod
    def of(cls, ids_T: NDArray[np.integer], lengths_B: NDArray[np.int64], device: torch.device) -> PackedBatch:
        """Lay out a batch; sequences of equal length should be neighbours."""
        tokens = len(ids_T)
        missing = -tokens % ROW_STEP
        if missing:
            ids_T = np.concatenate((ids_T, np.zeros(missing, np.int32)))
            lengths_B = np.append(lengths_B, missing)
        starts_B = np.cumsum(lengths_B) - lengths_B
        positions_T = np.arange(len(ids_T)) - np.repeat(starts_B, lengths_B)
        return cls(
            torch.from_numpy(ids_T.astype(np.int64)).to(device, non_blocking=True),
            torch.from_numpy(positions_T).to(device, non_blocking=True),
            torch.from_numpy(lengths_B).to(device, non_blocking=True),
            equal_length_groups(lengths_B),
            tokens,
        )


class Norm:
    """LayerNorm over the last axis, in float32."""

    def __init__(self, read: ReadTensor, name: str, eps: float, device: torch.device) -> None:
        self.weight, self.bias = read(f"{name}.weight").to(device), read(f"{name}.bias").to(device)
        self.eps = eps

    def __call__(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return F.layer_norm(x_TD, self.weight.shape, self.weight, self.bias, self.eps)


class Layer:
    """One pre-norm transformer layer: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(
        self, read: ReadTensor, index: int, config: TrunkConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        def linear(*names: str) -> Linear:
            weight = torch.cat([read(f"{index}.{name}.weight") for name in names])
            bias = torch.cat([read(f"{index}.{name}.bias") for name in names])
            return Linear(weight, bias, dtype, device)

        self.config = config
        self.attention_norm = Norm(read, f"{index}.attention_norm", config.norm_eps, device)
        self.feed_forward_norm = Norm(read, f"{index}.feed_forward_norm", config.norm_eps, device)
        self.qkv = linear("query", "key", "value")
        self.output = linear("output")
        self.up = linear("up")
        self.down = linear("down")

    def __call__(self, x_TD: Tensor, batch: PackedBatch, rotary: Rotary | None) -> Tensor:
        """(T, D) -> (T, D), float32."""
        T = x_TD.shape[0]
        qkv_T3HE = self.qkv(self.attention_norm(x_TD)).view(T, 3, self.config.heads, self.config.head_dim)
        if rotary is not None:
            qkv_T3HE = rotary(qkv_T3HE, batch.positions_T, max(group.length for group in batch.groups))
        x_TD = self.output.add_to(x_TD, attend(qkv_T3HE, batch.groups))
        return self.down.add_to(x_TD, self.up.gelu(self.feed_forward_norm(x_TD)))


class Trunk:
    """A frozen encoder from token ids to hidden states.

    Parameters
    ----------
    config : the architecture.
    read : gives each parameter of `parameter_shapes` once, in float32; a layer is packed before the next is read, so
        that loading needs the memory of the model and of one layer.
    dtype : of the matrix products.
    """

    def __init__(self, config: TrunkConfig, read: ReadTensor, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.tokens_VD = read("tokens.weight").to(device)
        self.positions_PD = read("positions.weight").to(device) if config.positions == "learned" else None
        self.embedding_norm = Norm(read, "embedding_norm", config.norm_eps, device) if config.norm_embeddings else None
        self.layers: list[Layer] = []
        for index in range(config.layers):
            self.layers.append(Layer(read, index, config, dtype, device))
            give_freed_pages_back()
        self.final_norm = Norm(read, "final_norm", config.norm_eps, device)
        self.rotary = Rotary(config.head_dim, device) if config.positions == "rotary" else None

    def states(self, batch: PackedBatch) -> Iterator[Tensor]:
        """Yield the hidden states (T, D) float32: the embeddings, each layer's output, the last one after the final norm.

        That is how transformers counts ``hidden_states``: layers + 1 states, the last equal to ``last_hidden_state``.
        Stop iterating when the wanted layer is there: the layers above it are then not computed.
        """
        with torch.inference_mode():
            x_TD = self._embed(batch)
            yield x_TD[: batch.tokens]
            for index, layer in enumerate(self.layers):
                x_TD = layer(x_TD, batch, self.rotary)
                last = index == len(self.layers) - 1
                yield (self.final_norm(x_TD) if last else x_TD)[: batch.tokens]

    def _embed(self, batch: PackedBatch) -> Tensor:
        x_TD = F.embedding(batch.ids_T, self.tokens_VD)
        if self.config.token_dropout:
            x_TD = self._token_dropout(x_TD, batch)
        if self.positions_PD is not None:
            x_TD = x_TD + F.embedding(batch.positions_T + self.config.position_offset, self.positions_PD)
        return x_TD if self.embedding_norm is None else self.embedding_norm(x_TD)

    def _token_dropout(self, x_TD: Tensor, batch: PackedBatch) -> Tensor:
        """Zero the mask tokens and rescale each sequence by (1 - 0.15 * 0.8) / (1 - its share of mask tokens).

        As in fair-esm's ESM1b and transformers' EsmEmbeddings: training masked 15 % of the tokens, 80 % of these with
        ``<mask>``.
        """
        masked_T = batch.ids_T == self.config.mask_token
        share_B = torch.segment_reduce(masked_T.float(), "mean", lengths=batch.lengths_B)
        scale_T = torch.repeat_interleave((1 - 0.15 * 0.8) / (1 - share_B), batch.lengths_B, output_size=len(masked_T))
        return torch.where(masked_T[:, None], 0.0, x_TD) * scale_T[:, None]
