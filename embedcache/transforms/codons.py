"""Genetic codes as look-up tables over codon numbers, so that whole batches are translated at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from embedcache.errors import InputError
from embedcache.transforms.nucleotides import COMPLEMENT_CODES, IUPAC

STOP = ord("*")
_UNKNOWN = ord("X")

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class GeneticCode:
    """One of NCBI's genetic codes; a codon of letters with codes a, b, c has the number 256 a + 16 b + c."""

    number: int
    name: str
    amino_acids: Bytes
    """(4096,) letter of each codon: ``*`` for a stop, X where an ambiguous codon may stand for several."""
    starts: NDArray[np.bool_]
    """(4096,) which codons a protein may begin with."""

    def translate(self, codes: Bytes, *, forward: bool) -> tuple[Bytes, NDArray[np.bool_]]:
        """Translate the codon at every place: (letters - 2,) amino acids, and whether a protein may begin there.

        On the other strand, the codon at a place is made of the complements of its three letters, last first.
        """
        if len(codes) < 3:
            return np.empty(0, np.uint8), np.empty(0, np.bool_)
        wide = codes.astype(np.uint16) if forward else COMPLEMENT_CODES[codes].astype(np.uint16)
        first, third = (wide[:-2], wide[2:]) if forward else (wide[2:], wide[:-2])
        codons = (first << 8) | (wide[1:-1] << 4) | third
        return self.amino_acids[codons], self.starts[codons]


@cache
def genetic_code(number: int) -> GeneticCode:
    """Return a code by NCBI's number, as Biopython translates it; raises `InputError` for a number that there is not."""
    from Bio import BiopythonWarning
    from Bio.Data.CodonTable import ambiguous_dna_by_id, unambiguous_dna_by_id
    from Bio.Seq import translate

    if number not in ambiguous_dna_by_id:
        known = ", ".join(map(str, sorted(ambiguous_dna_by_id)))
        raise InputError(
            f"there is no genetic code {number}: take one of {known} (1 is the standard, 11 that of bacteria)"
        )
    table = unambiguous_dna_by_id[number]
    amino_acids, starts = np.full(4096, _UNKNOWN, np.uint8), np.zeros(4096, np.bool_)
    codons = [(a, b, c) for a in range(len(IUPAC)) for b in range(len(IUPAC)) for c in range(len(IUPAC))]
    numbers = np.array([256 * a + 16 * b + c for a, b, c in codons])
    text = "".join(IUPAC[code] for codon in codons for code in codon)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", BiopythonWarning
        )  # some codes have codons that are both; they are read as amino acids
        amino_acids[numbers] = np.frombuffer(translate(text, table=number).encode(), np.uint8)
    for start in table.start_codons:
        a, b, c = map(IUPAC.index, start)
        starts[256 * a + 16 * b + c] = True
    return GeneticCode(number, str(table.names[0] or ""), amino_acids, starts)
