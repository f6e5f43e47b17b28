"""The transformer trunk: one padding-free forward pass for every family, with the differences as configuration.

A batch is one flat run of tokens and the length of each sequence; no pad token is ever computed. Letters at the end of a
name are its axes: T tokens of the batch, B sequences, D hidden size, F feed-forward size, H heads, E values a head.

Products run in the encoder's precision; the residual, the norms, the softmax and the pooling stay in float32.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from embedcache.encoders.attention import Rotary, choose_attention, rotate_
from embedcache.encoders.linear import Linear
from embedcache.encoders.packed import PackedBatch
from embedcache.memory import give_freed_pages_back

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
    """``learned``, ``rotary`` or ``alibi``."""
    max_positions: int
    """Rows of the learned position table; elsewhere the length the encoder was trained with."""
    norm_eps: float
    norm_first: bool
    """Whether norms come before attention and feed-forward, with one more at the end (ESM), or after them (BERT)."""
    norm_embeddings: bool
    """Whether a LayerNorm follows the embeddings (BERT, ESM-1b)."""
    activation: str = "gelu"
    """``gelu`` (with erf), ``relu`` or ``silu``."""
    gated: bool = False
    """Whether the activated half of the feed-forward multiplies the other half (GeGLU, SwiGLU)."""
    feed_forward_bias: tuple[bool, bool] = (True, True)
    """Whether the first and the second product of the feed-forward have a bias."""
    token_types: int = 0
    """Rows of the token type table, of which every token takes the first; 0 for no such table."""
    position_offset: int = 0
    """Row of the learned position table that the first token takes."""
    mask_token: int = -1
    token_dropout: bool = False
    """ESM's rescaling of the embeddings by the share of masked tokens it saw in training."""

    @property
    def head_dim(self) -> int:
        """Values a head, E."""
        return self.hidden // self.heads

    @property
    def last_state(self) -> int:
        """Number of the last hidden state; state 0 are the embeddings."""
        return self.layers

    @property
    def position_limit(self) -> int | None:
        """Tokens that the architecture can take at all; None for rotary and ALiBi positions, which have no end."""
        return self.max_positions - self.position_offset if self.positions == "learned" else None

    def flops(self, tokens: float, length: float) -> float:
        """Floating-point operations of a forward pass over `tokens` tokens in sequences of `length` tokens.

        2 a multiply-add of every matrix, and 4 d L a token and layer for the two attention products.
        """
        matrices = 4 * self.hidden**2 + (2 + self.gated) * self.hidden * self.feed_forward
        return self.layers * tokens * (2.0 * matrices + 4.0 * self.hidden * length)


def parameter_shapes(config: TrunkConfig) -> dict[str, tuple[int, ...]]:
    """The trunk's parameters by our names, with their shapes; one source for loading, checking and random weights.

    Queries, keys and values are one matrix; so are the activated and the other half of a gated feed-forward, in this
    order.
    """
    D, F_ = config.hidden, config.feed_forward
    shapes: dict[str, tuple[int, ...]] = {"tokens.weight": (config.vocabulary, D)}
    if config.positions == "learned":
        shapes["positions.weight"] = (config.max_positions, D)
    if config.token_types:
        shapes["types.weight"] = (config.token_types, D)
    norms = ["final_norm"] * config.norm_first + ["embedding_norm"] * config.norm_embeddings
    up_bias, down_bias = config.feed_forward_bias
    for i in range(config.layers):
        norms += [f"{i}.attention_norm", f"{i}.feed_forward_norm"]
        linears = {
            "qkv": ((3 * D, D), True),
            "output": ((D, D), True),
            "up": ((F_ * (1 + config.gated), D), up_bias),
            "down": ((D, F_), down_bias),
        }
        for name, (shape, bias) in linears.items():
            shapes[f"{i}.{name}.weight"] = shape
            if bias:
                shapes[f"{i}.{name}.bias"] = shape[:1]
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (D,)
    return shapes


def token_scales(
    config: TrunkConfig, ids_T: NDArray[np.integer], lengths_B: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """What ESM multiplies the embeddings of a batch with, (T,); None for encoders that do not.

    Zero for mask tokens; for the others of a sequence (1 - 0.15 * 0.8) / (1 - its share of mask tokens), as in fair-esm's
    ESM1b and transformers' EsmEmbeddings: training masked 15 % of the tokens, 80 % of these with ``<mask>``.
    """
    if not config.token_dropout:
        return None
    masked_T = ids_T == config.mask_token
    starts_B = np.cumsum(lengths_B) - lengths_B
    share_B = np.add.reduceat(masked_T, starts_B, dtype=np.float32) / lengths_B.astype(np.float32)
    with np.errstate(divide="ignore"):
        scale_B = (np.float32(1 - 0.15 * 0.8) / (1 - share_B)).astype(np.float32)
    return np.where(masked_T, np.float32(0), np.repeat(scale_B, lengths_B))


class Norm(nn.Module):
    """LayerNorm over the last axis, in float32."""

    def __init__(self, read: ReadTensor, name: str, eps: float, device: torch.device) -> None:
        super().__init__()
        self.weight, self.bias = read(f"{name}.weight").to(device), read(f"{name}.bias").to(device)
        self.eps = eps

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return F.layer_norm(x_TD, self.weight.shape, self.weight, self.bias, self.eps)


class Layer(nn.Module):
    """One transformer layer, in the two parts that attention lies between.

    With norms first: x + attention(norm(x)), then x + feed_forward(norm(x)). With norms last: norm(x + attention(x)),
    then norm(x + feed_forward(x)).
    """

    def __init__(
        self, read: ReadTensor, index: int, config: TrunkConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()

        def linear(name: str, bias: bool = True) -> Linear:
            return Linear(*parameters(name, bias), dtype, device)

        def parameters(name: str, bias: bool) -> tuple[Tensor, Tensor | None]:
            return read(f"{index}.{name}.weight"), read(f"{index}.{name}.bias") if bias else None

        self.norm_first, self.activation, self.gated = config.norm_first, config.activation, config.gated
        self.heads, self.head_dim = config.heads, config.head_dim
        self.attention_norm = Norm(read, f"{index}.attention_norm", config.norm_eps, device)
        self.feed_forward_norm = Norm(read, f"{index}.feed_forward_norm", config.norm_eps, device)
        self.qkv, self.output = linear("qkv"), linear("output")
        up_bias, down_bias = config.feed_forward_bias
        if config.gated:
            weight, bias = parameters("up", up_bias)
            biases = (None, None) if bias is None else bias.chunk(2)
            self.gate, self.up = (Linear(*half, dtype, device) for half in zip(weight.chunk(2), biases, strict=True))
        else:
            self.up = linear("up", up_bias)
        self.down = linear("down", down_bias)

    def queries_keys_values(self, x_TD: Tensor, angles_2TE2: Tensor | None) -> Tensor:
        """(T, D) and, for rotary positions, the tokens' angles -> (T, 3, H, E)."""
        normed_TD = self.attention_norm(x_TD) if self.norm_first else x_TD
        qkv_T3HE: Tensor = self.qkv(normed_TD).view(len(x_TD), 3, self.heads, self.head_dim)
        return qkv_T3HE if angles_2TE2 is None else rotate_(qkv_T3HE, angles_2TE2)

    def after_attention(self, x_TD: Tensor, mixed_TD: Tensor) -> Tensor:
        """The residual (T, D) and what attention gave (T, D) -> (T, D) float32."""
        x_TD = self.output.add_to(x_TD, mixed_TD)
        if self.norm_first:
            return self.down.add_to(x_TD, self._inner(self.feed_forward_norm(x_TD)))
        x_TD = self.attention_norm(x_TD)
        out_TD: Tensor = self.feed_forward_norm(self.down.add_to(x_TD, self._inner(x_TD)))
        return out_TD

    def _inner(self, x_TD: Tensor) -> Tensor:
        x_TD = x_TD.to(self.up.dtype)
        if self.gated:
            return self.up.times(x_TD, self.gate(x_TD, self.activation))
        inner_TF: Tensor = self.up(x_TD, self.activation)
        return inner_TF


class Trunk:
    """A frozen encoder from token ids to hidden states.

    Parameters
    ----------
    config : the architecture.
    read : gives each parameter of `parameter_shapes` once, in float32; a layer is packed before the next is read, so
        that loading needs the memory of the model and of one layer.
    dtype : of the matrix products.
    keep : whether layers stay in memory; otherwise each is read anew whenever it is its turn, for a single pass.
    """

    def __init__(
        self, config: TrunkConfig, read: ReadTensor, dtype: torch.dtype, device: torch.device, keep: bool = True
    ) -> None:
        self.config, self.device, self.dtype, self._read = config, device, dtype, read
        tokens_VD = read("tokens.weight")
        if config.token_types:
            tokens_VD = tokens_VD + read("types.weight")[0]
        self.tokens_VD = tokens_VD.to(device)
        self.positions_PD = read("positions.weight").to(device) if config.positions == "learned" else None
        self.embedding_norm = Norm(read, "embedding_norm", config.norm_eps, device) if config.norm_embeddings else None
        self.layers: list[Layer] = []
        for index in range(config.layers if keep else 0):
            self.layers.append(self._build(index))
            give_freed_pages_back()
        self.final_norm = Norm(read, "final_norm", config.norm_eps, device) if config.norm_first else None
        self.rotary = Rotary(config.head_dim, device) if config.positions == "rotary" else None
        self.attention = choose_attention(config.heads, config.head_dim, config.positions == "alibi", dtype, device)
        self._before, self._after = Layer.queries_keys_values, Layer.after_attention
        if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
            self.compile_halves()

    def compile_halves(self, backend: str = "inductor") -> None:
        """Make each half of a layer one fused graph, which all layers and all batches of the same rows share."""
        self._before = torch.compile(Layer.queries_keys_values, fullgraph=True, dynamic=False, backend=backend)
        self._after = torch.compile(Layer.after_attention, fullgraph=True, dynamic=False, backend=backend)

    def pack(self, ids_T: NDArray[np.integer], lengths_B: NDArray[np.int64], rows: int = 0) -> PackedBatch:
        """Lay out B tokenized sequences for `states`; on a GPU the batch gets `rows` rows."""
        scale_T = token_scales(self.config, ids_T, lengths_B)
        return PackedBatch.of(ids_T, lengths_B, self.device, rows if self.device.type == "cuda" else 0, scale_T)

    def states(self, batch: PackedBatch) -> Iterator[Tensor]:
        """Yield the hidden states (T, D) float32: the embeddings, each layer's output, the last one after the final norm.

        That is how transformers counts ``hidden_states``: layers + 1 states, the last equal to ``last_hidden_state``.
        Stop iterating when the wanted layer is there: the layers above it are then not computed.
        """
        with torch.inference_mode():
            x_TD = self._embed(batch)
            yield x_TD[: batch.tokens]
            angles = None if self.rotary is None else self.rotary.angles(batch.positions_T, batch.longest)
            attention = self.attention(batch)
            for index in range(self.config.layers):
                layer = self.layers[index] if self.layers else self._build(index)
                x_TD = self._after(layer, x_TD, attention(self._before(layer, x_TD, angles)))
                last = index == self.config.layers - 1
                yield (self.final_norm(x_TD) if last and self.final_norm is not None else x_TD)[: batch.tokens]

    def _build(self, index: int) -> Layer:
        return Layer(self._read, index, self.config, self.dtype, self.device)

    def _embed(self, batch: PackedBatch) -> Tensor:
        x_TD = F.embedding(batch.ids_T, self.tokens_VD)
        if len(batch.scale_T):
            x_TD = x_TD * batch.scale_T[:, None]
        if self.positions_PD is not None:
            x_TD = x_TD + F.embedding(batch.positions_T + self.config.position_offset, self.positions_PD)
        return x_TD if self.embedding_norm is None else self.embedding_norm(x_TD)
