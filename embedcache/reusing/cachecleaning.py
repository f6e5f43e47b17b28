"""What of a folder of stores could go, and taking it away.

A row counts as being elsewhere where another store has its id, its sequence, its places, its columns and its values. What
is no store, or was changed within the last hour, is never touched.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.errors import EmbedcacheError, InputError
from embedcache.extraction.verify import check_files
from embedcache.progress import duration
from embedcache.records import ID, RESERVED
from embedcache.reusing.cachefolder import CachedStore, gives, may_be_written, of_one_encoding, weigh
from embedcache.reusing.keys import UNKNOWN, KeyForm, Keys, KeyTable
from embedcache.reusing.known import LEFT_OVER
from embedcache.storage.commit import remove_store
from embedcache.storage.status import store_status

_QUIET = 3600.0
"""Seconds since its last change before which a store counts as being written: locks of other machines may not be seen."""
_UNITS = {"h": 3600.0, "d": 86400.0, "w": 604800.0}
_OWN = {"zarr.json", "embeddings", "offsets"}
"""What a store's folder holds."""


@dataclass(frozen=True)
class Removal:
    """Something that could go."""

    path: Path
    size_bytes: int
    why: str
    kept: Path | None = None
    """The store that has all of its rows."""


def seconds_of(age: str) -> float:
    """An age such as ``90d``, ``12h`` or ``2w`` in seconds; raises `InputError` for anything else."""
    match = re.fullmatch(r"(\d+)([hdw])", age)
    if match is None:
        raise InputError(f"'{age}' is no age: write it as 12h, 90d or 2w, of hours, days or weeks")
    return int(match[1]) * _UNITS[match[2]]


def removable(
    folder: Path, stores: Sequence[CachedStore], *, older_than: float = 0.0, keep_models: Sequence[str] = ()
) -> list[Removal]:
    """What below a folder could go: left-overs, stores that are not finished, and those whose every row another one has.

    Parameters
    ----------
    stores : all below the folder.
    older_than : seconds since the last change; what is younger stays.
    keep_models : encoders whose stores stay.
    """
    before = time.time() - max(older_than, _QUIET)
    parts = _parts_of_virtual(stores)
    root = folder.resolve()

    def may_go(store: CachedStore) -> bool:
        place = store.path.resolve()
        return (
            not store.is_virtual
            and place not in parts
            and place.is_relative_to(root)
            and store.changed < before
            and not store.names & {*keep_models}
            and not may_be_written(store.path)
        )

    unfinished = [
        Removal(store.path, store.size_bytes, _progress(store))
        for store in stores
        if store.status.shards_done < store.status.shards and may_go(store)
    ]
    return [*_left_overs(root, before), *unfinished, *_redundant(stores, may_go)]


def remove(removal: Removal) -> str | None:
    """Take something away; returns why not where that is no longer right.

    Raises `StoreError` if it may not be removed.
    """
    path = removal.path
    if LEFT_OVER.fullmatch(path.name):
        shutil.rmtree(path, ignore_errors=True)
        return None if not path.exists() else "it could not be removed"
    if may_be_written(path):
        return "a process writes it now"
    if removal.kept is None and store_status(path).complete:
        return "it is finished now"
    if removal.kept is not None:
        try:
            problems = check_files(removal.kept)
        except EmbedcacheError as error:
            problems = [str(error)]
        if problems:
            return f"{removal.kept}, which has its rows, is damaged: {problems[0]}"
    remove_store(path)
    return None


def _parts_of_virtual(stores: Sequence[CachedStore]) -> set[Path]:
    """Where the parts of virtual stores lie, or lay."""
    found = set()
    for store in stores:
        if store.is_virtual:
            for part in store.attributes.get("parts", []):
                found |= {Path(part["absolute"]).resolve(), (store.path.resolve() / part["path"]).resolve()}
    return found


def _left_overs(root: Path, before: float) -> list[Removal]:
    """What killed processes left while they made or removed a store."""
    found = []
    for parent, folders, _ in os.walk(root):
        for name in [name for name in folders if LEFT_OVER.fullmatch(name)]:
            folders.remove(name)
            path = Path(parent) / name
            stem = name.rpartition(".")[0]
            bytes_, changed = weigh(path)
            owner = name.rpartition("-")[2]
            if changed < before and not Path(f"/proc/{owner}").exists() and _is_own(path, stem):
                found.append(Removal(path, bytes_, "left by a process that was killed"))
        if (Path(parent) / "zarr.json").exists():
            folders.clear()
    return found


def _is_own(path: Path, stem: str) -> bool:
    """Whether a folder holds nothing but a store, or one in the making called `stem`."""
    return not path.is_symlink() and {entry.name for entry in path.iterdir()} <= _OWN | {stem}


def _progress(store: CachedStore) -> str:
    state = store.status
    age = duration(time.time() - store.changed)
    return f"not finished: {state.shards_done} of {counted(state.shards, 'shard')}, last changed {age} ago"


def _redundant(stores: Sequence[CachedStore], may_go: Callable[[CachedStore], bool]) -> list[Removal]:
    """Stores whose every row another one has that stays; of equal ones the older stays."""
    found = []
    for group in of_one_encoding([store for store in stores if store.status.complete]):
        staying = sorted(group, key=lambda store: (store.status.rows, -store.changed))
        for store in list(staying):
            if not may_go(store):
                continue
            others = [other for other in staying if other is not store and gives(other, store)]
            twin = next((other for other in reversed(others) if _has_all_rows(other, store)), None)
            if twin is not None:
                staying.remove(store)
                found.append(Removal(store.path, store.size_bytes, f"all of its rows are in {twin.path}", twin.path))
    return found


def _has_all_rows(other: CachedStore, store: CachedStore) -> bool:
    """Whether every row of a store is in another one, with its id, its columns and, where they are kept, its sequence."""
    had, has = ({field.name for part, _ in one.parts() for field in part.schema} for one in (store, other))
    if not had <= has or other.status.rows < store.status.rows:
        return False
    columns = sorted(had - {*RESERVED})
    there, wanted = ([_identities(one, columns, part, ok) for part, ok in one.parts()] for one in (other, store))
    table = KeyTable.of(np.concatenate(there), np.zeros(sum(map(len, there)), np.int64))
    return all(bool((table.find(rows) != UNKNOWN).all()) for rows in wanted)


def _identities(store: CachedStore, columns: Sequence[str], part: pa.Table, there: NDArray[np.bool_]) -> Keys:
    """A digest of all that makes each row of a part what it is, (n, 2)."""
    keys = KeyForm.of_store(store.attributes).keys_of_part(part)
    values = [part.column(name).to_pylist() for name in (ID, *columns)]
    rows = zip(keys.tolist(), there.tolist(), *values, strict=True)
    digests = [hashlib.blake2b(repr(row).encode(), digest_size=16).digest() for row in rows]
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)
