"""The rows table of a merge: the columns of the first store, and those that the others add or must agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedcache.combining.joining import Join
from embedcache.counted import counted
from embedcache.errors import StoreError
from embedcache.records import ID, RESERVED
from embedcache.storage.pieces import ABSENT, Rows
from embedcache.storage.store import Store

AGREEING = ("label", "split", "group")
"""Columns that stores of one merge may not disagree on."""


def merged_rows(stores: Mapping[str, Store], join: Join, agreeing: Sequence[str]) -> pa.Table:
    """Put the columns of all stores together, for the rows of a join.

    The id is the common one; where a store called a row otherwise, column ``id_STORE`` says how. A column of the same name
    is kept once where the stores hold the same in it, else also as ``NAME_STORE``.

    Raises
    ------
    StoreError : stores hold different values in one of `agreeing`, or the several rows of one id do.
    """
    table = pa.table({"row": pa.array(np.arange(len(join.ids))), ID: join.ids})
    for number, (name, store) in enumerate(stores.items()):
        side = join.sides[name]
        for column in agreeing:
            if column in store.column_names and side.several:
                _check_members(store, column, join, name)
        own = store.rows.take(pa.array(side.rows, mask=side.rows == ABSENT))
        if not own[ID].cast(pa.string()).equals(table[ID].cast(pa.string())) and not side.several:
            table = _with(table, f"{ID}_{name}", own[ID])
        kept = [column for column in own.column_names if column not in ("row", ID)]
        for column in kept if number == 0 else [column for column in kept if column not in RESERVED]:
            table = _joined(table, column, own[column], name, store, agreeing)
    return table


def _joined(
    table: pa.Table, column: str, values: pa.ChunkedArray, name: str, store: Store, agreeing: Sequence[str]
) -> pa.Table:
    """Add a column of one more store."""
    if column not in table.column_names:
        return _with(table, column, values)
    held = table[column]
    if pa.types.is_nested(held.type) or pa.types.is_nested(values.type):
        return table if held.equals(values) else _with(table, f"{column}_{name}", values)
    left, right = alike(held, values)
    differ = pc.fill_null(pc.not_equal(left, right), False)
    row = pc.index(differ, True).as_py()
    if row < 0:
        both = held if held.null_count == 0 else pc.coalesce(left, right)
        return table.set_column(table.schema.get_field_index(column), column, both)
    if column in agreeing:
        ids = counted(pc.sum(differ).as_py(), "id disagrees", "ids disagree")
        raise StoreError(
            f"'{table[ID][row]}' has {column} {left[row].as_py()!r} in one store and {right[row].as_py()!r} in "
            f"{store.path}, and {ids}: correct one of the two inputs, and run its "
            "extraction again"
        )
    return _with(table, f"{column}_{name}", values)


def _with(table: pa.Table, column: str, values: pa.ChunkedArray) -> pa.Table:
    while column in table.column_names:
        column += "_"
    return table.append_column(column, values)


def _check_members(store: Store, column: str, join: Join, name: str) -> None:
    """Raise where the several rows of one id hold different values."""
    side = join.sides[name]
    values = store.column(column).take(pa.array(side.members)).combine_chunks().dictionary_encode()
    codes = np.asarray(values.indices.fill_null(ABSENT), np.int64)
    place: Rows = np.repeat(np.arange(len(join.ids)), np.diff(side.starts))
    differ = np.flatnonzero((np.diff(codes) != 0) & (np.diff(place) == 0) & (codes[1:] >= 0) & (codes[:-1] >= 0))
    if len(differ):
        first = int(differ[0])
        one, other = (values.dictionary[int(codes[at])].as_py() for at in (first, first + 1))
        raise StoreError(
            f"rows of '{join.ids[int(place[first])]}' in {store.path} have {column} {one!r} and {other!r}: rows that become "
            "one must agree"
        )


def alike(left: pa.ChunkedArray, right: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Two columns in one type in which they can be compared."""
    if left.type.equals(right.type):
        return left, right
    numbers = [pa.types.is_integer(one.type) or pa.types.is_floating(one.type) for one in (left, right)]
    kind = pa.float64() if all(numbers) else pa.string()
    return left.cast(kind), right.cast(kind)
