"""A batch without padding: the tokens of several sequences end to end, and where each sequence lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedcache.encoders.transfer import to_device

ROW_STEP = 32
"""Batches are brought to a multiple of this many rows: no product is ever below `linear.MIN_ROWS`, and the buffers and
kernels of a few dozen shapes serve all batches, where every shape of its own would cost 14 MB of memory."""


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


@dataclass(frozen=True)
class PackedBatch:
    """The tokens of B sequences end to end, on the device of the trunk, and their layout on the host."""

    ids_T: Tensor
    positions_T: Tensor
    """Position of each token in its own sequence, from 0."""
    scale_T: Tensor
    """What each token's embedding is multiplied by; of no rows where nothing is."""
    bounds_B1: Tensor
    """Where each sequence begins and where the last one ends."""
    groups: list[Group]
    """Runs of sequences of equal length; they cover the real tokens."""
    tokens: int
    """Real tokens; the rows after them are dummies."""
    longest: int
    """Tokens of the longest sequence."""

    @classmethod
    def of(
        cls,
        ids_T: NDArray[np.integer],
        lengths_B: NDArray[np.int64],
        device: torch.device,
        rows: int = 0,
        scale_T: NDArray[np.float32] | None = None,
    ) -> PackedBatch:
        """Lay out a batch; sequences of equal length should be neighbours.

        `rows` fills it up to so many rows with dummies; in any case they become a multiple of `ROW_STEP`.
        """
        tokens = len(ids_T)
        wire_2T = np.zeros((2, max(rows, -(-tokens // ROW_STEP) * ROW_STEP)), np.int32)
        bounds_B1 = np.concatenate(([0], np.cumsum(lengths_B)))
        wire_2T[0, :tokens] = ids_T
        wire_2T[1, :tokens] = np.arange(tokens) - np.repeat(bounds_B1[:-1], lengths_B)
        scale = np.ones(wire_2T.shape[1] if scale_T is not None else 0, np.float32)
        if scale_T is not None:
            scale[:tokens] = scale_T
        ids, positions, scales, bounds = to_device([*wire_2T, scale, bounds_B1.astype(np.int32)], device)
        groups = equal_length_groups(lengths_B)
        return cls(ids, positions, scales, bounds, groups, tokens, int(lengths_B.max(initial=0)))
