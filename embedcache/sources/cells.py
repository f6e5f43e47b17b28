"""Cells as ranked token ids (Geneformer's genes), which everywhere inside are text: ``2 144 1486 3``."""

from __future__ import annotations

import json
import string
from enum import Enum
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

TOKEN_COLUMNS = ("input_ids", "tokens", "gene_tokens")
DIGITS = b"0123456789 "
FORM = "a cell is whole numbers from 0 with blanks between them, such as 2 144 1486 3"
READ_TODAY = (
    "cells are read as counts from AnnData (.h5ad, .zarr), 10x folders and .h5, and CSV or TSV (genes by cells), and as "
    "token ids from parquet (a column of lists, such as input_ids), CSV or TSV (as text, such as 2 144 1486 3) and .npz "
    "(tokens, lengths)"
)
CELL_IDS = ("cell", "cell_id", "barcode")
"""How columns of ids are called in tables about cells."""
FAULTS = {ord("-"): "a negative number", ord("."): "a fraction", ord("n"): "a missing number"}
"""What a byte that is neither digit nor blank means among token ids."""
_BETWEEN = r"[\s,;\[\]()]+"


class CellFormat(Enum):
    """What cells come in, where it is no table of token ids."""

    ANNDATA = "AnnData"
    TENX_FOLDER = "10x folder"
    TENX_HDF5 = "10x .h5"
    TABLE = "table of expression"
    RANKED = "ranked tokens"


_ENDINGS = {
    ".h5ad": CellFormat.ANNDATA,
    ".zarr.zip": CellFormat.ANNDATA,
    ".h5": CellFormat.TENX_HDF5,
    ".npz": CellFormat.RANKED,
}


def cell_format(path: Path, name: str | None = None) -> CellFormat | None:
    """Tell the format of a file or folder of cells from its name, or what lies in it; None for anything else."""
    called = Path(name or path.name).name.lower()
    if path.is_dir():
        if any(any(path.glob(pattern)) for pattern in ("*.mtx", "*.mtx.gz")):
            return CellFormat.TENX_FOLDER
        return CellFormat.ANNDATA if _is_anndata_folder(path) else None
    return next((format for ending, format in _ENDINGS.items() if called.endswith(ending)), None)


def _is_anndata_folder(path: Path) -> bool:
    for name in ("zarr.json", ".zattrs"):
        try:
            attributes = json.loads((path / name).read_bytes())
            if name == "zarr.json":
                attributes = attributes.get("attributes", {})
            return bool(attributes.get("encoding-type") == "anndata")
        except (OSError, ValueError, AttributeError):
            continue
    return False


def is_token_list(kind: pa.DataType) -> bool:
    """Whether an Arrow type is a list of whole numbers."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_list(kind) for is_list in lists) and pa.types.is_integer(kind.value_type)


def lists_as_text(lists: pa.Array) -> pa.Array:
    """Write lists of whole numbers (n,) as large_string (n,), a number that is null as ``null``."""
    words = lists.cast(pa.large_list(pa.string()))
    if words.flatten().null_count:
        present = pc.fill_null(words.values, "null")
        words = pa.LargeListArray.from_arrays(
            words.offsets, present, mask=words.is_null() if words.null_count else None
        )
    return pc.binary_join(words, " ").cast(pa.large_string())


def are_numbers(texts: pa.Array) -> bool:
    """Whether the first text (n,) that is not blank has digits and no letters, so that it is no sequence."""
    first = set(next((text for value in texts if (text := (value.as_py() or "").strip())), ""))
    return not first.isdisjoint(string.digits) and first.isdisjoint(string.ascii_letters)


def tidied(texts: pa.Array) -> pa.Array:
    """Put one blank between the numbers of each text (n,), where there were commas, line ends or brackets."""
    return pc.ascii_trim_whitespace(pc.replace_substring_regex(texts, _BETWEEN, " "))
