"""A small Geneformer with random weights and made-up dictionaries, in a folder as the published ones are."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

SPECIALS = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}


def write_geneformer(
    folder: Path, genes: Sequence[str], *, limit: int = 64, hidden: int = 16, layers: int = 2, rows: int | None = None
) -> Path:
    """Write config.json, weights, token_dictionary and gene_median_dictionary of a Geneformer V2 that knows `genes`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = {**SPECIALS, **{gene: at for at, gene in enumerate(genes, len(SPECIALS))}}
    rng = np.random.default_rng(0)
    medians = dict(zip(genes, rng.uniform(0.5, 4.0, len(genes)).tolist(), strict=True))
    (folder / "token_dictionary_gc104M.pkl").write_bytes(pickle.dumps(tokens))
    (folder / "gene_median_dictionary_gc104M.pkl").write_bytes(pickle.dumps(medians))
    write_weights(folder, rows or len(tokens), limit=limit, hidden=hidden, layers=layers)
    return folder


def write_weights(folder: Path, rows: int, *, limit: int, hidden: int, layers: int) -> None:
    """Write config.json and model.safetensors of a BERT with relu."""
    config = {
        "model_type": "bert", "vocab_size": rows, "max_position_embeddings": limit, "hidden_act": "relu",
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 2 * hidden,
        "layer_norm_eps": 1e-12, "type_vocab_size": 2, "pad_token_id": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {
        "embeddings.word_embeddings.weight": (rows, hidden),
        "embeddings.position_embeddings.weight": (limit, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        **_norm("embeddings.LayerNorm", hidden),
    }
    for layer in range(layers):
        at = f"encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            shapes |= _linear(f"{at}.attention.self.{name}", hidden, hidden)
        shapes |= _linear(f"{at}.attention.output.dense", hidden, hidden)
        shapes |= _norm(f"{at}.attention.output.LayerNorm", hidden)
        shapes |= _linear(f"{at}.intermediate.dense", 2 * hidden, hidden)
        shapes |= _linear(f"{at}.output.dense", hidden, 2 * hidden)
        shapes |= _norm(f"{at}.output.LayerNorm", hidden)
    random = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        values = torch.empty(shape).normal_(0.0, 0.3, generator=random)
        weights[f"bert.{name}"] = values + 1 if name.endswith("LayerNorm.weight") else values
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
