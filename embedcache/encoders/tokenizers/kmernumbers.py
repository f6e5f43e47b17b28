"""k-mers as numbers: A, C, G, T are the digits 0, 1, 2, 3, the first letter counts most."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from embedcache.encoders.tokenizers.tokenizer import table_of

BASES = table_of(4, {b"A": 0, b"C": 1, b"G": 2, b"T": 3})
"""Digit of each letter; 4 for all that are no upper-case A, C, G or T."""


def kmers(k: int, order: str = "ACGT") -> list[str]:
    """All k-mers, the last letter running fastest; in the order ACGT, each stands at its number."""
    return ["".join(kmer) for kmer in product(order, repeat=k)]


def numbers_of(digits: NDArray[np.uint8], k: int) -> NDArray[np.uint32]:
    """Number of the k-mer that begins at each letter, (n,), for k = 1..15.

    The last k - 1, which have too few letters, and those that hold a digit above 3 are some number below 4^k.
    """
    digit = np.zeros(len(digits) + k - 1, np.uint32)
    digit[: len(digits)] = digits & 3
    number, width = digit, 1
    for bit in f"{k:b}"[1:]:  # k letters by doubling: the number of 2w letters, and of one more where k needs it
        number = (number[:-width] << np.uint32(2 * width)) | number[width:]
        width *= 2
        if bit == "1":
            number = (number[:-1] << np.uint32(2)) | digit[width:]
            width += 1
    return number
