"""``.npy``: one array (N, D), mapped; the ids lie in a text file beside it, one a line."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np

from embedcache.errors import InputError
from embedcache.exchange.embeddings import Matrix, Reading
from embedcache.exchange.selection import Selection
from embedcache.sources.files import InputFile


def open_npy(file: InputFile, reading: Reading) -> Matrix:
    """Map an array; raises `InputError` where it is damaged, no table of numbers, or would have to be unpickled."""
    try:
        array = np.load(file.path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise file.error(damage(error)) from None
    return Matrix(file, array, array.dtype, None)


def damage(error: Exception) -> str:
    """Say what numpy found wrong with an array."""
    what = (str(error).splitlines() or [type(error).__name__])[0]
    if "allow_pickle" in what or "Object arrays" in what:
        return "it holds Python objects, which can run code when they are read: save numbers and text only"
    return f"the file is cut off, damaged, or no array of numpy ({what[:100]})"


def write_npy(selection: Selection, file: Path, ids_file: Path) -> None:
    """Write the vectors as one array, and the ids beside it."""
    with file.open("wb") as stream:
        write_header(stream, (len(selection), selection.dim), selection.dtype)
        for block in selection.blocks():
            stream.write(block.data)
    write_ids(selection, ids_file)


def write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    """Write what stands before the values of an array in C order."""
    np.lib.format.write_array_header_1_0(
        stream, {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
    )


def write_ids(selection: Selection, file: Path) -> None:
    """Write the ids one a line; raises `InputError` for an id that a line cannot hold."""
    ids = selection.ids()
    for name in ids:
        if len(name.splitlines()) != 1 or name != name.strip():
            raise InputError(
                f"the id {name!r} holds a line end or begins or ends with a blank: export to parquet or npz"
            )
    file.write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
