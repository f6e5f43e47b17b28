"""Is a store still what was written? Its files against their records; `recompute` holds its rows against the encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedcache.counted import counted, counted_of
from embedcache.storage.commit import crc32c
from embedcache.storage.layout import CHUNK_ROWS, Layout, StorePaths, read_layout
from embedcache.storage.shardfile import bytes_of, chunks_held, payload
from embedcache.storage.store import Commit, is_committed, open_store, read_commits
from embedcache.storage.virtual import VirtualStore
from embedcache.storage.virtualfiles import check_virtual


def check_files(path: str | Path) -> list[str]:
    """Hold every committed shard against its record: sizes, crc32c, row count, finite values.

    Of a virtual store its own files, and all its parts.

    Returns
    -------
    One sentence for each thing that is wrong; empty if all is well.
    """
    store = open_store(path, partial=True)
    if isinstance(store, VirtualStore):
        return check_virtual(store) + [problem for part in store.parts for problem in check_files(part.path)]
    paths, layout, commits = StorePaths(path), read_layout(path), read_commits(path)
    there = [s for s in range(layout.shards) if is_committed(layout, commits.get(s), s, store.fingerprint)]
    missing = sorted(set(range(layout.shards)) - set(there))
    problems = []
    if missing:
        problems.append(
            f"{counted_of(len(missing), layout.shards, 'shard')} not there (the first is {missing[0]}); run the same "
            "extraction again to make them"
        )
    if store.attrs.get("metadata_pending"):
        problems.append("the metadata is being rewritten; run the same extraction again to finish it")
        return problems
    for shard in there:
        problems += _check_shard(paths, layout, shard, commits[shard])
    return problems


def _check_shard(paths: StorePaths, layout: Layout, shard: int, commit: Commit) -> list[str]:
    way_out = f"remove {paths.commit(shard)} and run the extraction again to redo its {counted(commit.rows, 'row')}"
    first, part = layout.span(shard)[0], paths.part(shard)
    rows = commit.payload_bytes // layout.row_bytes
    files = {paths.file(file): stop for file, _, stop in layout.pieces(first, rows)}
    least = {file: 0 if layout.compress else layout.chunks(stop) * layout.chunk_bytes for file, stop in files.items()}
    sizes = {file: held + layout.index_bytes for file, held in least.items()}
    for name, expected in (*sizes.items(), (part, commit.part_bytes)):
        found = name.stat().st_size if name.exists() else None
        if found is None or found < expected or (name == part and found != expected):
            what = "is missing" if found is None else f"has {counted(found, 'byte')}, {expected:,} were written"
            return [f"{name} {what}; {way_out}"]
    for file, stop in files.items():
        if chunks_held(file, layout) < layout.chunks(stop):
            return [f"the index at the end of {file} is damaged; {way_out}"]
    pieces = payload(paths, layout, shard, rows)
    if crc32c(map(bytes_of, pieces)) != commit.payload_crc32c:
        damaged = " or ".join(map(str, files))
        return [f"{damaged} is damaged: its checksum has changed since it was written; {way_out}"]
    if crc32c([memoryview(part.read_bytes())]) != commit.part_crc32c:
        return [f"{part} is damaged: its checksum has changed since it was written; {way_out}"]
    if pq.read_metadata(part).num_rows != commit.rows:
        return [f"{part} has another number of rows than its shard; {way_out}"]
    unexpected = _first_not_finite(layout, shard, commit, pieces)
    return (
        [] if unexpected is None else [f"row {unexpected} of the store is not finite and was not set aside; {way_out}"]
    )


def _first_not_finite(layout: Layout, shard: int, commit: Commit, pieces: list[NDArray[np.generic]]) -> int | None:
    """The first record of a shard with a value that is not finite and that was not set aside."""
    starts, row = layout.starts(shard), 0
    for piece_nD in pieces:
        for first in range(0, len(piece_nD), CHUNK_ROWS):
            finite = np.isfinite(piece_nD[first : first + CHUNK_ROWS]).all(axis=1)
            bad = np.searchsorted(starts, np.flatnonzero(~finite) + row + first, side="right") - 1
            found = {*(bad[bad < commit.rows] + layout.bounds(shard)[0]).tolist()} - {*commit.quarantined}
            if found:
                return int(min(found))
        row += len(piece_nD)
    return None
