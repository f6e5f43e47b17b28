"""Attention over packed sequences: each token sees the tokens of its own sequence and nothing else.

Sequences of equal length lie side by side in a batch that is sorted by length, so a batch is a handful of dense
(n, L) groups: scaled-dot-product attention runs on each group without padding and without a mask, on every device, and
gives a sequence the same bits whichever others are in its group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Group:
    """`count` sequences of `length` tokens each, from token `start` of the batch on."""

    start: int
    count: int
    length: int


def equal_length_groups(lengths_B: NDArray[np.int64]) -> list[Group]:
    """Cut a batch into runs of neighbouring sequences of equal length."""
    if not len(lengths_B):
        return []
    firsts = np.flatnonzero(np.diff(lengths_B, prepend=lengths_B[0] - 1))
    starts = np.concatenate(([0], np.cumsum(lengths_B)))[firsts]
    counts = np.diff(firsts, append=len(lengths_B))
    return [
        Group(int(start), int(count), int(lengths_B[first]))
        for start, count, first in zip(starts, counts, firsts, strict=True)
    ]


def attend(qkv_T3HE: Tensor, groups: list[Group]) -> Tensor:
    """Softmax(q k^T / sqrt(E)) v within each sequence.

    Parameters
    ----------
    qkv_T3HE : (T, 3, H, E) queries, keys and values of T tokens, H heads of E values.
    groups : the batch's runs of equal length, covering all T tokens.

    Returns
    -------
    (T, H * E).
    """
    T, _, H, E = qkv_T3HE.shape
    out_THE = qkv_T3HE.new_empty(T, H, E)
    for group in groups:
        n, L = group.count, group.length
        stop = group.start + n * L
        q_nHLE, k_nHLE, v_nHLE = qkv_T3HE[group.start : stop].view(n, L, 3, H, E).permute(2, 0, 3, 1, 4)
        mixed_nHLE = F.scaled_dot_product_attention(q_nHLE, k_nHLE, v_nHLE)
        out_THE[group.start : stop].view(n, L, H, E).copy_(mixed_nHLE.transpose(1, 2))
    return out_THE.view(T, H * E)


class Rotary:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864) in the half-split form of ESM-2, computed in float32."""

    def __init__(self, head_dim: int, device: torch.device) -> None:
        self.inverse_E2 = 1.0 / 10000 ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
        self._table = torch.empty(2, 0, head_dim, device=device)

    def _grow(self, length: int) -> None:
        angles_LE2 = torch.outer(
            torch.arange(length, dtype=torch.float32, device=self.inverse_E2.device), self.inverse_E2
        )
        angles_LE = torch.cat((angles_LE2, angles_LE2), dim=-1)
        self._table = torch.stack((angles_LE.cos(), angles_LE.sin()))

    def __call__(self, qkv_T3HE: Tensor, positions_T: Tensor, longest: int) -> Tensor:
        """Rotate queries and keys by their position in their own sequence; values pass unchanged."""
        if longest > self._table.shape[1]:
            self._grow(longest)
        cos_T11E, sin_T11E = self._table[:, positions_T][:, :, None, None, :]
        qk_T2HE = qkv_T3HE[:, :2].float()
        low, high = qk_T2HE.chunk(2, dim=-1)
        rotated = torch.cat((-high, low), dim=-1)
        out = torch.empty_like(qkv_T3HE)
        out[:, :2] = qk_T2HE * cos_T11E + rotated * sin_T11E
        out[:, 2] = qkv_T3HE[:, 2]
        return out
