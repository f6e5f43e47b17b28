"""One file of the embeddings as bytes: raw rows, or each inner chunk compressed by itself, and the index at its end.

Both are shards of the ``sharding_indexed`` codec of the Zarr v3 specification; raw ones can be mapped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from embedcache.storage.layout import CHUNK_ROWS, ZSTD_LEVEL, Layout, StorePaths
from embedcache.storage.shardmap import INDEX_ENTRY, MISSING, chunks_in_row_order, shard_index


def file_blocks(rows_nD: NDArray[np.generic], layout: Layout) -> list[memoryview]:
    """The bytes of a file that holds n rows from its beginning, the last inner chunk filled up with NaN."""
    chunks = layout.chunks(len(rows_nD))
    tail_nD = no_rows(chunks * CHUNK_ROWS - len(rows_nD), layout)
    if layout.compress is None:
        index = shard_index(chunks, layout.chunk_bytes, layout.file_chunks)
        return [bytes_of(rows_nD), bytes_of(tail_nD), memoryview(index)]
    packed = [memoryview(Zstd(ZSTD_LEVEL).encode(chunk)) for chunk in _whole_chunks(rows_nD, tail_nD)]
    return [*packed, memoryview(_index([len(chunk) for chunk in packed], layout.file_chunks))]


def _whole_chunks(rows_nD: NDArray[np.generic], tail_nD: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
    for start in range(0, len(rows_nD), CHUNK_ROWS):
        chunk_nD = rows_nD[start : start + CHUNK_ROWS]
        yield np.ascontiguousarray(chunk_nD if len(chunk_nD) == CHUNK_ROWS else np.concatenate((chunk_nD, tail_nD)))


def _index(lengths: list[int], chunks_per_file: int) -> bytes:
    ends = np.cumsum(lengths).tolist()
    entries = [INDEX_ENTRY.pack(end - length, length) for end, length in zip(ends, lengths, strict=True)]
    entries += [INDEX_ENTRY.pack(MISSING, MISSING)] * (chunks_per_file - len(lengths))
    index = b"".join(entries)
    return index + struct.pack("<I", google_crc32c.value(index))


def chunks_held(path: Path, layout: Layout) -> int:
    """How many inner chunks a file holds, in row order from its first byte; 0 if it is missing or otherwise."""
    if layout.compress is None:
        return chunks_in_row_order(path, layout.chunk_bytes, layout.file_chunks)
    return len(_lengths(path, layout))


def _lengths(path: Path, layout: Layout) -> list[int]:
    """Bytes of each compressed inner chunk of a file, in order; none where its index is damaged or does not fit its size."""
    try:
        with path.open("rb") as file:
            file.seek(-layout.index_bytes, 2)
            end, index = file.tell(), file.read()
    except OSError:
        return []
    entries = [entry for entry in INDEX_ENTRY.iter_unpack(index[:-4]) if entry != (MISSING, MISSING)]
    lengths = [length for _, length in entries]
    return lengths if sum(lengths) == end and index == _index(lengths, layout.file_chunks) else []


def held_rows(path: Path, layout: Layout) -> NDArray[np.generic]:
    """All inner chunks of a file as rows (n, D): a map of its bytes, or, where they are compressed, a copy.

    No rows where the file is missing or its index is damaged; NaN for a chunk that cannot be unpacked.
    """
    held = chunks_held(path, layout) * CHUNK_ROWS
    if not held:
        return no_rows(0, layout)
    if layout.compress is None:
        return np.memmap(path, layout.dtype, "r", shape=(held, layout.dim))
    rows_nD = no_rows(held, layout)
    data, start = path.read_bytes(), 0
    for number, length in enumerate(_lengths(path, layout)):
        unpacked = _unpacked(data[start : start + length])
        if len(unpacked) == layout.chunk_bytes:
            chunk_nD = np.frombuffer(unpacked, layout.dtype).reshape(CHUNK_ROWS, layout.dim)
            rows_nD[number * CHUNK_ROWS : (number + 1) * CHUNK_ROWS] = chunk_nD
        start += length
    return rows_nD


def _unpacked(chunk: bytes) -> bytes:
    try:
        return bytes(Zstd().decode(chunk))
    except RuntimeError:  # what numcodecs raises for damaged data
        return b""


def payload(paths: StorePaths, layout: Layout, shard: int, rows: int) -> list[NDArray[np.generic]]:
    """The first `rows` rows of a shard in pieces (n, D), one a file; shorter ones, or none, where a file has not so many."""
    pieces = layout.pieces(layout.span(shard)[0], rows)
    return [held_rows(paths.file(file), layout)[start:stop] for file, start, stop in pieces]


def bytes_of(values: NDArray[np.generic]) -> memoryview:
    """The bytes of an array, in C order."""
    return memoryview(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)


def no_rows(rows: int, layout: Layout) -> NDArray[np.generic]:
    """Rows (n, D) that stand for none: NaN."""
    return np.full((rows, layout.dim), np.nan, layout.dtype)
