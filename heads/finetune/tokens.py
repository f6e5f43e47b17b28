"""The tokens of rows, cut to the windows that the encoder takes, as batches of fine-tuning need them.

Axes: N rows, n rows of a batch, W windows of them, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.alphabet import Letters
from embedcache.encoders.tokenizers.tokenizer import offsets_of
from embedcache.encoding import Encoding
from embedcache.packing import Windows, cut_windows, truncate
from embedcache.store import Store
from embedcache.tokens import Tokens
from heads.features import Rows
from heads.sequences import stored_sequences


@dataclass(frozen=True)
class TokenRows:
    """Tokens of N rows, each in one window or more."""

    windows: Windows
    first: NDArray[np.int64]
    """(N+1,) where the windows of each row begin."""
    lengths: NDArray[np.int64]
    """(N,) tokens of all windows of each row."""

    @classmethod
    def read(cls, store: Store, rows: Rows, encoding: Encoding) -> TokenRows:
        """Tokenize rows of a store, which must rise, as the extraction does."""
        parts, done = [], 0
        columns = encoding.readout.columns
        placed = store.read_rows(columns).take(pa.array(rows)) if columns else None
        for sequences in stored_sequences(store, rows):
            letters = encoding.letters(sequences)
            here = None if placed is None else placed.slice(done, len(sequences)).combine_chunks()
            parts.append(_tokens(letters, encoding, here))
            done += len(sequences)
        tokens = joined(parts)
        encoder = encoding.encoder
        if encoding.overlong == "truncate":
            tokens = truncate(tokens, encoder.token_limit, encoder.special)
        windows = cut_windows(tokens, encoder.token_limit, encoder.special)
        first = offsets_of(windows.counts)
        return cls(windows, first, np.add.reduceat(windows.tokens.lengths, first[:-1]))

    def __len__(self) -> int:
        return len(self.windows.counts)

    def of(self, positions_n: Rows) -> Selection:
        """The windows of some of the rows, those of equal length beside each other."""
        counts_n = self.windows.counts[positions_n]
        own_W = np.repeat(self.first[positions_n] - offsets_of(counts_n)[:-1], counts_n) + np.arange(counts_n.sum())
        order_W = np.argsort(-self.windows.tokens.lengths[own_W], kind="stable")
        return Selection(self.windows.tokens.take(own_W[order_W]), own_W[order_W], np.argsort(order_W), counts_n)


@dataclass(frozen=True)
class Selection:
    """The windows of n rows as a batch holds them."""

    tokens: Tokens
    """Of W windows, by falling length."""
    windows: NDArray[np.int64]
    """(W,) their numbers among all windows."""
    places: NDArray[np.int64]
    """(W,) where the windows of the first row, the second ... lie in the batch."""
    counts: NDArray[np.int64]
    """(n,) windows of each row."""


def _tokens(letters: Letters, encoding: Encoding, placed: pa.Table | None) -> Tokens:
    encoder = encoding.encoder
    positions = {} if placed is None else encoding.positions(placed, letters.lengths)
    return encoder.with_focus(encoder.tokenize(letters), letters, encoding.readout, positions)


def joined(parts: list[Tokens]) -> Tokens:
    """The sequences of all parts, in order."""
    if not parts:
        return Tokens(np.empty(0, np.int32), np.zeros(1, np.int64))
    lengths = np.concatenate([part.lengths for part in parts])
    focus = {pooling: np.concatenate([part.focus[pooling] for part in parts]) for pooling in parts[0].focus}
    return Tokens(np.concatenate([part.ids for part in parts]), offsets_of(lengths), focus)
