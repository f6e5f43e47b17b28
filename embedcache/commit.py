"""Writing a store so that a kill at any moment loses at most the shard in work, and nothing half-written is ever read.

For each shard: take its lock, write the embeddings to ``.partial``, fsync, rename, fsync the folder; the rows part the
same way; last the commit record. A shard without a record does not exist for readers, and resuming means doing the
shards that have none. Space is reserved before it is written, so a full disk is an error and not a torn file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedcache.errors import StoreError
from embedcache.shardmap import shard_index
from embedcache.store import CHUNK_ROWS, Commit, Layout, StorePaths, read_attributes, read_commit, read_layout

_CRC_BLOCK = 1 << 22


def crc32c(blocks: Iterable[memoryview]) -> str:
    """crc32c (Castagnoli) of the bytes of all blocks, in order, as 8 hex digits."""
    value = 0
    for block in blocks:
        flat = block.cast("B")
        for start in range(0, len(flat), _CRC_BLOCK):
            value = google_crc32c.extend(value, bytes(flat[start : start + _CRC_BLOCK]))
    return f"{value:08x}"


def write_durably(path: Path, blocks: Iterable[memoryview]) -> None:
    """Write a file whole or not at all: reserve, write ``.partial``, fsync, rename over `path`, fsync the folder.

    Raises `StoreError` where the disk is full or cannot be written; what was there before stays.
    """
    partial = path.with_name(f"{path.name}.partial")
    blocks = [block.cast("B") for block in blocks]
    size = sum(len(block) for block in blocks)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb", buffering=0) as file:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
            for block in blocks:
                done = 0
                while done < len(block):
                    done += file.write(block[done:])
            os.fsync(file.fileno())
        partial.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(
                f"no space left for {path} ({size / 1e6:,.1f} MB): free some and run the same command again, "
                "what is finished is kept"
            ) from None
        raise StoreError(f"cannot write {path}: {error.strerror}; what is finished is kept") from None


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any) -> memoryview:
    """Indented JSON with sorted keys, as bytes."""
    return memoryview((json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def group_metadata(attributes: dict[str, Any]) -> dict[str, Any]:
    """The ``zarr.json`` of the store's group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def create_store(path: str | Path, layout: Layout, attributes: dict[str, Any]) -> None:
    """Make an empty store beside `path` and rename it into place.

    Raises `StoreError` if something is there already, or the folder cannot be written.
    """
    root = Path(path).resolve()
    creating = root.with_name(f"{root.name}.creating-{os.getpid()}")
    paths = StorePaths(creating)
    if root.exists():
        raise StoreError(f"{root} has just been made by another process: run the same command again to join in")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        sweep_leftovers(root)
        paths.array.mkdir(parents=True)
        for folder in ("c", "rows", "commit"):
            (paths.array / folder).mkdir()
        write_durably(paths.array_metadata, [to_json(layout.array_metadata())])
        write_durably(paths.group, [to_json(group_metadata(attributes))])
        creating.rename(root)
        fsync_folder(root.parent)
    except OSError as error:
        raise StoreError(f"cannot make the store {root}: {error.strerror or error} ({error.filename})") from None
    finally:
        shutil.rmtree(creating, ignore_errors=True)


def remove_store(path: str | Path) -> None:
    """Remove a store, first renaming it so that a kill leaves no half a store under its name.

    Raises `StoreError` if `path` is not a store (nothing else is ever deleted), if a process is writing it, or if it may
    not be removed.
    """
    read_attributes(path)
    root = Path(path).resolve()
    if is_being_written(root):
        raise StoreError(f"another process is writing {path}: stop it before you --restart")
    doomed = root.with_name(f"{root.name}.removing-{os.getpid()}")
    try:
        root.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        raise StoreError(f"{path} cannot be removed: {error.strerror or error} ({error.filename})") from None


def is_being_written(path: str | Path) -> bool:
    """Whether a living process holds a shard of the store."""
    return any(ShardLock.is_held(lock) for lock in (StorePaths(path).array / "commit").glob("*.lock"))


def sweep_leftovers(root: Path) -> None:
    """Remove what killed processes left beside a store while they made or removed it."""
    for folder in [*root.parent.glob(f"{root.name}.creating-*"), *root.parent.glob(f"{root.name}.removing-*")]:
        owner = folder.name.rsplit("-", 1)[1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)


class ShardLock:
    """An exclusive lock on one shard, held through an open file so that it ends with its process."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False if another process holds it."""
        for attempt in range(4):
            time.sleep(0.02 * attempt)  # somebody may only be looking whether the lock is held
            try:
                descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise StoreError(f"{self._file.parent} cannot be written: {error.strerror}") from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            except OSError as error:
                os.close(descriptor)
                raise StoreError(
                    f"the file system of {self._file.parent} has no file locks ({error.strerror}): write to a local "
                    "disk and copy the store, or mount the file system with locks (Lustre: -o flock)"
                ) from None
            # The holder before us unlinks the file: a lock on an unlinked file would exclude nobody.
            with suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == self._file.stat().st_ino:
                    self._descriptor = descriptor
                    return True
            os.close(descriptor)
        return False

    def release(self) -> None:
        """Give the lock back and remove its file."""
        if self._descriptor is not None:
            self._file.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    @staticmethod
    def is_held(file: Path) -> bool:
        """Whether a living process holds the lock behind `file`."""
        try:
            descriptor = os.open(file, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        else:
            return False
        finally:
            os.close(descriptor)


class StoreWriter:
    """Writes the shards of one store, in any order, each whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.paths = StorePaths(path)
        self.attributes = read_attributes(path)
        self.layout = read_layout(path)

    def update(self, layout: Layout, attributes: dict[str, Any]) -> None:
        """Replace the attributes and the number of rows (an input that has grown)."""
        if layout != self.layout:
            write_durably(self.paths.array_metadata, [to_json(layout.array_metadata())])
        if attributes != self.attributes:
            write_durably(self.paths.group, [to_json(group_metadata(attributes))])
        self.layout, self.attributes = layout, attributes

    def finish_metadata(self) -> None:
        """Take back the mark that says that rows parts are being rewritten."""
        self.update(self.layout, {key: value for key, value in self.attributes.items() if key != "metadata_pending"})

    def commit_of(self, shard: int) -> Commit | None:
        """The commit record of a shard as it stands on disk now; raises `StoreError` if the store was replaced."""
        if read_attributes(self.paths.root)["fingerprint"] != self.attributes["fingerprint"]:
            raise StoreError(f"{self.paths.root} has been replaced by another run since this one began")
        return read_commit(self.paths.root, shard)

    @contextmanager
    def locked(self, shard: int) -> Iterator[bool]:
        """Hold a shard's lock for a while; yields False if another process has it."""
        lock = ShardLock(self.paths.lock(shard))
        held = lock.acquire()
        try:
            yield held
        finally:
            lock.release()

    def write_shard(self, values_ND: NDArray[np.generic], part: pa.Table, commit: Commit) -> None:
        """Write one shard: payload, rows part, then `commit` completed with sizes and checksums.

        Parameters
        ----------
        values_ND : (n, D) of the layout's type, the shard's rows in order.
        part : n rows of the rows table.
        commit : the record, its byte counts and checksums still empty.
        """
        start, stop = self.layout.bounds(commit.shard)
        if values_ND.shape != (stop - start, self.layout.dim) or len(part) != stop - start:
            raise ValueError(f"shard {commit.shard} takes {stop - start} rows of {self.layout.dim} values")
        chunks = self.layout.chunks(len(values_ND))
        tail = np.full((chunks * CHUNK_ROWS - len(values_ND), self.layout.dim), np.nan, values_ND.dtype)
        payload = [
            memoryview(np.ascontiguousarray(values_ND).view(np.uint8).reshape(-1).data),
            memoryview(tail.tobytes()),
        ]
        index = shard_index(chunks, CHUNK_ROWS * self.layout.row_bytes, self.layout.shard_rows // CHUNK_ROWS)
        write_durably(self.paths.shard(commit.shard), [*payload, memoryview(index)])
        payload_bytes = sum(len(block) for block in payload)
        self._write_part(part, commit, payload_bytes, crc32c(payload))

    def write_part(self, part: pa.Table, commit: Commit) -> None:
        """Rewrite only the rows part of a shard whose metadata changed; the embeddings stay as they are."""
        self._write_part(part, commit, commit.payload_bytes, commit.payload_crc32c)

    def _write_part(self, part: pa.Table, commit: Commit, payload_bytes: int, payload_crc32c: str) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(part, sink, compression="zstd")
        encoded = sink.getvalue()
        write_durably(self.paths.part(commit.shard), [memoryview(encoded)])
        record = Commit(
            **{
                **commit.__dict__,
                "fingerprint": self.attributes["fingerprint"],
                "payload_bytes": payload_bytes,
                "payload_crc32c": payload_crc32c,
                "part_bytes": len(encoded),
                "part_crc32c": crc32c([memoryview(encoded)]),
            }
        )
        write_durably(self.paths.commit(commit.shard), [memoryview(record.to_json())])

    def sweep(self, shard: int) -> None:
        """Remove what an interrupted write of a shard left behind; only while its lock is held."""
        for file in (self.paths.shard(shard), self.paths.part(shard), self.paths.commit(shard)):
            with suppress(OSError):
                file.with_name(f"{file.name}.partial").unlink(missing_ok=True)

    def sweep_locks(self) -> None:
        """Remove the lock files of processes that were killed."""
        for file in (self.paths.array / "commit").glob("*.lock"):
            lock = ShardLock(file)
            if lock.acquire():
                lock.release()
