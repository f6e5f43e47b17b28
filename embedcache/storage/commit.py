"""Writing a store so that a kill at any moment loses at most the shard in work, and nothing half-written is ever read.

For each shard: take its lock, write the embeddings to ``.partial``, fsync, rename, fsync the folder; the rows part the
same way; last the commit record. A shard without a record does not exist for readers, and resuming means doing the
shards that have none. Space is reserved before it is written, so a full disk is an error and not a torn file.

A file that shards share (`Layout.is_shared`) is read, filled in and replaced by one process at a time: it always holds all
rows that were committed, and what it holds of others does not count.
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
from embedcache.storage.layout import CHUNK_ROWS, Layout, StorePaths, read_layout
from embedcache.storage.shardfile import bytes_of, file_blocks, held_rows, no_rows
from embedcache.storage.store import Commit, read_attributes, read_commit

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


def write_layout(paths: StorePaths, layout: Layout) -> None:
    """Write what says how the arrays are cut, where it is not yet so; the number of records, which counts, comes last."""
    contents = {paths.array_metadata: to_json(layout.array_metadata())}
    if layout.offsets is not None:
        contents |= {paths.offsets_chunk(i): memoryview(chunk.data) for i, chunk in enumerate(layout.offsets_chunks())}
        contents[paths.offsets_metadata] = to_json(layout.offsets_metadata())
    for file, content in contents.items():
        if not file.exists() or file.read_bytes() != content.cast("B"):
            write_durably(file, [content])


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
        write_layout(paths, layout)
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

    def wait(self) -> None:
        """Take the lock as soon as it is free."""
        while not self.acquire():
            pass

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
        write_layout(self.paths, layout)
        if attributes != self.attributes:
            write_durably(self.paths.group, [to_json(group_metadata(attributes))])
        self.layout, self.attributes = layout, attributes

    def finish_metadata(self) -> None:
        """Take back the mark that says that rows parts are being rewritten."""
        attributes = {key: value for key, value in self.attributes.items() if key != "metadata_pending"}
        if attributes != self.attributes:
            write_durably(self.paths.group, [to_json(group_metadata(attributes))])
        self.attributes = attributes

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

    def withdraw(self, commit: Commit) -> None:
        """Take back the record of a shard whose files are damaged, unless a process is making it again already.

        Before anything is written: a shared file that is made anew holds nothing of the shards that had rows in the old.
        """
        with self.locked(commit.shard) as held:
            if held and self.commit_of(commit.shard) == commit:
                self.paths.commit(commit.shard).unlink()
                fsync_folder(self.paths.commit(commit.shard).parent)

    def write_shard(self, values_ND: NDArray[np.generic], part: pa.Table, commit: Commit) -> None:
        """Write one shard: its rows of the array, the rows part, then `commit` completed with sizes and checksums.

        Parameters
        ----------
        values_ND : (n, D) of the layout's type, the rows of the shard's records in order.
        part : one row of the rows table for each record.
        commit : the record, its byte counts and checksums still empty.
        """
        layout, shard = self.layout, commit.shard
        (start, stop), (first, last) = layout.bounds(shard), layout.span(shard)
        if values_ND.shape != (last - first, layout.dim) or len(part) != stop - start:
            raise ValueError(f"shard {shard} takes {stop - start} records, {last - first} rows of {layout.dim} values")
        done = 0
        for file, begin, end in layout.pieces(first, last - first):
            rows_nD = values_ND[done : done + end - begin]
            if layout.is_shared(begin, end):
                self._fill_in(file, begin, rows_nD)
            else:
                self._write_file(file, rows_nD)
            done += end - begin
        tail = 0 if layout.offsets is not None else layout.chunks(len(values_ND)) * CHUNK_ROWS - len(values_ND)
        payload = [bytes_of(values_ND), bytes_of(no_rows(tail, layout))]
        self._write_part(part, commit, sum(map(len, payload)), crc32c(payload))

    def _write_file(self, file: int, rows_nD: NDArray[np.generic]) -> None:
        write_durably(self.paths.file(file), file_blocks(rows_nD, self.layout))

    def _fill_in(self, file: int, at: int, rows_nD: NDArray[np.generic]) -> None:
        """Put rows into their place of a file that shards share, and keep whatever else it holds."""
        layout, path = self.layout, self.paths.file(file)
        low, high = layout.file_bounds(file)
        lock = ShardLock(self.paths.file_lock(file))
        lock.wait()
        try:
            held_nD = held_rows(path, layout)
            filled_nD = no_rows(max(len(held_nD), high - low), layout)
            filled_nD[: len(held_nD)] = held_nD
            filled_nD[at : at + len(rows_nD)] = rows_nD
            self._write_file(file, filled_nD)
        finally:
            lock.release()

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
        first, last = self.layout.span(shard)
        pieces = self.layout.pieces(first, last - first)
        own = [self.paths.file(file) for file, begin, end in pieces if not self.layout.is_shared(begin, end)]
        for file in (*own, self.paths.part(shard), self.paths.commit(shard)):
            with suppress(OSError):
                file.with_name(f"{file.name}.partial").unlink(missing_ok=True)

    def sweep_locks(self) -> None:
        """Remove the lock files of processes that were killed."""
        for file in (self.paths.array / "commit").glob("*.lock"):
            lock = ShardLock(file)
            if lock.acquire():
                lock.release()
