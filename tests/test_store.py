"""The store: what is written is what any Zarr reader reads, and the mapped reader returns the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr

from embedcache import open_store
from embedcache.errors import StoreError
from embedcache.storage import shardmap
from embedcache.storage.commit import ShardLock, StoreWriter, create_store, remove_store
from embedcache.storage.shardmap import DecodedRows, ShardedRows
from embedcache.storage.store import Commit, Layout, Store, StorePaths

ATTRIBUTES = {
    "format": "embedcache",
    "format_version": 1,
    "fingerprint": "f",
    "encoder": {"name": "test"},
    "blocks": [],
}


def write_store(path: Path, values: np.ndarray, shard_rows: int = 2048, leave_out: tuple[int, ...] = ()) -> Path:
    layout = Layout(len(values), values.shape[1], str(values.dtype), shard_rows)
    create_store(path, layout, ATTRIBUTES)
    writer = StoreWriter(path)
    for shard in range(layout.shards):
        if shard not in leave_out:
            write_shard(writer, values, shard)
    return path


def write_shard(writer: StoreWriter, values: np.ndarray, shard: int) -> None:
    start, stop = writer.layout.bounds(shard)
    part = pa.table({"row": np.arange(start, stop), "id": [f"r{i}" for i in range(start, stop)]})
    writer.write_shard(values[start:stop], part, Commit(shard, stop - start, "d", "m", 0, "", 0, ""))


@pytest.fixture(params=[("float16", 136), ("float32", 7)], ids=["float16", "float32"])
def values(request: pytest.FixtureRequest) -> np.ndarray:
    dtype, dim = request.param
    return np.random.default_rng(0).normal(size=(5000, dim)).astype(dtype)


@pytest.fixture(params=["one map", "a map per shard"])
def store(request: pytest.FixtureRequest, values: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param != "one map":
        monkeypatch.setattr(shardmap.sys, "platform", "darwin")
    opened = open_store(write_store(tmp_path / "s.zarr", values))
    assert isinstance(opened.embeddings, np.ndarray if request.param == "one map" else ShardedRows)
    return opened


def test_mapped_rows_are_the_written_rows(store: Store, values: np.ndarray) -> None:
    indices = np.random.default_rng(1).integers(-5000, 5000, 3000)
    out = np.empty((3000, values.shape[1]), values.dtype)
    np.testing.assert_array_equal(store.take(indices), values[indices])
    assert store.take(indices, out=out) is out
    np.testing.assert_array_equal(out, values[indices])
    np.testing.assert_array_equal(store.read(1000, 4500), values[1000:4500])
    np.testing.assert_array_equal(np.asarray(store.embeddings), values)
    np.testing.assert_array_equal(store.embeddings[2040:2060], values[2040:2060])
    np.testing.assert_array_equal(store.embeddings[[5, 4999, 5]], values[[5, 4999, 5]])
    np.testing.assert_array_equal(store.embeddings[4097], values[4097])
    assert store.read(7, 7).shape == (0, values.shape[1])
    assert (len(store), store.dim, store.dtype) == (5000, values.shape[1], values.dtype)
    assert store.ids[[0, 4999]].tolist() == ["r0", "r4999"]


def test_the_mapped_view_is_read_only_and_copies_nothing(tmp_path: Path) -> None:
    values = np.ones((3000, 8), np.float16)
    store = open_store(write_store(tmp_path / "s.zarr", values))
    view = store.read(0, 3000)
    assert np.shares_memory(view, store.embeddings)
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 2


@pytest.mark.skipif(sys.platform != "linux", reason="one map of all shards is for Linux")
def test_one_map_begins_where_linux_can_map_huge_pages(store: Store) -> None:
    embeddings = store.embeddings
    if isinstance(embeddings, np.ndarray):
        assert embeddings.__array_interface__["data"][0] % (2 << 20) == 0


def test_zarr_reads_the_same_and_lists_no_unknown_files(store: Store, values: np.ndarray) -> None:
    group = zarr.open_group(str(store.path), mode="r")
    assert [name for name, _ in group.members()] == ["embeddings"]
    np.testing.assert_array_equal(group["embeddings"][:], values)
    assert group["embeddings"].metadata.dimension_names == ("row", "dim")
    assert dict(group.attrs)["format"] == "embedcache"


def test_an_index_outside_the_store_is_an_error(store: Store) -> None:
    for indices in ([5000], [-5001], [0, 9999]):
        with pytest.raises(IndexError, match="5,000 rows"):
            store.take(indices)
    with pytest.raises(IndexError):
        store.read(0, 5001)


def test_a_store_with_missing_shards_is_refused_unless_asked(tmp_path: Path, values: np.ndarray) -> None:
    path = write_store(tmp_path / "s.zarr", values, leave_out=(1,))
    with pytest.raises(StoreError, match="2 of 3 shards"):
        open_store(path)
    partial = open_store(path, partial=True)
    np.testing.assert_array_equal(partial.read(0, 2048), values[:2048])
    assert np.isnan(np.asarray(partial.read(2048, 4096))).all()
    np.testing.assert_array_equal(partial.read(4096, 5000), values[4096:])
    assert partial.column("id")[[3000, 4500].__getitem__(0)].as_py() is None
    assert partial.column("id")[4500].as_py() == "r4500"
    write_shard(StoreWriter(path), values, 1)
    np.testing.assert_array_equal(np.asarray(open_store(path).embeddings), values)


@pytest.mark.parametrize("how", ["compressed", "another chunk order"])
def test_shards_that_cannot_be_mapped_are_read_through_zarr(tmp_path: Path, values: np.ndarray, how: str) -> None:
    path = write_store(tmp_path / "s.zarr", values)
    if how == "compressed":
        array = zarr.create_array(
            str(path / "other"), shape=values.shape, dtype=values.dtype, chunks=(1024, values.shape[1]),
            shards=(2048, values.shape[1]), compressors=zarr.codecs.ZstdCodec(),
        )  # fmt: skip
        array[:] = values
        for shard in range(3):
            StorePaths(path).file(shard).write_bytes((path / "other" / "c" / str(shard) / "0").read_bytes())
        StorePaths(path).array_metadata.write_bytes((path / "other" / "zarr.json").read_bytes())
    else:
        for shard in range(2):
            swap_chunks(StorePaths(path).file(shard), 1024 * values.shape[1] * values.itemsize)
    store = open_store(path)
    assert isinstance(store.embeddings, DecodedRows)
    indices = np.random.default_rng(1).integers(-5000, 5000, 300)
    np.testing.assert_array_equal(store.take(indices), values[indices])
    np.testing.assert_array_equal(store.read(1000, 4500), values[1000:4500])
    np.testing.assert_array_equal(np.asarray(store.embeddings), values)


def swap_chunks(file: Path, chunk: int) -> None:
    """Lay the two inner chunks of a shard in the other order, as the specification allows."""
    import struct

    import google_crc32c

    data = file.read_bytes()
    index = struct.pack("<QQQQ", chunk, chunk, 0, chunk)
    file.write_bytes(data[chunk : 2 * chunk] + data[:chunk] + index + struct.pack("<I", google_crc32c.value(index)))


def test_a_foreign_folder_is_no_store_and_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious.txt").write_text("x")
    with pytest.raises(StoreError, match="not an embedcache store"):
        open_store(tmp_path / "data")
    with pytest.raises(StoreError, match="not an embedcache store"):
        remove_store(tmp_path / "data")
    assert (tmp_path / "data" / "precious.txt").exists()
    with pytest.raises(StoreError, match="there is no store"):
        open_store(tmp_path / "nothing")


def test_a_newer_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = write_store(tmp_path / "s.zarr", np.ones((10, 8), np.float16))
    group = json.loads((path / "zarr.json").read_text())
    group["attributes"]["format_version"] = 99
    (path / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(StoreError, match="pip install -U"):
        open_store(path)


def test_an_unknown_column_lists_the_known_ones(store: Store) -> None:
    with pytest.raises(StoreError, match="no column 'label'; it has: row, id"):
        store.column("label")


def test_a_lock_excludes_other_processes_and_ends_with_its_own(tmp_path: Path) -> None:
    file = tmp_path / "0.lock"
    code = (
        "import sys, pathlib; from embedcache.storage.commit import ShardLock; "
        "lock = ShardLock(pathlib.Path(sys.argv[1])); print(lock.acquire(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "True"
        assert ShardLock.is_held(file)
        assert not ShardLock(file).acquire()
        holder.kill()
        holder.wait()
    assert not ShardLock.is_held(file)
    mine = ShardLock(file)
    assert mine.acquire()
    mine.release()
    assert not file.exists()


def test_the_store_reader_does_not_import_torch() -> None:
    code = "import sys, embedcache.storage.store, embedcache.storage.commit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
