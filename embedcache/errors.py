"""Every error that a user can cause or mend: one sentence that says what is wrong, and the way out."""

from __future__ import annotations


class EmbedcacheError(Exception):
    """Base of all errors that the command line prints as one clear sentence with exit code 2."""


class InputError(EmbedcacheError):
    """An input file, a column or an option cannot be used as given; the message names file and line."""


class CellError(InputError):
    """The tokenizer cannot read a cell."""

    def __init__(self, cell: int, reason: str) -> None:
        super().__init__(f"cell {cell}: {reason}")
        self.cell, self.reason = cell, reason


class ModelError(EmbedcacheError):
    """An encoder is unknown, cannot be downloaded, or its files do not fit its architecture."""


class StoreError(EmbedcacheError):
    """A store is missing, incomplete, damaged, made with another plan, or cannot be written."""


class HeadError(EmbedcacheError):
    """Labels, splits or a saved head cannot be used as given."""


class Interrupted(EmbedcacheError):
    """The run was asked to stop (Ctrl-C, SIGTERM, SIGUSR1); what is committed stays, the same command goes on."""
