"""Is a store still what was written? Its files against their records, and its rows against the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedcache.commit import crc32c
from embedcache.encoders import load_encoder
from embedcache.errors import ModelError, StoreError
from embedcache.shardmap import payload_is_row_order
from embedcache.store import CHUNK_ROWS, Commit, Layout, Store, StorePaths, is_committed, open_store, read_commits


def check_files(path: str | Path) -> list[str]:
    """Hold every committed shard against its record: sizes, crc32c, row count, finite values.

    Returns
    -------
    One sentence for each thing that is wrong; empty if all is well.
    """
    store = open_store(path, partial=True)
    paths, layout, commits = StorePaths(path), store.layout, read_commits(path)
    missing = [s for s in range(layout.shards) if not is_committed(layout, commits.get(s), s, store.fingerprint)]
    problems = []
    if missing:
        problems.append(
            f"{len(missing)} of {layout.shards} shards are not there (the first is {missing[0]}); run the same extraction "
            "again to make them"
        )
    if store.attrs.get("metadata_pending"):
        problems.append("the metadata is being rewritten; run the same extraction again to finish it")
        return problems
    for shard in sorted(set(commits) - set(missing)):
        problems += _check_shard(paths, layout, shard, commits[shard])
    return problems


def _check_shard(paths: StorePaths, layout: Layout, shard: int, commit: Commit) -> list[str]:
    way_out = f"remove {paths.commit(shard)} and run the extraction again to redo its {commit.rows:,} rows"
    file, part = paths.shard(shard), paths.part(shard)
    for name, expected in ((file, commit.payload_bytes + layout.index_bytes), (part, commit.part_bytes)):
        found = name.stat().st_size if name.exists() else None
        if found != expected:
            what = "is missing" if found is None else f"has {found:,} bytes, {expected:,} were written"
            return [f"{name} {what}; {way_out}"]
    payload = np.memmap(file, np.uint8, "r", shape=(commit.payload_bytes,))
    if crc32c([memoryview(payload)]) != commit.payload_crc32c:  # type: ignore[arg-type]
        return [f"{file} is damaged: its checksum has changed since it was written; {way_out}"]
    if crc32c([memoryview(part.read_bytes())]) != commit.part_crc32c:
        return [f"{part} is damaged: its checksum has changed since it was written; {way_out}"]
    chunk_bytes = CHUNK_ROWS * layout.row_bytes
    if not payload_is_row_order(file, layout.chunks(commit.rows), chunk_bytes, layout.shard_rows // CHUNK_ROWS):
        return [f"the index at the end of {file} is damaged; {way_out}"]
    problems = []
    if pq.read_metadata(part).num_rows != commit.rows:
        problems.append(f"{part} has another number of rows than its shard; {way_out}")
    values = np.memmap(file, layout.dtype, "r", shape=(commit.rows, layout.dim))
    start = layout.bounds(shard)[0]
    for first in range(0, commit.rows, CHUNK_ROWS):
        bad = np.flatnonzero(~np.isfinite(values[first : first + CHUNK_ROWS]).all(axis=1)) + start + first
        unexpected = sorted(set(bad.tolist()) - set(commit.quarantined))
        if unexpected:
            problems.append(f"row {unexpected[0]} of {file} is not finite and was not set aside; {way_out}")
            break
    return problems


@dataclass(frozen=True)
class Recomputation:
    """How rows that were encoded again compare with the stored ones."""

    rows: int
    identical: int
    largest_difference: float
    least_cosine: float
    allowed: float
    note: str

    @property
    def agrees(self) -> bool:
        """Whether all rows agree to what the stored type and another machine can change."""
        return self.least_cosine >= 1 - self.allowed

    def __str__(self) -> str:
        verdict = "agree" if self.agrees else "DIFFER"
        return (
            f"{self.rows:,} rows encoded again {verdict}: {self.identical:,} bit for bit, largest difference "
            f"{self.largest_difference:.2g}, least cosine {self.least_cosine:.7f}{self.note}"
        )


def recompute_rows(
    path: str | Path, rows: int, *, model: str | None = None, device: str = "auto", seed: int = 0
) -> Recomputation:
    """Encode `rows` random rows of a store again, from the sequences that it keeps.

    Raises
    ------
    StoreError : the store keeps no sequences, or the encoder at hand is not the one it was made with.
    """
    store = open_store(path)
    if not store.attrs["keeps_sequences"]:
        raise StoreError(f"{path} keeps no sequences (--drop-sequence), so its rows cannot be encoded again")
    recorded = store.attrs["encoder"]
    source = model or _recorded_name(store)
    try:
        encoder = load_encoder(
            source, device=device, precision=recorded["precision"], random_weights=recorded["meaningless"],
            seed=recorded.get("seed", 0),
        )  # fmt: skip
    except ModelError as error:
        raise StoreError(f"the encoder of {path} cannot be loaded ({error}); name it with --model") from None
    if encoder.fingerprint != recorded["fingerprint"]:
        raise StoreError(
            f"{encoder.name} is not the encoder that {path} was made with (fingerprint {encoder.fingerprint[:12]}, "
            f"recorded {recorded['fingerprint'][:12]}): name the right one with --model"
        )
    usable = np.setdiff1d(np.arange(len(store)), store.quarantined)
    chosen = np.sort(np.random.default_rng(seed).choice(usable, min(rows, len(usable)), replace=False))
    sequences = store.column("sequence").take(pa.array(chosen)).combine_chunks()
    now = encoder.encode_readout(
        sequences, encoder.readout(store.attrs["poolings"], store.attrs["layers"]), store.attrs["overlong"]
    ).astype(store.dtype)
    then = store.take(chosen)
    ours, theirs = now.astype(np.float64), np.asarray(then, np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = np.where(norms > 0, (ours * theirs).sum(axis=1) / np.maximum(norms, 1e-300), 1.0)
    environments = {tuple(sorted(commit.environment.items())) for commit in read_commits(path).values()}
    same = environments == {tuple(sorted(encoder.environment().items()))}
    return Recomputation(
        rows=len(chosen),
        identical=int((now == then).all(axis=1).sum()),
        largest_difference=float(np.abs(ours - theirs).max(initial=0.0)),
        least_cosine=float(cosine.min(initial=1.0)),
        allowed=1e-6 if recorded["precision"] == "float32" else 1e-3,
        note="" if same else " (stored by another torch version, processor or device)",
    )


def _recorded_name(store: Store) -> str:
    recorded = store.attrs["encoder"]
    name = recorded.get("directory") or recorded["name"]
    if recorded.get("revision"):
        return f"{recorded['repo_id']}@{recorded['revision']}"
    return str(name)
