"""How far a store is, also while another process writes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embedcache.commit import is_being_written
from embedcache.layout import read_layout
from embedcache.store import is_committed, read_attributes, read_commits
from embedcache.throughput import read_throughput


@dataclass(frozen=True)
class Status:
    """Counts of a store's shards and rows, and whether a process is working on it."""

    store: str
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
    """Read the status of a store; raises `StoreError` if there is none."""
    attributes, layout, commits = read_attributes(path), read_layout(path), read_commits(path)
    done = [
        commits[shard]
        for shard in range(layout.shards)
        if is_committed(layout, commits.get(shard), shard, attributes["fingerprint"])
    ]
    return Status(
        store=str(path),
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
