"""Letters to token ids, as the published tokenizers give them."""

from __future__ import annotations

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

__all__ = [
    "ESM_VOCABULARY",
    "NT_V1_VOCABULARY",
    "NT_V2_VOCABULARY",
    "BytePairTokenizer",
    "CharacterTokenizer",
    "GeneTokenizer",
    "OverlappingKmers",
    "Tokenizer",
    "VocabularyTokenizer",
]
