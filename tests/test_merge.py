"""Merged stores: rows come together by id, nothing shifts, values are those of the parts, and changed parts are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import zarr
from click.testing import CliRunner

from cli.embedcache import cli
from embedcache import open_store
from embedcache.combining.merge import MergeOptions, merge
from embedcache.errors import InputError, StoreError
from embedcache.progress import Progress
from embedcache.storage.commit import StoreWriter
from embedcache.storage.pieces import Piece, PiecedRows
from embedcache.storage.sharded import ShardedStore
from embedcache.storage.store import Store
from embedcache.storage.virtual import VirtualStore
from embedcache.storage.virtualfiles import check_virtual
from tests.heads.stores import write_store
from tests.stores import make_store, random_reads, write_fasta

ROWS = 2500


def values(rows: int = ROWS, dim: int = 24, seed: int = 0, dtype: str = "float16") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(dtype)


def merged(output: Path, *paths: Path, **options: object) -> Store:
    return merge(paths, output, MergeOptions(**options), Progress(quiet=True))  # type: ignore[arg-type]


@pytest.fixture
def dna(tmp_path: Path) -> Path:
    columns = {"label": [i % 2 for i in range(ROWS)], "sequence": [f"ACGT{'A' * (i % 7)}" for i in range(ROWS)]}
    return write_store(tmp_path / "dna.zarr", values(), columns, encoder="dna")


def protein_store(path: Path, ids: list[str], dim: int = 40, dtype: str = "float16", **columns: object) -> Path:
    X = values(len(ids), dim, 1, dtype)
    return write_store(path, X, {"id": ids, **columns}, encoder="protein", alphabet="protein")


def expected(dna: Path, protein: Path, ids: list[str]) -> np.ndarray:
    """The concatenation by id, the slow way."""
    rows = []
    for path in (dna, protein):
        store = open_store(path)
        place = {name: row for row, name in enumerate(store.ids.tolist())}
        rows.append(np.asarray(store.embeddings)[[place[name] for name in ids]])
    return np.concatenate(rows, axis=1)


def test_a_merge_is_the_concatenation_by_id_in_the_order_of_the_first_store(tmp_path: Path, dna: Path) -> None:
    order = np.random.default_rng(3).permutation(ROWS)[: ROWS - 40]
    protein = protein_store(tmp_path / "protein.zarr", [f"r{i}" for i in order])
    store = merged(tmp_path / "both.zarr", dna, protein)
    ids = [f"r{i}" for i in sorted(order.tolist())]
    assert store.ids.tolist() == ids
    assert [(b.name, b.start, b.stop) for b in store.blocks] == [("dna", 0, 24), ("protein", 24, 64)]
    every = expected(dna, protein, ids)
    rows = np.random.default_rng(4).integers(0, len(store), 700)
    out = np.empty((700, 64), np.float16)
    assert store.take(rows, out=out) is out
    np.testing.assert_array_equal(out, every[rows])
    np.testing.assert_array_equal(store.read(5, 2000), every[5:2000])
    np.testing.assert_array_equal(store.read(5, 2000, np.empty((1995, 64), np.float16)), every[5:2000])
    np.testing.assert_array_equal(np.asarray(store.embeddings), every)
    np.testing.assert_array_equal(store.embeddings[-3:, 20:30], every[-3:, 20:30])
    np.testing.assert_array_equal(store[7], every[7])
    np.testing.assert_array_equal(store.take(rows)[:, store.block("protein")], every[rows, 24:])
    assert store.column("row").to_pylist() == list(range(len(ids)))
    assert store.column("label").to_pylist() == [int(name[1:]) % 2 for name in ids]
    assert store.column("sequence").to_pylist() == [f"ACGT{'A' * (int(name[1:]) % 7)}" for name in ids]
    some = np.array([9, 3, 2100, 3])
    assert pa.concat_arrays(list(store.sequences(some))).to_pylist() == store.column("sequence").take(some).to_pylist()


def test_ids_without_a_partner_shift_nothing_and_are_all_listed(tmp_path: Path, dna: Path) -> None:
    ids = [f"r{i}" for i in range(1, ROWS)] + ["stranger"]
    protein = protein_store(tmp_path / "protein.zarr", ids)
    store = merged(tmp_path / "both.zarr", dna, protein)
    assert len(store) == ROWS - 1
    np.testing.assert_array_equal(store[0], expected(dna, protein, ["r1"])[0])
    assert (tmp_path / "both.zarr/index/missing.tsv").read_text().splitlines() == [
        "id\tfound_in\tmissing_in",
        "r0\tdna\tprotein",
        "stranger\tprotein\tdna",
    ]


def test_a_left_join_keeps_every_row_and_says_which_have_a_partner(tmp_path: Path, dna: Path) -> None:
    protein = protein_store(tmp_path / "protein.zarr", [f"r{i}" for i in range(0, ROWS, 2)], kind=["p"] * (ROWS // 2))
    store = merged(tmp_path / "both.zarr", dna, protein, join="left")
    assert [block.name for block in store.blocks] == ["dna", "protein", "has_protein"]
    all_rows = store.take(np.arange(ROWS))
    np.testing.assert_array_equal(all_rows[:, :24], values())
    np.testing.assert_array_equal(all_rows[::2, 24:64], values(ROWS // 2, 40, 1))
    assert not all_rows[1::2, 24:].any()
    np.testing.assert_array_equal(all_rows[:, 64], np.arange(ROWS) % 2 == 0)
    assert store.column("kind").to_pylist()[:3] == ["p", None, "p"]
    np.testing.assert_array_equal(store.read(10, 20), all_rows[10:20])


FRAMES = [f"r{i}{frame}" for i in range(1200) for frame in ("R1", "F2", "F3")[: 1 + i % 3]]


@pytest.mark.parametrize("aggregate", ["mean", "max", "longest", "first"])
def test_frames_become_one_row_by_a_pattern_and_an_aggregation(tmp_path: Path, dna: Path, aggregate: str) -> None:
    lengths = [(7 * i) % 5 for i in range(len(FRAMES))]
    protein = protein_store(tmp_path / "protein.zarr", FRAMES, length=lengths)
    store = merged(tmp_path / "both.zarr", dna, protein, id_map=(r"protein=(.+)[RF][123]$",), aggregate=aggregate)
    assert store.ids.tolist() == [f"r{i}" for i in range(1200)]
    X, at = values(len(FRAMES), 40, 1).astype(np.float32), 0
    found = store.take(np.arange(1200))[:, 24:]
    for i in range(1200):
        members = slice(at, at + 1 + i % 3)
        at = members.stop
        longest = members.start + int(np.argmax(lengths[members]))
        one = {"mean": X[members].mean(0), "max": X[members].max(0), "first": X[members][0], "longest": X[longest]}
        np.testing.assert_allclose(found[i], one[aggregate], rtol=1e-3, atol=1e-3)
    assert (tmp_path / "both.zarr/parts").exists() == (aggregate in ("mean", "max"))


def test_several_rows_of_an_id_are_refused_by_name_unless_one_says_what_becomes_of_them(
    tmp_path: Path, dna: Path
) -> None:
    protein = protein_store(tmp_path / "protein.zarr", FRAMES)
    with pytest.raises(StoreError, match=r"2 rows of the id 'r1' \(r1R1, r1F2\).*--aggregate"):
        merged(tmp_path / "both.zarr", dna, protein, id_map=("(.+)[RF][123]$",))
    assert not (tmp_path / "both.zarr").exists()


def test_a_table_maps_ids_and_a_column_joins_too(tmp_path: Path, dna: Path) -> None:
    ids = [f"p{i}" for i in range(300)]
    protein = protein_store(tmp_path / "protein.zarr", ids, parent=[f"r{2 * i}" for i in range(300)])
    table = tmp_path / "map.tsv"
    table.write_text("protein\tdna\n" + "".join(f"p{i}\tr{2 * i}\n" for i in range(300)))
    by_table = merged(tmp_path / "a.zarr", dna, protein, id_map=(f"protein={table}",))
    by_column = merged(tmp_path / "b.zarr", dna, protein, on=("protein=parent",))
    for store in (by_table, by_column):
        assert store.ids.tolist() == [f"r{2 * i}" for i in range(300)]
        assert store.column("id_protein").to_pylist() == ids
    np.testing.assert_array_equal(by_table.read(0, 300), by_column.read(0, 300))


def test_stores_that_disagree_in_a_label_are_refused_by_id_and_values(tmp_path: Path, dna: Path) -> None:
    labels = [i % 2 for i in range(ROWS)]
    labels[11] = 0
    protein = protein_store(tmp_path / "protein.zarr", [f"r{i}" for i in range(ROWS)], label=labels)
    with pytest.raises(StoreError, match="'r11' has label 1 in one store and 0 in"):
        merged(tmp_path / "both.zarr", dna, protein)
    with pytest.raises(StoreError, match="'r11' has label"):
        merged(tmp_path / "both.zarr", dna, protein, join="left")


def test_other_columns_of_one_name_get_the_name_of_their_store(tmp_path: Path) -> None:
    ids = ["a", "b", "c"]
    one = write_store(tmp_path / "one.zarr", values(3), {"id": ids, "score": [1, 2, 3], "same": ["x", None, "z"]})
    two = protein_store(tmp_path / "two.zarr", ids, score=[1, 5, 3], same=["x", "y", "z"])
    store = merged(tmp_path / "both.zarr", one, two)
    assert store.column("score").to_pylist() == [1, 2, 3]
    assert store.column("score_two").to_pylist() == [1, 5, 3]
    assert store.column("same").to_pylist() == ["x", "y", "z"]
    assert "same_two" not in store.column_names
    with pytest.raises(StoreError, match="'b' has score 2 in one store and 5"):
        merged(tmp_path / "again.zarr", one, two, agree=("score",))


def test_a_part_that_has_grown_or_was_made_anew_is_refused(tmp_path: Path, dna: Path) -> None:
    ids = [f"r{i}" for i in range(ROWS)]
    protein = protein_store(tmp_path / "protein.zarr", ids)
    merged(tmp_path / "both.zarr", dna, protein)
    shutil.rmtree(protein)
    protein_store(protein, [*ids, "more"])
    with pytest.raises(
        StoreError, match=r"has changed since: it had 2,500 rows and has 2,501; run the same `embedcache merge`"
    ):
        open_store(tmp_path / "both.zarr")
    shutil.rmtree(protein)
    write_store(protein, values(ROWS, 40, 9), {"id": ids}, encoder="protein")
    with pytest.raises(StoreError, match="its values or columns are others"):
        open_store(tmp_path / "both.zarr")
    shutil.rmtree(protein)
    write_store(protein, values(ROWS, 40, 1), {"id": ids}, encoder="another")
    with pytest.raises(StoreError, match="made by another encoder"):
        open_store(tmp_path / "both.zarr")
    shutil.rmtree(protein)
    with pytest.raises(StoreError, match=r"its part protein.zarr is missing.*put it back beside both.zarr"):
        open_store(tmp_path / "both.zarr")


def test_moved_parts_are_found_beside_the_store_and_moved_folders_whole(tmp_path: Path, dna: Path) -> None:
    protein = protein_store(tmp_path / "protein.zarr", FRAMES)
    store = merged(tmp_path / "x" / "both.zarr", dna, protein, id_map=("(.+)[RF][123]$",), aggregate="mean")
    every = np.array(store.read(0, len(store)))
    dna.rename(tmp_path / "x" / "dna.zarr")
    np.testing.assert_array_equal(open_store(tmp_path / "x/both.zarr").read(0, len(store)), every)
    protein.rename(tmp_path / "x" / "protein.zarr")
    (tmp_path / "x").rename(tmp_path / "y")
    (tmp_path / "y/both.zarr").rename(tmp_path / "y/renamed.zarr")
    np.testing.assert_array_equal(open_store(tmp_path / "y/renamed.zarr").read(0, len(store)), every)


def test_a_merge_of_merges_reads_as_one(tmp_path: Path, dna: Path) -> None:
    protein = protein_store(tmp_path / "protein.zarr", [f"r{i}" for i in range(0, ROWS, 2)])
    third = protein_store(tmp_path / "third.zarr", [f"r{i}" for i in range(0, ROWS, 3)], dim=5, dtype="float32")
    first = merged(tmp_path / "first.zarr", dna, protein, join="left")
    store = merged(tmp_path / "second.zarr", third, first.path)
    assert store.dtype == np.float32
    assert [block.name for block in store.blocks] == ["third", "first.dna", "first.protein", "first.has_protein"]
    rows = np.random.default_rng(0).integers(0, len(store), 300)
    np.testing.assert_array_equal(store.take(rows)[:, 5:], first.take(3 * rows).astype(np.float32))
    np.testing.assert_array_equal(store.take(rows)[:, :5], values(len(range(0, ROWS, 3)), 5, 1, "float32")[rows])


def test_materialized_merges_are_ordinary_stores_with_the_same_rows(tmp_path: Path, dna: Path) -> None:
    protein = protein_store(tmp_path / "protein.zarr", FRAMES)
    options = {"id_map": ("(.+)[RF][123]$",), "aggregate": "mean"}
    virtual = merged(tmp_path / "virtual.zarr", dna, protein, **options)
    copy = merged(tmp_path / "copy.zarr", dna, protein, materialize=True, missing=tmp_path / "m.tsv", **options)
    assert isinstance(copy, ShardedStore)
    assert isinstance(virtual, VirtualStore)
    np.testing.assert_array_equal(copy.read(0, len(copy)), virtual.read(0, len(virtual)))
    assert copy.fingerprint == virtual.fingerprint
    assert copy.read_rows(["id", "label", "sequence"]).equals(virtual.read_rows(["id", "label", "sequence"]))
    assert len((tmp_path / "m.tsv").read_text().splitlines()) == 1 + ROWS - 1200
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "copy.zarr", "dna.zarr", "m.tsv", "protein.zarr", "virtual.zarr"
    ]  # fmt: skip


def test_rows_set_aside_in_a_part_are_set_aside_in_the_merge(tmp_path: Path) -> None:
    X = values(6)
    X[4] = np.nan
    one = write_store(tmp_path / "one.zarr", X, {"id": list("abcdef")}, quarantined=(4,))
    two = protein_store(tmp_path / "two.zarr", list("fedcb"))
    assert merged(tmp_path / "both.zarr", one, two).quarantined.tolist() == [3]


def test_stores_that_cannot_be_merged_are_refused(tmp_path: Path, dna: Path) -> None:
    protein = protein_store(tmp_path / "protein.zarr", ["x", "y"])
    with pytest.raises(
        StoreError, match=r"no id is in all of dna, protein \(dna has 'r0'; protein has 'x'\).*--id-map"
    ):
        merged(tmp_path / "both.zarr", dna, protein)
    with pytest.raises(InputError, match="has 0 groups"):
        merged(tmp_path / "both.zarr", dna, protein, id_map=(".+",))
    with pytest.raises(InputError, match="as a regular expression it is wrong"):
        merged(tmp_path / "both.zarr", dna, protein, id_map=("(.+",))
    with pytest.raises(InputError, match="has no column 'parent'"):
        merged(tmp_path / "both.zarr", dna, protein, on=("parent",))
    with pytest.raises(InputError, match="--names A,B"):
        merged(tmp_path / "both.zarr", dna, dna)
    with pytest.raises(InputError, match="--names has 1 name for 2 stores"):
        merged(tmp_path / "both.zarr", dna, protein, names=("a",))
    with pytest.raises(StoreError, match="is there already"):
        merged(protein, dna, dna, names=("a", "b"))
    with pytest.raises(StoreError, match="cannot replace a store that it is made of"):
        merged(protein, protein, protein, names=("a", "b"), overwrite=True)
    reads = make_store(tmp_path / "reads.zarr", write_fasta(tmp_path / "r.fa", random_reads(5)))
    assert len(merged(tmp_path / "twice.zarr", reads.path, reads.path, names=("a", "b"))) == 5


def test_zarr_opens_the_folder_and_info_status_and_verify_say_what_it_is(tmp_path: Path, dna: Path) -> None:
    protein = protein_store(tmp_path / "protein.zarr", FRAMES)
    output = tmp_path / "both.zarr"
    words = ["merge", dna, protein, "-o", output, "--id-map", "(.+)[RF][123]$", "--aggregate", "mean"]
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert "2,400 rows of protein became 1,200: the mean of each id" in result.stderr
    assert "1,300 ids of dna are not in protein (r1200, r1201" in result.stderr
    assert f"heads train --features {output}" in result.stderr
    group = zarr.open_group(str(output), mode="r")
    assert sorted(group) == ["index", "parts"]
    assert group["index"].shape == (0, 1200)
    told = CliRunner().invoke(cli, ["info", str(output)], catch_exceptions=False).stdout
    assert "64 float16 a row" in told
    assert "aggregate mean" in told
    assert "protein.zarr: 1,200 rows x 40 of protein" in told
    assert "complete, merged from other stores" in CliRunner().invoke(cli, ["status", str(output)]).stdout
    assert CliRunner().invoke(cli, ["verify", str(output)], catch_exceptions=False).exit_code == 0
    rows = output / "index/rows.parquet"
    held = bytearray(rows.read_bytes())
    held[len(held) // 2] ^= 255
    rows.write_bytes(held)
    store = open_store(output)
    assert isinstance(store, VirtualStore)
    assert "its checksum has changed" in check_virtual(store)[0]


def test_nothing_can_be_extracted_into_a_virtual_store(tmp_path: Path, dna: Path) -> None:
    protein = protein_store(tmp_path / "protein.zarr", ["r1"])
    merged(tmp_path / "both.zarr", dna, protein)
    with pytest.raises(StoreError, match="virtual store and holds no values of its own"):
        StoreWriter(tmp_path / "both.zarr")


@pytest.mark.parametrize("dims", [(384, 640), (384, 640, 128), (384, 136), (5, 3)])
def test_rows_gathered_as_units_of_memory_are_those_of_the_parts(dims: tuple[int, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = []
    for number, dim in enumerate(dims):
        values(300, dim, number).tofile(tmp_path / f"{number}")
        arrays.append(np.memmap(tmp_path / f"{number}", np.float16, "r", shape=(300, dim)))
    index = rng.integers(-1, 300, 300)
    borders = np.cumsum([0, *dims]).tolist()
    pieces = [
        Piece(number, 0, 300, borders[number], borders[number + 1], index=index if number == 1 else None)
        for number in range(len(dims))
    ]
    found = PiecedRows(arrays, pieces, (300, borders[-1]), np.dtype("float16"))
    assert (found._units is not None) == all(2 * dim % 256 == 0 for dim in dims)
    second = np.where(index[:, None] < 0, 0, arrays[1][index])
    whole = np.concatenate([arrays[0], second, *arrays[2:]], axis=1)
    for rows in (
        rng.integers(0, 300, 2000),
        np.arange(300)[::-1],
        np.arange(20, 60),
        np.array([7]),
        np.array([], np.int64),
    ):
        np.testing.assert_array_equal(found.take(rows), whole[rows])
        np.testing.assert_array_equal(found.take(rows, np.empty((len(rows), borders[-1]), np.float16)), whole[rows])
    out = np.zeros((40, borders[-1] + 2), np.float16)
    found.take(np.arange(40) * 7, out[:, 1:-1])
    np.testing.assert_array_equal(out[:, 1:-1], whole[np.arange(40) * 7])


def test_pieces_of_any_shape_read_like_the_array_they_are_cut_from() -> None:
    rng = np.random.default_rng(0)
    a, b = values(50, 6, 1), values(30, 4, 2)
    index = rng.integers(-1, 30, 50)
    pieces = [Piece(0, 0, 50, 0, 6), Piece(1, 0, 50, 6, 9, first_column=1, index=index)]
    whole = np.concatenate([a, np.where(index[:, None] < 0, 0, b[index, 1:])], axis=1)
    found = PiecedRows([a, b], pieces, (50, 9), np.dtype("float16"))
    stacked = PiecedRows(
        [found, found.narrowed(0, 9)],
        [Piece(0, 0, 40, 0, 9, first_row=10), Piece(1, 40, 90, 0, 9)],
        (90, 9),
        found.dtype,
    )
    both = np.concatenate([whole[10:], whole])
    for rows in (rng.integers(0, 90, 40), np.arange(30, 60), np.arange(5), np.array([], np.int64), np.array([41])):
        np.testing.assert_array_equal(stacked.take(rows), both[rows])
    np.testing.assert_array_equal(stacked.narrowed(4, 8).read(35, 50), both[35:50, 4:8])
    np.testing.assert_array_equal(stacked[::-2], both[::-2])
    np.testing.assert_array_equal(stacked[-1, 3:], both[-1, 3:])
