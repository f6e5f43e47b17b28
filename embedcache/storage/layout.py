"""How the arrays of a store are cut into files, and where each file lies.

    name.zarr/zarr.json                          attributes: what was encoded, by what, into which blocks
    name.zarr/embeddings/zarr.json               (N, D) float16 | float32, sharded, uncompressed unless asked
    name.zarr/embeddings/c/0/0                   Zarr shard: 16,384 rows in inner chunks of 1,024, index at the end
    name.zarr/embeddings/rows/00000000.parquet   the ids, digests, sequences, lengths and metadata of a shard's records
    name.zarr/embeddings/commit/00000000.json    written last: the shard's records are there and are whole

In a store without pooling a record has one row for each of its tokens, so that the array is (T, D), and

    name.zarr/offsets/                           int64 (N+1): record i has rows offsets[i] to offsets[i+1]

A shard is always a number of records that are committed together. With one row a record it has a file of its own; with
one row a token its records begin and end anywhere in the files, and it shares the first and the last with its neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcache.errors import StoreError

CHUNK_ROWS = 1024
"""Rows of an inner chunk."""
DEFAULT_SHARD_ROWS = 16384
TOKEN_FILE_ROWS = 16384
"""Rows of a file in a store without pooling."""
TOKEN_UNIT = 16
"""Records whose tokens a store without pooling commits together at least."""
ZSTD_LEVEL = 3
"""Higher ones take far longer and gain little."""
_OFFSETS_CHUNK = 65536
_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


@dataclass(frozen=True)
class Layout:
    """Shape and cutting of the embeddings: N records, D values a row, shards of `shard_rows` records."""

    rows: int
    """Records, N."""
    dim: int
    dtype: str
    shard_rows: int = DEFAULT_SHARD_ROWS
    offsets: NDArray[np.int64] | None = field(default=None, compare=False)
    """(N+1,) where the rows of each record begin, in a store without pooling; None where a record has one row."""
    compress: str | None = None
    """``zstd``: every inner chunk is compressed by itself, and cannot be mapped."""

    @property
    def shards(self) -> int:
        """Number of shards, the last one possibly short."""
        return -(-self.rows // self.shard_rows)

    def bounds(self, shard: int) -> tuple[int, int]:
        """First record of a shard and the record after its last."""
        return shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.rows)

    # the array and its files

    @property
    def length(self) -> int:
        """Rows of the array: N, or T tokens."""
        return self.rows if self.offsets is None else int(self.offsets[-1])

    @property
    def file_rows(self) -> int:
        """Rows of a file, the last one possibly short."""
        return self.shard_rows if self.offsets is None else TOKEN_FILE_ROWS

    @property
    def files(self) -> int:
        """Number of files."""
        return -(-self.length // self.file_rows)

    def file_bounds(self, file: int) -> tuple[int, int]:
        """First row of a file and the row after its last."""
        return file * self.file_rows, min((file + 1) * self.file_rows, self.length)

    def span(self, shard: int) -> tuple[int, int]:
        """First row of a shard's records in the array and the row after their last."""
        start, stop = self.bounds(shard)
        return (start, stop) if self.offsets is None else (int(self.offsets[start]), int(self.offsets[stop]))

    def starts(self, shard: int) -> NDArray[np.int64]:
        """(n+1,) where the rows of each record of a shard begin among the shard's rows."""
        start, stop = self.bounds(shard)
        return (
            np.arange(stop - start + 1)
            if self.offsets is None
            else self.offsets[start : stop + 1] - self.offsets[start]
        )

    def pieces(self, first: int, rows: int) -> Iterator[tuple[int, int, int]]:
        """Cut `rows` rows of the array from `first` on into (file, first row within it, row after the last)."""
        for file in range(first // self.file_rows, -(-(first + rows) // self.file_rows) if rows else 0):
            low = file * self.file_rows
            yield file, max(first - low, 0), min(first + rows - low, self.file_rows)

    def is_shared(self, start: int, stop: int) -> bool:
        """Whether a file of which a shard has rows [start, stop) may hold rows of others, now or once the input grows."""
        return self.offsets is not None and stop - start < self.file_rows

    # sizes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dim * np.dtype(self.dtype).itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of an inner chunk."""
        return CHUNK_ROWS * self.row_bytes

    @property
    def file_chunks(self) -> int:
        """Inner chunks of a full file."""
        return self.file_rows // CHUNK_ROWS

    @property
    def index_bytes(self) -> int:
        """Bytes of the index at the end of a file: 16 an inner chunk, 4 of checksum."""
        return 16 * self.file_chunks + 4

    def chunks(self, rows: int) -> int:
        """Inner chunks that hold `rows` rows of one file."""
        return -(-rows // CHUNK_ROWS)

    # what Zarr wants to know

    def array_metadata(self) -> dict[str, Any]:
        """The ``zarr.json`` of the embeddings array, after the Zarr v3 specification."""
        codec = {"name": self.compress, "configuration": {"level": ZSTD_LEVEL, "checksum": False}}
        sharding = {
            "chunk_shape": [CHUNK_ROWS, self.dim],
            "codecs": [_BYTES, *([codec] if self.compress else [])],
            "index_codecs": [_BYTES, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            **array_metadata(
                (self.length, self.dim), self.dtype, (self.file_rows, self.dim), "NaN",
                [{"name": "sharding_indexed", "configuration": sharding}],
            ),
            "dimension_names": ["row" if self.offsets is None else "token", "dim"],
            "attributes": {} if self.offsets is None else {"shard_rows": self.shard_rows},
        }  # fmt: skip

    def offsets_metadata(self) -> dict[str, Any]:
        """The ``zarr.json`` of the offsets."""
        metadata = array_metadata((self.rows + 1,), "int64", (_OFFSETS_CHUNK,), 0)
        return {**metadata, "dimension_names": ["offset"], "attributes": {}}

    def offsets_chunks(self) -> Iterator[NDArray[np.int64]]:
        """The chunks of the offsets, the last one filled up with zeros."""
        assert self.offsets is not None
        for start in range(0, self.rows + 1, _OFFSETS_CHUNK):
            chunk = np.zeros(_OFFSETS_CHUNK, "<i8")
            part = self.offsets[start : start + _OFFSETS_CHUNK]
            chunk[: len(part)] = part
            yield chunk


def array_metadata(
    shape: Sequence[int], dtype: str, chunks: Sequence[int], fill: object, codecs: Sequence[Any] = (_BYTES,)
) -> dict[str, Any]:
    """The ``zarr.json`` of an array, by default one whose chunks are plain bytes."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": list(codecs),
        "storage_transformers": [],
    }


class StorePaths:
    """Where each part of a store lies."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.group = self.root / "zarr.json"
        self.array = self.root / "embeddings"
        self.array_metadata = self.array / "zarr.json"
        self.offsets = self.root / "offsets"
        self.offsets_metadata = self.offsets / "zarr.json"
        self.throughput = self.array / "throughput.json"
        self.index = self.root / "index"
        self.index_metadata = self.index / "zarr.json"
        self.virtual_rows = self.index / "rows.parquet"

    def file(self, file: int) -> Path:
        """A file of the embeddings, under the default chunk key encoding; with one row a record, that of the shard."""
        return self.array / "c" / str(file) / "0"

    def offsets_chunk(self, chunk: int) -> Path:
        """A chunk of the offsets."""
        return self.offsets / "c" / str(chunk)

    def index_of(self, piece: int) -> Path:
        """The index of a piece of a virtual store."""
        return self.index / "c" / str(piece) / "0"

    def part(self, shard: int) -> Path:
        """The rows part of a shard."""
        return self.array / "rows" / f"{shard:08d}.parquet"

    def commit(self, shard: int) -> Path:
        """The commit record of a shard."""
        return self.array / "commit" / f"{shard:08d}.json"

    def lock(self, shard: int) -> Path:
        """The lock file of a shard, there while a process works on it."""
        return self.array / "commit" / f"{shard:08d}.lock"

    def file_lock(self, file: int) -> Path:
        """The lock file of a file that shards share, there while a process writes it."""
        return self.array / "commit" / f"file-{file:08d}.lock"


def read_layout(path: str | Path) -> Layout:
    """Read the layout from the arrays' own metadata; raises `StoreError` if it is missing or of an unknown shape."""
    paths = StorePaths(path)
    file = paths.array_metadata
    if paths.index_metadata.exists() and not file.exists():
        raise StoreError(
            f"{path} is a virtual store and holds no values of its own, so it cannot be extracted into: name another one"
        )
    try:
        metadata = json.loads(file.read_bytes())
        length, dim = map(int, metadata["shape"])
        dtype = str(metadata["data_type"])
        compress = _compressor(metadata["codecs"])
        shard_rows = metadata.get("attributes", {}).get("shard_rows")
        if shard_rows is None:
            shard_rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
            return Layout(length, dim, dtype, int(shard_rows), compress=compress)
        file = paths.offsets_metadata
        rows = int(json.loads(file.read_bytes())["shape"][0]) - 1
        file = paths.offsets
        chunks = [np.fromfile(paths.offsets_chunk(i), "<i8") for i in range(-(-(rows + 1) // _OFFSETS_CHUNK))]
        offsets = np.concatenate(chunks)[: rows + 1]
        if len(offsets) != rows + 1 or offsets[0] or (np.diff(offsets) < 0).any():
            raise ValueError("offsets")
        return Layout(rows, dim, dtype, int(shard_rows), offsets, compress)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        raise StoreError(f"{file} is missing or damaged: the store cannot be read") from None


def _compressor(codecs: list[dict[str, Any]]) -> str | None:
    """The name of what compresses the inner chunks, None where nothing does."""
    inner = codecs[0]["configuration"]["codecs"] if codecs[0]["name"] == "sharding_indexed" else codecs
    return str(inner[-1]["name"]) if len(inner) > 1 else None
