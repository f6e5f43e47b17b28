"""What all formats share: the size of a batch and the test that every record has an id and a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BATCH_ROWS = 16_384
BATCH_LETTERS = 64_000_000

LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz*-."


class Reader(Protocol):
    """One file of records, whatever its format."""

    schema: pa.Schema
    """Names and types of the metadata columns that the file holds."""
    text: bool
    """Whether these columns are text, so that a narrower type may be found for them."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read from the start: id (string), sequence (large_string), then the columns of `schema`."""
        ...

    def places(self) -> Iterator[str]:
        """Say for record after record where it stands in the file: ``line 12``, or ``row 12`` in parquet."""
        ...


@dataclass(frozen=True)
class Fault:
    """The first record of a batch that cannot be used; `junk` is the byte that does not belong into its sequence."""

    row: int
    column: Literal["id", "sequence"]
    junk: int | None = None

    @property
    def found(self) -> str:
        """The junk byte as a person would name it."""
        junk = self.junk or 0
        return f"{chr(junk)!r}" if 32 <= junk < 127 else f"the byte 0x{junk:02x}"


def first_fault(ids: pa.Array, sequences: pa.Array | None, allowed: bytes = LETTERS) -> Fault | None:
    """Find the first empty id, empty sequence or byte that does not belong into a sequence.

    Parameters
    ----------
    ids
        Strings or bytes (n,); null counts as empty.
    sequences
        large_string (n,), null counts as empty; None where there are none to test.
    allowed
        The bytes that sequences consist of: letters, ``*``, ``-`` and ``.``, or those of token ids.
    """
    faults = [Fault(row, "id") for row in _first_empty(ids)]
    if sequences is not None:
        faults += [Fault(row, "sequence") for row in _first_empty(sequences)]
        offsets, letters = letters_of(sequences)
        if letters.tobytes().translate(None, allowed):  # four times as fast as a look-up table in numpy
            at = int(np.isin(letters, np.frombuffer(allowed, np.uint8), invert=True).argmax())
            faults.append(Fault(int(np.searchsorted(offsets, at, side="right")) - 1, "sequence", int(letters[at])))
    return min(faults, key=lambda fault: fault.row, default=None)


def _first_empty(values: pa.Array) -> list[int]:
    at = pc.index(pc.fill_null(pc.binary_length(values), 0), 0).as_py()
    return [at] if at >= 0 else []


def letters_of(sequences: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets (n + 1,) int64, from 0, and the letters (total,) uint8 of an array with 64-bit offsets."""
    _, offsets, letters = sequences.buffers()
    bounds = np.frombuffer(offsets, np.int64)[sequences.offset : sequences.offset + len(sequences) + 1]
    if letters is None or bounds[0] == bounds[-1]:
        return bounds - bounds[0], np.empty(0, np.uint8)
    return bounds - bounds[0], np.frombuffer(letters, np.uint8)[bounds[0] : bounds[-1]]


def is_text(name: bytes) -> bool:
    """Whether some bytes are UTF-8."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def sliced(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch into slices of at most BATCH_ROWS rows and BATCH_LETTERS letters (a longer record comes alone)."""
    offsets, _ = letters_of(batch.column("sequence"))
    start = 0
    while start < len(batch):
        fitting = int(np.searchsorted(offsets, offsets[start] + BATCH_LETTERS, side="right")) - 1
        stop = max(start + 1, min(start + BATCH_ROWS, fitting))
        yield batch.slice(start, stop - start)
        start = stop
