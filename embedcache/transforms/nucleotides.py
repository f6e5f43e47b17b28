"""Letters of DNA as numbers: what pairs with what, and what is no nucleotide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.errors import InputError
from embedcache.records import ID, SEQUENCE
from embedcache.sources.batches import letters_of

if TYPE_CHECKING:
    from embedcache.transforms.remade import Remade

IUPAC = "ACGTRYSWKMBDHVN"
"""Their places are their codes; all else has the code `OTHER`."""
OTHER = 15
PAIRED = "TGCAYRSWMKVHDBN"
GAPS = b"-.*"
FOREIGN, JUDGED = 0.1, 50
"""A record is refused where more than a tenth of at least fifty letters are no nucleotides."""

Bytes = NDArray[np.uint8]


def _codes() -> Bytes:
    table = np.full(256, OTHER, np.uint8)
    for code, letter in enumerate(IUPAC):
        table[[ord(letter), ord(letter.lower())]] = code
    table[[ord("U"), ord("u")]] = IUPAC.index("T")
    return table


def _complements() -> Bytes:
    table = np.arange(256, dtype=np.uint8)
    for letter, other in zip(IUPAC + "U", PAIRED + "A", strict=True):
        table[ord(letter)], table[ord(letter.lower())] = ord(other), ord(other.lower())
    return table


CODES, COMPLEMENTS = _codes(), _complements()
COMPLEMENT_CODES = np.array([*map(IUPAC.index, PAIRED), OTHER], np.uint8)


def reverse_complements(offsets: NDArray[np.int64], letters: Bytes) -> pa.Array:
    """The other strands of n sequences as large_string (n,)."""
    turned = COMPLEMENTS[letters[::-1]]  # the last sequence comes first
    backwards = np.ascontiguousarray(offsets[-1] - offsets[::-1])
    buffers = [None, pa.py_buffer(backwards), pa.py_buffer(turned)]
    last_first = pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)
    return last_first.take(pa.array(np.arange(len(offsets) - 1)[::-1]))


def check_nucleotides(to: Remade, portion: pa.RecordBatch) -> None:
    """Raise `InputError` for the first record that looks like protein: every amino acid letter would pass in silence."""
    offsets, letters = letters_of(portion.column(SEQUENCE))
    foreign = CODES[letters] == OTHER
    foreign &= ~np.isin(letters, np.frombuffer(GAPS, np.uint8))
    if not foreign.any():
        return
    counts = np.add.reduceat(foreign, offsets[:-1], dtype=np.int64)
    lengths = np.diff(offsets)
    bad = np.flatnonzero((counts > FOREIGN * lengths) & (lengths >= JUDGED))
    if len(bad):
        row = int(bad[0])
        inside = slice(int(offsets[row]), int(offsets[row + 1]))
        examples = ", ".join(map(chr, np.unique(letters[inside][foreign[inside]])[:6]))
        raise InputError(
            f"'{portion.column(ID)[row]}' of {to.name} has {counts[row]:,} letters of {lengths[row]:,} that are no "
            f"nucleotides (such as {examples}), so it looks like protein: {to.option} is for DNA, leave it out"
        )
