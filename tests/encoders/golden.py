"""The golden checkpoints as model folders, complete with vocabulary."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedcache.encoders.tokenizers import ESM_VOCABULARY, NT_V1_VOCABULARY

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FAMILIES = ("ntv1", "esm2", "fastesm2")


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


def golden_folder(family: str, into: Path) -> Path:
    """Copy a golden checkpoint to a new folder and write the tokenizer files of its family beside it."""
    directory = into / family
    shutil.copytree(GOLDEN / family, directory)
    nt = family == "ntv1"
    (directory / "vocab.txt").write_text("\n".join(NT_V1_VOCABULARY if nt else ESM_VOCABULARY))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": None} if nt else {}))
    return directory


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
