"""Which reader a foreign file needs, and several files as one run of records."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.exchange.embeddings import Embeddings, Matrix, Reading, Values, id_table, narrowed, with_columns
from embedcache.records import ID
from embedcache.sources.files import GZIP, InputFile, container, input_file
from embedcache.sources.inputs import TABLE_EXTENSIONS
from embedcache.sources.tables import Table, open_table

READERS = {
    "pt": ("pt", "open_pt"),
    "npy": ("npy", "open_npy"),
    "npz": ("npz", "open_npz"),
    "hdf5": ("hdf5", "open_hdf5"),
    "parquet": ("parquet", "open_parquet"),
    "h5ad": ("h5ad", "open_h5ad"),
    "safetensors": ("tensors", "open_safetensors"),
}
"""Module and function that open each format; imported when they are needed, some of them are slow to."""
EXTENSIONS = {
    ".pt": "pt", ".pth": "pt", ".npy": "npy", ".npz": "npz", ".h5": "hdf5", ".hdf5": "hdf5", ".parquet": "parquet",
    ".pq": "parquet", ".h5ad": "h5ad", ".safetensors": "safetensors",
}  # fmt: skip
_STARTS = {b"\x93NUMPY": "npy", b"\x89HDF": "hdf5", b"PAR1": "parquet"}


def open_embeddings(texts: Sequence[str], reading: Reading, ids: str | None = None) -> Together:
    """Open foreign files, put after each other.

    Parameters
    ----------
    texts : paths, each with columns attached to all its records where it ends in ``:name=value,name=value``.
    reading : how to read them.
    ids : a text file with one id a line, or a table, for files that have none; those of all files in order.

    Raises
    ------
    InputError : a file cannot be read, or the files do not go together.
    """
    files = [container(text) for text in texts]
    opened = [_open(file, reading) for file in files]
    without = [one for one in opened if isinstance(one, Matrix) and not one.has_ids]
    if ids is None and without:
        raise InputError(f"{without[0].name}: it holds vectors without ids; give them with --ids FILE, one a line")
    if ids is not None:
        if not without:
            raise files[0].error(f"it has ids of its own; leave out --ids {ids}")
        _give_ids(without, read_ids(ids, reading.id_column), ids)
    return Together(files, opened)


def _give_ids(opened: Sequence[Matrix], given: pa.Table, ids: str) -> None:
    count = sum(one.count for one in opened)
    if count != len(given):
        which = ", ".join(one.name for one in opened)
        raise InputError(
            f"{ids} has {counted(len(given), 'id')}, {which} {counted(count, 'vector')}; each vector needs one id, in order"
        )
    taken = 0
    for one in opened:
        one.rows = given.slice(taken, one.count)
        taken += one.count


def _open(file: InputFile, reading: Reading) -> Embeddings:
    module, function = READERS[_format_of(file) if reading.format == "auto" else reading.format]
    opened: Embeddings = getattr(importlib.import_module(f"embedcache.exchange.{module}"), function)(file, reading)
    return opened


def _format_of(file: InputFile) -> str:
    """By extension, else by the first bytes."""
    if file.path.is_dir():
        return "h5ad"
    if file.extension in EXTENSIONS:
        return EXTENSIONS[file.extension]
    with file.path.open("rb") as stream:
        start = stream.read(8)
    if start.startswith(GZIP):
        raise file.error("it is packed with gzip, and vectors are read at any place: unpack it with gunzip")
    if zipfile.is_zipfile(file.path):
        with zipfile.ZipFile(file.path) as archive:
            names = archive.namelist()
        if any(name.startswith("obs/") for name in names):
            return "h5ad"
        return "pt" if any(name.endswith("data.pkl") for name in names) else "npz"
    if start.startswith(b"PK"):
        raise file.error("the zip was cut off, or is damaged; copy or download it again")
    found = next((kind for magic, kind in _STARTS.items() if start.startswith(magic)), None)
    if found is None:
        raise file.error(
            f"this is none of the formats that hold embeddings ({', '.join(READERS)}); vectors in CSV or TSV are not read, "
            "sequences are encoded by `embedcache extract`"
        )
    return found


def read_ids(text: str, id_column: str | None) -> pa.Table:
    """Read a file of ids: one a line, or a table, whose other columns come along; raises `InputError` for an empty line."""
    file = input_file(text, attach=False)
    if file.extension in TABLE_EXTENSIONS or id_column is not None:
        table = Table(open_table(file), id_column, sequences=False)
        rows = pa.Table.from_batches(table.batches())
        return narrowed(rows, table.schema.names if table.text else ())
    with file.reading() as stream:
        names = stream.read().decode("utf-8", "replace").splitlines()
    while names and not names[-1].strip():
        names.pop()
    if not names:
        raise file.error("the file of ids is empty")
    for line, name in enumerate(names, 1):
        if not name.strip():
            raise file.error("the line is empty, and each line is one id", line)
    return id_table(file, [name.strip() for name in names])


class Together:
    """The records of several files one after another, `Embeddings` by protocol.

    Raises
    ------
    InputError : their vectors differ in width, some have one vector a record and others one row a token, or an id occurs
        twice.
    """

    def __init__(self, files: Sequence[InputFile], parts: Sequence[Embeddings]) -> None:
        self.name = ", ".join(file.name for file in files[:3]) + (f" and {len(files) - 3} more" if files[3:] else "")
        self._parts = parts
        first = parts[0]
        for file, part in zip(files, parts, strict=True):
            if part.dim != first.dim:
                raise file.error(
                    f"its vectors have {part.dim:,} values, those of {files[0].name} {first.dim:,}: files of one encoder go "
                    "into one store; make two stores and merge them"
                )
            if (part.offsets is None) != (first.offsets is None):
                raise file.error(
                    f"it has vectors and {files[0].name} one row a token, or the other way round: make two stores"
                )
        self.dim = first.dim
        self.dtype = np.result_type(*{part.dtype for part in parts})
        tables = [_attached(file, part.rows) for file, part in zip(files, parts, strict=True)]
        self._starts = np.cumsum([0, *(len(table) for table in tables)])
        self.rows = _one_table(tables, {name for file in files for name, _ in file.attached})
        self._check_unique(files)
        self.offsets: NDArray[np.int64] | None = None
        if first.offsets is not None:
            lengths = [np.diff(part.offsets) for part in parts if part.offsets is not None]
            self.offsets = np.cumsum([0, *np.concatenate(lengths).tolist()], dtype=np.int64)

    def read(self, start: int, stop: int) -> Values:
        """Vectors of the records [start, stop), or the rows of their tokens."""
        found = []
        for (first, last), part in zip(pairwise(self._starts.tolist()), self._parts, strict=True):
            if first < stop and start < last:
                found.append(part.read(max(start, first) - first, min(stop, last) - first))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _check_unique(self, files: Sequence[InputFile]) -> None:
        ids = self.rows.column(ID).to_pylist()
        if len(set(ids)) == len(ids):
            return
        rows: dict[str, int] = {}
        for row, name in enumerate(ids):
            if name in rows:
                places = [self._place(files, one) for one in (rows[name], row)]
                raise InputError(
                    f"the id '{name}' occurs twice, as {places[0]} and as {places[1]}: ids must be unique, rename one"
                )
            rows[name] = row

    def _place(self, files: Sequence[InputFile], row: int) -> str:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return f"record {row - int(self._starts[part]) + 1:,} of {files[part].name}"


def _attached(file: InputFile, rows: pa.Table) -> pa.Table:
    columns = {name: pa.array([value] * len(rows), pa.string()) for name, value in file.attached}
    try:
        return with_columns(rows, columns)
    except InputError as error:
        raise file.error(str(error)) from None


def _one_table(tables: Sequence[pa.Table], text: set[str]) -> pa.Table:
    """All rows in one table, a column that a file lacks null there; attached text that is always a number becomes one."""
    names = list(dict.fromkeys(name for table in tables for name in table.column_names))
    columns = {}
    for name in names:
        there = [table.column(name) if name in table.column_names else pa.nulls(len(table)) for table in tables]
        columns[name] = _one_column(name, there)
    return narrowed(pa.table(columns), sorted(text))


def _one_column(name: str, parts: Sequence[pa.ChunkedArray | pa.Array]) -> pa.ChunkedArray:
    kinds = {part.type for part in parts if not pa.types.is_null(part.type)} or {pa.string()}
    if len(kinds) == 1:
        kind = next(iter(kinds))
    else:
        try:
            kind = (
                pa.unify_schemas([pa.schema([(name, one)]) for one in kinds], promote_options="permissive")
                .field(0)
                .type
            )
        except pa.ArrowException:
            kind = pa.string()
    chunks: list[pa.Array] = []
    for part in parts:
        cast = part.cast(kind)
        chunks += cast.chunks if isinstance(cast, pa.ChunkedArray) else [cast]
    return pa.chunked_array(chunks, kind)
