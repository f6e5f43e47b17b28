"""From hidden states to one vector a row, with gradients: poolings as in `embedcache.sequences.pooling`, windows joined,
strands averaged, views side by side.

Axes: n rows of a batch, V views, S strands, P passages of the rows, W windows of the passages, T tokens, D values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedcache.encoders.encoder import Encoder
from embedcache.encoders.readout import Readout
from embedcache.sequences.pooling import looks_at_a_place, parts_of, pool
from heads.finetune.tokens import Selection

_AT_ONE = ("cls", "last")


@dataclass(frozen=True)
class Pooled:
    """Where one pooling finds its tokens in a batch, and how windows of a passage go together."""

    how: str
    parts: Tensor
    """(W,) one token each of ``cls`` and ``last``; else (3 W,) of `parts_of`."""
    weights: Tensor
    """(W,) of each window in the mean of its passage."""

    def __call__(self, states_TD: Tensor, passage_W: Tensor, last_P: Tensor, counts_P: Tensor, several: bool) -> Tensor:
        """States (T, D) of a batch -> (P, D)."""
        if self.how in _AT_ONE:
            pooled_WD = states_TD.index_select(0, self.parts)
        else:
            pooled_WD = pool(states_TD, self.parts, "max" if self.how == "max" else "mean")
        if not several:
            return pooled_WD.index_select(0, last_P)
        return self._joined(pooled_WD, passage_W, last_P, counts_P)

    def _joined(self, pooled_WD: Tensor, passage_W: Tensor, last_P: Tensor, counts_P: Tensor) -> Tensor:
        if self.how == "last":
            return pooled_WD.index_select(0, last_P)
        if self.how == "max":
            order_W = torch.argsort(passage_W, stable=True)
            return torch.segment_reduce(
                pooled_WD.index_select(0, order_W), "max", lengths=counts_P, axis=0, unsafe=True
            )
        # a window without a token that is looked at has the mean NaN and the weight 0
        weighed_WD = torch.where(self.weights[:, None] > 0, pooled_WD, 0.0) * self.weights[:, None]
        sums_PD = weighed_WD.new_zeros(len(last_P), weighed_WD.shape[1]).index_add(0, passage_W, weighed_WD)
        totals_P = self.weights.new_zeros(len(last_P)).index_add(0, passage_W, self.weights)
        return sums_PD / totals_P[:, None]


@dataclass(frozen=True)
class Reading:
    """What a readout takes of the hidden states of a batch."""

    readout: Readout
    pooled: dict[str, Pooled]
    passage_W: Tensor
    """(W,) the passage of each window."""
    last_P: Tensor
    """(P,) the last window of each passage, which is its only one mostly."""
    counts_P: Tensor
    shape: tuple[int, ...]
    """(n, V, S)."""
    several: bool
    """Whether a passage has more than one window."""

    @classmethod
    def of(cls, encoder: Encoder, readout: Readout, selection: Selection, device: torch.device) -> Reading:
        """Lay it out for a batch."""
        passage_W = np.empty(len(selection.places), np.int64)
        passage_W[selection.places] = np.repeat(np.arange(len(selection.counts)), selection.counts)
        last_P = selection.places[np.cumsum(selection.counts) - 1]
        pooled = {block.pooling: _pooled(encoder, block.pooling, selection, device) for block in readout.blocks}
        at, last, counts = (torch.from_numpy(a).to(device) for a in (passage_W, last_P, selection.counts))
        return cls(readout, pooled, at, last, counts, selection.shape, bool((selection.counts > 1).any()))

    def __call__(self, layer: int, states_TD: Tensor) -> dict[int, Tensor]:
        """The blocks (P, D) that are read from a layer, by their number in the readout."""
        return {
            number: self.pooled[block.pooling](states_TD, self.passage_W, self.last_P, self.counts_P, self.several)
            for number, block in enumerate(self.readout.blocks)
            if block.layer == layer
        }

    def rows(self, vectors_PR: Tensor) -> Tensor:
        """Vectors of all passages, R values of the readout each -> one of each row, (n, V * R)."""
        n, views, strands = self.shape
        of_nVSR = vectors_PR.view(n, views, strands, -1)
        return (of_nVSR[:, :, 0] if strands == 1 else of_nVSR.mean(2)).flatten(1)


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
