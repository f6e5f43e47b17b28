"""The golden checkpoints as model folders, and what the original code gave for them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.conftest import shared_folder

FAMILIES = ("dnabert2", "dnaberts", "dna_bert_6", "ntv1", "ntv2", "esm2", "fastesm2", "hyenadna", "geneformer")


@dataclass(frozen=True)
class Golden:
    """One family's folder, its sequences, and what the original code gave for them."""

    directory: Path
    sequences: list[str]
    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    hidden_states: NDArray[np.float32]
    """(states, sequences, tokens, D), padded on the right."""
    expected: dict[str, NDArray[np.float32]]

    @property
    def family(self) -> str:
        """Name of the folder."""
        return self.directory.name


def golden_folder(family: str, into: Path) -> Path:
    """Copy a golden checkpoint to a new folder."""
    return Path(shutil.copytree(shared_folder("golden") / family, into / family))


def read_golden(family: str, into: Path) -> Golden:
    """Lay out a golden folder and read its expected outputs."""
    directory = golden_folder(family, into)
    with np.load(directory / "expected.npz", allow_pickle=False) as arrays:
        expected = {name: arrays[name] for name in arrays.files}
    lines = (directory / "sequences.txt").read_text().removesuffix("\n").split("\n")
    return Golden(
        directory,
        [line.split("\t")[1] for line in lines],
        expected["input_ids"],
        expected["attention_mask"],
        expected["hidden_states"],
        expected,
    )
