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

CC_BY_NC_SA = "CC BY-NC-SA 4.0"
MIT = "MIT"


@dataclass(frozen=True)
class Entry:
    """One published encoder."""

    alias: str
    repo_id: str
    revision: str
    alphabet: str
    layers: int
    hidden: int
    heads: int
    token_limit: int
    """Longest input the encoder was trained for, in tokens with special ones."""
    mean_includes_special: bool
    """Whether the authors' mean runs over <cls> and <eos> too."""
    licence: str
    feed_forward_factor: int = 4
    model_type: str = "esm"

    @property
    def parameters(self) -> int:
        """Weights of the encoder without language-model heads, to three figures."""
        exact = self.layers * (4 + 2 * self.feed_forward_factor) * self.hidden**2 + self.vocabulary * self.hidden
        return int(float(f"{exact:.3g}"))

    @property
    def vocabulary(self) -> int:
        """Rows of the token embedding."""
        return 4105 if self.alphabet == "dna" else 33

    def config(self) -> Mapping[str, Any]:
        """The config.json that the encoder is published with, as far as it decides the architecture."""
        dna = self.alphabet == "dna"
        return {
            "model_type": self.model_type,
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.hidden * self.feed_forward_factor,
            "max_position_embeddings": 1002 if dna else 1026,
            "position_embedding_type": "absolute" if dna else "rotary",
            "layer_norm_eps": 1e-12 if dna else 1e-5,
            "pad_token_id": 1,
            "mask_token_id": 2 if dna else 32,
            "token_dropout": True,
            "emb_layer_norm_before": False,
        }


def _nt(alias: str, name: str, layers: int, hidden: int, heads: int) -> Entry:
    return Entry(alias, f"InstaDeepAI/{name}", "main", "dna", layers, hidden, heads, 1000, True, CC_BY_NC_SA)


def _esm2(alias: str, name: str, layers: int, hidden: int, heads: int, revision: str = "main") -> Entry:
    return Entry(alias, f"facebook/{name}", revision, "protein", layers, hidden, heads, 1024, False, MIT)


_ENTRIES = (
    _nt("nt500m", "nucleotide-transformer-500m-human-ref", 24, 1280, 20),
    _nt("nt500m-1000g", "nucleotide-transformer-500m-1000g", 24, 1280, 20),
    _nt("nt2b5-1000g", "nucleotide-transformer-2.5b-1000g", 32, 2560, 20),
    _nt("nt2b5-ms", "nucleotide-transformer-2.5b-multi-species", 32, 2560, 20),
    _esm2("esm2-8m", "esm2_t6_8M_UR50D", 6, 320, 20, "c731040fcd8d73dceaa04b0a8e6329b345b0f5df"),
    _esm2("esm2-35m", "esm2_t12_35M_UR50D", 12, 480, 20, "6fbf070e65b0b7291e7bbcd451118c216cff79d8"),
    _esm2("esm2-150m", "esm2_t30_150M_UR50D", 30, 640, 20, "a695f6045e2e32885fa60af20c13cb35398ce30c"),
    _esm2("esm2-650m", "esm2_t33_650M_UR50D", 33, 1280, 20, "08e4846e537177426273712802403f7ba8261b6c"),
    _esm2("esm2-3b", "esm2_t36_3B_UR50D", 36, 2560, 40),
    _esm2("esm2-15b", "esm2_t48_15B_UR50D", 48, 5120, 40),
    Entry(
        "fastesm2", "Synthyra/FastESM2_650", "main", "protein", 33, 1280, 20, 2048, True, MIT, model_type="fast_esm"
    ),
)  # fmt: skip

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
    entry = REGISTRY.get(bare.lower()) or BY_REPO.get(bare)
    if entry is not None:
        return entry.repo_id, revision or entry.revision, entry
    if re.fullmatch(r"[\w.-]+/[\w.-]+", bare):
        return bare, revision or "main", None
    close = difflib.get_close_matches(bare.lower(), [*REGISTRY, "kmer:4", "onehot:100"], n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ModelError(
        f"there is no encoder '{name}': {hint}Give an alias (see `embedcache models`), a hub id such as "
        "facebook/esm2_t6_8M_UR50D, or a folder with config.json and weights"
    )
