"""From hidden states to one vector a row, with gradients: the poolings of `embedcache.pooling`, and windows joined.

Axes: n rows of a batch, W windows of them, T tokens, D values, R of the readout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedcache.encoders.encoder import Encoder
from embedcache.encoders.readout import Readout
from embedcache.pooling import looks_at_a_place, parts_of, pool
from heads.finetune.tokens import Selection

_AT_ONE = ("cls", "last")


@dataclass(frozen=True)
class Pooled:
    """Where one pooling finds its tokens in a batch, and how windows of a row go together."""

    how: str
    parts: Tensor
    """(W,) one token each of ``cls`` and ``last``; else (3 W,) of `parts_of`."""
    weights: Tensor
    """(W,) of each window in the mean of its row."""

    def __call__(self, states_TD: Tensor, row_W: Tensor, last_n: Tensor, counts_n: Tensor, several: bool) -> Tensor:
        """States (T, D) of a batch -> (n, D)."""
        if self.how in _AT_ONE:
            pooled_WD = states_TD.index_select(0, self.parts)
        else:
            pooled_WD = pool(states_TD, self.parts, "max" if self.how == "max" else "mean")
        if not several:
            return pooled_WD.index_select(0, last_n)
        return self._joined(pooled_WD, row_W, last_n, counts_n)

    def _joined(self, pooled_WD: Tensor, row_W: Tensor, last_n: Tensor, counts_n: Tensor) -> Tensor:
        if self.how == "last":
            return pooled_WD.index_select(0, last_n)
        if self.how == "max":
            order_W = torch.argsort(row_W, stable=True)
            return torch.segment_reduce(
                pooled_WD.index_select(0, order_W), "max", lengths=counts_n, axis=0, unsafe=True
            )
        # a window without a token that is looked at has the mean NaN and the weight 0
        weighed_WD = torch.where(self.weights[:, None] > 0, pooled_WD, 0.0) * self.weights[:, None]
        sums_nD = weighed_WD.new_zeros(len(last_n), weighed_WD.shape[1]).index_add(0, row_W, weighed_WD)
        totals_n = self.weights.new_zeros(len(last_n)).index_add(0, row_W, self.weights)
        return sums_nD / totals_n[:, None]


@dataclass(frozen=True)
class Reading:
    """What a readout takes of the hidden states of a batch."""

    readout: Readout
    pooled: dict[str, Pooled]
    row_W: Tensor
    """(W,) the row of each window."""
    last_n: Tensor
    """(n,) the last window of each row, which is its only one mostly."""
    counts_n: Tensor
    several: bool
    """Whether a row has more than one window."""

    @classmethod
    def of(cls, encoder: Encoder, readout: Readout, selection: Selection, device: torch.device) -> Reading:
        """Lay it out for a batch."""
        row_W = np.empty(len(selection.places), np.int64)
        row_W[selection.places] = np.repeat(np.arange(len(selection.counts)), selection.counts)
        last_n = selection.places[np.cumsum(selection.counts) - 1]
        pooled = {block.pooling: _pooled(encoder, block.pooling, selection, device) for block in readout.blocks}
        at, last, counts = (torch.from_numpy(a).to(device) for a in (row_W, last_n, selection.counts))
        return cls(readout, pooled, at, last, counts, bool((selection.counts > 1).any()))

    def __call__(self, layer: int, states_TD: Tensor) -> dict[int, Tensor]:
        """The blocks (n, D) that are read from a layer, by their number in the readout."""
        return {
            number: self.pooled[block.pooling](states_TD, self.row_W, self.last_n, self.counts_n, self.several)
            for number, block in enumerate(self.readout.blocks)
            if block.layer == layer
        }


def _pooled(encoder: Encoder, how: str, selection: Selection, device: torch.device) -> Pooled:
    tokens = selection.tokens
    weights: NDArray[np.int64] = np.ones(len(tokens), np.int64) if how == "cls" else tokens.lengths
    if how in _AT_ONE:
        parts = tokens.offsets[:-1] if how == "cls" else tokens.offsets[1:] - 1
    else:
        ranges_W2 = encoder.ranges(tokens, how)
        parts = parts_of(ranges_W2, tokens.lengths)
        if looks_at_a_place(how):
            weights = ranges_W2[:, 1] - ranges_W2[:, 0]
    return Pooled(how, torch.from_numpy(parts).to(device), torch.from_numpy(weights.astype(np.float32)).to(device))
