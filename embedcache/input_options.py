"""What the user chose about the input: where records come from, and what is done to them before they are encoded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputOptions:
    """Where records come from; `embedcache.sources.open_records` opens it."""

    inputs: tuple[str, ...] = ()
    """Paths, or ``-`` for standard input; each may have columns attached, as ``FILE:label=1``."""
    metadata: str | None = None
    """A table of more columns, joined by id."""
    id_column: str | None = None
    sequence_column: str | None = None
