"""The tokens of rows, passage by passage, cut to the windows that the encoder takes.

What the encoder reads of a row are its passages (`embedcache.sequences.passages`): its sequence, or one for each view and
strand.

Axes: N rows, n rows of a batch, V views, S strands, P passages, W windows of passages, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.encoders.tokenizers.tokenizer import offsets_of
from embedcache.encoding import Encoding
from embedcache.sequences.packing import Windows, cut_windows
from embedcache.sequences.passages import Passages
from embedcache.sequences.tokens import Tokens
from embedcache.storage.store import Store
from heads.data.features import Rows


@dataclass(frozen=True)
class TokenRows:
    """Tokens of N rows: which passages each has, and the windows of every passage."""

    of_NVS: NDArray[np.int64]
    windows: Windows
    """Of P passages."""
    first: NDArray[np.int64]
    """(P+1,) where the windows of each passage begin."""
    passage_tokens: NDArray[np.int64]
    """(P,) tokens of all windows of each passage."""

    @classmethod
    def read(cls, store: Store, rows: Rows, encoding: Encoding) -> TokenRows:
        """Cut and tokenize rows of a store, which must rise, as the extraction does."""
        tokens, numbers = [], []
        columns = encoding.columns
        placed = store.read_rows(columns).take(pa.array(rows)) if columns else None
        done = passages = 0
        for sequences in store.sequences(rows):
            letters = encoding.letters(sequences)
            here = None if placed is None else placed.slice(done, len(sequences)).combine_chunks()
            found = Passages.of(encoding, letters, {} if here is None else encoding.positions(here, letters.lengths))
            tokens.append(found.tokens)
            numbers.append(found.of_nVS + passages)
            passages += len(found.tokens)
            done += len(sequences)
        windows = cut_windows(joined(tokens), encoding.encoder.token_limit, encoding.encoder.special)
        first = offsets_of(windows.counts)
        return cls(np.concatenate(numbers), windows, first, np.add.reduceat(windows.tokens.lengths, first[:-1]))

    def __len__(self) -> int:
        return len(self.of_NVS)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of all passages of each row."""
        lengths: NDArray[np.int64] = self.passage_tokens[self.of_NVS].sum(axis=(1, 2))
        return lengths

    def of(self, positions_n: Rows) -> Selection:
        """The windows of some of the rows, those of equal length beside each other."""
        of_nVS = self.of_NVS[positions_n]
        passages_P = of_nVS.ravel()
        counts_P = self.windows.counts[passages_P]
        own_W = np.repeat(self.first[passages_P] - offsets_of(counts_P)[:-1], counts_P) + np.arange(counts_P.sum())
        order_W = np.argsort(-self.windows.tokens.lengths[own_W], kind="stable")
        return Selection(
            self.windows.tokens.take(own_W[order_W]), own_W[order_W], np.argsort(order_W), counts_P, of_nVS.shape
        )


@dataclass(frozen=True)
class Selection:
    """The windows of the passages of n rows as a batch holds them."""

    tokens: Tokens
    """Of W windows, by falling length."""
    windows: NDArray[np.int64]
    """(W,) their numbers among all windows."""
    places: NDArray[np.int64]
    """(W,) where the windows of the first passage, the second ... lie in the batch."""
    counts: NDArray[np.int64]
    """(P,) windows of each passage, those of the first row first."""
    shape: tuple[int, ...]
    """(n, V, S)."""


def joined(parts: list[Tokens]) -> Tokens:
    """The sequences of all parts, in order."""
    lengths = np.concatenate([part.lengths for part in parts])
    focus = {pooling: np.concatenate([part.focus[pooling] for part in parts]) for pooling in parts[0].focus}
    return Tokens(np.concatenate([part.ids for part in parts]), offsets_of(lengths), focus)
