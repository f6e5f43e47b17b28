"""Files of embeddings as other programs write them, and the programs of this project over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from cli.embedcache import cli
from embedcache import open_store
from embedcache.storage.store import Store


def program(*arguments: object) -> str:
    """Run the program; returns what it printed, raises what it raises."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def imported(output: Path, *arguments: object) -> Store:
    """Import files into a store, check its files, and open it."""
    program("import", *arguments, "-o", output, "--quiet")
    program("verify", output)
    return open_store(output)


def vectors(rows: int = 40, dim: int = 24, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Made-up vectors in float32."""
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def names(rows: int = 40) -> list[str]:
    """Ids with a blank, as real ones have."""
    return [f"a protein {row}" for row in range(rows)]


def write_ids(file: Path, ids: list[str]) -> Path:
    file.write_text("".join(f"{name}\n" for name in ids))
    return file
