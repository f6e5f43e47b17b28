"""Parquet with one column of lists of numbers; the other columns travel along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.exchange.embeddings import Reading, Values, checked_type, id_table, with_columns
from embedcache.exchange.selection import Selection
from embedcache.records import ID
from embedcache.sources.files import InputFile
from embedcache.sources.tables import ID_GUESSES

_INDEX = "__index_level_0__"
_BATCH_BYTES = 1 << 26


def open_parquet(file: InputFile, reading: Reading) -> ParquetLists:
    """Open a parquet file; its vectors are read from start to end, some at a time."""
    return ParquetLists(file, reading)


class ParquetLists:
    """The records of a parquet file, `Embeddings` by protocol.

    Raises
    ------
    InputError : the file is damaged, or has no column of ids or of lists of numbers; while reading, where lists differ in
        length.
    """

    offsets: NDArray[np.int64] | None = None

    def __init__(self, file: InputFile, reading: Reading) -> None:
        self.name, self._file = file.name, file
        try:
            with pq.ParquetFile(file.path) as table:
                schema, self._count = table.schema_arrow, table.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            raise file.error(f"the parquet file is cut off or damaged ({_first_line(error)})") from None
        if not self._count:
            raise file.error("the table has no rows")
        self._vectors = _vector_column(file, schema, reading.key)
        self.rows = self._columns(schema, reading.id_column)
        kind = schema.field(self._vectors).type
        self.dtype = checked_type(file, np.dtype(kind.value_type.to_pandas_dtype()))
        self.dim = kind.list_size if pa.types.is_fixed_size_list(kind) else self._first_length()
        self._batches: Iterator[Values] = iter(())
        self._waiting: list[Values] = []
        self._at = -1

    def read(self, start: int, stop: int) -> Values:
        """Vectors [start, stop); fast where `start` is where the last reading ended."""
        if start != self._at:
            self._batches, self._waiting, self._at = self._blocks(), [], 0
            while self._at < start:
                self._next(start - self._at)
        parts = []
        while self._at < stop:
            parts.append(self._next(stop - self._at))
        return np.concatenate(parts) if parts else np.empty((0, self.dim), self.dtype)

    def _next(self, most: int) -> Values:
        block = self._waiting.pop() if self._waiting else next(self._batches)
        if len(block) > most:
            self._waiting.append(block[most:])
        self._at += min(len(block), most)
        return block[:most]

    def _blocks(self) -> Iterator[Values]:
        rows = max(1, _BATCH_BYTES // (8 * self.dim))
        first = 0
        try:
            with pq.ParquetFile(self._file.path, pre_buffer=False) as table:
                for batch in table.iter_batches(rows, columns=[self._vectors]):
                    yield self._values(batch.column(0), first)
                    first += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise self._file.error(
                f"the rows after this one are damaged ({_first_line(error)})", f"row {first}"
            ) from None

    def _values(self, lists: pa.Array, first: int) -> Values:
        """Lists (n,) as (n, D); a list or a value that is null is NaN."""
        flat = lists.cast(pa.large_list(lists.type.value_type))
        lengths = np.where(flat.is_null().to_numpy(zero_copy_only=False), self.dim, np.diff(_bounds(flat)))
        if (lengths != self.dim).any():
            row = int((lengths != self.dim).argmax())
            name = self.rows.column(ID)[first + row].as_py()
            raise self._file.error(
                f"{name!r} has {counted(int(lengths[row]), 'value')}, the first vector has {self.dim:,}: all need the same "
                "number",
                f"row {first + row + 1}",
            )
        values = np.full((len(lists), self.dim), np.nan, self.dtype)
        there = ~flat.is_null().to_numpy(zero_copy_only=False)
        values[there] = flat.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.dim)
        return values

    def _columns(self, schema: pa.Schema, given: str | None) -> pa.Table:
        names = [name for name in schema.names if name != self._vectors]
        lowered = {name.lower(): name for name in reversed(names)}
        wanted = given or next((lowered[guess] for guess in (*ID_GUESSES, _INDEX) if guess in lowered), None)
        if wanted not in names:
            how = f"there is no column {given!r}" if given else "no column is named like the ids"
            raise self._file.error(f"{how}; the columns are {', '.join(schema.names)}; name it with --id-column")
        try:
            table = pq.read_table(self._file.path, columns=names)
        except (pa.ArrowException, OSError) as error:
            raise self._file.error(f"the parquet file is damaged ({_first_line(error)})") from None
        columns = {name: _decoded(table.column(name)) for name in names if name != wanted}
        return with_columns(id_table(self._file, table.column(wanted).to_pylist()), columns)

    def _first_length(self) -> int:
        with pq.ParquetFile(self._file.path, pre_buffer=False) as table:
            for batch in table.iter_batches(64, columns=[self._vectors]):
                for one in batch.column(0):
                    if one.is_valid and len(one):
                        return len(one)
        raise self._file.error(f"every list in the column {self._vectors!r} is empty")


def _vector_column(file: InputFile, schema: pa.Schema, given: str | None) -> str:
    lists = [field.name for field in schema if _is_vector(field.type)]
    if given is not None:
        if given not in schema.names:
            raise file.error(
                f"there is no column {given!r}, given with --key; the columns are {', '.join(schema.names)}"
            )
        if given not in lists:
            raise file.error(f"the column {given!r} holds {schema.field(given).type}, not lists of numbers")
        return given
    if len(lists) == 1:
        return str(lists[0])
    if lists:
        raise file.error(f"several columns hold lists of numbers ({', '.join(lists)}); name the one to take with --key")
    raise file.error(
        f"no column holds lists of numbers; the columns are {', '.join(f'{f.name} ({f.type})' for f in schema)}. Vectors as "
        "text are not read: save them as lists"
    )


def _is_vector(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    numbers = (pa.types.is_floating, pa.types.is_integer)
    return any(is_list(kind) for is_list in lists) and any(is_number(kind.value_type) for is_number in numbers)


def _bounds(lists: pa.Array) -> NDArray[np.int64]:
    return np.frombuffer(lists.buffers()[1], np.int64, len(lists) + 1, lists.offset * 8)


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def write_parquet(selection: Selection, file: Path) -> None:
    """Write id, columns and ``embedding``, a list of fixed size; a row group is about 32 MB."""
    rows = selection.rows().combine_chunks()
    vector = pa.list_(pa.from_numpy_dtype(selection.dtype), selection.dim)
    schema = pa.schema([*rows.schema, pa.field("embedding", vector)])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start, stop in selection.spans():
            flat = pa.array(selection.read(start, stop).reshape(-1))
            vectors = pa.FixedSizeListArray.from_arrays(flat, selection.dim)
            columns = [column.combine_chunks() for column in rows.slice(start, stop - start).columns]
            writer.write_table(pa.Table.from_arrays([*columns, vectors], schema=schema))
