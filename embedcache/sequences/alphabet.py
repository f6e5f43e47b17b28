"""Letters of DNA and protein, and cells as text: many sequences as one run of bytes, normalised, counted and digested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.errors import InputError

DNA = "dna"
PROTEIN = "protein"
CELL = "cell"
KNOWN = {DNA: b"ACGTN", PROTEIN: b"ACDEFGHIKLMNPQRSTVWYXBUZO.-", CELL: b"0123456789 "}
"""Letters that the encoders of an alphabet have a token for."""
_DIGITS = b"0123456789"
_SLICE = 1 << 22
_Scalar = TypeVar("_Scalar", bound=np.generic)
_A_CELL = "'144 1486 1256'"
_IUPAC_DNA = b"ACGTUNRYSWKMBDHV.-"
_COMPLEMENT = bytes.maketrans(b"ACGTURYSWKMBDHVNacgturyswkmbdhvn", b"TGCAAYRSWMKVHDBNtgcaayrswmkvhdbn")


@dataclass(frozen=True)
class Letters:
    """n sequences end to end: `bytes_` (letters,) uint8 and `offsets` (n+1,) int64."""

    bytes_: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Letters of each sequence, (n,)."""
        return np.diff(self.offsets)

    @classmethod
    def of(cls, sequences: Iterable[str] | pa.Array | pa.ChunkedArray) -> Letters:
        """Take the letters of strings, or of an Arrow string array without copying."""
        if isinstance(sequences, str):
            raise TypeError("give a list of sequences, not one string")
        if isinstance(sequences, pa.ChunkedArray):
            sequences = sequences.combine_chunks()
        if not isinstance(sequences, pa.Array):
            return cls.joined([sequence.encode("latin-1", "replace") for sequence in sequences])
        array = sequences.cast(pa.large_string())
        _, offset_buffer, data = array.buffers()
        offsets = np.frombuffer(offset_buffer, np.int64, len(array) + 1, array.offset * 8)
        start, stop = (int(offsets[0]), int(offsets[-1])) if len(array) else (0, 0)
        letters = np.frombuffer(data, np.uint8, stop - start, start) if stop > start else np.empty(0, np.uint8)
        return cls(letters, offsets - start)

    @classmethod
    def joined(cls, sequences: Sequence[bytes]) -> Letters:
        """Put the letters of sequences end to end."""
        offsets = np.zeros(len(sequences) + 1, np.int64)
        np.cumsum([len(sequence) for sequence in sequences], out=offsets[1:])
        return cls(np.frombuffer(b"".join(sequences), np.uint8), offsets)

    def __getitem__(self, rows: slice) -> Letters:
        """Neighbouring sequences, without copying."""
        first, last, _ = rows.indices(len(self))
        start, stop = self.offsets[first], self.offsets[max(first, last)]
        return Letters(self.bytes_[start:stop], self.offsets[first : last + 1] - start)

    def take(self, indices: NDArray[np.int64]) -> Letters:
        """The sequences at `indices`, in that order."""
        return Letters(*take_runs(self.bytes_, self.offsets, indices))


def take_runs(
    flat: NDArray[_Scalar], offsets: NDArray[np.int64], indices: NDArray[np.int64]
) -> tuple[NDArray[_Scalar], NDArray[np.int64]]:
    """Runs of a flat array by index: their elements end to end, and the new offsets."""
    taken = np.zeros(len(indices) + 1, np.int64)
    np.cumsum(offsets[indices + 1] - offsets[indices], out=taken[1:])
    starts, stops = offsets[indices].tolist(), offsets[indices + 1].tolist()
    runs = [flat[start:stop] for start, stop in zip(starts, stops, strict=True)]
    return np.concatenate(runs) if runs else flat[:0], taken


def _table(alphabet: str) -> NDArray[np.uint8]:
    table = np.arange(256, dtype=np.uint8)
    if alphabet == CELL:
        return table
    table[ord("a") : ord("z") + 1] -= 32
    if alphabet == DNA:
        table[[ord("u"), ord("U")]] = ord("T")
    return table


_TABLES = {alphabet: _table(alphabet) for alphabet in KNOWN}


def normalise(letters: Letters, alphabet: str) -> Letters:
    """Upper-case the letters of DNA and protein, and read U as T in DNA."""
    return Letters(_TABLES[alphabet][letters.bytes_], letters.offsets)


@dataclass
class LetterCounts:
    """How often each byte occurs in the input, before normalisation."""

    counts: NDArray[np.int64]

    @classmethod
    def none(cls) -> LetterCounts:
        """No letter yet."""
        return cls(np.zeros(256, np.int64))

    def add(self, letters: Letters) -> None:
        """Count more letters."""
        for start in range(0, len(letters.bytes_), _SLICE):  # bincount widens what it counts to 8 bytes a letter
            self.counts += np.bincount(letters.bytes_[start : start + _SLICE], minlength=256)

    def outside(self, alphabet: str) -> dict[str, int]:
        """Letters that the alphabet has no token for, with how often they occur."""
        upper = np.bincount(_TABLES[alphabet], weights=self.counts, minlength=256).astype(np.int64)
        return {chr(byte): int(upper[byte]) for byte in np.flatnonzero(upper) if byte not in KNOWN[alphabet]}

    def check(self, alphabet: str, encoder: str) -> None:
        """Refuse an input that looks like another alphabet.

        Every letter of DNA is also an amino acid, so a protein encoder would take DNA without a word: input that is to
        nine tenths A, C, G, T, U and N (a quarter in proteins) is refused. For DNA, more than one letter in ten outside the
        IUPAC codes is refused. Cells are digits and blanks, and sequences have no digits.

        Raises
        ------
        InputError : the input looks wrong for the encoder; ``--any-alphabet`` insists.
        """
        upper = np.bincount(_TABLES[PROTEIN], weights=self.counts, minlength=256)
        total = upper.sum()
        numbers = upper[list(_DIGITS)].sum()
        if alphabet == CELL and (others := self.outside(CELL)):
            raise InputError(
                f"the input holds letters such as {', '.join(list(others)[:6])}, but {encoder} encodes cells, which are "
                f"lists of token ids such as {_A_CELL}: take a DNA or protein encoder, or name the column of token ids "
                "with --sequence-column"
            )
        if alphabet != CELL and numbers > 0.5 * total:
            raise InputError(
                f"the input holds numbers, so it looks like the token ids of cells, but {encoder} encodes "
                f"{'DNA' if alphabet == DNA else 'proteins'}: take a Geneformer, or name the column of sequences with "
                "--sequence-column"
            )
        bases = upper[list(b"ACGTUN")].sum()
        if alphabet == PROTEIN and bases > 0.9 * total:
            raise InputError(
                f"{bases / total:.0%} of the input's letters are A, C, G, T, U or N, so it looks like DNA, but {encoder} "
                "encodes proteins: translate it first, take a DNA encoder, or insist with --any-alphabet"
            )
        foreign = total - upper[list(_IUPAC_DNA)].sum()
        if alphabet == DNA and foreign > 0.1 * total:
            examples = [chr(byte) for byte in np.flatnonzero(upper) if byte not in _IUPAC_DNA][:6]
            raise InputError(
                f"{foreign / total:.0%} of the input's letters are no nucleotides (such as {', '.join(examples)}), so it "
                f"looks like protein, but {encoder} encodes DNA: take a protein encoder, or insist with --any-alphabet"
            )


def digests(letters: Letters, alphabet: str, *, strands: bool = True) -> tuple[list[bytes], list[bytes | None]]:
    """Digest each normalised sequence, and for DNA its strand-canonical form (the smaller of the two strands' digests).

    blake2b of 16 bytes: equal digests mean equal sequences for all practical purposes. Without `strands` the second ones
    are None.
    """
    plain: list[bytes] = []
    canonical: list[bytes | None] = []
    view = memoryview(letters.bytes_.data)
    for start, stop in pairwise(letters.offsets.tolist()):
        sequence = bytes(view[start:stop])
        plain.append(_digest(sequence))
        strand = min(plain[-1], _digest(reverse_complement(sequence))) if strands and alphabet == DNA else None
        canonical.append(strand)
    return plain, canonical


def reverse_complement(sequence: bytes) -> bytes:
    """The other strand of DNA, from its own start; letters of the IUPAC code become their complements, U becomes A."""
    return sequence.translate(_COMPLEMENT)[::-1]


def _digest(sequence: bytes) -> bytes:
    return hashlib.blake2b(sequence, digest_size=16).digest()
