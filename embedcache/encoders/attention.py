"""Attention over packed sequences: each token sees the tokens of its own sequence and nothing else.

Three ways to the same numbers, chosen once for an encoder:

`Grouped`, everywhere: sequences of equal length lie side by side in a batch that is sorted by length, so a batch is a
handful of dense (n, L) groups; scaled-dot-product attention runs on each without padding and without a mask, and gives a
sequence the same bits whichever others are in its group.

`Varlen`, on a GPU in half precision: torch's own FlashAttention over cumulative lengths, one launch a layer, without
split keys, so that a sequence's bits do not depend on the others.

`flexalibi.FlexAlibi`, on a GPU in half precision for encoders with ALiBi, which FlashAttention has no bias for:
FlexAttention, compiled once for the batch's constant number of rows.

On every way the input is (T, 3, H, E), queries, keys and values of T tokens in H heads of E values, and the result
(T, H * E); rows after the last sequence mean nothing.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from embedcache.encoders.packed import PackedBatch

_KEPT_BIAS = 512
"""Longest sequence, in tokens, whose ALiBi table is kept: 12 heads of 512 x 512 are 13 MB."""

Attend = Callable[[Tensor], Tensor]


class Attention(Protocol):
    """Prepares softmax(q k^T / sqrt(E) + bias) v for one batch; what it returns serves all layers."""

    def __call__(self, batch: PackedBatch) -> Attend:
        """Take a batch's layout."""


def choose_attention(heads: int, head_dim: int, alibi: bool, dtype: torch.dtype, device: torch.device) -> Attention:
    """The fastest way that the device, the precision and the size of a head allow."""
    if device.type == "cuda" and dtype != torch.float32:
        if not alibi and head_dim % 8 == 0 and head_dim <= 256:
            return Varlen()
        if alibi and head_dim >= 16 and importlib.util.find_spec("triton") is not None:
            # torch's compiler comes with it, which takes two seconds to import
            from embedcache.encoders.flexalibi import FlexAlibi, alibi_attention

            slopes_H = torch.tensor(alibi_slopes(heads), device=device)
            return FlexAlibi(slopes_H, torch.compile(alibi_attention, fullgraph=True, dynamic=False))
    return Grouped(Alibi(heads, device) if alibi else None)


class Grouped:
    """Scaled-dot-product attention on each run of sequences of equal length."""

    def __init__(self, alibi: Alibi | None) -> None:
        self.alibi = alibi

    def __call__(self, batch: PackedBatch) -> Attend:
        """Take a batch's groups."""
        return lambda qkv_T3HE: self._attend(qkv_T3HE, batch)

    def _attend(self, qkv_T3HE: Tensor, batch: PackedBatch) -> Tensor:
        T, _, H, E = qkv_T3HE.shape
        out_THE = qkv_T3HE.new_empty(T, H, E)
        out_THE[batch.tokens :] = 0
        for group in batch.groups:
            n, L = group.count, group.length
            stop = group.start + n * L
            q_nHLE, k_nHLE, v_nHLE = qkv_T3HE[group.start : stop].view(n, L, 3, H, E).permute(2, 0, 3, 1, 4)
            bias_1HLL = None if self.alibi is None else self.alibi(L)
            mixed_nHLE = F.scaled_dot_product_attention(q_nHLE, k_nHLE, v_nHLE, attn_mask=bias_1HLL)
            out_THE[group.start : stop].view(n, L, H, E).copy_(mixed_nHLE.transpose(1, 2))
        return out_THE.view(T, H * E)


class Varlen:
    """torch's variable-length FlashAttention (CUDA, bfloat16 and float16)."""

    def __init__(self) -> None:
        # torch's compiler comes with it, which takes two seconds to import
        from torch.nn.attention.varlen import varlen_attn

        self.attention = varlen_attn
        # where torch can split keys over blocks, it must not: the split depends on the other sequences of the batch
        splits = "num_splits" in inspect.signature(varlen_attn).parameters
        self.one_split: dict[str, Any] = {"num_splits": 1} if splits else {}

    def __call__(self, batch: PackedBatch) -> Attend:
        """Take a batch's cumulative lengths."""
        bounds_B1, longest = batch.bounds_B1, batch.longest

        def attend(qkv_T3HE: Tensor) -> Tensor:
            q_THE, k_THE, v_THE = qkv_T3HE.unbind(1)
            mixed_THE = self.attention(q_THE, k_THE, v_THE, bounds_B1, bounds_B1, longest, longest, **self.one_split)
            assert isinstance(mixed_THE, Tensor)
            return mixed_THE.flatten(1)

        return attend


def alibi_slopes(heads: int) -> list[float]:
    """Slope of each head: 2^(-8 h / H) for h = 1..H where H is a power of two.

    For other H, the slopes of the next smaller power of two, then every second slope of the next larger one (Press et
    al. 2022, arXiv:2108.12409, and their code).
    """
    below = 1 << int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (head + 1) / below) for head in range(below)]
    if below < heads:
        slopes += alibi_slopes(2 * below)[0::2][: heads - below]
    return slopes


class Alibi:
    """Attention with linear biases, symmetric as in MosaicBERT: -slope |i - j| is added to each score, in float32."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self.slopes_H = torch.tensor(alibi_slopes(heads), device=device)
        self._kept_1HLL: Tensor | None = None

    def __call__(self, length: int) -> Tensor:
        """The bias of a sequence of L tokens, (1, H, L, L) float32."""
        if length > _KEPT_BIAS:
            return self._table(length)
        if self._kept_1HLL is None:
            self._kept_1HLL = self._table(_KEPT_BIAS)
        return self._kept_1HLL[:, :, :length, :length]

    def _table(self, length: int) -> Tensor:
        place_L = torch.arange(length, device=self.slopes_H.device)
        distance_LL = (place_L[:, None] - place_L[None, :]).abs()
        return (-self.slopes_H[:, None, None] * distance_LL)[None]


class Rotary:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864) in the half-split form of ESM-2, computed in float32."""

    def __init__(self, head_dim: int, device: torch.device) -> None:
        self.inverse_E2 = 1.0 / 10000 ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
        self._table_2LE2 = torch.empty(2, 0, head_dim // 2, device=device)

    def angles(self, positions_T: Tensor, longest: int) -> Tensor:
        """Cosine and sine of each token's angles, (2, T, E / 2), for sequences of up to `longest` tokens."""
        if longest > self._table_2LE2.shape[1]:
            places_L = torch.arange(longest, dtype=torch.float32, device=self.inverse_E2.device)
            angles_LE2 = torch.outer(places_L, self.inverse_E2)
            self._table_2LE2 = torch.stack((angles_LE2.cos(), angles_LE2.sin()))
        return self._table_2LE2.index_select(1, positions_T)


def rotate_(qkv_T3HE: Tensor, angles_2TE2: Tensor) -> Tensor:
    """Rotate queries and keys in place by their token's angles (`Rotary.angles`), in float32; values stay."""
    cos_T11E2, sin_T11E2 = angles_2TE2[:, :, None, None, :]
    half = qkv_T3HE.shape[-1] // 2
    low_T2HE2, high_T2HE2 = qkv_T3HE[:, :2, :, :half].float(), qkv_T3HE[:, :2, :, half:].float()
    rotated_low = torch.mul(low_T2HE2, cos_T11E2).addcmul_(high_T2HE2, sin_T11E2, value=-1)
    rotated_high = torch.mul(high_T2HE2, cos_T11E2).addcmul_(low_T2HE2, sin_T11E2)
    qkv_T3HE[:, :2, :, :half] = rotated_low
    qkv_T3HE[:, :2, :, half:] = rotated_high
    return qkv_T3HE
