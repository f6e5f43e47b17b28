"""A cell that the encoder cannot read, named by its id and its place in the input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from embedcache.errors import CellError, InputError
from embedcache.extraction.plan import slices
from embedcache.records import ID, SEQUENCE, Source
from embedcache.storage.layout import CHUNK_ROWS

if TYPE_CHECKING:
    from embedcache.encoders.encoder import Encoder


@contextmanager
def cells_named(source: Source, encoder: Encoder) -> Iterator[None]:
    """Turn a `CellError`, which knows a number in a batch, into an `InputError` with the cell's id, file and line."""
    try:
        yield
    except CellError:
        row = 0
        for unit in slices(source, CHUNK_ROWS):
            try:
                encoder.tokenize(unit.column(SEQUENCE))
            except CellError as error:
                place = source.locate([row + error.cell])[0]
                raise InputError(f"'{unit.column(ID)[error.cell]}' at {place}: {error.reason}") from None
            row += len(unit)
        raise
