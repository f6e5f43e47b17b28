"""What can be known of an encoder before a weight of it is read: its architecture, its size, and whether it is here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from embedcache.encoders.families import MOSAIC_BERT, Architecture, Family, recognise
from embedcache.encoders.hub import WEIGHTS, cached
from embedcache.encoders.loading import read_config
from embedcache.encoders.registry import find
from embedcache.errors import ModelError


@dataclass(frozen=True)
class Sketch:
    """An encoder's architecture; `here` says whether its weights are in a folder or in the hub's cache."""

    family: Family
    config: Architecture
    here: bool
    directory: Path | None = None
    """With config.json and vocabulary; None where only the registry knows the encoder."""

    @property
    def stand_in(self) -> bool:
        """Whether its vocabulary is nowhere here, so that another one takes its place."""
        return self.directory is None and self.family is MOSAIC_BERT

    @property
    def layers(self) -> int:
        """How many layers it has; their weights are alike."""
        return sum(name.endswith(".down.weight") for name in self.family.shapes(self.config))

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.family.parameters(self.config)

    @property
    def download_bytes(self) -> int:
        """About what the hub's file has: the weights in float32, in which nearly all were published."""
        return 4 * self.parameters

    def memory(self, dtype: torch.dtype) -> int:
        """Bytes of the loaded weights: the layers' matrices in the type of the products, all others in float32."""
        shapes = self.family.shapes(self.config).items()
        return sum(
            math.prod(shape) * (dtype.itemsize if name[0].isdigit() and len(shape) == 2 else 4)
            for name, shape in shapes
        )


def sketch(name: str) -> Sketch | None:
    """Look an encoder up without a request: in its folder, in the hub's cache, or in the registry.

    None for those that have no architecture of ours: ``kmer:K``, ``onehot:L`` and ``hf:NAME``.

    Raises
    ------
    ModelError : nothing here says what it looks like.
    """
    if name.lower().startswith(("kmer:", "onehot:", "hf:")):
        return None
    directory = Path(name).expanduser()
    if directory.is_dir():
        here = any((directory / file).exists() for file in WEIGHTS)
        return Sketch(*recognise(read_config(directory), str(directory / "config.json")), here, directory)
    repo_id, revision, entry = find(name)
    files = cached(repo_id, revision)
    if files is not None:
        return Sketch(*recognise(read_config(files.directory), repo_id), True, files.directory)
    if entry is None:
        raise ModelError(
            f"{repo_id} is not on this machine, and its sizes are not known here: download its config.json and vocabulary "
            "and give their folder, or take a name of `embedcache models`"
        )
    return Sketch(*recognise(entry.config(), entry.alias), here=False)
