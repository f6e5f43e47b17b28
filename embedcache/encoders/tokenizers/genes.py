"""The tokenizer of Geneformer, whose sequences are cells: gene tokens, the most expressed gene first.

A cell comes as text, the ids of its genes separated by blanks (``2 144 1486 3``), so that cells can be stored, digested
and deduplicated as sequences are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.encoders.tokenizers.tokenizer import (
    Tokenizer,
    end_to_end,
    fingerprint_of,
    look_up,
    offsets_of,
    slices,
    table_of,
)
from embedcache.errors import CellError
from embedcache.sequences.alphabet import CELL, Letters
from embedcache.sequences.tokens import Tokens

_BLANK, _FOREIGN = 10, 11
_DIGITS = table_of(_FOREIGN, {b" ": _BLANK, **{str(digit).encode(): digit for digit in range(10)}})
_LONGEST = 9
"""Digits of the longest number that is read: longer ones do not fit into 32 bits."""


class GeneTokenizer(Tokenizer):
    """Ids of genes, read from text.

    Parameters
    ----------
    size : rows of the embedding; every id must be below it.
    cls, eos : the ids that begin and end a cell (2 and 3 in Geneformer V2, none in V1); each is added to a cell that
        lacks it.
    """

    alphabet = CELL

    def __init__(self, size: int, cls: int | None, eos: int | None) -> None:
        self.size, self.cls, self.eos = size, cls, eos
        self.special = int(cls is not None), int(eos is not None)

    @property
    def fingerprint(self) -> str:
        """Hash of the number of ids and the special ones."""
        return fingerprint_of(type(self).__name__, self.size, self.cls, self.eos)

    def name_of(self, token: int) -> str:
        return str(token)

    def __call__(self, sequences: Sequence[str] | pa.Array | Letters) -> Tokens:
        """Ids of n cells, int32, special tokens included.

        Raises
        ------
        CellError : something is no whole number below `size`; the cell is named by its index.
        """
        letters = sequences if isinstance(sequences, Letters) else Letters.of(sequences)
        parts, first = [], 0
        for part in slices(letters):
            parts.append(self._with_special(*self._parse(part, first)))
            first += len(part)
        return end_to_end(parts)

    def spans(self, letters: Letters) -> NDArray[np.int64]:
        """The place of each token among its cell's own genes: gene j covers [j, j + 1), special tokens (-1, -1)."""
        tokens = self(letters)
        first, last = tokens.offsets[:-1], tokens.offsets[1:] - 1
        before, after = self.special
        gene = np.arange(len(tokens.ids)) - np.repeat(first + before, tokens.lengths)
        spans = np.stack([gene, gene + 1], axis=1)
        if before:
            spans[first] = -1
        if after:
            spans[last] = -1
        return spans

    def _parse(self, letters: Letters, first: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The numbers of n cells, and how many each has; `first` is the index of the first cell, for messages."""
        digits = look_up(_DIGITS, letters.bytes_)
        foreign = np.flatnonzero(digits == _FOREIGN)
        if len(foreign):
            raise self._refused(letters, first, int(foreign[0]), "is no token id")
        inside = np.zeros(len(digits) + 1, bool)
        np.less(digits, _BLANK, out=inside[:-1])
        opens = inside[:-1].copy()
        opens[1:] &= ~inside[:-2]
        borders = letters.offsets[:-1][letters.lengths > 0]
        opens[borders] = inside[borders]
        starts = np.flatnonzero(opens)
        closes = ~inside[1:]
        closes[letters.offsets[1:][letters.lengths > 0] - 1] = True
        closes &= inside[:-1]
        ends = np.flatnonzero(closes)
        lengths = ends - starts + 1
        longest = int(lengths.max(initial=0))
        if longest > _LONGEST:
            raise self._refused(letters, first, int(starts[lengths.argmax()]), "is too long for a token id")
        ids = np.take(digits, ends).astype(np.int32)
        for place in range(1, longest):
            digit = np.take(digits, ends - place, mode="clip").astype(np.int32) * 10**place
            ids += np.where(lengths > place, digit, 0)
        beyond = np.flatnonzero(ids >= self.size)
        if len(beyond):
            here = int(starts[beyond[0]])
            raise self._refused(letters, first, here, f"is beyond the encoder's {self.size:,} token ids")
        return ids, np.diff(np.searchsorted(starts, letters.offsets))

    def _with_special(self, ids: NDArray[np.int32], counts: NDArray[np.int64]) -> Tokens:
        offsets = offsets_of(counts)
        opening = np.zeros(len(counts), bool)
        closing = np.zeros(len(counts), bool)
        filled = np.flatnonzero(counts)
        if self.cls is not None:
            opening[:] = True
            opening[filled] = ids[offsets[filled]] != self.cls
        if self.eos is not None:
            closing[:] = True
            closing[filled] = ids[offsets[filled + 1] - 1] != self.eos
        framed = offsets_of(counts + opening + closing)
        out = np.empty(framed[-1], np.int32)
        inner = np.ones(len(out), bool)
        for places, token in ((framed[:-1][opening], self.cls), (framed[1:][closing] - 1, self.eos)):
            if token is not None:
                out[places] = token
                inner[places] = False
        out[inner] = ids
        return Tokens(out, framed)

    def _refused(self, letters: Letters, first: int, at: int, why: str) -> CellError:
        cell = int(np.searchsorted(letters.offsets, at, "right")) - 1
        start, stop = int(letters.offsets[cell]), int(letters.offsets[cell + 1])
        text = letters.bytes_[start:stop].tobytes().decode("latin-1")
        begin = text.rfind(" ", 0, at - start) + 1
        word = text[begin:].split(" ", 1)[0]
        word = word if len(word) <= 20 else word[:20] + "..."
        return CellError(
            first + cell,
            f"'{word}' {why}; a cell is its genes' token ids with blanks between, such as '144 1486 1256', the most "
            "expressed gene first",
        )
