"""AnnData (.h5ad, .zarr, .zarr.zip): ``X`` or an array of ``obsm`` as ready-made embeddings, ``obs`` as metadata."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from embedcache.exchange.embeddings import Matrix, Reading, Values, id_table, with_columns
from embedcache.exchange.hdf5 import open_file
from embedcache.exchange.pandas import as_frame
from embedcache.exchange.selection import Selection
from embedcache.sources.anndata_file import open_zarr
from embedcache.sources.files import InputFile


def open_h5ad(file: InputFile, reading: Reading) -> Matrix:
    """Open an AnnData; its vectors are read when they are asked for, a sparse X some rows at a time.

    Raises
    ------
    InputError : the file is damaged or no AnnData, or has no array of that name.
    """
    from anndata.io import sparse_dataset

    opened = _opened(file)
    if "obs" not in opened or "X" not in opened:
        other = "; take --format hdf5" if isinstance(opened, h5py.File) else ""
        raise file.error(f"this is no AnnData: it has no X and obs{other}")
    found = _array(file, opened, reading.key or "X")
    array = found if hasattr(found, "shape") else sparse_dataset(found)
    return Matrix(file, array, np.dtype(array.dtype), _columns(file, opened), _rows)


def _opened(file: InputFile) -> Any:
    """The group of HDF5 or Zarr that the file is."""
    if not file.path.is_dir() and not zipfile.is_zipfile(file.path):
        return open_file(file)
    from zarr.errors import BaseZarrError

    try:
        return open_zarr(file.path)
    except (OSError, ValueError, KeyError, BaseZarrError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise file.error(f"this is no Zarr, or it is damaged ({reason[:100]}); copy or download it again") from None


def _array(file: InputFile, opened: Any, key: str) -> Any:
    obsm = opened.get("obsm", {})
    if key == "X" and "X" not in obsm:
        return opened["X"]
    if key not in obsm:
        raise file.error(
            f"there is no array {key!r}, given with --key; it has X and, in obsm, {', '.join(obsm) or 'none'}"
        )
    return obsm[key]


def _columns(file: InputFile, opened: Any) -> pa.Table:
    from anndata.io import read_elem

    try:
        obs = read_elem(opened["obs"])
    except Exception as error:  # anndata raises many kinds for a damaged table
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise file.error(f"its obs cannot be read ({reason[:100]})") from None
    columns = {}
    for name in obs.columns:
        values = obs[name]
        if hasattr(values, "cat"):
            values = values.astype(object).where(values.notna(), None)
        columns[str(name)] = pa.Array.from_pandas(values)
    return with_columns(id_table(file, obs.index.astype(str).tolist()), columns)


def _rows(array: Any, start: int, stop: int) -> Values:
    values = array[start:stop]
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values)


def write_h5ad(selection: Selection, file: Path) -> None:
    """Write an AnnData: X the vectors, written some at a time; obs the columns; var the names ``block.number``."""
    import pandas as pd
    from anndata import AnnData
    from anndata.io import write_elem

    obs = as_frame(selection.rows())
    var = pd.DataFrame(index=pd.Index(selection.feature_names))
    with h5py.File(file, "w") as written:
        write_elem(written, "/", AnnData(obs=obs, var=var))
        if "X" in written:
            del written["X"]
        array = written.create_dataset("X", (len(selection), selection.dim), selection.dtype)
        array.attrs["encoding-type"], array.attrs["encoding-version"] = "array", "0.2.0"
        for start, stop in selection.spans():
            array[start:stop] = selection.read(start, stop)
