"""The encoders known by a short name: where they are published and what their authors recommend.

Sizes are those of the published config.json; they are used for ``--random-weights`` and for listing only, a real load
reads the file. A revision is a hub commit where one could be verified, otherwise ``main``: the commit that ``main`` was
at download is then recorded in every store, and ``--model alias@COMMIT`` pins it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedcache.errors import ModelError
from embedcache.sequences.alphabet import CELL, DNA, PROTEIN

CC_BY_NC_SA, APACHE, BSD, MIT = "CC BY-NC-SA 4.0", "Apache-2.0", "BSD-3-Clause", "MIT"


@dataclass(frozen=True)
class Group:
    """Encoders that were published together."""

    name: str
    takes: str
    """What goes in, and as what tokens."""
    pooling: str = "as its authors have it"
    """Where the pooling and layer of its entries come from."""


@dataclass(frozen=True)
class Entry:
    """One published encoder."""

    alias: str
    repo_id: str
    kind: str
    """Which of the config.json templates below it is published with, and which tokenizer."""
    layers: int
    hidden: int
    heads: int
    feed_forward: int
    token_limit: int
    """Longest input the encoder was trained for, in tokens with special ones."""
    licence: str
    pooling: str = "mean:all"
    """The authors': ``mean:all`` with special tokens, ``mean:inner`` without them."""
    layer: int = -1
    """The hidden state that the authors take."""
    revision: str = "main"

    @property
    def alphabet(self) -> str:
        """What its sequences are: dna, protein or cell."""
        return {"esm2": PROTEIN, "fastesm2": PROTEIN, "geneformer-v1": CELL, "geneformer-v2": CELL}.get(self.kind, DNA)

    @property
    def group(self) -> Group:
        """What it was published with."""
        return GROUPS[self.kind]

    @property
    def parameters(self) -> int:
        """Weights of the encoder without language-model heads and poolers."""
        from embedcache.encoders.families import recognise

        family, config = recognise(self.config(), self.alias)
        return family.parameters(config)

    def config(self) -> Mapping[str, Any]:
        """The config.json that the encoder is published with, as far as it decides the architecture."""
        if self.kind == "hyenadna":
            return {
                "model_type": "hyenadna", "vocab_size": 12, "pad_vocab_size_multiple": 8, "d_model": self.hidden,
                "n_layer": self.layers, "d_inner": self.feed_forward, "max_seq_len": self.token_limit, "emb_dim": 5,
                "filter_order": 64, "hyena_order": 2, "short_filter_order": 3, "num_inner_mlps": 2,
                "activation_freq": 10, "layer_norm_epsilon": 1e-5, "train_freq": True, "use_bias": True,
            }  # fmt: skip
        sizes = {
            "hidden_size": self.hidden, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "intermediate_size": self.feed_forward,
        }  # fmt: skip
        return {**sizes, **_TEMPLATES[self.kind]}


def _esm(vocabulary: int, positions: str, longest: int, eps: float, mask: int, **more: object) -> dict[str, object]:
    return {
        "model_type": "esm", "vocab_size": vocabulary, "position_embedding_type": positions,
        "max_position_embeddings": longest, "layer_norm_eps": eps, "pad_token_id": 1, "mask_token_id": mask,
        "token_dropout": True, "emb_layer_norm_before": False,
    } | more  # fmt: skip


def _bert(vocabulary: int, longest: int, activation: str = "gelu") -> dict[str, object]:
    return {
        "model_type": "bert", "vocab_size": vocabulary, "max_position_embeddings": longest, "hidden_act": activation,
        "layer_norm_eps": 1e-12, "type_vocab_size": 2, "pad_token_id": 0,
    }  # fmt: skip


_TEMPLATES: Mapping[str, Mapping[str, object]] = {
    "nt": _esm(4105, "absolute", 1002, 1e-12, 2),
    "nt-v2": _esm(4107, "rotary", 2050, 1e-12, 2, token_dropout=False, add_bias_fnn=False),
    "esm2": _esm(33, "rotary", 1026, 1e-5, 32),
    "fastesm2": _esm(33, "rotary", 1026, 1e-5, 32, model_type="fast_esm"),
    "mosaic": _bert(4096, 512) | {"alibi_starting_size": 512},
    **{f"dna-bert-{k}": _bert(4**k + 5, 512) for k in (3, 4, 5, 6)},
    "geneformer-v1": _bert(25426, 2048, "relu"),
    "geneformer-v2": _bert(20275, 4096, "relu"),
}


_SIX_MERS = "DNA in 6-mers ({} tokens are {} letters); N, and what is left over at the end, letter by letter"
_DNA_BERT = Group("DNA_bert", "DNA in overlapping 3-, 4-, 5- or 6-mers, a token for each letter")
_GENEFORMER = Group("Geneformer", "cells: the genes of a cell in the order of their expression")
GROUPS: Mapping[str, Group] = {
    "mosaic": Group("DNABERT-2 and DNABERT-S", "DNA in words of about 5 letters; there is no token for N"),
    **{f"dna-bert-{k}": _DNA_BERT for k in (3, 4, 5, 6)},
    "nt": Group("Nucleotide Transformer v1", _SIX_MERS.format("1,000", "5,994")),
    "nt-v2": Group("Nucleotide Transformer v2", _SIX_MERS.format("2,048", "12,282")),
    "fastesm2": Group("FastESM2", "proteins, a token for each residue"),
    "esm2": Group("ESM-2", "proteins, a token for each residue"),
    "hyenadna": Group(
        "HyenaDNA", "DNA, a token for each letter, which sees only what stands before it", "its authors prescribe none"
    ),
    "geneformer-v1": _GENEFORMER,
    "geneformer-v2": _GENEFORMER,
}


def _nt(alias: str, name: str, layers: int, hidden: int, heads: int) -> Entry:
    repo_id = f"InstaDeepAI/nucleotide-transformer-{name}"
    return Entry(alias, repo_id, "nt", layers, hidden, heads, 4 * hidden, 1000, CC_BY_NC_SA)


def _nt2(size: str, layers: int, hidden: int) -> Entry:
    repo_id = f"InstaDeepAI/nucleotide-transformer-v2-{size}-multi-species"
    return Entry(f"nt-v2-{size}", repo_id, "nt-v2", layers, hidden, 16, 4 * hidden, 2048, CC_BY_NC_SA)


def _esm2(size: str, layers: int, hidden: int, heads: int, revision: str = "main") -> Entry:
    repo_id = f"facebook/esm2_t{layers}_{size.upper()}_UR50D"
    limit, pooling = 1024, "mean:inner"
    return Entry(
        f"esm2-{size}", repo_id, "esm2", layers, hidden, heads, 4 * hidden, limit, MIT, pooling, revision=revision
    )


def _hyena(alias: str, name: str, layers: int, hidden: int, length: int) -> Entry:
    repo_id = f"LongSafari/hyenadna-{name}-hf"
    return Entry(f"hyenadna-{alias}", repo_id, "hyenadna", layers, hidden, 1, 4 * hidden, length, BSD, "mean:inner")


def _geneformer(
    alias: str, name: str, kind: str, layers: int, hidden: int, heads: int, inner: int, limit: int
) -> Entry:
    repo_id = f"ctheodoris/Geneformer/{name}"
    return Entry(alias, repo_id, kind, layers, hidden, heads, inner, limit, APACHE, "mean:inner", layer=-2)


_DNABERT2_COMMIT = "d064dece8a8b41d9fb8729fbe3435278786931f1"
_ENTRIES = (
    Entry("dnabert-s", "zhihan1996/DNABERT-S", "mosaic", 12, 768, 12, 3072, 2048, APACHE),
    Entry("dnabert2", "zhihan1996/DNABERT-2-117M", "mosaic", 12, 768, 12, 3072, 2048, APACHE, revision=_DNABERT2_COMMIT),
    *(Entry(f"dnabert{k}", f"zhihan1996/DNA_bert_{k}", f"dna-bert-{k}", 12, 768, 12, 3072, 512, APACHE)
      for k in (3, 4, 5, 6)),
    _nt("nt500m", "500m-human-ref", 24, 1280, 20),
    _nt("nt500m-1000g", "500m-1000g", 24, 1280, 20),
    _nt("nt2b5-1000g", "2.5b-1000g", 32, 2560, 20),
    _nt("nt2b5-ms", "2.5b-multi-species", 32, 2560, 20),
    _nt2("50m", 12, 512),
    _nt2("100m", 22, 512),
    _nt2("250m", 24, 768),
    _nt2("500m", 29, 1024),
    Entry("fastesm2", "Synthyra/FastESM2_650", "fastesm2", 33, 1280, 20, 5120, 2048, MIT),
    _esm2("8m", 6, 320, 20, "c731040fcd8d73dceaa04b0a8e6329b345b0f5df"),
    _esm2("35m", 12, 480, 20, "6fbf070e65b0b7291e7bbcd451118c216cff79d8"),
    _esm2("150m", 30, 640, 20, "a695f6045e2e32885fa60af20c13cb35398ce30c"),
    _esm2("650m", 33, 1280, 20, "08e4846e537177426273712802403f7ba8261b6c"),
    _esm2("3b", 36, 2560, 40),
    _esm2("15b", 48, 5120, 40),
    _hyena("tiny-1k", "tiny-1k-seqlen", 2, 128, 1026),
    _hyena("tiny-1k-d256", "tiny-1k-seqlen-d256", 2, 256, 1026),
    _hyena("tiny-16k", "tiny-16k-seqlen-d128", 2, 128, 16386),
    _hyena("small-32k", "small-32k-seqlen", 4, 256, 32770),
    _hyena("medium-160k", "medium-160k-seqlen", 8, 256, 160002),
    _hyena("medium-450k", "medium-450k-seqlen", 8, 256, 450002),
    _hyena("large-1m", "large-1m-seqlen", 8, 256, 1000002),
    _geneformer("geneformer-v1-10m", "Geneformer-V1-10M", "geneformer-v1", 6, 256, 4, 512, 2048),
    _geneformer("geneformer-v2-104m", "Geneformer-V2-104M", "geneformer-v2", 12, 768, 12, 3072, 4096),
    _geneformer("geneformer-v2-316m", "Geneformer-V2-316M", "geneformer-v2", 18, 1152, 18, 4608, 4096),
)  # fmt: skip

SHORT: Mapping[str, str] = {
    "hyenadna-16k": "hyenadna-tiny-16k",
    "hyenadna-32k": "hyenadna-small-32k",
    "hyenadna-160k": "hyenadna-medium-160k",
    "hyenadna-450k": "hyenadna-medium-450k",
    "hyenadna-1m": "hyenadna-large-1m",
}
"""Second names of some aliases."""
REGISTRY: Mapping[str, Entry] = {entry.alias: entry for entry in _ENTRIES}
BY_REPO: Mapping[str, Entry] = {entry.repo_id: entry for entry in _ENTRIES}
WEIGHT_FREE = {
    "kmer:K": "k-mer frequencies, both strands counted as one (K = 1..8); kmer:K:stranded, kmer:K:protein (K = 1..3)",
    "onehot:L": "the first L letters one-hot, L x 4 values; onehot:L:protein, L x 20",
}


def find(name: str) -> tuple[str, str, Entry | None]:
    """Resolve an alias or hub id, with ``@revision`` if given: hub id, revision, and the registry's entry if any.

    Raises
    ------
    ModelError : `name` is neither an alias nor of the form ``organisation/name``; close aliases are named.
    """
    bare, _, revision = name.partition("@")
    alias = SHORT.get(bare.lower(), bare.lower())
    entry = REGISTRY.get(alias) or BY_REPO.get(bare)
    if entry is not None:
        return entry.repo_id, revision or entry.revision, entry
    if re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w.-]+)?", bare):
        return bare, revision or "main", None
    close = difflib.get_close_matches(bare.lower(), [*REGISTRY, *SHORT, "kmer:4", "onehot:100"], n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ModelError(
        f"there is no encoder '{name}': {hint}Give an alias (see `embedcache models`), a hub id such as "
        "facebook/esm2_t6_8M_UR50D, or a folder with config.json and weights"
    )
