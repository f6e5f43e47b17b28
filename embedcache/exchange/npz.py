"""``.npz``: one array for each id, or one array (N, D) beside one of ids; read array by array from the archive."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.exchange.embeddings import Matrix, OneArrayEach, Reading, Values, id_table, with_columns
from embedcache.exchange.npy import damage, write_header
from embedcache.exchange.selection import Selection
from embedcache.sources.files import InputFile

MATRICES = ("embeddings", "embedding", "data", "X", "x", "arr_0")
IDS = ("ids", "id", "names", "keys", "accessions", "cells", "obs_names")
_DAMAGED = (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error, KeyError)


def open_npz(file: InputFile, reading: Reading) -> Matrix | OneArrayEach:
    """Open an archive of arrays without reading them.

    With ``--key``, or an array called embeddings, data or X that has two axes, that array is the table of vectors, and an
    array of text called ids, names, cells ... holds the ids (else ``--ids``); other arrays of N values are columns. In
    any other archive each array belongs to the id that it is called.

    Raises
    ------
    InputError : the archive is damaged, an array would have to be unpickled, or the shapes do not go together.
    """
    headers = _headers(file)
    key = reading.key
    if key is None:
        key = next((name for name in MATRICES if name in headers and len(headers[name][0]) == 2), None)
        if key == "arr_0" and len(headers) > 1:
            key = None
    if key is not None:
        return _matrix(file, headers, key)
    names = list(headers)
    shapes, dtypes = zip(*headers.values(), strict=True)
    return OneArrayEach(
        file, id_table(file, names), shapes, dtypes, lambda start, stop: _arrays(file, names[start:stop])
    )


def _matrix(file: InputFile, headers: dict[str, Any], key: str) -> Matrix:
    if key not in headers:
        raise file.error(f"there is no array {key!r}, given with --key; it has {', '.join(list(headers)[:20])}")
    shape, _ = headers[key]
    if len(shape) != 2:
        raise file.error(f"the array {key!r} has the shape {shape}: one row a record is expected, (N, D)")
    ids_of = next((name for name in IDS if name in headers and headers[name][0] == shape[:1]), None)
    columns = None
    if ids_of is not None:
        columns = id_table(file, _arrays(file, [ids_of])[0].tolist())
        others = [name for name in headers if name not in (key, ids_of) and headers[name][0] == shape[:1]]
        values = [_values(array) for array in _arrays(file, others)]
        columns = with_columns(columns, dict(zip(others, values, strict=True)))
    (array,) = _arrays(file, [key])
    return Matrix(file, array, array.dtype, columns)


def _values(array: Values) -> pa.Array:
    """A column of N values; text that is empty is missing."""
    return pa.array([value if value != "" else None for value in array.tolist()])


def _headers(file: InputFile) -> dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]:
    """Shape and type of each array, by name."""
    headers = {}
    try:
        with zipfile.ZipFile(file.path) as archive:
            for member in archive.namelist():
                with archive.open(member) as stream:
                    headers[member.removesuffix(".npy")] = _header(stream)
    except _DAMAGED as error:
        raise file.error(damage(error)) from None
    if not headers:
        raise file.error("the archive holds no arrays")
    for name, (_, dtype) in headers.items():
        if dtype.hasobject:
            raise file.error(f"the array {name!r}: " + damage(ValueError("Object arrays")))
    return headers


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return tuple(shape), dtype


def _arrays(file: InputFile, names: list[str]) -> list[Values]:
    try:
        with zipfile.ZipFile(file.path) as archive:
            members = set(archive.namelist())
            arrays = []
            for name in names:
                with archive.open(f"{name}.npy" if f"{name}.npy" in members else name) as stream:
                    arrays.append(np.lib.format.read_array(stream, allow_pickle=False))
            return arrays
    except _DAMAGED as error:
        raise file.error(damage(error)) from None


def write_npz(selection: Selection, file: Path) -> None:
    """Write arrays ``embeddings`` and ``ids`` and one for each column, or, where every token is kept, one for each id.

    Nothing is compressed; the values are written some at a time. A column of numbers with gaps becomes float with NaN, one
    of text has "" there.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        if selection.store.per_token:
            for name, values in selection.records():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, values, allow_pickle=False)
            return
        with archive.open("embeddings.npy", "w", force_zip64=True) as stream:
            write_header(stream, (len(selection), selection.dim), selection.dtype)
            for block in selection.blocks():
                stream.write(block.data)
        rows = selection.rows().rename_columns(["ids", *selection.columns])
        for name in rows.column_names:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, _column(rows.column(name)), allow_pickle=False)


def _column(column: pa.ChunkedArray) -> NDArray[np.generic]:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return np.asarray(column.to_numpy())
    return np.array(["" if value is None else str(value) for value in column.to_pylist()], np.str_)
