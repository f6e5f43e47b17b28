"""What every head is, and how it is saved: tensors as safetensors, everything else as JSON, and nothing that runs code.

model/head.safetensors    the fitted tensors
model/head.json           what they mean: kind, classes, threshold, and the encoder whose features they expect
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from embedcache.errors import HeadError
from heads.features import Rows, RowSource
from heads.logistic import LogisticModel

FORMAT_VERSION = 1
TENSORS = "head.safetensors"
CARD = "head.json"

ClassName = str | int
"""A class as the label column names it."""


class Head(Protocol):
    """A fitted head: features in, class probabilities out.

    `kind` names it on the command line, `dim` is the width of the features, `classes` the number of classes.
    """

    @property
    def kind(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def classes(self) -> int: ...

    def probabilities(
        self, source: RowSource, rows: Rows, device: torch.device | str = "cpu"
    ) -> npt.NDArray[np.float64]:
        """Return (n, classes) for the given rows, summing to 1."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what is fitted."""
        ...


RESTORE: Mapping[str, Callable[[Mapping[str, torch.Tensor]], Head]] = {LogisticModel.kind: LogisticModel.restore}
"""Every kind of head that can be loaded. A file names its kind; only these run."""


@dataclass(frozen=True)
class HeadCard:
    """What a saved head must say beside its tensors."""

    kind: str
    dim: int
    classes: tuple[ClassName, ...]
    """Names of the classes in the order of the probabilities; of two, the last is the positive one."""
    threshold: float | None
    """Two classes: predict the positive one from this probability on. None: the most probable class."""
    label: str
    """The column the head was trained on."""
    fingerprint: str
    """Of the store: which encoder, layers and poolings the features come from."""
    encoder: str
    format_version: int = FORMAT_VERSION

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build a card from its JSON; raises HeadError, TypeError or KeyError where it is not one."""
        if values["format_version"] > FORMAT_VERSION:
            raise HeadError(
                f"the head has format {values['format_version']}, this version reads up to {FORMAT_VERSION}; "
                "update embedcache"
            )
        card = cls(**{**values, "classes": tuple(values["classes"])})
        threshold = 0.0 if card.threshold is None else card.threshold
        if not (isinstance(card.kind, str) and isinstance(card.dim, int) and isinstance(threshold, float)):
            raise TypeError("a field of the card has the wrong type")
        return card


def save_head(folder: Path, head: Head, card: HeadCard) -> None:
    """Write a head and its card into `folder`, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in head.tensors().items()}, folder / TENSORS)
    (folder / CARD).write_text(json.dumps(asdict(card), indent=1) + "\n")


def load_head(folder: Path) -> tuple[Head, HeadCard]:
    """Read a head and its card; raises HeadError where a file is missing, damaged, or of an unknown kind."""
    try:
        card = HeadCard.parse(json.loads((folder / CARD).read_text()))
        restore = RESTORE.get(card.kind)
        if restore is None:
            raise HeadError(f"{folder / CARD} names the head kind {card.kind!r}; known here: {', '.join(RESTORE)}")
        head = restore(load_file(folder / TENSORS))
    except FileNotFoundError as error:
        raise HeadError(
            f"{error.filename or folder / TENSORS} is missing: {folder} does not hold a saved head"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise HeadError(f"the saved head in {folder} is damaged and was not loaded ({error})") from None
    if (head.dim, head.classes) != (card.dim, len(card.classes)):
        raise HeadError(f"the saved head in {folder} is damaged: {CARD} and {TENSORS} do not fit each other")
    return head, card
