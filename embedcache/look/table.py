"""Rows of a store as a table for the screen, or for programs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.records import ID, RESERVED
from embedcache.storage.store import Store

VALUES = 4
"""First values of a vector that are shown."""
WIDEST = 32


def head_of(store: Store, rows: int, columns: Sequence[str] | None) -> pa.Table:
    """The first rows of a store: id, length, metadata or the given columns, and the first values of each vector.

    Where every token is kept, the values are those of the first token. Raises `InputError` for an unknown column.
    """
    names = [name for name in store.column_names if name not in RESERVED or name == "length"]
    if columns is not None:
        unknown = [name for name in columns if name not in store.column_names]
        if unknown:
            raise InputError(f"{store.path} has no column '{unknown[0]}'; it has: {', '.join(store.column_names)}")
        names = list(columns)
    count = min(rows, len(store))
    table = store.read_rows(list(dict.fromkeys([ID, *names]))).slice(0, count)
    for column, field in enumerate(table.schema):
        if pa.types.is_binary(field.type) or pa.types.is_fixed_size_binary(field.type):
            digests = [None if value is None else value.hex() for value in table.column(column).to_pylist()]
            table = table.set_column(column, field.name, pa.array(digests, pa.string()))
    vectors = [np.atleast_2d(np.asarray(store[row]))[:1, :VALUES].astype(np.float64).ravel() for row in range(count)]
    for at in range(min(VALUES, store.dim)):
        values = [float(vector[at]) if len(vector) else None for vector in vectors]
        table = table.append_column(f"[{at}]", pa.array(values, pa.float64()))
    return table


def aligned(table: pa.Table, most_columns: int = 12) -> Iterator[str]:
    """The lines of a table in columns: numbers to the right, text to the left, long values cut with '...'."""
    names = table.column_names
    left = names[most_columns:]
    names = names[:most_columns] if left else names
    cells = [[_cell(value) for value in table.column(name).to_pylist()] for name in names]
    to_right = [_is_number(table.schema.field(name).type) for name in names]
    widths = [max(map(len, [_short(name), *column])) for name, column in zip(names, cells, strict=True)]
    for line in ([_short(name) for name in names], *map(list, zip(*cells, strict=True))):
        placed = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, to_right, strict=True)
        ]
        yield "  ".join(placed).rstrip()
    if left:
        yield f"and {counted(len(left), 'more column')}: {', '.join(left)}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else _short(str(value))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def write_tsv(tables: Iterable[pa.Table], file: Path) -> int:
    """Write tables of the same columns as one TSV, whole or not at all; returns its rows.

    Raises `InputError` where the file cannot be written.
    """
    partial = file.with_name(f"{file.name}.partial-{os.getpid()}")
    count, writer = 0, None
    options = pacsv.WriteOptions(delimiter="\t", quoting_style="needed")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            for table in tables:
                writer = writer or pacsv.CSVWriter(stream, table.schema, write_options=options)
                writer.write_table(table)
                count += len(table)
            if writer is not None:
                writer.close()
        partial.replace(file)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return count
