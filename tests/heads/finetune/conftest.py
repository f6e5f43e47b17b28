"""A small encoder of real architecture, a store of reads with a planted motif, and finished runs, shared by the tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.encoders.golden import golden_folder
from tests.heads.program import run
from tests.stores import run_extract

MOTIF = "TATAAACG"
ROWS = 240


def reads(rows: int = ROWS, seed: int = 0) -> list[str]:
    """Random DNA of mixed lengths; every second read has the motif somewhere."""
    rng = np.random.default_rng(seed)
    found = []
    for row in range(rows):
        letters = rng.choice(list("ACGT"), rng.integers(40, 70))
        if row % 2:
            start = int(rng.integers(0, len(letters) - len(MOTIF)))
            letters[start : start + len(MOTIF)] = list(MOTIF)
        found.append("".join(letters))
    return found


def write_table(file: Path, sequences: list[str]) -> Path:
    """With the columns label, split and donor."""
    parts = ("train", "train", "train", "val", "test")
    lines = ["id\tsequence\tlabel\tsplit\tdonor"]
    lines += [f"r{i}\t{s}\t{i % 2}\t{parts[i // 2 % 5]}\td{i // 10 % 6}" for i, s in enumerate(sequences)]
    file.write_text("\n".join(lines) + "\n")
    return file


def small_model(family: str, folder: Path, **config: object) -> Path:
    """A golden checkpoint, with other settings."""
    model = golden_folder(family, folder)
    for file in model.iterdir():
        file.chmod(0o755 if file.is_dir() else 0o644)
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return model


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model/ (DNA_bert), reads.tsv and reads.zarr of it."""
    folder = tmp_path_factory.mktemp("finetune")
    small_model("dna_bert_6", folder).rename(folder / "model")
    write_table(folder / "reads.tsv", reads())
    run_extract(folder / "reads.zarr", folder / "reads.tsv", model=str(folder / "model"))
    return folder


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with words.zarr of a Nucleotide Transformer: reads of twelve 6-mers, one of which makes a read positive."""
    folder = tmp_path_factory.mktemp("words")
    rng = np.random.default_rng(0)
    known = ["".join(rng.choice(list("ACGT"), 6)) for _ in range(150)]
    sequences = []
    for row in range(500):
        own = [known[k] for k in rng.integers(1, 150, 12)]
        if row % 2:
            own[rng.integers(12)] = known[0]
        sequences.append("".join(own))
    write_table(folder / "words.tsv", sequences)
    small_model("ntv1", folder)
    run_extract(folder / "words.zarr", folder / "words.tsv", model=str(folder / "ntv1"))
    return folder


@pytest.fixture(scope="session")
def tuned(ground: Path) -> dict[str, Path]:
    """A short run of each kind on it, by name."""
    asked = {
        "frozen": ["--mode", "frozen", "--epochs", "4", "--batch", "32"],
        "top": ["--mode", "top", "--top-layers", "2", "--epochs", "2"],
        "full": ["--mode", "full", "--epochs", "2", "--lr", "1e-3"],
        "lora": ["--mode", "full", "--lora", "4", "--epochs", "2", "--lr", "1e-2"],
    }
    for name, options in asked.items():
        run(ground, "finetune", "--features", "reads.zarr", *options, "--output", name, "--bootstrap", "0")
    return {name: ground / name for name in asked}
