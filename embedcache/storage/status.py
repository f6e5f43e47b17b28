"""How far a store is, also while another process writes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embedcache.extraction.throughput import read_throughput
from embedcache.storage.commit import is_being_written
from embedcache.storage.layout import read_layout
from embedcache.storage.store import KIND, Store, is_committed, open_store, read_attributes, read_commits


@dataclass(frozen=True)
class Status:
    """Counts of a store's shards and rows, and whether a process is working on it."""

    store: str
    kind: str
    """``extracted``, or what a virtual store is: ``merged``, ``concatenated``, ``selected``."""
    encoder: str
    rows: int
    rows_done: int
    shards: int
    shards_done: int
    complete: bool
    running: bool
    quarantined: int
    tokens_done: int
    runs: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def store_status(path: str | Path) -> Status:
    """Read the status of a store; raises `StoreError` if there is none, or a part of a virtual one is not what it was."""
    attributes = read_attributes(path)
    if KIND in attributes:
        return _of_virtual(path, open_store(path))
    layout, commits = read_layout(path), read_commits(path)
    done = [
        commits[shard]
        for shard in range(layout.shards)
        if is_committed(layout, commits.get(shard), shard, attributes["fingerprint"])
    ]
    return Status(
        store=str(path),
        kind="extracted",
        encoder=attributes["encoder"]["name"],
        rows=layout.rows,
        rows_done=sum(commit.rows for commit in done),
        shards=layout.shards,
        shards_done=len(done),
        complete=len(done) == layout.shards and not attributes.get("metadata_pending"),
        running=is_being_written(path),
        quarantined=sum(len(commit.quarantined) for commit in done),
        tokens_done=sum(commit.encoded.get("tokens", 0) for commit in done),
        runs=read_throughput(path),
    )


def _of_virtual(path: str | Path, store: Store) -> Status:
    """A virtual store that can be opened is complete; it has no shards of its own."""
    return Status(
        store=str(path),
        kind=str(store.attrs[KIND]),
        encoder=store.attrs["encoder"]["name"],
        rows=len(store),
        rows_done=len(store),
        shards=0,
        shards_done=0,
        complete=True,
        running=False,
        quarantined=len(store.quarantined),
        tokens_done=0,
        runs=[],
    )
