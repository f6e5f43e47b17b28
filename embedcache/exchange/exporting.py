"""A store -> a file that other programs read, whole or not at all."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from embedcache.errors import InputError, StoreError
from embedcache.exchange.selection import select
from embedcache.extraction.preflight import existing_folder
from embedcache.progress import Progress, size
from embedcache.storage.store import Store

WRITERS = {
    "npy": ("npy", "write_npy"),
    "npz": ("npz", "write_npz"),
    "parquet": ("parquet", "write_parquet"),
    "hdf5": ("hdf5", "write_hdf5"),
    "h5ad": ("h5ad", "write_h5ad"),
    "pt": ("pt", "write_pt"),
    "safetensors": ("tensors", "write_safetensors"),
}
"""Module and function that write each format."""
WITH_IDS_BESIDE = ("npy", "safetensors")
OF_TOKENS = ("npz", "hdf5")
"""Formats that can hold one row a token."""
WITHOUT_COLUMNS = ("npy", "safetensors", "hdf5", "pt")


@dataclass(frozen=True)
class Exported:
    """What was written."""

    files: tuple[Path, ...]
    columns: tuple[str, ...]
    """Columns that went along."""
    left: tuple[str, ...]
    """Columns that the format has no place for."""
    dim: int
    dtype: str
    remark: str | None = None


def export_store(
    store: Store,
    form: str,
    output: Path,
    *,
    blocks: Sequence[str] = (),
    dtype: str | None = None,
    columns: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress,
) -> Exported:
    """Write a store as a file of another format.

    The parameters are those of `embedcache.exchange.selection.select`.

    Raises
    ------
    InputError : the format cannot hold the store, or there is something at `output` and `overwrite` is False.
    StoreError : the disk is too small or cannot be written.
    """
    if store.per_token and form not in OF_TOKENS:
        raise InputError(
            f"{store.path} keeps every token, and {form} holds one vector a record: export it --to npz or hdf5, or extract "
            "with a pooling"
        )
    selection = select(store, blocks=blocks, dtype=dtype, columns=columns)
    files = [output]
    if form in WITH_IDS_BESIDE:
        files.append(output.with_name(f"{output.name.removesuffix(f'.{form}')}.ids.txt"))
    for file in files:
        if file.is_dir():
            raise InputError(f"{file} is a folder: name a file with -o")
        if file.exists() and not overwrite:
            raise InputError(f"{file} is there already: name another one, or --overwrite")
    needed = int(store.offsets[-1]) * selection.dim * selection.dtype.itemsize
    free = shutil.disk_usage(existing_folder(output)).free
    if needed > free:
        raise StoreError(
            f"{output} needs {size(needed)}, {size(free)} are free there: free some, or name another place"
        )
    module, function = WRITERS[form]
    write = getattr(importlib.import_module(f"embedcache.exchange.{module}"), function)
    told = replace(selection, taken=lambda rows: progress.advance(rows, rows))
    progress.start(len(selection), "rows")
    try:
        remark = _whole(lambda partial: write(told, *partial), files)
    finally:
        progress.stop()
    lost = selection.columns if form in WITHOUT_COLUMNS else ()
    lost = tuple(name for name in lost if not (form == "pt" and name == "label"))
    kept = tuple(name for name in selection.columns if name not in lost)
    if store.per_token:
        kept, lost = (), selection.columns
    return Exported(tuple(files), kept, lost, selection.dim, str(selection.dtype), remark)


def _whole(write: Callable[[Sequence[Path]], str | None], files: Sequence[Path]) -> str | None:
    """Let `write` write beside the files, and put them into place when all are whole."""
    partial = [file.with_name(f"{file.name}.partial-{os.getpid()}") for file in files]
    try:
        files[0].parent.mkdir(parents=True, exist_ok=True)
        remark = write(partial)
        for written, file in zip(partial, files, strict=True):
            with written.open("rb") as stream:
                os.fsync(stream.fileno())
            written.replace(file)
    except OSError as error:
        raise StoreError(f"cannot write {files[0]}: {error.strerror or error}; nothing is left of it") from None
    finally:
        for written in partial:
            written.unlink(missing_ok=True)
    return remark
