"""Uncompressed Zarr shards as one array in memory: every shard file mapped into its place of one (N, D) view.

An uncompressed shard is the raw rows followed by the shard index, so its payload can be mapped and read at the speed
of a numpy memmap, where a chunk-decoding reader moves a whole shard for one row. The order of the inner chunks in a
shard is free in the Zarr specification; `chunks_in_row_order` therefore reads each shard's index before it is mapped.

The one contiguous view needs Linux and shards of whole memory pages; elsewhere `ShardedRows` offers the same reads over
one map per file.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import DTypeLike, NDArray

from embedcache.errors import StoreError
from embedcache.storage.rowarray import RowArray

INDEX_ENTRY = struct.Struct("<QQ")
MISSING = 2**64 - 1
_PROT_READ, _PROT_WRITE, _PROT_NONE = 1, 2, 0
_MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE = 0x02, 0x10, 0x20, 0x4000
_HUGE_PAGE = 2 << 20
"""Bytes. Where files lie in the page cache in pieces of this size, Linux maps each as one page if the address is a multiple
of it, as it is for a shard of 16,384 rows of 64 columns or a multiple; random reads miss the TLB less then."""


def shard_index(chunks: int, chunk_bytes: int, chunks_per_shard: int) -> bytes:
    """Return the index at the end of a shard of `chunks` inner chunks in row order: offsets, lengths, crc32c.

    Layout after the ``sharding_indexed`` codec of the Zarr v3 specification (16 bytes an inner chunk, then 4 of crc32c).
    """
    entries = [INDEX_ENTRY.pack(i * chunk_bytes, chunk_bytes) for i in range(chunks)]
    entries += [INDEX_ENTRY.pack(MISSING, MISSING)] * (chunks_per_shard - chunks)
    index = b"".join(entries)
    return index + struct.pack("<I", google_crc32c.value(index))


def chunks_in_row_order(path: Path, chunk_bytes: int, chunks_per_shard: int) -> int:
    """How many inner chunks the shard file at `path` holds, in row order from byte 0; 0 if it is missing or otherwise."""
    try:
        with path.open("rb") as file:
            index_bytes = INDEX_ENTRY.size * chunks_per_shard + 4
            chunks, rest = divmod(file.seek(0, os.SEEK_END) - index_bytes, chunk_bytes)
            if rest or not 0 < chunks <= chunks_per_shard:
                return 0
            file.seek(-index_bytes, os.SEEK_END)
            return chunks if file.read() == shard_index(chunks, chunk_bytes, chunks_per_shard) else 0
    except FileNotFoundError:
        return 0


def map_shards(
    files: Sequence[Path | None], shard_rows: int, shape: tuple[int, int], dtype: DTypeLike
) -> NDArray[np.generic] | ShardedRows:
    """Map shard files to one read-only (N, D) array-like; None stands for a shard that is not there and reads as NaN."""
    dtype = np.dtype(dtype)
    shard_bytes = shard_rows * shape[1] * dtype.itemsize
    if sys.platform == "linux" and (shard_bytes % mmap.PAGESIZE == 0 or len(files) == 1):
        return _map_contiguous(files, shard_rows, shape, dtype)
    return ShardedRows(files, shard_rows, shape, dtype)


def _map_contiguous(
    files: Sequence[Path | None], shard_rows: int, shape: tuple[int, int], dtype: np.dtype[np.generic]
) -> NDArray[np.generic]:
    row_bytes = shape[1] * dtype.itemsize
    shard_bytes = shard_rows * row_bytes
    total = max(shape[0] * row_bytes, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def place(address: int | None, length: int, flags: int, descriptor: int, protection: int) -> int:
        where = libc.mmap(address, length, protection, flags, descriptor, 0)
        if where is None or where == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return int(where)

    reserved = place(None, total + _HUGE_PAGE, _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE, -1, _PROT_NONE)
    base = -(-reserved // _HUGE_PAGE) * _HUGE_PAGE
    buffer = (ctypes.c_char * total).from_address(base)
    weakref.finalize(buffer, libc.munmap, reserved, total + _HUGE_PAGE)
    nan_shard: int | None = None
    for shard, file in enumerate(files):
        length = min(shard_bytes, total - shard * shard_bytes)
        if file is None:
            nan_shard = _nan_shard(shard_bytes, dtype) if nan_shard is None else nan_shard
            descriptor = nan_shard
        else:
            descriptor = os.open(file, os.O_RDONLY)
        try:
            if length > 0:
                place(base + shard * shard_bytes, length, _MAP_PRIVATE | _MAP_FIXED, descriptor, _PROT_READ)
        finally:
            if file is not None:
                os.close(descriptor)
    if nan_shard is not None:
        os.close(nan_shard)
    flat = np.frombuffer(memoryview(buffer), np.uint8, count=shape[0] * row_bytes)
    array: NDArray[np.generic] = flat.view(dtype).reshape(shape)
    array.flags.writeable = False
    return array


def _nan_shard(shard_bytes: int, dtype: np.dtype[np.generic]) -> int:
    descriptor = os.memfd_create("embedcache-missing-shard")
    os.truncate(descriptor, shard_bytes)
    np.frombuffer(mmap.mmap(descriptor, shard_bytes), dtype=dtype)[:] = np.nan
    return descriptor


class ShardedRows(RowArray):
    """Rows over one memory map per shard: an array-like (N, D) for where one contiguous map cannot be had."""

    def __init__(
        self, files: Sequence[Path | None], shard_rows: int, shape: tuple[int, int], dtype: np.dtype[np.generic]
    ) -> None:
        self.shape, self.dtype, self._shard_rows = shape, dtype, shard_rows
        self._shards: list[NDArray[np.generic]] = []
        for shard, file in enumerate(files):
            rows = min(shard_rows, shape[0] - shard * shard_rows)
            if file is None:
                self._shards.append(np.broadcast_to(np.asarray(np.nan, dtype), (rows, shape[1])))
            else:
                self._shards.append(np.memmap(file, dtype, "r", shape=(rows, shape[1])))

    def take(self, indices: NDArray[np.integer], out: NDArray[np.generic] | None = None) -> NDArray[np.generic]:
        """Gather rows by index, 0 <= index < N, into `out` (n, D) if it is given."""
        out = np.empty((len(indices), self.shape[1]), self.dtype) if out is None else out
        shard_of = indices // self._shard_rows
        for shard in np.unique(shard_of):
            here = np.flatnonzero(shard_of == shard)
            out[here] = self._shards[shard][indices[here] - shard * self._shard_rows]
        return out

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return rows [start, stop): a view where they lie in one shard."""
        first, last = start // self._shard_rows, max(start, stop - 1) // self._shard_rows
        if first == last or start >= stop:
            offset = first * self._shard_rows
            return self._shards[min(first, len(self._shards) - 1)][start - offset : stop - offset]
        pieces = []
        for shard in range(first, last + 1):
            offset = shard * self._shard_rows
            pieces.append(self._shards[shard][max(0, start - offset) : stop - offset])
        return np.concatenate(pieces)


class DecodedRows(RowArray):
    """Rows read through zarr-python: an array-like (N, D) for compressed shards and shards in another chunk order."""

    def __init__(self, array: Path) -> None:
        import zarr

        try:
            self._array = zarr.open_array(str(array), mode="r")
        except Exception as error:  # zarr raises many kinds for a damaged or unknown array
            raise StoreError(f"{array} cannot be read by zarr-python: {error}") from None
        self._path = array
        self.shape: tuple[int, int] = self._array.shape
        self.dtype: np.dtype[np.generic] = self._array.dtype

    def __getitem__(self, key: Any) -> NDArray[np.generic]:
        try:
            return np.asarray(self._array[key] if isinstance(key, int | slice | tuple) else self._array.oindex[key])
        except (ValueError, RuntimeError) as error:  # of an index, of a compressed chunk
            raise StoreError(f"{self._path} is damaged ({error}); see `embedcache verify`") from None

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return rows [start, stop), decoded."""
        return self[start:stop]

    def take(self, indices: NDArray[np.integer], out: NDArray[np.generic] | None = None) -> NDArray[np.generic]:
        """Gather rows by index, 0 <= index < N, into `out` (n, D) if it is given; each shard is decoded once."""
        distinct, inverse = np.unique(indices, return_inverse=True)
        rows = self[distinct]
        return np.take(rows, inverse, axis=0, out=out, mode="clip")
