"""The weights of an encoder as they were published, to be read again: to train them, or to write them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedcache.encoders.families import Architecture, Family
from embedcache.encoders.trunk import ReadTensor


@dataclass(frozen=True)
class Weights:
    """Where an encoder's parameters come from."""

    family: Family
    config: Architecture
    read: ReadTensor
    """Returns a parameter by our name (`Family.shapes`) in float32."""
    published: Mapping[str, Any]
    """Its config.json."""
    directory: Path | None
    """The folder with its files; None where the registry alone says what it looks like."""
