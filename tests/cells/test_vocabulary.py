"""Genes are found under every name that they have, and a vocabulary that is another one's is noticed."""

from __future__ import annotations

import pytest

from embedcache.cells.vocabulary import GeneVocabulary
from embedcache.errors import InputError

VOCABULARY = GeneVocabulary(
    {"<pad>": 0, "<cls>": 2, "<eos>": 3, "ENSG00000141510": 4, "ENSG00000012048": 5, "ENSG00000000001": 6},
    4096,
    2,
    3,
    medians={"ENSG00000141510": 1.5},
    names={"TP53": "ENSG00000141510", "BRCA1": "ENSG00000999999", "C1ORF1": "ENSG00000000001"},
    synonyms={"ENSG00000999999": "ENSG00000012048", "ENSG00000000009": "ENSG00000777777"},
)


@pytest.mark.parametrize(
    ("name", "gene"),
    [
        ("ENSG00000141510", "ENSG00000141510"),
        (" ensg00000141510 ", "ENSG00000141510"),
        ("ENSG00000141510.17", "ENSG00000141510"),
        ("TP53", "ENSG00000141510"),
        ("tp53", "ENSG00000141510"),
        ("C1orf1", "ENSG00000000001"),
        ("ENSG00000999999", "ENSG00000012048"),
        ("ENSG00000999999.2", "ENSG00000012048"),
        ("BRCA1", "ENSG00000012048"),
        ("ENSG00000000009", None),
        ("<cls>", None),
        ("TP53.1", None),
        ("", None),
    ],
)
def test_a_gene_is_found_by_id_version_symbol_and_synonym(name: str, gene: str | None) -> None:
    assert VOCABULARY.gene_of(name) == gene


def test_genes_without_a_token_are_counted_and_named() -> None:
    genes = VOCABULARY.map(["TP53", "ENSG00000141510.3", "MT-CO1", "XIST"])
    assert genes.tokens.tolist() == [4, 4, -1, -1]
    assert genes.remark("index of var") == (
        "genes    2 of 4 (index of var) have a token; 2 have none, such as MT-CO1, XIST; 1 share a token with another"
    )


def test_genes_of_another_species_are_refused_with_examples_of_both() -> None:
    mouse = [f"ENSMUSG{number:011d}" for number in range(30)]
    with pytest.raises(InputError, match=r"0 of 30 genes.*ENSMUSG00000000000.*ENSG00000141510.*--gene-names"):
        VOCABULARY.map(mouse).check("cells.h5ad, X", "index of var", VOCABULARY)
    VOCABULARY.map([*mouse[:18], "TP53", "BRCA1"]).check("cells.h5ad, X", "index of var", VOCABULARY)
