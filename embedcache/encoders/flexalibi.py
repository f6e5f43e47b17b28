"""Attention with linear biases over packed sequences through FlexAttention: compiled once for a constant number of rows.

Axes as in `embedcache.encoders.attention`; Q blocks of 128 rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from embedcache.encoders.packed import PackedBatch

_BLOCK = 128
"""Rows and columns of a block of FlexAttention's mask."""


class FlexAlibi:
    """FlexAttention with linear biases.

    Parameters
    ----------
    slopes_H : of each head (`attention.alibi_slopes`).
    attention : `alibi_attention`, or what torch.compile makes of it.
    """

    def __init__(self, slopes_H: Tensor, attention: Callable[..., Tensor]) -> None:
        self.slopes_H = slopes_H
        self.attention = attention

    def __call__(self, batch: PackedBatch) -> Callable[[Tensor], Tensor]:
        """Work out which blocks of tokens share a sequence, on the device."""
        T = len(batch.ids_T)
        sequence_T = torch.bucketize(torch.arange(T, device=batch.ids_T.device), batch.bounds_B1[1:], right=True)
        blocks, columns = blocks_in_common(sequence_T, batch)
        return lambda qkv_T3HE: self.attention(qkv_T3HE, sequence_T, batch.positions_T, self.slopes_H, blocks, columns)


def blocks_in_common(sequence_T: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """For each of Q blocks of 128 tokens the blocks that its sequences reach into: count (1, 1, Q), numbers (1, 1, Q, Q).

    A sequence lies in one piece, so these blocks are neighbours, from the one where the block's first sequence begins to
    the one where its last sequence ends.
    """
    T = len(sequence_T)
    firsts_Q = torch.arange(0, T, _BLOCK, device=sequence_T.device)
    lasts_Q = torch.clamp(firsts_Q + _BLOCK, max=batch.tokens) - 1
    bounds = torch.cat((batch.bounds_B1, batch.bounds_B1[-1:])).long()
    first_block_Q = bounds[sequence_T[firsts_Q]] // _BLOCK
    last_block_Q = (bounds[sequence_T[lasts_Q.clamp(min=0)] + 1] - 1) // _BLOCK
    count_Q = torch.where(firsts_Q < batch.tokens, last_block_Q - first_block_Q + 1, 0)
    numbers_QQ = (first_block_Q[:, None] + torch.arange(len(firsts_Q), device=sequence_T.device)) % len(firsts_Q)
    return count_Q.int()[None, None], numbers_QQ.int()[None, None]


def alibi_attention(
    qkv_T3HE: Tensor, sequence_T: Tensor, positions_T: Tensor, slopes_H: Tensor, blocks: Tensor, columns: Tensor
) -> Tensor:
    """Attention within sequences with the bias -slope |i - j|, through FlexAttention; (T, H * E)."""
    T = len(sequence_T)

    def same_sequence(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return sequence_T[i] == sequence_T[j]

    def add_bias(score: Tensor, _b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - slopes_H[h] * (positions_T[i] - positions_T[j]).abs()

    mask = BlockMask.from_kv_blocks(
        blocks, columns, BLOCK_SIZE=_BLOCK, mask_mod=same_sequence, seq_lengths=(T, T), compute_q_blocks=False
    )
    q_1HTE, k_1HTE, v_1HTE = (part.transpose(0, 1)[None] for part in qkv_T3HE.unbind(1))
    mixed_1HTE = flex_attention(q_1HTE, k_1HTE, v_1HTE, score_mod=add_bias, block_mask=mask)
    assert isinstance(mixed_1HTE, Tensor)
    return mixed_1HTE[0].transpose(0, 1).flatten(1)
