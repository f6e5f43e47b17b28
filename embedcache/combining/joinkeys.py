"""What the rows of a store are called in a merge: an id, another column, or either of them put through a map."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from embedcache.counted import counted
from embedcache.errors import InputError, StoreError
from embedcache.records import ID
from embedcache.sources.files import input_file
from embedcache.sources.tables import open_table
from embedcache.storage.store import Store

IdMap = Callable[[pa.Array], pa.Array]
"""Ids in, the common ids out, null where the map says nothing of one."""


@dataclass(frozen=True)
class Keys:
    """The name of each row of a store in a merge."""

    names: pa.Array
    """(n,) strings; null for a row that has none and takes no part."""
    mapped: bool
    """Whether any differs from the row's id."""
    unmapped: tuple[str, ...]
    """Those that the map says nothing of, and which stay as they are."""


def read_keys(store: Store, column: str, id_map: IdMap | None) -> Keys:
    """Read what the rows of a store are called; raises `StoreError` where there is no such column."""
    ids = store.column(ID).cast(pa.string()).combine_chunks()
    names = ids if column == ID else store.column(column).cast(pa.string()).combine_chunks()
    unmapped: tuple[str, ...] = ()
    if id_map is not None:
        found = id_map(names)
        unmapped = tuple(names.filter(pc.and_(found.is_null(), names.is_valid())).to_pylist())
        names = pc.coalesce(found, names)
    return Keys(names, not names.equals(ids), unmapped)


def columns_of(stores: Mapping[str, Store], given: Sequence[str]) -> dict[str, str]:
    """The column to join on of each store, from ``--on COLUMN`` or ``--on STORE=COLUMN``; the id where none is named.

    Raises `InputError` where a store has no such column.
    """
    found = dict.fromkeys(stores, ID)
    for text in given:
        which, column = split_store(stores, text)
        for name in [which] if which else stores:
            if column not in stores[name].column_names:
                say = f"say --on {name}=COLUMN for each store that has one" if which is None else "name one that it has"
                raise InputError(
                    f"--on {text}: {stores[name].path} has no column '{column}' (it has "
                    f"{', '.join(stores[name].column_names)}): {say}"
                )
            found[name] = column
    return found


def maps_of(stores: Mapping[str, Store], given: Sequence[str]) -> dict[str, IdMap]:
    """The id map of each store that has one, from ``--id-map MAP`` or ``--id-map STORE=MAP``.

    Raises `InputError` where a map is neither a pattern with one group nor a table of two columns.
    """
    found: dict[str, IdMap] = {}
    for text in given:
        which, what = split_store(stores, text)
        id_map = _of_table(what) if Path(what).is_file() else _of_pattern(what)
        found |= dict.fromkeys([which] if which else stores, id_map)
    return found


def split_store(stores: Mapping[str, Store], text: str) -> tuple[str | None, str]:
    """Cut ``STORE=VALUE``, where STORE is a name or a path of one of the stores; None where it is meant for all."""
    before, equals, after = text.partition("=")
    for name, store in stores.items():
        if equals and before in (name, str(store.path), store.path.name, store.path.name.removesuffix(".zarr")):
            return name, after
    return None, text


def _of_pattern(text: str) -> IdMap:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(
            f"--id-map {text}: there is no such file, and as a regular expression it is wrong: {error}"
        ) from None
    group: str | int = "id" if "id" in pattern.groupindex else 1
    if group == 1 and pattern.groups != 1:
        raise InputError(
            f"--id-map {text}: there is no such file, and as a regular expression it has "
            f"{counted(pattern.groups, 'group')}: put the part of the id that stays in the only group, such as "
            "'(.+)[FR][123]$', or call it (?P<id>...)"
        )

    def apply(ids: pa.Array) -> pa.Array:
        found = (None if name is None else pattern.match(name) for name in ids.to_pylist())
        return pa.array([None if match is None else match[group] for match in found], pa.string())

    return apply


def _of_table(text: str) -> IdMap:
    table = open_table(input_file(text, attach=False))
    if len(table.names) != 2:
        raise InputError(
            f"--id-map {text} has {counted(len(table.names), 'column')}: it needs two, an id of the store and the id that "
            "it becomes"
        )
    batches = list(table.arrays())
    own, common = (
        pa.chunked_array([arrays[at].cast(pa.string()) for arrays in batches], pa.string()).combine_chunks()
        for at in range(2)
    )
    if len(pc.unique(own)) < len(own):
        twice = pc.value_counts(own).to_pylist()
        raise InputError(
            f"--id-map {text} has the id {next(one['values'] for one in twice if one['counts'] > 1)!r} twice: leave one row "
            "for each id"
        )
    return lambda ids: common.take(pc.index_in(ids, own))


def name_stores(stores: Sequence[Store], given: Sequence[str] | None) -> dict[str, Store]:
    """Give each store a short name: those given, or the stems of their folders.

    Raises `InputError` where there are not as many names as stores, or a name comes twice.
    """
    names = list(given) if given is not None else [store.path.resolve().name.removesuffix(".zarr") for store in stores]
    if len(names) != len(stores):
        count = f"{counted(len(names), 'name')} for {counted(len(stores), 'store')}"
        raise InputError(f"--names has {count}: give one for each, in their order")
    if len({*names}) < len(names) or not all(names):
        raise InputError(f"two stores would be called the same ({', '.join(names)}): tell them apart with --names A,B")
    return dict(zip(names, stores, strict=True))


def refuse_tokens(stores: Sequence[Store], what: str) -> None:
    """Raise `StoreError` for a store that keeps every token."""
    for store in stores:
        if store.per_token:
            raise StoreError(
                f"{store.path} keeps every token, so its records differ in size and cannot be {what}: extract again with a "
                "pooling, such as --pool mean"
            )
