"""Which gene of an input has which token and median: by Ensembl id, by symbol, or by a name that it had before."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embedcache.errors import InputError
from embedcache.sources.side_file import SideFile

FEWEST = 0.1
"""Share of the genes of an input that must have a token; below it, names or species are not those of the encoder."""
CLS, EOS, PAD, MASK = "<cls>", "<eos>", "<pad>", "<mask>"
_VERSIONED = re.compile(r"(ENS[A-Z]*\d+)\.\d+")


@dataclass(frozen=True)
class GeneVocabulary:
    """The genes that an encoder knows, and how its cells are framed."""

    tokens: Mapping[str, int]
    limit: int
    """Longest cell in tokens, special ones included."""
    cls: int | None
    eos: int | None
    medians: Mapping[str, float] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    """Symbol -> Ensembl id."""
    synonyms: Mapping[str, str] = field(default_factory=dict)
    """Ensembl id (or symbol) -> the id that the tokens are listed under."""
    files: tuple[SideFile, ...] = ()

    @property
    def genes(self) -> int:
        """Genes that a cell may have at most; the lower ranks are cut off."""
        return self.limit - (self.cls is not None) - (self.eos is not None)

    def gene_of(self, name: str) -> str | None:
        """The gene's name among `tokens`; None for one without a token.

        A synonym is followed first, as the published tokenizer does, then the name itself is looked up, then as a symbol.
        The version of an Ensembl id (``ENSG00000139618.15``) is left out, and case does not matter.
        """
        bare = name.strip()
        versioned = _VERSIONED.fullmatch(bare.upper())
        written = (versioned[1],) if versioned else (bare, bare.upper()) if bare != bare.upper() else (bare,)
        for form in written:
            identified = self.names.get(form, "")
            for gene in (self.synonyms.get(form, ""), form, self.synonyms.get(identified, ""), identified):
                if gene in self.tokens and not gene.startswith("<"):
                    return gene
        return None

    def share(self, names: Iterable[str]) -> float:
        """The share of some names that have a token."""
        known = [self.gene_of(name) is not None for name in names]
        return sum(known) / len(known) if known else 0.0

    def map(self, names: Sequence[str]) -> GeneMap:
        """Look up the genes (G,) of an input."""
        genes = [self.gene_of(name) for name in names]
        tokens = np.array([-1 if gene is None else self.tokens[gene] for gene in genes], np.int64)
        medians = np.array([np.nan if gene is None else self.medians.get(gene, np.nan) for gene in genes])
        return GeneMap(tuple(names), tokens, medians)


@dataclass(frozen=True)
class GeneMap:
    """The tokens (G,) of an input's genes, -1 for those without one, and their medians (G,), NaN where there is none."""

    names: tuple[str, ...]
    tokens: NDArray[np.int64]
    medians: NDArray[np.float64]

    @property
    def known(self) -> int:
        """Genes that have a token."""
        return int((self.tokens >= 0).sum())

    @property
    def repeated(self) -> int:
        """Genes that have the token of an earlier one."""
        known = self.tokens[self.tokens >= 0]
        return len(known) - len(np.unique(known))

    def with_medians(self) -> GeneMap:
        """The same without the genes that have a token and no median."""
        return GeneMap(self.names, np.where(np.isnan(self.medians), -1, self.tokens), self.medians)

    def remark(self, called: str) -> str:
        """Say how many genes have a token, and name some that have none."""
        none = self._some(self.tokens < 0)
        without = f"; {len(self.names) - self.known:,} have none, such as {none}" if none else ""
        summed = f"; {self.repeated:,} share a token with another" if self.repeated else ""
        return f"genes    {self.known:,} of {len(self.names):,} ({called}) have a token{without}{summed}"

    def check(self, what: str, called: str, vocabulary: GeneVocabulary) -> None:
        """Raise `InputError` where so few genes have a token that the names must be of another kind or species."""
        if self.known >= max(FEWEST * len(self.names), 1):
            return
        theirs = [gene for gene in vocabulary.tokens if not gene.startswith("<")][:3]
        raise InputError(
            f"{what}: {self.known:,} of {len(self.names):,} genes ({called}) have a token, the least is {FEWEST:.0%}: they "
            f"are named {self._some(self.tokens < 0)}, those of the encoder {', '.join(theirs)}; for symbols give "
            "--gene-names (symbol and Ensembl id), for another species or annotation its ids, for a table check which way "
            "it lies (--genes-in)"
        )

    def _some(self, which: NDArray[np.bool_]) -> str:
        return ", ".join(self.names[at] for at in np.flatnonzero(which)[:3])
