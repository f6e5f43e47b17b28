"""A folder of stores that many extractions share: what is in it; `embedcache.reusing.cachecleaning` says what could go."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedcache.errors import EmbedcacheError, InputError
from embedcache.reusing.keys import UNKNOWN, KeyForm, Keys, KeyTable
from embedcache.reusing.known import Say, find_stores
from embedcache.storage.commit import ShardLock
from embedcache.storage.layout import StorePaths, read_layout
from embedcache.storage.status import Status, store_status
from embedcache.storage.store import KIND, is_committed, read_attributes, read_commits


@dataclass(frozen=True)
class CachedStore:
    """A store below a cache folder."""

    path: Path
    attributes: dict[str, Any]
    status: Status
    size_bytes: int
    changed: float
    """When any of its files was written last, in seconds since 1970."""

    @property
    def encoder(self) -> str:
        """The name of its encoder."""
        return str(self.attributes["encoder"].get("name", ""))

    @property
    def names(self) -> set[str]:
        """All names of its encoder."""
        had = self.attributes["encoder"]
        return {str(had[key]) for key in ("name", "repo_id") if had.get(key)}

    @property
    def state(self) -> str:
        """Whether it is whole, in words, or what kind of virtual store it is."""
        if self.is_virtual:
            return self.status.kind
        return "complete" if self.status.complete else "being written" if self.status.running else "not finished"

    @property
    def changed_utc(self) -> str:
        """`changed` as ISO 8601."""
        return datetime.fromtimestamp(self.changed, UTC).isoformat(timespec="seconds")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "store": str(self.path),
            "encoder": self.encoder,
            "fingerprint": self.fingerprint,
            "rows": self.status.rows_done,
            "bytes": self.size_bytes,
            "changed": self.changed_utc,
            "state": self.state,
        }

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides its values."""
        return str(self.attributes["fingerprint"])

    @property
    def is_virtual(self) -> bool:
        """Whether it has no values of its own, but those of other stores."""
        return KIND in self.attributes

    @property
    def dtype(self) -> str:
        """The type of its values; empty for a virtual store."""
        return "" if self.is_virtual else read_layout(self.path).dtype

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[tuple[pa.Table, NDArray[np.bool_]]]:
        """The rows parts of its finished shards, with all columns or these; and which of their rows have values."""
        layout = read_layout(self.path)
        for shard, commit in sorted(read_commits(self.path).items()):
            if shard < layout.shards and is_committed(layout, commit, shard, self.fingerprint):
                names = None if columns is None else list(columns)
                part = pq.read_table(StorePaths(self.path).part(shard), columns=names).slice(0, commit.rows)
                there = np.ones(commit.rows, bool)
                there[np.asarray(commit.quarantined, np.int64) - layout.bounds(shard)[0]] = False
                yield part, there


def look(folder: str | Path, say: Say) -> list[CachedStore]:
    """All stores below a folder; those that cannot be read are said and left out.

    Raises `InputError` if there is no such folder.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is no folder: name one that has stores in it, at any depth")
    found = []
    for path in find_stores(Path(folder), say):
        try:
            bytes_, changed = weigh(path)
            found.append(CachedStore(path, read_attributes(path), store_status(path), bytes_, changed))
        except (EmbedcacheError, OSError) as error:
            say(f"skipped: {error}")
    return found


def weigh(folder: Path) -> tuple[int, float]:
    """Bytes of all files below a folder, and when anything in it was written last."""
    bytes_, changed = 0, 0.0
    for parent, _, names in os.walk(folder):
        entries = [Path(parent, name).lstat() for name in names]
        bytes_ += sum(entry.st_size for entry in entries)
        changed = max([changed, Path(parent).lstat().st_mtime, *(entry.st_mtime for entry in entries)])
    return bytes_, changed


def may_be_written(store: Path) -> bool:
    """Whether a process writes a store, or it cannot be told: a lock file that may not be opened counts."""
    for lock in (StorePaths(store).array / "commit").glob("*.lock"):
        try:
            lock.open("r+b").close()
        except FileNotFoundError:
            continue
        except OSError:
            return True
        if ShardLock.is_held(lock):
            return True
    return False


def rows_elsewhere(stores: Sequence[CachedStore]) -> dict[Path, int]:
    """How many rows of each store another one of `stores` has too, with the same values."""
    counts = {store.path: 0 for store in stores}
    for group in of_one_encoding(stores):
        forms = [KeyForm.of_store(store.attributes) for store in group]
        keys = [_keys(store, form) for store, form in zip(group, forms, strict=True)]
        tables = [KeyTable.of(own, np.zeros(len(own), np.int64)) for own in keys]
        for number, store in enumerate(group):
            there = np.zeros(len(keys[number]), bool)
            for other, table in enumerate(tables):
                if other != number and gives(group[other], store):
                    there |= table.find(keys[number]) != UNKNOWN
            counts[store.path] = int(there.sum())
    return counts


def _keys(store: CachedStore, form: KeyForm) -> Keys:
    found = [form.keys_of_part(part)[there] for part, there in store.parts(form.columns)]
    return np.concatenate([np.empty((0, 2), np.uint64), *found])


def of_one_encoding(stores: Sequence[CachedStore]) -> list[list[CachedStore]]:
    """Stores with values of their own in groups of equal fingerprints, but for those that are alone."""
    groups: dict[str, list[CachedStore]] = {}
    for store in stores:
        if not store.is_virtual:
            groups.setdefault(store.fingerprint, []).append(store)
    return [group for group in groups.values() if len(group) > 1]


def gives(other: CachedStore, store: CachedStore) -> bool:
    """Whether the stored type of one store can stand for that of another."""
    return other.dtype in (store.dtype, "float32")
