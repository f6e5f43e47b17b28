"""How a virtual store lies on disk, how it is written whole or not at all, and how its parts are found again.

    name.zarr/zarr.json            attributes: those of any store, kind, what was asked, parts and pieces
    name.zarr/index/               int64 (K, N): for each piece with an index the part's row of each row, -1 for none
    name.zarr/index/rows.parquet   the rows table, as in any store but for the sequences, which are read from the parts
    name.zarr/parts/NAME.zarr      ordinary stores: what had to be computed, such as the mean of several rows

A part is recorded by where it lies, seen from the store and in full, and by what it is: its fingerprint, and its `identity`,
a hash over its commit records. One that was moved is looked for beside the store; one that has changed is refused.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedcache.counted import counted
from embedcache.errors import StoreError
from embedcache.storage.commit import (
    crc32c,
    fsync_folder,
    group_metadata,
    remove_store,
    sweep_leftovers,
    to_json,
    write_durably,
)
from embedcache.storage.layout import StorePaths, array_metadata
from embedcache.storage.pieces import Piece, Rows
from embedcache.storage.store import KIND, VIRTUAL_FORMAT_VERSION, Store, open_store
from embedcache.storage.virtual import VirtualStore

COMMANDS = {"merged": "merge", "concatenated": "concat", "selected": "select"}
PARTS = "parts"


@contextmanager
def new_store(path: Path, made_of: Sequence[Store], *, overwrite: bool) -> Iterator[Path]:
    """Yield a path near `path` for a store to be made at, which is renamed when the block ends well.

    What lies beside it then, or after an error, is removed. Raises `StoreError` where something is at `path` and `overwrite`
    is not given, or it is no store, or one of the stores it is made of.
    """
    root = path.resolve()
    creating = root.with_name(f"{root.name}.creating-{os.getpid()}")
    if root.exists() and not overwrite:
        raise StoreError(f"{path} is there already: give another --output, or --overwrite to replace it")
    if any(root in (store.path.resolve(), *store.path.resolve().parents) for store in made_of):
        raise StoreError(f"{path} cannot replace a store that it is made of: give another --output")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        sweep_leftovers(root)
        creating.mkdir()
        yield creating / root.name
        if root.exists():
            remove_store(root)
        (creating / root.name).rename(root)
        fsync_folder(root.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error} ({error.filename})") from None
    finally:
        shutil.rmtree(creating, ignore_errors=True)


def write_virtual(store: VirtualStore, folder: Path, path: Path) -> None:
    """Write a virtual store into a `folder` that will be renamed to `path`; see the module."""
    paths = StorePaths(folder)
    indices = [piece.index for piece in store.pieces if piece.index is not None]
    number = iter(range(len(indices)))
    rows = _parquet(store.rows)
    attributes = store.attrs | {
        "format_version": VIRTUAL_FORMAT_VERSION,
        "parts": [_record(part, folder, path.resolve()) for part in store.parts],
        "pieces": [asdict(piece) | {"index": None if piece.index is None else next(number)} for piece in store.pieces],
        "rows_crc32c": crc32c([memoryview(rows)]),
    }
    write_durably(paths.virtual_rows, [memoryview(rows)])
    for k, index in enumerate(indices):
        write_durably(paths.index_of(k), [memoryview(np.ascontiguousarray(index, "<i8").data)])
    metadata = array_metadata((len(indices), len(store)), "int64", (1, max(len(store), 1)), 0)
    write_durably(paths.index_metadata, [to_json(metadata | {"dimension_names": ["piece", "row"], "attributes": {}})])
    if (folder / PARTS).exists():
        write_durably(folder / PARTS / "zarr.json", [to_json(group_metadata({}))])
    write_durably(paths.group, [to_json(group_metadata(attributes))])


def _parquet(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _record(part: Store, folder: Path, root: Path) -> dict[str, Any]:
    """What finds a part again, and tells whether it is the same."""
    place, folder = part.path.resolve(), folder.resolve()
    inside = place.is_relative_to(folder)
    return {
        "path": str(place.relative_to(folder)) if inside else os.path.relpath(place, root),
        "absolute": str(root / place.relative_to(folder) if inside else place),
        "fingerprint": part.fingerprint,
        "identity": part.identity,
        "rows": len(part),
    }


def open_virtual(path: str | Path, attributes: dict[str, Any]) -> VirtualStore:
    """Open a virtual store and its parts.

    Raises
    ------
    StoreError : a part is missing or is not what it was, or a file of the store is damaged.
    """
    root, paths = Path(path), StorePaths(path)
    try:
        records, described = list(attributes["parts"]), list(attributes["pieces"])
        command = COMMANDS[attributes[KIND]]
        pieces = [Piece(**piece | {"index": _index(paths, piece)}) for piece in described]
        if not paths.virtual_rows.exists() or not pieces:
            raise ValueError("rows")
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(f"{root} is damaged: a file of its index is missing or cut; make it again") from None
    parts = [_find(root, record, f"embedcache {command}") for record in records]
    return VirtualStore(root, attributes, parts, pieces, paths.virtual_rows)


def _index(paths: StorePaths, piece: Mapping[str, Any]) -> Rows | None:
    if piece["index"] is None:
        return None
    rows = np.memmap(paths.index_of(int(piece["index"])), "<i8", "r")
    if len(rows) != piece["stop"] - piece["start"]:
        raise ValueError("index")
    return np.asarray(rows)


def _find(root: Path, record: Mapping[str, Any], command: str) -> Store:
    """Open a part where it lies now."""
    absolute = Path(record["absolute"])
    places = [(root.resolve() / record["path"]).resolve(), absolute, root.resolve().parent / absolute.name]
    way_out = f"run the same `{command}` again with --overwrite"
    refused = None
    for place in dict.fromkeys(places):
        if not place.exists():
            continue
        try:
            part = open_store(place)
        except StoreError as error:
            refused = refused or f"cannot be used: {error}"
            continue
        if part.identity == record["identity"]:
            return part
        refused = refused or f"at {place} has changed since: {_difference(part, record)}; {way_out}"
    if refused:
        raise StoreError(f"{root} holds no values of its own, and its part {absolute.name} {refused}")
    looked = ", ".join(map(str, dict.fromkeys(place.parent for place in places)))
    raise StoreError(
        f"{root} holds no values of its own, and its part {absolute.name} is missing (looked for in {looked}): put it back "
        f"beside {root.name}, or {way_out}"
    )


def _difference(part: Store, record: Mapping[str, Any]) -> str:
    if part.fingerprint != record["fingerprint"]:
        return f"it was made by another encoder or in another way (now {part.attrs['encoder']['name']})"
    if len(part) != record["rows"]:
        return f"it had {counted(record['rows'], 'row')} and has {len(part):,}"
    return "its values or columns are others"


def check_virtual(store: VirtualStore) -> list[str]:
    """Hold the files of a virtual store against its attributes; one sentence for each thing that is wrong."""
    file = StorePaths(store.path).virtual_rows
    way_out = f"run the same `embedcache {COMMANDS[store.kind]}` again with --overwrite"
    problems = []
    if crc32c([memoryview(file.read_bytes())]) != store.attrs["rows_crc32c"]:
        problems.append(f"{file} is damaged: its checksum has changed since it was written; {way_out}")
    for piece in store.pieces:
        rows, index = len(store.parts[piece.part]), piece.index
        if index is not None and len(index) and not (index.min() >= -1 and index.max() < rows):
            problems.append(
                f"{StorePaths(store.path).index} is damaged: it names rows that a part does not have; {way_out}"
            )
    return problems


def as_json(value: Any) -> Any:
    """A value as JSON has it: paths as text, tuples as lists."""
    return json.loads(json.dumps(value, default=str))
