"""The vocabulary file of a model folder."""

from __future__ import annotations

from pathlib import Path

from embedcache.errors import ModelError


def read_vocabulary(directory: Path) -> tuple[str, ...]:
    """The words of ``vocab.txt``, one a line, in the order of their ids.

    Raises
    ------
    ModelError : the file is missing, cannot be read, or is empty.
    """
    file = directory / "vocab.txt"
    try:
        words = tuple(line.strip() for line in file.read_text().rstrip().split("\n"))
    except FileNotFoundError:
        raise ModelError(
            f"{directory} has no vocab.txt, so its tokenizer cannot be built: copy it from the hub"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({error}): copy it from the hub again") from None
    if not any(words):
        raise ModelError(f"{file} is empty: copy it from the hub again")
    return words
