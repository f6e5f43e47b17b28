"""Letters as the rows of a training: their batches are whole records, packed, and every labelled letter counts in the loss.

A letter has what `embedcache.storage.covering` says: the state of the token that covers it, or the mean of several. Windows
of over-long sequences answer for the tokens that an extraction takes of them.

Axes: n rows of a batch (letters), M tokens that cover them, R records, W windows, T tokens, D values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedcache.encoders.encoder import borders_of_windows
from embedcache.encoders.readout import Readout
from embedcache.encoders.tokenizers.tokenizer import offsets_of
from embedcache.encoding import Encoding
from embedcache.sequences.packing import pack
from embedcache.storage.positionstore import PositionStore
from heads.data.features import Rows
from heads.finetune.batch import JUDGED_TOKENS, StateReading, TokenInputs, Units
from heads.finetune.tokens import Selection, TokenRows


@dataclass(frozen=True)
class PositionReading:
    """What a readout takes of the hidden states of a batch for each of n letters."""

    readout: Readout
    tokens: Tensor
    """(M,) where the tokens that cover the first letter, the second ... lie in the batch."""
    counts: Tensor | None
    """(n,) tokens of each letter; None where each has one."""

    def __call__(self, layer: int, states_TD: Tensor) -> dict[int, Tensor]:
        """The blocks (n, D) that are read from a layer, by their number in the readout."""
        numbers = [number for number, block in enumerate(self.readout.blocks) if block.layer == layer]
        return dict.fromkeys(numbers, self._of(states_TD)) if numbers else {}

    def _of(self, states_TD: Tensor) -> Tensor:
        states_MD = states_TD.index_select(0, self.tokens)
        if self.counts is None:
            return states_MD
        return torch.segment_reduce(states_MD, "mean", lengths=self.counts, axis=0, unsafe=True)

    def rows(self, vectors_nR: Tensor) -> Tensor:
        """They are the rows."""
        return vectors_nR


@dataclass(frozen=True)
class Positions:
    """The letters that are the rows of a task, in the tokens of their records."""

    record: NDArray[np.int64]
    """(N,) of each letter, among the R records that have any."""
    first: NDArray[np.int64]
    """(N,) its first token, counted in the record without special ones."""
    counts: NDArray[np.int64]
    """(N,) tokens that cover it."""
    rows: TokenRows
    """Of the R records."""
    special: tuple[int, int]
    """Special tokens at the start and the end of a window."""

    @classmethod
    def read(cls, store: PositionStore, rows: Rows, encoding: Encoding) -> Positions:
        """Find the tokens of rows of a store."""
        records, record = np.unique(store.places(rows)[0], return_inverse=True)
        first, counts = store.tokens_at(rows)
        return cls(record, first, counts, TokenRows.read(store.tokens, records, encoding), encoding.encoder.special)

    def units(self, positions: Rows) -> Units:
        """The records of some letters."""
        order = np.argsort(self.record[positions], kind="stable")
        records, sizes = np.unique(self.record[positions], return_counts=True)
        return Units(self.rows.lengths[records], order, sizes)

    def select(self, positions: Rows) -> tuple[Selection, NDArray[np.int64]]:
        """The windows of the records of some letters, and where the tokens of each letter lie in them, (M,)."""
        records, number_n = np.unique(self.record[positions], return_inverse=True)
        selection = self.rows.of(records)
        place_of, offsets = self._places(selection)
        counts_n = self.counts[positions]
        first_n = offsets[number_n] + self.first[positions]
        step_M = np.arange(counts_n.sum()) - np.repeat(offsets_of(counts_n)[:-1], counts_n)
        return selection, place_of[np.repeat(first_n, counts_n) + step_M]

    def _places(self, selection: Selection) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the tokens of each record that are no special ones lie in a batch, end to end; and where each begins."""
        before, after = self.special
        windows = selection.windows[selection.places]
        starts_W = self.rows.windows.starts[windows]
        batch_W = selection.tokens.offsets[:-1][selection.places]
        kept_W = selection.tokens.lengths[selection.places] - before - after
        low_W, high_W = borders_of_windows(starts_W, starts_W + kept_W, selection.counts)
        taken_W = high_W - low_W
        first_W = batch_W + before + low_W - starts_W
        places = np.repeat(first_W - offsets_of(taken_W)[:-1], taken_W) + np.arange(taken_W.sum())
        return places, offsets_of(np.add.reduceat(taken_W, offsets_of(selection.counts)[:-1]))


@dataclass(frozen=True)
class PositionInputs(TokenInputs):
    """Tokens of whole records, and the letters among them that are rows."""

    positions: Positions = field(kw_only=True)

    def parts(self, positions: Rows) -> Iterator[NDArray[np.int64]]:
        units = self.positions.units(positions)
        return map(units.rows_of, pack(units.lengths, JUDGED_TOKENS))

    def units(self, positions: Rows) -> Units:
        return self.positions.units(positions)

    def read(self, positions: Rows) -> tuple[Selection, StateReading]:
        """The windows of the records of some letters, and what takes these out of their states."""
        selection, tokens_M = self.positions.select(positions)
        counts_n = self.positions.counts[positions]
        counts = torch.from_numpy(counts_n).to(self.device) if (counts_n > 1).any() else None
        return selection, PositionReading(self.encoding.readout, torch.from_numpy(tokens_M).to(self.device), counts)
