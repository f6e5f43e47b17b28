"""What every tokenizer has in common: slices in, token ids out, special tokens around them."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.sequences.alphabet import Letters
from embedcache.sequences.tokens import Tokens

BLANKS = b" \t\n\v\f\r\x1c\x1d\x1e\x1f"
"""White space, as far as it is ASCII."""
SLICE = 1 << 18
"""Letters that are looked up together: few enough that what is made of them stays in the processor's cache."""
Located = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Tokens that are no special ones, in order: the letter (T,) that each begins with, and its id (T,)."""


class Tokenizer(ABC):
    """Letters to the ids that a published tokenizer gives them.

    A letter is one byte. Letters are taken as they are: no tokenizer upper-cases them.
    """

    alphabet: str
    special: tuple[int, int]
    """Special tokens before and after a sequence's own."""
    size: int
    """Every id is below this."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash over everything that decides the ids."""

    @abstractmethod
    def __call__(self, sequences: Sequence[str] | pa.Array | Letters) -> Tokens:
        """Token ids of n sequences, int32, special tokens included."""

    @abstractmethod
    def spans(self, letters: Letters) -> NDArray[np.int64]:
        """First letter and letter after the last that each token covers in its own sequence, (T, 2).

        T is the number of tokens of all the sequences; special tokens have (-1, -1).
        """

    @abstractmethod
    def name_of(self, token: int) -> str:
        """The word that an id stands for, for error messages."""


class TableTokenizer(Tokenizer):
    """A tokenizer that finds all tokens of a slice of sequences at once, and puts special tokens around each sequence.

    Parameters
    ----------
    vocabulary : the words in the order of their ids.
    first, last : the special words that a sequence begins and ends with, if any.
    """

    def __init__(self, vocabulary: Sequence[str], *, first: str | None, last: str | None) -> None:
        self.vocabulary = tuple(vocabulary)
        self.size = len(self.vocabulary)
        self.id_of = {word: i for i, word in enumerate(self.vocabulary)}
        self.first = None if first is None else self.id_of[first]
        self.last = None if last is None else self.id_of[last]
        self.special = int(first is not None), int(last is not None)

    @property
    def fingerprint(self) -> str:
        """Hash of the kind of tokenizer, its words and its special tokens."""
        return fingerprint_of(type(self).__name__, self.vocabulary, self.first, self.last)

    def name_of(self, token: int) -> str:
        return self.vocabulary[token]

    def __call__(self, sequences: Sequence[str] | pa.Array | Letters) -> Tokens:
        """Token ids of n sequences, int32, special tokens included."""
        letters = sequences if isinstance(sequences, Letters) else Letters.of(sequences)
        return end_to_end([self._tokens(part) for part in slices(letters)])

    def spans(self, letters: Letters) -> NDArray[np.int64]:
        parts = [self._spans(part) for part in slices(letters)]
        return np.concatenate(parts) if parts else np.empty((0, 2), np.int64)

    @abstractmethod
    def _locate(self, letters: Letters) -> Iterator[Located]:
        """The tokens of neighbouring sequences, or bit by bit those of one that is longer than a slice."""

    @abstractmethod
    def _stops(self, letters: Letters, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The letter after the last that each token covers, (T,)."""

    def _tokens(self, letters: Letters) -> Tokens:
        parts, counts = [], np.zeros(len(letters), np.int64)
        for starts, ids in self._locate(letters):
            counts += np.diff(np.searchsorted(starts, letters.offsets))
            parts.append(ids)
        out, inner, offsets = self._frame(counts)
        if len(parts) == 1:
            out[inner] = parts[0]
        else:  # bits of one long sequence
            at = self.special[0]
            for ids in parts:
                out[at : at + len(ids)] = ids
                at += len(ids)
        return Tokens(out, offsets)

    def _frame(self, counts: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.bool_], NDArray[np.int64]]:
        """The special tokens of n sequences, with room for `counts` (n,) others between them; where; and the offsets."""
        before, after = self.special
        offsets = offsets_of(counts + (before + after))
        out = np.empty(offsets[-1], np.int32)
        inner = np.ones(len(out), bool)
        if self.first is not None:
            out[offsets[:-1]] = self.first
            inner[offsets[:-1]] = False
        if self.last is not None:
            out[offsets[1:] - 1] = self.last
            inner[offsets[1:] - 1] = False
        return out, inner, offsets

    def _spans(self, letters: Letters) -> NDArray[np.int64]:
        starts = np.concatenate([np.empty(0, np.int64), *(starts for starts, _ in self._locate(letters))])
        stops = self._stops(letters, starts)
        counts = np.diff(np.searchsorted(starts, letters.offsets))
        _, inner, offsets = self._frame(counts)
        out = np.full((offsets[-1], 2), -1, np.int64)
        own = np.repeat(letters.offsets[:-1], counts)
        out[inner] = np.stack([starts - own, stops - own], axis=1)
        return out


def next_starts(letters: Letters, starts: NDArray[np.int64], skipped: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the next token of the same sequence begins, a letter that none covers is skipped, or the sequence ends, (T,).

    `skipped` are the places of such letters, in order.
    """
    stops = np.append(starts[1:], len(letters.bytes_))
    first_of = np.searchsorted(starts, letters.offsets)
    filled = first_of[1:] > first_of[:-1]
    stops[first_of[1:][filled] - 1] = letters.offsets[1:][filled]
    next_skipped = np.append(skipped, len(letters.bytes_))[np.searchsorted(skipped, starts)]
    return np.asarray(np.minimum(stops, next_skipped))


def slices(letters: Letters) -> Iterator[Letters]:
    """Neighbouring sequences of at most `SLICE` letters together, without copying; a longer sequence comes alone."""
    first = 0
    while first < len(letters):
        within = int(np.searchsorted(letters.offsets, letters.offsets[first] + SLICE, "right")) - 1
        last = max(within, first + 1)
        yield letters[first:last]
        first = last


def end_to_end(parts: Sequence[Tokens]) -> Tokens:
    """The sequences of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    lengths = [np.empty(0, np.int64), *(part.lengths for part in parts)]
    ids = np.concatenate([np.empty(0, np.int32), *(part.ids for part in parts)])
    return Tokens(ids, offsets_of(np.concatenate(lengths)))


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where runs of these lengths (n,) begin and end when they lie end to end, (n+1,)."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def look_up(table: bytes, letters: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The entry of a table of 256 bytes for each letter; `bytes.translate` is the fastest such loop there is."""
    return np.frombuffer(letters.tobytes().translate(table), np.uint8)


def table_of(default: int, entries: dict[bytes, int]) -> bytes:
    """A table of 256 bytes for `look_up`: every letter of a key has the key's value, all others the default."""
    table = bytearray([default]) * 256
    for keys, value in entries.items():
        for key in keys:
            table[key] = value
    return bytes(table)


def fingerprint_of(*parts: object) -> str:
    """Hash of anything that JSON can write."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
