"""Stores on top of each other: the rows of one, then those of the next, of the same encoder read out in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedcache import __version__
from embedcache.counted import counted
from embedcache.errors import InputError, StoreError
from embedcache.progress import Progress
from embedcache.records import ID, metadata_name
from embedcache.sources.delimited import NULLS
from embedcache.sources.files import split_attached
from embedcache.storage.copying import materialize
from embedcache.storage.pieces import Piece
from embedcache.storage.store import KIND, Store, open_store
from embedcache.storage.virtual import VirtualStore
from embedcache.storage.virtualfiles import new_store, write_virtual

_OF_ONE = ("parts", "pieces", "rows_crc32c", "asked", "plan_id", "letters_outside_alphabet", "format_version")
"""Attributes that say how one store was made, and do not hold for what is made of several, or of some of its rows."""


@dataclass(frozen=True)
class Stacked:
    """A store whose rows are taken, and columns that are attached to all of them."""

    store: Store
    attached: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, text: str) -> Stacked:
        """Open ``STORE`` or ``STORE:label=1,group=a``; raises `InputError` where the store has such a column already."""
        path, attached = split_attached(text)
        store = open_store(Path(path))
        columns = {metadata_name(name): value for name, value in attached}
        for name in columns:
            if name in store.column_names:
                raise InputError(
                    f"{text}: the store has a column '{name}' already; attach another name, or correct the store's input"
                )
        return cls(store, columns)


def inherited(store: Store, kind: str) -> dict[str, Any]:
    """Attributes of a virtual store that is made of rows of `store`, or of stores like it."""
    own = {key: value for key, value in store.attrs.items() if key not in _OF_ONE}
    return own | {KIND: kind, "embedcache_version": __version__, "dtype": str(store.dtype)}


def concatenate(stacked: Sequence[Stacked], duplicate_ids: str = "error", path: Path | None = None) -> VirtualStore:
    """Put the rows of stores on top of each other; nothing is copied.

    Parameters
    ----------
    duplicate_ids : of an id that several stores have: ``error``, ``suffix`` (the second ``x`` is called ``x.2``), or
        ``prefix`` (every id gets the name of its store, ``viral:x``).
    path : what the result is called.

    Raises
    ------
    StoreError : the stores were made by different encoders, or in different ways or types; or an id occurs twice.
    """
    stores = [one.store for one in stacked]
    for store in stores[1:]:
        _check_alike(stores[0], store)
    borders = np.cumsum([0, *map(len, stores)])
    pieces = [
        Piece(number, int(borders[number]), int(borders[number + 1]), 0, store.dim)
        for number, store in enumerate(stores)
    ]
    names = [store.path.resolve().name.removesuffix(".zarr") for store in stores]
    table = _stacked_rows(stacked)
    ids = table[ID].cast(pa.string())
    if duplicate_ids == "prefix":
        if len({*names}) < len(names):
            raise StoreError(
                f"two stores are called the same ({', '.join(names)}): rename one, or take --duplicate-ids suffix"
            )
        before = pa.chunked_array([pa.repeat(name, len(store)) for name, store in zip(names, stores, strict=True)])
        ids = pc.binary_join_element_wise(before, ids, ":")
    elif len(pc.unique(ids)) < len(ids):
        if duplicate_ids == "error":
            raise _twice(ids, stores, borders.tolist())
        ids = _numbered(ids)
    table = table.set_column(table.schema.get_field_index(ID), ID, ids)
    attributes = inherited(stores[0], "concatenated") | {
        "input": ", ".join(str(store.path) for store in stores),
        "keeps_sequences": all(store.attrs.get("keeps_sequences") for store in stores),
        "asked": {
            "stores": [f"{store.path}{_said(one.attached)}" for store, one in zip(stores, stacked, strict=True)],
            "duplicate_ids": duplicate_ids,
        },
    }
    return VirtualStore(path or Path("+".join(names)), attributes, stores, pieces, table)


def concat(
    texts: Sequence[str],
    output: Path,
    progress: Progress,
    *,
    duplicate_ids: str = "error",
    materialized: bool = False,
    overwrite: bool = False,
) -> Store:
    """Concatenate stores, each with columns attached, into one at `output`, and open it; raises as `concatenate` does."""
    stacked = [Stacked.open(text) for text in texts]
    made = concatenate(stacked, duplicate_ids, output)
    for one in stacked:
        attached = ", ".join(f"{name} {value}" for name, value in one.attached.items())
        progress.say(
            f"store    {one.store.path}: {counted(len(one.store), 'row')}{f', {attached}' if attached else ''}"
        )
    write(made, output, progress, materialized=materialized, overwrite=overwrite)
    return open_store(output)


def write(made: VirtualStore, output: Path, progress: Progress, *, materialized: bool, overwrite: bool) -> None:
    """Write a virtual store, or its values too; raises `StoreError` where it cannot be written."""
    with new_store(output, made.parts, overwrite=overwrite) as place:
        if materialized:
            materialize(made, place, progress)
        else:
            write_virtual(made, place, output)
    progress.say(
        f"made     {output}: {counted(len(made), 'row')} x {made.dim:,} {made.dtype} of {made.attrs['encoder']['name']}"
    )


def _said(attached: Mapping[str, str]) -> str:
    return f":{','.join(f'{name}={value}' for name, value in attached.items())}" if attached else ""


def _check_alike(first: Store, other: Store) -> None:
    """Raise `StoreError` where the columns of two stores are not the same."""
    way_out = "extract both in the same way"
    for what, one, two in (
        ("encoder", first.attrs["encoder"]["name"], other.attrs["encoder"]["name"]),
        ("blocks", [block.name for block in first.blocks], [block.name for block in other.blocks]),
        ("fingerprint", first.fingerprint, other.fingerprint),
    ):
        if first.fingerprint != other.fingerprint and one != two:
            raise StoreError(
                f"{first.path} and {other.path} do not hold the same kind of rows ({what}: {one} and {two}): {way_out}, or "
                "put different encoders side by side with `embedcache merge`"
            )
    for what, one, two in (
        ("stored type", str(first.dtype), str(other.dtype)),
        ("values of a row", first.dim, other.dim),
        ("a row for each token", first.per_token, other.per_token),
    ):
        if one != two:
            raise StoreError(f"{first.path} and {other.path} differ ({what}: {one} and {two}): {way_out}")


def _stacked_rows(stacked: Sequence[Stacked]) -> pa.Table:
    """The rows tables one after the other; a column that a store lacks is null there."""
    types = _attached_types(stacked)
    tables = []
    for one in stacked:
        table = one.store.rows
        for name, value in one.attached.items():
            column = pa.repeat(_scalar(value), len(table)).cast(types[name])
            table = table.append_column(name, column)
        tables.append(table)
    table = pa.concat_tables(_with_common_types(tables), promote_options="permissive")
    return table.set_column(table.schema.get_field_index("row"), "row", pa.array(np.arange(len(table))))


def _attached_types(stacked: Sequence[Stacked]) -> dict[str, pa.DataType]:
    """The narrowest type of each attached column: 0 and 1 are numbers."""
    from embedcache.extraction.plan import NarrowestType

    found: dict[str, NarrowestType] = {}
    for one in stacked:
        for name, value in one.attached.items():
            found.setdefault(name, NarrowestType(text=True)).see(pa.array([_scalar(value)]))
    return {name: narrowest.type for name, narrowest in found.items()}


def _scalar(value: str) -> pa.Scalar:
    return pa.scalar(None if value in NULLS else value, pa.string())


def _with_common_types(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Columns of one name in one type: the narrowest number type that holds all, else text."""
    held: dict[str, list[pa.DataType]] = {}
    for table in tables:
        for kind in table.schema:
            held.setdefault(kind.name, []).append(kind.type)
    common = {name: _common(name, kinds) for name, kinds in held.items()}
    return [
        table.cast(pa.schema([(name, common[name]) for name in table.column_names])).replace_schema_metadata()
        for table in tables
    ]


def _common(name: str, kinds: Sequence[pa.DataType]) -> pa.DataType:
    try:
        return pa.unify_schemas([pa.schema([(name, kind)]) for kind in kinds], promote_options="permissive").types[0]
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        if any(pa.types.is_nested(kind) for kind in kinds):
            raise StoreError(f"column '{name}' holds {kinds[0]} in one store and {kinds[-1]} in another") from None
        return pa.string()


def _twice(ids: pa.ChunkedArray, stores: Sequence[Store], borders: Sequence[int]) -> StoreError:
    codes = ids.combine_chunks().dictionary_encode()
    indices = np.asarray(codes.indices, np.int64)
    several = np.flatnonzero(np.bincount(indices) > 1)
    first, second = np.flatnonzero(indices == several[0])[:2]
    one, two = (stores[int(np.searchsorted(borders, row, side="right")) - 1].path for row in (first, second))
    ids = counted(len(several), "id occurs", "ids occur")
    return StoreError(
        f"the id '{codes.dictionary[int(several[0])]}' is in {one} and in {two}, and {ids} twice: tell "
        "them apart with --duplicate-ids suffix or prefix"
    )


def _numbered(ids: pa.ChunkedArray) -> pa.Array:
    """Call the second ``x`` ``x.2``, the third ``x.3``; a number whose id is there already is passed over."""
    names: list[str] = ids.to_pylist()
    there, last = set(names), dict.fromkeys(names, 0)
    for row, name in enumerate(names):
        last[name] += 1
        if last[name] > 1:
            while (new := f"{name}.{last[name]}") in there:
                last[name] += 1
            there.add(new)
            names[row] = new
    return pa.array(names, pa.string())
