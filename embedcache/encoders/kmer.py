"""Encoders without weights: k-mer frequencies and one-hot letters, the baselines of every result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from embedcache.encoders.encoder import NUMERICS, Encoder, Origin
from embedcache.encoders.readout import Readout
from embedcache.errors import InputError, ModelError
from embedcache.fingerprint import fingerprint
from embedcache.sequences.alphabet import DNA, PROTEIN, Letters
from embedcache.sequences.pooling import check_pooling
from embedcache.sequences.tokens import Tokens

BASES, RESIDUES = "ACGT", "ACDEFGHIKLMNPQRSTVWY"
_MAX_K = {DNA: 8, PROTEIN: 3}
_SLICE = 1 << 22
"""Letters counted at a time, so that a whole chromosome needs no more memory than a batch of reads."""
_CELLS = 1 << 22
"""Counts held at a time."""


class KmerFrequencies:
    """Frequencies of the k-mers of a sequence, which sum to 1.

    For DNA a k-mer and its reverse complement count as one (canonical, ``(4^K + palindromes) / 2`` values), so that
    both strands of a read give the same vector; ``stranded`` keeps the 4^K apart. k-mers that touch a letter outside
    the alphabet (N, X) are not counted; a sequence without any k-mer gives zeros.
    """

    def __init__(self, k: int, alphabet: str, canonical: bool) -> None:
        if not 1 <= k <= _MAX_K[alphabet]:
            raise ModelError(f"kmer:{k} is outside what is supported for {alphabet}: K = 1..{_MAX_K[alphabet]}")
        self.k, self.alphabet = k, alphabet
        letters = BASES if alphabet == DNA else RESIDUES
        self._code = np.full(256, -1, np.int64)
        self._code[[ord(letter) for letter in letters]] = range(len(letters))
        self._size = len(letters)
        numbers = np.arange(self._size**k)
        columns = numbers
        if canonical:
            reverse, rest = np.zeros_like(numbers), numbers.copy()
            for _ in range(k):
                reverse, rest = reverse * 4 + 3 - rest % 4, rest // 4
            _, columns = np.unique(np.minimum(numbers, reverse), return_inverse=True)
        self._column = columns
        self.dim = int(columns.max()) + 1
        self.longest: int | None = None
        self.words = ["".join(word) for word in product(letters, repeat=k)]

    def __call__(self, letters: Letters) -> NDArray[np.float32]:
        """(n,) normalised sequences -> (n, dim) float32."""
        out = np.empty((len(letters), self.dim), np.float32)
        step = max(1, _CELLS // self.dim)
        for first in range(0, len(letters), step):
            out[first : first + step] = self._frequencies(letters[first : first + step])
        return out

    def _frequencies(self, letters: Letters) -> NDArray[np.float32]:
        counts = np.zeros(len(letters) * self.dim, np.int64)
        last = len(letters.bytes_) - self.k + 1
        for start in range(0, last, _SLICE):
            counts += self._counts(letters, start, min(start + _SLICE, last))
        per_row = counts.reshape(len(letters), self.dim)
        frequencies: NDArray[np.float32] = (per_row / np.maximum(per_row.sum(axis=1, keepdims=True), 1)).astype(
            np.float32
        )
        return frequencies

    def _counts(self, letters: Letters, start: int, stop: int) -> NDArray[np.int64]:
        """Count the k-mers that begin at letters [start, stop) of all sequences, (n * dim,)."""
        n, k = len(letters), self.k
        code = self._code[letters.bytes_[start : stop + k - 1]]
        number = np.zeros(stop - start, np.int64)
        valid = np.ones(stop - start, bool)
        for step in range(k):
            at = code[step : step + len(number)]
            number = number * self._size + at
            valid &= at >= 0
        row = np.repeat(np.arange(n), np.diff(np.clip(letters.offsets, start, stop)).astype(np.int64))
        valid &= np.arange(start, stop) + k <= letters.offsets[1:][row]
        return np.bincount(row[valid] * self.dim + self._column[number[valid]], minlength=n * self.dim)


class OneHot:
    """The first L letters as one-hot values, letter by letter; shorter sequences end in zeros, so do unknown letters."""

    def __init__(self, length: int, alphabet: str) -> None:
        if not 1 <= length <= 100_000:
            raise ModelError(f"onehot:{length} is outside what is supported: L = 1..100000")
        letters = BASES if alphabet == DNA else RESIDUES
        self.alphabet, self.longest = alphabet, length
        self._code = np.full(256, -1, np.int64)
        self._code[[ord(letter) for letter in letters]] = range(len(letters))
        self._size = len(letters)
        self.dim = length * len(letters)

    def __call__(self, letters: Letters) -> NDArray[np.float32]:
        """(n,) normalised sequences of at most L letters -> (n, L * letters of the alphabet) float32."""
        out = np.zeros((len(letters), self.dim), np.float32)
        code = self._code[letters.bytes_]
        row = np.repeat(np.arange(len(letters)), letters.lengths)
        within = np.arange(len(code)) - np.repeat(letters.offsets[:-1], letters.lengths)
        known = (code >= 0) & (within * self._size < self.dim)
        out[row[known], within[known] * self._size + code[known]] = 1.0
        return out


def composition(name: str) -> KmerFrequencies | OneHot:
    """Build the encoder that a name such as ``kmer:4``, ``kmer:2:protein`` or ``onehot:41`` stands for.

    Raises
    ------
    ModelError : the name is not of that form.
    """
    kind, *rest = name.lower().split(":")
    options = set(rest[1:])
    if not rest or not rest[0].isdigit() or options - {"stranded", "protein"} or kind not in ("kmer", "onehot"):
        raise ModelError(
            f"'{name}' is no encoder: write kmer:K, kmer:K:stranded, kmer:K:protein, onehot:L or onehot:L:protein with "
            "a whole number, such as kmer:4"
        )
    alphabet = PROTEIN if "protein" in options else DNA
    if kind == "onehot":
        return OneHot(int(rest[0]), alphabet)
    return KmerFrequencies(int(rest[0]), alphabet, canonical=alphabet == DNA and "stranded" not in options)


class CompositionEncoder(Encoder):
    """k-mer frequencies or one-hot letters, as an encoder with one layer and nothing to pool."""

    def __init__(self, origin: Origin, function: KmerFrequencies | OneHot) -> None:
        self.origin, self.function = origin, function
        self.alphabet, self.unit = function.alphabet, "letters"
        self.layers, self.hidden = 0, function.dim
        self.token_limit, self.special, self.excluded = function.longest, (0, 0), (0, 0)
        self.precision, self.device = "float32", torch.device("cpu")
        # Letters of a batch: less for wide vectors, whose counts take the memory.
        self.batch_tokens = max(1 << 12, min(1 << 20, (1 << 28) // function.dim))
        self.overlong = "window" if function.longest is None else "error"
        self.meaningless = False
        self.fingerprint = fingerprint(NUMERICS, origin.name.lower())

    def readout(self, poolings: Sequence[str] = ("mean",), layers: Sequence[str | int] | None = None) -> Readout:
        """One block of the encoder's own name; other layers or poolings than the defaults are refused."""
        for how in poolings:
            check_pooling(how)
        if tuple(poolings) != ("mean",) or len(layers or (-1,)) > 1:
            raise InputError(f"{self.name} has one vector a sequence: leave out --layer and --pool")
        readout = super().readout(poolings, layers)
        return Readout((replace(readout.blocks[0], name=self.name.lower()),))

    def tokenize(self, sequences: Sequence[str] | pa.Array | Letters) -> Tokens:
        letters = sequences if isinstance(sequences, Letters) else Letters.of(sequences)
        return Tokens(letters.bytes_, letters.offsets)

    def start(self, tokens: Tokens, readout: Readout, batch_tokens: int) -> Callable[[], NDArray[np.float32]]:
        vectors = self.function(Letters(tokens.ids.astype(np.uint8, copy=False), tokens.offsets))
        return lambda: vectors

    def hidden_states(self, sequences: Sequence[str]) -> list[NDArray[np.float32]]:
        raise InputError(f"{self.name} has no hidden states")

    def flops(self, tokens: float, length: float) -> float:
        return 0.0

    def environment(self) -> dict[str, str]:
        return {"device": "cpu"}
