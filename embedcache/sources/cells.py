"""Cells as ranked token ids (Geneformer's genes), which everywhere inside are text: ``2 144 1486 3``."""

from __future__ import annotations

import string

import pyarrow as pa
import pyarrow.compute as pc

TOKEN_COLUMNS = ("input_ids", "tokens", "gene_tokens")
DIGITS = b"0123456789 "
FORM = "a cell is whole numbers from 0 with blanks between them, such as 2 144 1486 3"
READ_TODAY = (
    "cells are read from parquet (a column of lists of token ids, such as input_ids) and from CSV or TSV (the ids as "
    "text, such as 2 144 1486 3)"
)
FAULTS = {ord("-"): "a negative number", ord("."): "a fraction", ord("n"): "a missing number"}
"""What a byte that is neither digit nor blank means among token ids."""
_BETWEEN = r"[\s,;\[\]()]+"


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
