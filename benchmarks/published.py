"""The encoders that extraction is measured with, written with random weights in the format they are published in.

Depth, width and vocabulary are those of the published checkpoints, so that the arithmetic is theirs; `narrowed` gives
two narrow layers of the same kind for the tests. Each comes with the mix of sequence lengths that it is given: reads
and windows for the DNA encoders (halved for DNA_bert_6, which takes 512 tokens), proteins for ESM-2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from benchmarks.simulate import simulate_dna, simulate_protein

SIX_MERS = ["".join(letters) for letters in product("ATCG", repeat=6)]


@dataclass(frozen=True)
class Published:
    """One encoder, and the sequences that it is given."""

    name: str
    layers: int
    hidden: int
    heads: int
    config: Mapping[str, object]
    """What config.json holds besides the sizes."""
    vocabulary: tuple[str, ...]
    tokenizer: Mapping[str, object]
    """tokenizer_config.json."""
    lengths: tuple[int, int, int]
    """Shortest, mean and longest sequence in letters."""
    simulate: Callable[[int, tuple[int, int, int], np.random.Generator], list[str]] = simulate_dna
    overlapping: int | None = None
    """The published tokenizer wants overlapping words of so many letters, joined by blanks, instead of letters."""
    special_in_mean: bool = True
    """Whether the mean that the encoder's authors take runs over the special tokens too."""

    def narrowed(self) -> Published:
        """Two narrow layers of the same kind."""
        return replace(self, layers=2, hidden=64, heads=4)

    def text(self, sequence: str) -> str:
        """The sequence as the published tokenizer takes it."""
        if self.overlapping is None:
            return sequence
        return " ".join(sequence[i : i + self.overlapping] for i in range(len(sequence) - self.overlapping + 1))

    def write(self, directory: Path) -> None:
        """Write config.json, model.safetensors, vocab.txt and tokenizer_config.json; the same weights each time."""
        from transformers import BertConfig, BertModel, EsmConfig, EsmModel

        sizes = {
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "intermediate_size": 4 * self.hidden,
        }
        model, config = (BertModel, BertConfig) if self.config["model_type"] == "bert" else (EsmModel, EsmConfig)
        torch.manual_seed(0)
        settings = {key: value for key, value in self.config.items() if key != "model_type"} | sizes
        model(config(**settings), add_pooling_layer=False).save_pretrained(directory)
        (directory / "vocab.txt").write_text("\n".join(self.vocabulary))
        (directory / "tokenizer_config.json").write_text(json.dumps(dict(self.tokenizer)))


DNA_BERT_6 = Published(
    "DNA_bert_6",
    layers=12,
    hidden=768,
    heads=12,
    config={
        "model_type": "bert",
        "vocab_size": 4101,
        "max_position_embeddings": 512,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    },
    vocabulary=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SIX_MERS),
    tokenizer={"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": 512},
    lengths=(50, 215, 512),
    overlapping=6,
)

NT_500M = Published(
    "nt500m",
    layers=24,
    hidden=1280,
    heads=20,
    config={
        "model_type": "esm",
        "vocab_size": 4105,
        "max_position_embeddings": 1002,
        "position_embedding_type": "absolute",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 1,
        "mask_token_id": 2,
        "token_dropout": True,
        "emb_layer_norm_before": False,
    },
    vocabulary=("<unk>", "<pad>", "<mask>", "<cls>", *SIX_MERS, "A", "T", "C", "G", "N", "<eos>", "<bos>"),
    tokenizer={"tokenizer_class": "EsmTokenizer", "eos_token": None, "model_max_length": 1000},
    lengths=(100, 430, 1024),
)

ESM2_650M = Published(
    "esm2-650m",
    layers=33,
    hidden=1280,
    heads=20,
    config={
        "model_type": "esm",
        "vocab_size": 33,
        "max_position_embeddings": 1026,
        "position_embedding_type": "rotary",
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "mask_token_id": 32,
        "token_dropout": True,
        "emb_layer_norm_before": False,
    },
    vocabulary=(
        *("<cls>", "<pad>", "<eos>", "<unk>"),
        *("L", "A", "G", "V", "S", "E", "R", "T", "I", "D", "P", "K", "Q", "N", "F", "Y", "M", "H", "W", "C"),
        *("X", "B", "U", "Z", "O", ".", "-", "<null_1>", "<mask>"),
    ),
    tokenizer={"tokenizer_class": "EsmTokenizer", "model_max_length": 1024},
    lengths=(50, 250, 500),
    simulate=simulate_protein,
    special_in_mean=False,
)
