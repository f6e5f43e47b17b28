"""``--splits FILE``: which records train, from an .npz with the rows of each part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from embedcache.errors import InputError
from embedcache.records import Source, Unmatched, provenance_of, remarks_of
from embedcache.sources.side_file import SideFile

SPLIT = "split"
PARTS = {"train": ("train_idx", "train"), "val": ("val_idx", "val", "valid_idx", "valid"), "test": ("test_idx", "test")}
NO_PART = -1
_EXPECTED = "--splits takes an .npz with train_idx, val_idx and test_idx"


class Splits:
    """A source with the column ``split``: train, val, test, or null for records that are in none.

    `path` is an .npz with train_idx, val_idx and test_idx, each the rows, from 0, of a part; one may be missing.

    Raises
    ------
    InputError
        On opening: the file holds none of them, Python objects, or a row twice; or the input has such a column. While
        reading: a row is beyond the input.
    """

    def __init__(self, source: Source, path: str) -> None:
        if SPLIT in source.columns:
            raise InputError(f"{source.name} has a column {SPLIT!r} already: leave out --splits, or rename the column")
        self._source, self._path = source, path
        self._parts = read_splits(path)
        self.name = source.name
        self.unmatched: Unmatched | None = None
        self.columns = (*source.columns, SPLIT)
        self.text_columns = source.text_columns
        self.provenance = {**provenance_of(source), "splits": asdict(SideFile.of(path))}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is to be said of the input."""
        return remarks_of(self._source)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all records."""
        row = 0
        for batch in self._source.batches():
            of_rows = np.full(len(batch), NO_PART, np.int8)
            told = self._parts[row : row + len(batch)]
            of_rows[: len(told)] = told
            names = pa.array(list(PARTS)).take(pa.array(of_rows, mask=of_rows == NO_PART))
            yield batch.append_column(SPLIT, names)
            row += len(batch)
        if len(self._parts) > row:
            last = len(self._parts) - 1
            raise InputError(
                f"{self._path} has the row {last:,}, and {self.name} has {row:,}, from 0: it is another input's"
            )
        self.unmatched = self._source.unmatched

    def locate(self, rows: Sequence[int]) -> list[str]:
        """Say where each record stands."""
        return self._source.locate(rows)


def read_splits(path: str) -> NDArray[np.int8]:
    """Read which part (of PARTS, or NO_PART) each row is in; raises `InputError` where there is none, or a row is in two."""
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; {_EXPECTED}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if not isinstance(arrays, NpzFile):
                raise InputError(f"{path} is one array; {_EXPECTED}")
            rows_of = {part: _rows(path, arrays, names) for part, names in PARTS.items()}
            there = ", ".join(arrays) or "nothing"
    except InputError:
        raise
    except Exception as error:  # zip, npy and zlib each have their own; objects are refused by numpy with a ValueError
        raise InputError(
            f"{path} cannot be read as arrays of numbers ({error}); save it with np.savez(file, train_idx=rows, ...)"
        ) from error
    most = max((int(rows.max(initial=-1)) for rows in rows_of.values()), default=-1)
    if most < 0:
        raise InputError(f"{path} has no rows of train_idx, val_idx or test_idx; it has {there}")
    parts = np.full(most + 1, NO_PART, np.int8)
    for number, (part, rows) in enumerate(rows_of.items()):
        taken = rows[parts[rows] != NO_PART]
        if len(taken):
            other = list(PARTS)[parts[taken[0]]]
            raise InputError(f"{path}: the row {taken[0]} is in {other} and in {part}; leave it in one of them")
        parts[rows] = number
    return parts


def _rows(path: str, arrays: NpzFile, names: Sequence[str]) -> NDArray[np.int64]:
    name = next((name for name in names if name in arrays), None)
    if name is None:
        return np.empty(0, np.int64)
    rows = arrays[name]
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or (rows < 0).any():
        raise InputError(f"{path}: {name} is {rows.dtype} {rows.shape}; a list of rows from 0 is expected")
    return rows.astype(np.int64)
