"""The tokenizer's files in a model folder."""

from __future__ import annotations

from pathlib import Path

from embedcache.errors import ModelError


def read_text(directory: Path, name: str) -> str:
    """The text of a tokenizer's file; raises `ModelError` if it is missing or cannot be read."""
    file = directory / name
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelError(f"{directory} has no {name}, so its tokenizer cannot be built: copy it from the hub") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({error}): copy it from the hub again") from None


def read_vocabulary(directory: Path) -> tuple[str, ...]:
    """The words of ``vocab.txt``, one a line, in the order of their ids.

    Raises
    ------
    ModelError : the file is missing, cannot be read, or is empty.
    """
    words = tuple(line.strip() for line in read_text(directory, "vocab.txt").rstrip().split("\n"))
    if not any(words):
        raise ModelError(f"{directory / 'vocab.txt'} is empty: copy it from the hub again")
    return words
