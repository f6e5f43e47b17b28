"""Which tokenizer an encoder was published with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedcache.encoders.tokenizers.bpe import BytePairTokenizer
from embedcache.encoders.tokenizers.characters import CharacterTokenizer
from embedcache.encoders.tokenizers.genes import GeneTokenizer
from embedcache.encoders.tokenizers.kmers import OverlappingKmers
from embedcache.encoders.tokenizers.tokenizer import Tokenizer
from embedcache.encoders.tokenizers.words import (
    ESM_VOCABULARY,
    NT_V1_VOCABULARY,
    NT_V2_VOCABULARY,
    VocabularyTokenizer,
)

GENEFORMER_V1_VOCABULARY = 25426
"""Genes and specials of Geneformer V1, whose cells have no <cls> and <eos>; later ones begin and end with them."""


def read_tokenizer(directory: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Read the tokenizer in a model's folder, whose kind follows from its config.json.

    Raises
    ------
    ModelError : one of its files is missing or damaged.
    """
    if config.get("model_type") == "hyenadna":
        return CharacterTokenizer()
    if "alibi_starting_size" in config:
        return BytePairTokenizer.read(directory)
    if config.get("model_type") == "bert":
        return (
            gene_tokenizer(config["vocab_size"]) if config["hidden_act"] == "relu" else OverlappingKmers.read(directory)
        )
    return VocabularyTokenizer.read(directory)


def built_in_tokenizer(kind: str) -> Tokenizer:
    """The tokenizer of a kind of encoder (`registry.Entry.kind`) without its files.

    That of DNABERT-2 and DNABERT-S cannot be made without them: another one stands in, with about as many tokens.
    """
    if kind.startswith("dna-bert-"):
        return OverlappingKmers.of(int(kind.removeprefix("dna-bert-")))
    if kind.startswith("geneformer"):
        return gene_tokenizer(GENEFORMER_V1_VOCABULARY if kind == "geneformer-v1" else 20275)
    if kind == "hyenadna":
        return CharacterTokenizer()
    if kind == "mosaic":
        return BytePairTokenizer.stand_in()
    vocabulary = {"nt": NT_V1_VOCABULARY, "nt-v2": NT_V2_VOCABULARY}.get(kind, ESM_VOCABULARY)
    return VocabularyTokenizer(vocabulary, eos=vocabulary is ESM_VOCABULARY)


def gene_tokenizer(vocabulary: int) -> GeneTokenizer:
    """Geneformer's, by the size of its vocabulary."""
    specials = (None, None) if vocabulary == GENEFORMER_V1_VOCABULARY else (2, 3)
    return GeneTokenizer(vocabulary, *specials)
