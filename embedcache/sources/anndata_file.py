"""AnnData files (.h5ad, .zarr, .zarr.zip), read some cells at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import pyarrow as pa
from scipy import sparse

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.records import metadata_name
from embedcache.sources.count_matrix import CellBlock, block_rows
from embedcache.sources.files import InputFile

if TYPE_CHECKING:
    import pandas as pd
    import zarr

HDF5 = b"\x89HDF\r\n\x1a\n"


class AnnDataFile:
    """A matrix of an AnnData: X, ``raw``, or a layer; the columns of obs come with the cells.

    Categories become strings; numbers and booleans keep their type; columns of anything else become their text. Rows of
    CSR and dense matrices are read as they are needed, a CSC matrix is read as a whole.

    Raises
    ------
    InputError
        On opening: the file is cut off, is no AnnData, or has no such layer. While reading: its content is damaged.
    """

    def __init__(self, file: InputFile, layer: str | None = None) -> None:
        self.file = file
        self.what = {None: "X", "X": "X", "raw": "raw.X"}.get(layer, f"the layer {layer!r}")
        with self._opened() as group:
            if "obs" not in group or "var" not in group:
                raise file.error("this is no AnnData (it has no obs and var); for a 10x .h5 check the file's origin")
            self._path = self._find(group, layer)
            obs = self._frame(group, "obs")
            var = self._frame(group, "raw/var" if layer == "raw" else "var")
            self._shape = _shape(group[self._path])
            self.way_out = self._ways_out(group)
        if self._shape != (len(obs), len(var)):
            raise file.error(
                f"{self.what} is {self._shape}, and obs and var have {len(obs):,} and {counted(len(var), 'row')}"
            )
        self._ids = pa.array([str(name) for name in obs.index], pa.string())
        self.gene_names = _names(var)
        columns = {str(name): _column(obs.iloc[:, at]) for at, name in enumerate(obs.columns)}
        stored = [metadata_name(name) for name in columns]
        if twice := next((name for name in stored if stored.count(name) > 1), None):
            raise file.error(f"two columns of obs would be stored as {twice!r}; rename one of them")
        self._columns = list(columns.values())
        self.schema = pa.schema([(name, column.type) for name, column in zip(stored, self._columns, strict=True)])
        self.remarks: Sequence[str] = (
            ["caution  obs has a column filter_pass; all cells are taken, whatever it says"]
            if "filter_pass" in columns
            else []
        )
        self._whole: sparse.csr_matrix | None = None

    def blocks(self) -> Iterator[CellBlock]:
        """Read from the start."""
        cells, genes = self._shape
        with self._opened() as group:
            matrix = self._readable(group[self._path])
            for start in range(0, cells, rows := block_rows(genes)):
                stop = min(start + rows, cells)
                counts = sparse.csr_matrix(matrix[start:stop])
                counts.sort_indices()
                columns = [column.slice(start, stop - start) for column in self._columns]
                yield CellBlock(self._ids.slice(start, stop - start), counts, columns)

    def place(self, cell: int) -> str:
        """Say where a cell, counted from 0, stands: ``cell 12`` counts from 1."""
        return f"cell {cell + 1}"

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The group that the file is, an h5py or a zarr one; what goes wrong with it becomes an InputError."""
        from zarr.errors import BaseZarrError

        path = self.file.path
        try:
            with _zarr_group(path) if path.is_dir() or path.suffix.lower() == ".zip" else _hdf5_group(path) as group:
                yield group
        except InputError:
            raise
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, BadZipFile, zlib.error, BaseZarrError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].strip('"')
            raise self.file.error(
                f"the AnnData is cut off or damaged ({reason[:160]}); copy or write it again"
            ) from error

    def _find(self, group: Any, layer: str | None) -> str:
        path = {None: "X", "X": "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")
        if path not in group or "/" in (layer or ""):
            there = " or ".join(self._layers(group)) or "none"
            if layer is None:
                raise self.file.error(f"the AnnData has no X; name the matrix of counts with --counts-layer: {there}")
            raise self.file.error(f"there is no layer {layer!r}, given with --counts-layer; there is {there}")
        return path

    def _layers(self, group: Any) -> list[str]:
        """What --counts-layer may name."""
        layers = list(group["layers"]) if "layers" in group else []
        return [*(["X"] if "X" in group else []), *(["raw"] if "raw/X" in group else []), *map(str, layers)]

    def _ways_out(self, group: Any) -> str:
        others = [layer for layer in self._layers(group) if f"layers/{layer}" != self._path and layer != self.what]
        others = [layer for layer in others if f"{layer}.X" != self.what]
        if others:
            return f"if the counts are elsewhere, take them with --counts-layer {' or --counts-layer '.join(others)}"
        return "the file has no other matrix: put the raw counts into a layer, and name it with --counts-layer"

    def _frame(self, group: Any, name: str) -> pd.DataFrame:
        from anndata.io import read_elem

        if "encoding-type" not in group[name].attrs:
            raise self.file.error(
                f"{name} was written by an anndata before 0.7; read and write the file with a newer one"
            )
        return read_elem(group[name])

    def _readable(self, matrix: Any) -> Any:
        """What gives rows by slicing."""
        from anndata.io import sparse_dataset

        if self._whole is not None:
            return self._whole
        if hasattr(matrix, "shape"):
            return matrix
        backed = sparse_dataset(matrix)
        if backed.format == "csr":
            return backed
        self._whole = backed.to_memory().tocsr()
        return self._whole


@contextmanager
def _hdf5_group(path: Path) -> Iterator[Any]:
    import h5py

    with h5py.File(path, "r") as group:
        yield group


@contextmanager
def _zarr_group(path: Path) -> Iterator[Any]:
    group = open_zarr(path)
    try:
        yield group
    finally:
        group.store.close()


def open_zarr(path: Path) -> zarr.Group:
    """Open a folder, or a zipped one, for reading."""
    import zarr

    # the consolidated copy of the metadata lists every array, and one unknown type in uns would refuse them all
    store = path if path.is_dir() else zarr.storage.ZipStore(path, mode="r")
    return zarr.open_group(store, mode="r", use_consolidated=False)


def _shape(matrix: Any) -> tuple[int, ...]:
    return tuple(map(int, matrix.shape if hasattr(matrix, "shape") else matrix.attrs["shape"]))


def _names(var: pd.DataFrame) -> Mapping[str, Sequence[str]]:
    """The index of var, and every column of it that names genes: text, one for each."""
    import pandas as pd

    names = {"index of var": [str(name) for name in var.index]}
    for column in var.columns:
        values = var[column]
        if pd.api.types.is_object_dtype(values) or pd.api.types.is_string_dtype(values):
            texts = ["" if pd.isna(value) else str(value) for value in values]
            if len(set(texts)) > len(texts) // 2:  # a chromosome or a type has few values
                names[f"column {column!r} of var"] = texts
    return names


def _column(values: pd.Series) -> pa.Array:
    import pandas as pd

    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object).map(lambda value: None if pd.isna(value) else str(value))
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        array = pa.array([None if value is None else str(value) for value in values], pa.string())
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_dictionary(array.type) or pa.types.is_large_string(array.type) or pa.types.is_null(array.type):
        return array.cast(pa.string())
    return array
