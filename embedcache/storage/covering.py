"""Which tokens cover each letter of a sequence, and the embeddings of letters that follow from it.

A letter has the embedding of the token that covers it, or, of overlapping tokens, the mean of all that do: what the pooling
``at:COLUMN`` gives for it. Special tokens cover no letter.

Axes: N records, T tokens without special ones, P positions (letters of all records), n positions of a read, D values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from embedcache.errors import StoreError
from embedcache.records import SEQUENCE
from embedcache.sequences.alphabet import Letters
from embedcache.storage.rowarray import Matrix, RowArray
from embedcache.storage.store import Store

if TYPE_CHECKING:
    from embedcache.encoding import Encoding

Places = NDArray[np.int64]
_LETTERS = 1 << 22
"""Letters that are tokenized together, about."""
_BUFFER_BYTES = 1 << 20
"""Of the float32 sums of letters that several tokens cover."""


@dataclass(frozen=True)
class Covering:
    """The tokens of each position: rows [first, first + count) of the embeddings of all tokens."""

    first: Places
    """(P,)"""
    counts: NDArray[np.int32]
    """(P,); 0 where no token covers the letter, or one that does was cut off."""

    @classmethod
    def of(cls, encoding: Encoding, letters: Letters, n_tokens: Places, kept: Places) -> Covering:
        """Lay the tokens of sequences over their letters.

        Parameters
        ----------
        letters : of n records, as `Encoding.letters` gives them.
        n_tokens : (n,) tokens of each, special ones included, before any were cut off.
        kept : (n,) tokens of each that have an embedding, its first ones.
        """
        encoder = encoding.encoder
        before, after = encoder.special
        spans_T2 = encoder.spans(letters)
        if len(spans_T2) != n_tokens.sum():
            raise StoreError(
                f"{encoder.name} makes {len(spans_T2):,} tokens of these sequences, and {int(n_tokens.sum()):,} were made "
                "of them: extract them again"
            )
        inner_n = n_tokens - before - after
        place_T = np.arange(len(spans_T2)) - np.repeat(np.cumsum(n_tokens) - n_tokens, n_tokens)
        inner_T = (place_T >= before) & (place_T < np.repeat(n_tokens - after, n_tokens))
        spans_T2 = spans_T2[inner_T] + np.repeat(letters.offsets[:-1], inner_n)[:, None]
        total = len(letters.bytes_)
        # tokens stand in the order of their letters: those that have begun by a letter, less those that are over
        begun_P, over_P = (np.cumsum(np.bincount(spans_T2[:, side], minlength=total + 1)[:total]) for side in (0, 1))
        starts_n, firsts_n = np.cumsum(inner_n) - inner_n, np.cumsum(kept) - kept
        over_P, begun_P = (
            np.asarray(passed_P - np.repeat(starts_n, letters.lengths), np.int64) for passed_P in (over_P, begun_P)
        )
        there_P = begun_P <= np.repeat(kept, letters.lengths)
        counts_P = np.where(there_P, begun_P - over_P, 0)
        first_P = np.where(counts_P > 0, over_P + np.repeat(firsts_n, letters.lengths), 0)
        return cls(first_P, counts_P.astype(np.int32))

    @classmethod
    def of_store(cls, store: Store, encoding: Encoding | None = None) -> Covering | None:
        """That of a store that keeps every token; None where the tokens are the letters, one for each.

        `encoding` made the store; None finds it by the store's record of it.

        Raises
        ------
        StoreError : the store does not say which letters its tokens cover.
        ModelError : its encoder, whose tokenizer does, is not to be had.
        """
        kept_N = np.diff(store.offsets)
        if np.array_equal(kept_N, letters_of(store)):
            return None
        if store.attrs["encoder"].get("imported") or SEQUENCE not in store.column_names:
            why = "they were imported" if store.attrs["encoder"].get("imported") else "it keeps no sequences"
            raise StoreError(
                f"{store.path} has not one token for each letter, and {why}: which letters a token covers is not known. "
                "Extract the sequences with --pool none"
            )
        if encoding is None:
            from embedcache.rawfeatures import RawFeatures, encoder_record  # which need torch

            record = encoder_record(store)
            encoding = RawFeatures.load(record, store.fingerprint, whose=str(store.path), device="cpu").encoding
        parts = list(cls._parts(store, encoding, kept_N))
        return cls(np.concatenate([part.first for part in parts]), np.concatenate([part.counts for part in parts]))

    @classmethod
    def _parts(cls, store: Store, encoding: Encoding, kept_N: Places) -> Iterator[Covering]:
        n_tokens_N = np.asarray(store.column("n_tokens"), np.int64)
        done = 0
        for sequences in store.sequences(np.arange(len(store))):
            blocks = np.cumsum(np.asarray(pc.binary_length(sequences), np.int64)) // _LETTERS
            for first, stop in pairwise([0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(sequences)]):
                rows = slice(done + first, done + stop)
                letters = encoding.letters(sequences.slice(first, stop - first))
                part = cls.of(encoding, letters, n_tokens_N[rows], kept_N[rows])
                yield cls(part.first + store.offsets[done + first], part.counts)
            done += len(sequences)

    def rows(self, tokens_TD: Matrix) -> CoveredRows:
        """The embeddings of all positions, over those of all tokens."""
        return CoveredRows(tokens_TD, self)


class CoveredRows(RowArray):
    """An array-like (P, D) over the tokens' (T, D); NaN where no token covers a position."""

    def __init__(self, tokens_TD: Matrix, covering: Covering) -> None:
        self.shape, self.dtype = (len(covering.first), tokens_TD.shape[1]), tokens_TD.dtype
        self._tokens_TD, self._covering = tokens_TD, covering
        self._several = bool((covering.counts > 1).any())

    def take(self, indices: NDArray[np.integer], out: NDArray[np.generic] | None = None) -> NDArray[np.generic]:
        """Gather positions by index, 0 <= index < P, into `out` (n, D) if it is given."""
        out = np.empty((len(indices), self.shape[1]), self.dtype) if out is None else out
        size = max(1, _BUFFER_BYTES // (4 * self.shape[1])) if self._several else max(len(indices), 1)
        for start in range(0, len(indices), size):
            part = slice(start, start + size)
            self._fill(self._covering.first[indices[part]], self._covering.counts[indices[part]], out[part])
        return out

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return positions [start, stop)."""
        return self.take(np.arange(start, stop))

    def _fill(self, first_n: Places, counts_n: NDArray[np.int32], out_nD: NDArray[np.generic]) -> None:
        if len(self._tokens_TD):
            _take(self._tokens_TD, first_n, out_nD)
        more = np.flatnonzero(counts_n > 1)
        if len(more):
            sums_mD: NDArray[np.float32] = out_nD[more].astype(np.float32)
            for step in range(1, int(counts_n[more].max())):
                here = np.flatnonzero(counts_n[more] > step)
                sums_mD[here] += _take(self._tokens_TD, first_n[more[here]] + step).astype(np.float32)
            out_nD[more] = sums_mD / counts_n[more][:, None]
        out_nD[counts_n == 0] = np.nan


def _take(tokens_TD: Matrix, rows: Places, out: NDArray[np.generic] | None = None) -> NDArray[np.generic]:
    if isinstance(tokens_TD, np.ndarray):
        return np.take(tokens_TD, rows, axis=0, out=out, mode="clip")
    return tokens_TD.take(rows, out)


def letters_of(store: Store) -> Places:
    """Letters of each record, (N,); of a record whose sequence is not known, its tokens."""
    tokens_N = np.diff(store.offsets)
    if "length" not in store.column_names:
        return tokens_N
    lengths = store.column("length").combine_chunks()
    known_N = np.asarray(lengths.is_valid())
    return np.where(known_N, np.asarray(lengths.fill_null(0), np.int64), tokens_N)
