"""The mapped reader beside a raw numpy memmap and beside zarr-python, on the same rows in one run.

The store is 200,000 x 1,280 float16 (512 MB) in the project's layout; the memmap is the same values in one flat file. The
merged store is virtual: 768 of the columns lie in one store, 512 in another, and nothing is copied.
Three ways of reading, all from the page cache, each into a buffer that is allocated once:

    random    1,024 rows at random: a mini-batch
    epoch     blocks of 1,024 rows in random order, 16 at a time, rows shuffled among the 16: a training epoch
    scan      all rows in order, 4,096 at a time, summed
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.combining.merge import MergeOptions, merge
from embedcache.progress import Progress
from embedcache.storage.commit import StoreWriter, create_store
from embedcache.storage.layout import DEFAULT_SHARD_ROWS, Layout
from embedcache.storage.store import FORMAT, FORMAT_VERSION, Commit, Store, open_store

BLOCK, BLOCKS_AT_ONCE, SCAN = 1024, 16, 4096


class Reader(Protocol):
    """What the three ways of reading need."""

    def take(self, rows: NDArray[np.int64], out: NDArray[np.float16]) -> NDArray[np.float16]:
        """Gather rows by index."""
        ...

    def read(self, start: int, stop: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """Read rows in order, into `out` if it is given."""
        ...


class Memmap:
    """``numpy.load(mmap_mode="r")``."""

    def __init__(self, file: Path) -> None:
        self._rows = np.load(file, mmap_mode="r")

    def take(self, rows: NDArray[np.int64], out: NDArray[np.float16]) -> NDArray[np.float16]:
        """Gather with the faster of numpy's two ways."""
        np.take(self._rows, rows, axis=0, out=out, mode="clip")
        return out

    def read(self, start: int, stop: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """A view, or its copy."""
        return _copied(self._rows[start:stop], out)


class ZarrPython:
    """zarr-python on the same store."""

    def __init__(self, store: Path) -> None:
        import zarr

        self._rows: Any = zarr.open_array(str(store / "embeddings"), mode="r")

    def take(self, rows: NDArray[np.int64], out: NDArray[np.float16]) -> NDArray[np.float16]:
        """Orthogonal indexing, which wants no repeats."""
        return np.asarray(self._rows.oindex[rows], np.float16)

    def read(self, start: int, stop: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """Decode the chunks of a slice."""
        return _copied(np.asarray(self._rows[start:stop], np.float16), out)


class Ours:
    """This project's reader."""

    def __init__(self, store: Path) -> None:
        self._store: Store = open_store(store)

    def take(self, rows: NDArray[np.int64], out: NDArray[np.float16]) -> NDArray[np.float16]:
        """Gather."""
        return self._store.take(rows, out=out)  # type: ignore[return-value]

    def read(self, start: int, stop: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """A view where that can be had."""
        return self._store.read(start, stop, out)  # type: ignore[return-value]


def _copied(rows: NDArray[np.float16], out: NDArray[np.float16] | None) -> NDArray[np.float16]:
    if out is None:
        return rows
    out[...] = rows
    return out


def write_rows(store: Path, file: Path, rows: int, dim: int) -> None:
    """Write the same random rows as a store and as a flat ``.npy`` file, shard by shard."""
    rng = np.random.default_rng(0)
    flat = np.lib.format.open_memmap(file, "w+", np.float16, (rows, dim))
    for start in range(0, rows, DEFAULT_SHARD_ROWS):
        shape = (min(DEFAULT_SHARD_ROWS, rows - start), dim)
        flat[start : start + shape[0]] = rng.standard_normal(shape, np.float32).astype(np.float16)
    flat.flush()
    write_columns(store, flat, 0, dim)


def write_columns(store: Path, flat: NDArray[np.float16], left: int, right: int) -> None:
    """Write the columns [left, right) of a matrix as a store."""
    layout = Layout(len(flat), right - left, "float16")
    attributes = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "fingerprint": f"benchmark {left}", "blocks": [],
        "encoder": {"name": "benchmark"},
    }  # fmt: skip
    create_store(store, layout, attributes)
    writer = StoreWriter(store)
    for shard in range(layout.shards):
        start, stop = layout.bounds(shard)
        part = pa.table({"row": np.arange(start, stop), "id": [f"r{i}" for i in range(start, stop)]})
        writer.write_shard(flat[start:stop, left:right], part, Commit(shard, stop - start, "", "", 0, "", 0, ""))


def write_merged(store: Path, file: Path) -> None:
    """Merge two stores that have three and two fifths of a flat file's columns each; nothing is copied."""
    flat = np.load(file, mmap_mode="r")
    dim = flat.shape[1]
    border = dim * 3 // 5
    halves = [store.with_name(f"{store.stem}-{name}.zarr") for name in "ab"]
    for half, left, right in zip(halves, (0, border), (border, dim), strict=True):
        write_columns(half, flat, left, right)
    merge(halves, store, MergeOptions(), Progress(quiet=True))


Work = Callable[[], int]
"""Reads, and returns how many rows; the rows to read are drawn before the clock starts."""


def random_rows(reader: Reader, rows: int, dim: int, seed: int) -> Work:
    """50 mini-batches of 1,024 distinct rows."""
    rng, out = np.random.default_rng(seed), np.empty((BLOCK, dim), np.float16)
    batches = [rng.choice(rows, BLOCK, replace=False) for _ in range(50)]

    def read() -> int:
        for batch in batches:
            reader.take(batch, out)
        return len(batches) * BLOCK

    return read


def epoch(reader: Reader, rows: int, dim: int, seed: int) -> Work:
    """One block-shuffled epoch, mini-batches of 1,024 rows out of a buffer of 16 blocks."""
    rng = np.random.default_rng(seed)
    buffer, batch = np.empty((BLOCK * BLOCKS_AT_ONCE, dim), np.float16), np.empty((BLOCK, dim), np.float16)
    starts = rng.permutation(np.arange(0, rows - BLOCK + 1, BLOCK))
    groups = [starts[first : first + BLOCKS_AT_ONCE] for first in range(0, len(starts), BLOCKS_AT_ONCE)]
    orders = [rng.permutation(len(group) * BLOCK) for group in groups]

    def read() -> int:
        for group, order in zip(groups, orders, strict=True):
            for slot, start in enumerate(group):
                reader.read(start, start + BLOCK, buffer[slot * BLOCK : (slot + 1) * BLOCK])
            for part in range(0, len(order), BLOCK):
                np.take(buffer, order[part : part + BLOCK], axis=0, out=batch, mode="clip")
        return len(starts) * BLOCK

    return read


def scan(reader: Reader, rows: int, dim: int, seed: int) -> Work:
    """All rows once, touched through their bits."""

    def read() -> int:
        for start in range(0, rows, SCAN):
            reader.read(start, min(start + SCAN, rows)).view(np.uint16).max()
        return rows

    return read


def run(quick: bool = False) -> dict[str, object]:
    """Time all readers in turn.

    Returns
    -------
    For each way of reading and each reader: rows a second (median) and the ratio to the memmap.
    """
    rows, dim, repeats = (20_000, 128, 1) if quick else (200_000, 1280, 9)
    ways = {"random": random_rows, "epoch": epoch, "scan": scan}
    table: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        store, file = Path(folder) / "rows.zarr", Path(folder) / "rows.npy"
        write_rows(store, file, rows, dim)
        write_merged(Path(folder) / "merged.zarr", file)
        readers: dict[str, Reader] = {
            "numpy memmap": Memmap(file), "embedcache": Ours(store), "merged": Ours(Path(folder) / "merged.zarr"),
            "zarr-python": ZarrPython(store),
        }  # fmt: skip
        for reader in readers.values():
            scan(reader, rows, dim, 0)()  # fills the page cache and the page tables
        for way, make in ways.items():
            rates: dict[str, list[float]] = {name: [] for name in readers}
            for repeat in range(repeats):
                for name in list(readers)[:: -1 if repeat % 2 else 1]:
                    if name == "zarr-python" and repeat > 1:
                        continue  # a hundred times slower: two of its runs are enough
                    work = make(readers[name], rows, dim, repeat)
                    start = time.perf_counter()
                    read = work()
                    rates[name].append(read / (time.perf_counter() - start))
            medians = {name: statistics.median(values) for name, values in rates.items()}
            table[way] = {
                name: {"rows_per_second": rate, "times_memmap": rate / medians["numpy memmap"]}
                for name, rate in medians.items()
            }
    return {"rows": rows, "dim": dim, "dtype": "float16", "ways": table}


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
