"""Columns that hold a value for each letter of their record's sequence, taken apart into one value a letter.

Such a column is a list, or text: with commas somewhere in the column, values with commas between them (``0.1,0.2,-,0.4``);
without, one character for each letter (``HHHEE-CC``). A value that is missing is null or NaN in a list, ``-`` or nothing in
text and in lists of texts, and also a blank where each character is a value; ``.`` is a value like any other. Text that is
always a number becomes one, so that all forms of the same values are the same.

Axes: N records, P letters of all records.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embedcache.errors import InputError
from embedcache.sources.delimited import NULLS

_MISSING = ["-", *NULLS]
_BLANK = " "


def values_by_letter(
    column: pa.ChunkedArray, letters_N: NDArray[np.int64], ids: pa.ChunkedArray, name: str
) -> pa.Array | pa.ChunkedArray:
    """The values (P,) of a column (N,) that has one for each letter; null in all letters of a record that has none.

    Raises
    ------
    InputError : a record has another number of values than letters, or the column holds no such values.
    """
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_list(array.type):
        return _of_lists(array, letters_N, ids, name)
    if pa.types.is_nested(array.type) or pa.types.is_temporal(array.type) or pa.types.is_null(array.type):
        raise InputError(
            f"column '{name}' holds {array.type}: a value for each letter is a list, or text with a character or, between "
            "commas, a value for each"
        )
    text = array.cast(pa.large_string())
    text = pc.if_else(pc.is_in(text, pa.array(NULLS, pa.large_string())), None, text)
    if pc.any(pc.match_substring(text, ",")).as_py():
        return _of_lists(pc.split_pattern(text, ","), letters_N, ids, name)
    return _of_characters(text, letters_N, ids, name)


def type_by_letter(kind: pa.DataType) -> pa.DataType | None:
    """The type of the values of a list column, None for any other."""
    return kind.value_type if _is_list(kind) else None


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _of_lists(array: pa.Array, letters_N: NDArray[np.int64], ids: pa.ChunkedArray, name: str) -> pa.Array:
    known_N = np.asarray(array.is_valid())
    _check_lengths(np.asarray(pc.fill_null(pc.list_value_length(array), 0), np.int64), known_N, letters_N, ids, name)
    values = pc.list_flatten(array)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if _is_text(values.type):
        values = pc.utf8_trim_whitespace(values)
        values = _narrowed(pc.if_else(pc.is_in(values, pa.array(_MISSING, values.type)), None, values))
    elif pa.types.is_nested(values.type):
        raise InputError(f"column '{name}' holds lists of {values.type}: give one value for each letter")
    return _spread(values, known_N, letters_N)


def _of_characters(text: pa.Array, letters_N: NDArray[np.int64], ids: pa.ChunkedArray, name: str) -> pa.Array:
    known_N = np.asarray(text.is_valid())
    text = pc.fill_null(text, "")
    _check_lengths(np.asarray(pc.utf8_length(text), np.int64), known_N, letters_N, ids, name)
    characters = np.frombuffer("".join(text.to_pylist()).encode("utf-32-le"), np.uint32)
    distinct, codes = np.unique(characters, return_inverse=True)
    words = pa.array([chr(code) for code in distinct.tolist()], pa.string())
    words = _narrowed(pc.if_else(pc.is_in(words, pa.array([*_MISSING, _BLANK])), None, words))
    return _spread(words.take(pa.array(codes)), known_N, letters_N)


def _check_lengths(
    counts_N: NDArray[np.int64],
    known_N: NDArray[np.bool_],
    letters_N: NDArray[np.int64],
    ids: pa.ChunkedArray,
    name: str,
) -> None:
    wrong = np.flatnonzero(known_N & (counts_N != letters_N))
    if len(wrong):
        row = int(wrong[0])
        more = f", and {len(wrong) - 1:,} more records differ" if len(wrong) > 1 else ""
        raise InputError(
            f"'{ids[row]}' has {counts_N[row]:,} values in column '{name}' and a sequence of {letters_N[row]:,} letters"
            f"{more}: give one value for each letter, with - where there is none"
        )


def _spread(values: pa.Array, known_N: NDArray[np.bool_], letters_N: NDArray[np.int64]) -> pa.Array:
    """Values of the records that have them -> of all records."""
    if known_N.all():
        return values
    known_P = np.repeat(known_N, letters_N)
    return values.take(pa.array(np.cumsum(known_P) - 1, mask=~known_P))


def _narrowed(texts: pa.Array) -> pa.Array:
    from embedcache.extraction.plan import NarrowestType  # which needs torch

    narrowest = NarrowestType(text=True)
    narrowest.see(texts)
    return texts.cast(narrowest.type)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
