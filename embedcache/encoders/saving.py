"""Writing an encoder out in the format that it was published in, so that every loader of the format takes it.

DIR/config.json, the tokenizer's files   as they were published
DIR/model.safetensors                    all parameters under their published names, in float32
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from embedcache.encoders.checkpoint import SAFETENSORS
from embedcache.encoders.tokenizers.genes import GeneTokenizer
from embedcache.encoders.tokenizers.tokenizer import TableTokenizer
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.encoders.weights import Weights
from embedcache.errors import ModelError

_COPIED = (".json", ".txt")
_LARGE = ("index.json", "adapter_config.json", "base.json")


def write_description(folder: Path, encoder: TransformerEncoder) -> None:
    """Write config.json and the tokenizer's files into a folder, which is made.

    Raises
    ------
    ModelError : the encoder has no published parts of ours, or its tokenizer was a stand-in.
    """
    weights = weights_of(encoder)
    folder.mkdir(parents=True, exist_ok=True)
    if weights.directory is not None:
        for file in sorted(weights.directory.iterdir()):
            if file.suffix in _COPIED and not file.name.endswith(_LARGE):
                shutil.copyfile(file, folder / file.name)
    else:
        _write_vocabulary(folder, encoder)
    settings: dict[str, Any] = dict(weights.published)
    if encoder.origin.repo_id is not None:
        settings["_name_or_path"] = encoder.origin.repo_id  # by which its limits and pooling are known
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n")


def write_weights(folder: Path, encoder: TransformerEncoder, changed: Mapping[str, Tensor]) -> None:
    """Write all parameters; those in `changed`, by their published names without prefix, take the place of the others."""
    weights = weights_of(encoder)
    tensors: dict[str, Tensor] = {}
    for name in weights.family.shapes(weights.config):
        stem, kind = name.rsplit(".", 1)
        paths = [f"{module}.{kind}" for module in weights.family.modules(stem)]
        if all(path in changed for path in paths):
            tensors |= {path: changed[path].detach().cpu().float().contiguous() for path in paths}
        else:
            parts = zip(paths, weights.read(name).chunk(len(paths)), strict=True)
            tensors |= {path: changed.get(path, part).detach().cpu().float().clone() for path, part in parts}
    save_file(tensors, folder / SAFETENSORS, metadata={"format": "pt"})


def weights_of(encoder: TransformerEncoder) -> Weights:
    """The encoder's weights; raises `ModelError` where it is of no family of ours."""
    if encoder.weights is None:
        raise ModelError(
            f"{encoder.name} runs through transformers, and only encoders of known families can be trained"
        )
    return encoder.weights


def _write_vocabulary(folder: Path, encoder: TransformerEncoder) -> None:
    tokenizer = encoder.tokenizer
    if isinstance(tokenizer, GeneTokenizer):
        return
    if not isinstance(tokenizer, TableTokenizer):
        raise ModelError(
            f"{encoder.name} has a tokenizer of its own only once it is downloaded, so it cannot be written out"
        )
    (folder / "vocab.txt").write_text("\n".join(tokenizer.vocabulary) + "\n")
    ends = {"eos_token": None if tokenizer.last is None else tokenizer.vocabulary[tokenizer.last]}
    (folder / "tokenizer_config.json").write_text(json.dumps(ends) + "\n")


def base_record(encoder: TransformerEncoder) -> dict[str, Any]:
    """What finds an encoder again, and tells whether it is the same one."""
    origin = encoder.origin
    record = {name: value for name, value in asdict(origin).items() if value is not None and name != "licence"}
    return {**record, "digest": encoder.weights_digest}
