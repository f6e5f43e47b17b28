"""What a reader of a foreign file offers: its ids and columns, and its vectors some records at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.extraction.plan import NarrowestType
from embedcache.records import ID, metadata_name
from embedcache.sources.files import InputFile

Values = NDArray[np.generic]
LABEL = "label"


class Embeddings(Protocol):
    """N records with a vector of D values each, or, where `offsets` says so, one row of D values for each of its tokens."""

    name: str
    """What the user gave, for messages."""
    rows: pa.Table
    """Column id (string), then the metadata columns; N rows."""
    dim: int
    dtype: np.dtype[np.generic]
    """Of the values in the file."""
    offsets: NDArray[np.int64] | None
    """(N+1,) where the rows of each record begin; None where a record has one vector."""

    def read(self, start: int, stop: int) -> Values:
        """Vectors of the records [start, stop), (n, D), or the rows of their tokens end to end, (t, D)."""
        ...


@dataclass(frozen=True)
class Reading:
    """How the user said that a foreign file is to be read."""

    format: str = "auto"
    key: str | None = None
    """The array, dataset or column that holds the vectors, where a file has several."""
    id_column: str | None = None
    """The column of ids of a table."""


class Matrix:
    """Records whose vectors are the rows of one (N, D) array-like; `rows` is empty where the file has no ids."""

    def __init__(
        self,
        file: InputFile,
        array: Any,
        dtype: np.dtype[np.generic],
        columns: pa.Table | None,
        slice_of: Callable[[Any, int, int], Values] | None = None,
    ) -> None:
        self.name = file.name
        shape = tuple(array.shape)
        if len(shape) != 2 or not all(shape):
            raise file.error(f"an array of shape {shape} is no table of vectors: one row a record is expected, (N, D)")
        if columns is not None and len(columns) != shape[0]:
            raise file.error(
                f"it has {counted(len(columns), 'id')} for {counted(shape[0], 'vector')}; each vector needs one id"
            )
        self.count, self.dim = shape
        self.dtype = checked_type(file, dtype)
        self.has_ids = columns is not None
        self.rows = pa.table({}) if columns is None else columns
        self.offsets: NDArray[np.int64] | None = None
        self._array, self._slice_of = array, slice_of or (lambda whole, start, stop: np.asarray(whole[start:stop]))

    def read(self, start: int, stop: int) -> Values:
        """Vectors [start, stop)."""
        return self._slice_of(self._array, start, stop)


class OneArrayEach:
    """Records of which each has an array of its own: a vector (D,), or one row a token (L, D)."""

    def __init__(
        self,
        file: InputFile,
        rows: pa.Table,
        shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[np.dtype[np.generic]],
        fetch: Callable[[int, int], list[Values]],
    ) -> None:
        self.name, self.rows, self._fetch = file.name, rows, fetch
        ids = rows.column(ID)
        first = shapes[0]
        for row, shape in enumerate(shapes):
            if len(shape) not in (1, 2) or len(shape) != len(first) or not shape[-1]:
                raise file.error(
                    f"{ids[row].as_py()!r} has an array of shape {shape}, {ids[0].as_py()!r} one of {first}: either every "
                    "record has a vector (D,), or every record one row a token (L, D)"
                )
            if shape[-1] != first[-1]:
                raise file.error(
                    f"{ids[row].as_py()!r} has {shape[-1]:,} values a vector, {ids[0].as_py()!r} has {first[-1]:,}: all "
                    "need the same number; import the files of each encoder into a store of its own"
                )
        self.dim = first[-1]
        self.dtype = np.result_type(*{checked_type(file, dtype) for dtype in dtypes})
        self.offsets: NDArray[np.int64] | None = None
        if len(first) == 2:
            self.offsets = np.cumsum([0, *(shape[0] for shape in shapes)], dtype=np.int64)

    def read(self, start: int, stop: int) -> Values:
        """Vectors of the records [start, stop), or the rows of their tokens."""
        arrays = self._fetch(start, stop)
        return np.concatenate(arrays) if self.offsets is not None else np.stack(arrays)


def checked_type(file: InputFile, dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """Return the type of values that are real numbers; raises `InputError` for text, complex numbers and objects."""
    if dtype.kind in "iub":
        return np.dtype(np.float32)
    if dtype.kind != "f":
        held = "Python objects" if dtype.kind == "O" else f"values of type {dtype}"
        raise file.error(f"it holds {held}, and embeddings are numbers: save them as float32 or float16")
    return dtype


def id_table(file: InputFile, ids: Sequence[Any]) -> pa.Table:
    """Ids as the first column of the rows; raises `InputError` for one that is neither text nor a whole number, or empty."""
    for row, name in enumerate(ids):
        if not isinstance(name, str | int | np.str_ | np.integer) or isinstance(name, bool) or not str(name).strip():
            raise file.error(f"the id of record {row + 1:,} is {name!r}: an id is text that is not empty")
    return pa.table({ID: pa.array([str(name) for name in ids], pa.string())})


def narrowed(rows: pa.Table, names: Iterable[str]) -> pa.Table:
    """Give columns that were read as text the narrowest type that all their values have."""
    for name in names:
        at = rows.schema.get_field_index(name)
        if at >= 0 and pa.types.is_string(rows.schema.field(at).type):
            narrowest = NarrowestType(text=True)
            narrowest.see(rows.column(at).combine_chunks())
            rows = rows.set_column(at, name, rows.column(at).cast(narrowest.type))
    return rows


def with_columns(rows: pa.Table, columns: dict[str, pa.ChunkedArray | pa.Array]) -> pa.Table:
    """Put metadata columns behind the id, those with reserved names under another (see `metadata_name`)."""
    for name, column in columns.items():
        stored = metadata_name(name)
        if stored in rows.column_names:
            raise InputError(f"the column {stored!r} comes twice: rename it in one of the two places")
        rows = rows.append_column(stored, column)
    return rows
