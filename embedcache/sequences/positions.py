"""The letters that ``at:COLUMN`` looks at: whole numbers in a column of the input, one for each record."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_WHOLE = r"^\d{1,15}(\.0*)?$"
_NONE = -1


def read_positions(
    records: pa.RecordBatch | pa.Table, columns: tuple[str, ...], lengths: NDArray[np.int64], one_based: bool
) -> dict[str, NDArray[np.int64]]:
    """Read columns as positions of letters, counted from 0.

    Parameters
    ----------
    lengths : (n,) letters of each record's sequence.
    one_based : whether the columns count from 1, as VCF and GFF do.

    Returns
    -------
    (n,) for each column; -1 where there is no whole number, or one outside the sequence.
    """
    positions = {}
    for name in columns:
        letters = whole_numbers(records.column(name)) - int(one_based)
        positions[name] = np.where((letters >= 0) & (letters < lengths), letters, _NONE)
    return positions


def first_without(positions: dict[str, NDArray[np.int64]]) -> tuple[str, int] | None:
    """The first column and record in it without a position, None if all have one."""
    for column, letters in positions.items():
        rows = np.flatnonzero(letters == _NONE)
        if len(rows):
            return column, int(rows[0])
    return None


def whole_numbers(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """The values of a column of numbers or of text, -1 where they are missing or not whole."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        values = np.asarray(column.cast(pa.float64()).fill_null(np.nan))
        whole = (values == np.floor(values)) & (np.abs(values) < 1e15)
        return np.where(whole, values, _NONE).astype(np.int64)
    if pa.types.is_integer(column.type):
        return np.asarray(column.cast(pa.int64(), safe=False).fill_null(_NONE))
    if pa.types.is_nested(column.type) or pa.types.is_temporal(column.type):
        return np.full(len(column), _NONE)
    text = column.cast(pa.string())
    whole = pc.fill_null(pc.match_substring_regex(text, _WHOLE), False)
    digits = pc.replace_substring_regex(text, r"\.0*$", "")
    return np.asarray(pc.if_else(whole, digits, str(_NONE)).cast(pa.int64()))
