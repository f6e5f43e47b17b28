"""The trained encoder as files that every loader of its format takes, and loaded again as it will be used."""

from __future__ import annotations

import shutil
from dataclasses import replace
from math import prod
from pathlib import Path

from embedcache.encoders import load_encoder
from embedcache.encoders.adapters import save_adapters
from embedcache.encoders.encoder import Encoder, Origin
from embedcache.encoders.saving import base_record, write_description, write_weights
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.encoding import Encoding
from heads.finetune.lora import adapter_tensors, merged_weights, settings
from heads.finetune.model import FinetuneModel
from heads.finetune.options import FinetuneOptions


def save_encoder(folder: Path, model: FinetuneModel, encoding: Encoding, options: FinetuneOptions) -> None:
    """Write the encoder with the weights that the model has now: whole, or as adapters beside the one they change."""
    encoder, trunk, lora = encoding.encoder, model.trunk, options.lora
    assert isinstance(encoder, TransformerEncoder)
    assert trunk is not None
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_description(partial, encoder)
    if lora is not None and not lora.merge:
        base = base_record(encoder)
        save_adapters(partial, settings(trunk, lora, encoder.name), adapter_tensors(trunk), base)
    else:
        write_weights(partial, encoder, trunk.state_dict() if lora is None else merged_weights(trunk, lora))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def encoder_bytes(encoder: Encoder) -> int:
    """What a whole one takes on the disk."""
    assert isinstance(encoder, TransformerEncoder)
    assert encoder.weights is not None
    shapes = encoder.weights.family.shapes(encoder.weights.config)
    return sum(4 * prod(shape) for shape in shapes.values())


def load_tuned(folder: Path, before: Encoding, run: Path) -> Encoding:
    """The trained encoder, frozen again, with the readout of the one it was; in stores it is named by the run."""
    old = before.encoder
    encoder = load_encoder(str(folder), device=str(old.device), precision=old.precision)
    encoder.origin = Origin(str(run), directory=str(run.resolve()), licence=old.origin.licence)
    blocks = before.readout.blocks
    readout = encoder.readout(
        tuple(dict.fromkeys(block.pooling for block in blocks)), tuple(dict.fromkeys(block.layer for block in blocks))
    )
    return replace(before, encoder=encoder, readout=readout)
