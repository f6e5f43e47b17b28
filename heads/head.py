"""What every fitted head is, and how it is saved: tensors as safetensors, all else as JSON, and nothing that runs code.

model/head.json           what it is: kind, target, decisions, and the encoder whose features it expects
model/head.safetensors    its tensors, for the kinds that have them
model/steps.safetensors   what was done to the features before, where something was
model/model.txt           trees, in LightGBM's own text
model/0/, model/1/ ...    the members of an ensemble
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from embedcache.errors import HeadError
from heads.data.features import Rows, RowSource
from heads.data.target import Doubles

TENSORS = "head.safetensors"

Settings = Mapping[str, Any]
"""What of a head is not a tensor, as JSON has it."""


class Head(Protocol):
    """A fitted head: features in, outputs out.

    Outputs of n rows, float64: for two classes and more (n, classes) probabilities that sum to 1; for several labels
    (n, labels) probabilities; for a measured quantity (n, 1) values, or (n, quantiles) rising along the row.
    """

    kind: ClassVar[str]
    """The head's name on the command line."""

    @property
    def dim(self) -> int:
        """Width of the features."""
        ...

    @property
    def outputs(self) -> int:
        """Columns of the outputs."""
        ...

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Of a measured quantity the quantiles that the columns are, rising; () for a mean, and for classes."""
        ...

    def __call__(self, source: RowSource, rows: Rows, device: torch.device | str = "cpu") -> Doubles:
        """Return the outputs of the given rows."""
        ...

    def save(self, folder: Path) -> Settings:
        """Write the head's files into an existing folder; what is returned goes into head.json."""
        ...

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        """Invert `save`.

        Raises KeyError, TypeError, ValueError, OSError or SafetensorError where files or settings do not make a head;
        `heads.saving.saved` turns these into a sentence.
        """
        ...


def save_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], name: str = TENSORS) -> None:
    """Write tensors as safetensors."""
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, folder / name)


def load_tensors(folder: Path, name: str = TENSORS) -> dict[str, torch.Tensor]:
    """Read tensors; raises ValueError where one holds a value that is not finite."""
    tensors: dict[str, torch.Tensor] = load_file(folder / name)
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{key} holds values that are not finite")
    return tensors


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; raises `HeadError` naming the file where it is missing or none."""
    try:
        values = json.loads(file.read_text())
    except FileNotFoundError:
        raise HeadError(f"{file} is missing: {file.parent} does not hold a saved head") from None
    except (OSError, ValueError) as error:
        raise HeadError(f"{file} is damaged and was not loaded ({error})") from None
    if not isinstance(values, dict):
        raise HeadError(f"{file} is damaged and was not loaded (it holds no object)")
    return values


DAMAGED = (OSError, ValueError, KeyError, TypeError, SafetensorError)
"""What `Head.load` may raise of a folder that holds no sound head."""
