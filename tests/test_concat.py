"""Concatenated stores: rows one store after the other, columns attached, and only what belongs together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli.embedcache import cli
from embedcache import open_store
from embedcache.combining.concat import concat
from embedcache.errors import InputError, StoreError
from embedcache.extraction.preflight import Options
from embedcache.progress import Progress
from embedcache.storage.sharded import ShardedStore
from embedcache.storage.store import Store
from embedcache.storage.virtual import VirtualStore
from tests.heads.stores import write_store
from tests.letter_encoder import LetterEncoder
from tests.stores import make_store, random_reads, run_extract, write_fasta


def stacked(output: Path, *texts: object, **options: object) -> Store:
    return concat([str(text) for text in texts], output, Progress(quiet=True), **options)  # type: ignore[arg-type]


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store]:
    reads = random_reads(3000)
    viral = make_store(tmp_path / "viral.zarr", write_fasta(tmp_path / "v.fa", reads[:1100]))
    host = make_store(tmp_path / "host.zarr", write_fasta(tmp_path / "h.fa", reads[1100:], first=1100))
    return viral, host


def test_rows_follow_each_other_with_the_attached_columns_as_numbers(
    tmp_path: Path, stores: tuple[Store, Store]
) -> None:
    viral, host = stores
    store = stacked(tmp_path / "all.zarr", f"{viral.path}:label=1,kind=phage", f"{host.path}:label=0")
    every = np.concatenate([viral.embeddings, host.embeddings])
    assert (len(store), store.dim, store.fingerprint) == (3000, viral.dim, viral.fingerprint)
    rows = np.random.default_rng(0).integers(0, 3000, 500)
    np.testing.assert_array_equal(store.take(rows), every[rows])
    np.testing.assert_array_equal(store.read(1000, 1200), every[1000:1200])
    assert isinstance(store, VirtualStore)
    assert np.shares_memory(store.read(1200, 1300), store.parts[1].embeddings)
    np.testing.assert_array_equal(store[1100], host[0])
    assert store.ids.tolist() == [f"r{i}" for i in range(3000)]
    assert store.column("row").to_pylist() == list(range(3000))
    assert store.column("label").to_pylist() == [1] * 1100 + [0] * 1900
    assert store.column("kind").to_pylist() == ["phage"] * 1100 + [None] * 1900
    sequences = [*viral.column("sequence").to_pylist(), *host.column("sequence").to_pylist()]
    assert store.column("sequence").to_pylist() == sequences
    some = np.array([2999, 0, 1100, 1099])
    assert [one for part in store.sequences(some) for one in part.to_pylist()] == [sequences[row] for row in some]


def test_ids_that_several_stores_have_are_refused_or_told_apart(tmp_path: Path, stores: tuple[Store, Store]) -> None:
    viral, host = stores
    again = make_store(tmp_path / "again.zarr", write_fasta(tmp_path / "a.fa", random_reads(3, seed=9)))
    with pytest.raises(StoreError, match=r"the id 'r0' is in .*viral.zarr and in .*again.zarr, and 3 ids occur twice"):
        stacked(tmp_path / "all.zarr", viral.path, again.path)
    numbered = stacked(tmp_path / "a1.zarr", viral.path, again.path, duplicate_ids="suffix")
    assert numbered.ids[-3:].tolist() == ["r0.2", "r1.2", "r2.2"]
    named = stacked(tmp_path / "a2.zarr", viral.path, again.path, duplicate_ids="prefix")
    assert named.ids[[0, -1]].tolist() == ["viral:r0", "again:r2"]
    assert len(host) == 1900


def test_stores_of_another_encoder_or_type_are_refused_by_what_differs(
    tmp_path: Path, stores: tuple[Store, Store]
) -> None:
    viral, _ = stores
    fasta = write_fasta(tmp_path / "x.fa", random_reads(5), first=9000)
    other = make_store(tmp_path / "four.zarr", fasta, model="kmer:4")
    with pytest.raises(StoreError, match=r"encoder: kmer:3 and kmer:4.*`embedcache merge`"):
        stacked(tmp_path / "all.zarr", viral.path, other.path)
    run_extract(tmp_path / "wide.zarr", fasta, options=Options(dtype="float32"))
    with pytest.raises(StoreError, match="stored type: float16 and float32"):
        stacked(tmp_path / "all.zarr", viral.path, tmp_path / "wide.zarr")
    one = write_store(tmp_path / "one.zarr", np.ones((2, 3), np.float16), {"label": [0, 1]})
    with pytest.raises(InputError, match="the store has a column 'label' already"):
        stacked(tmp_path / "all.zarr", f"{one}:label=1")


def test_columns_of_other_types_meet_in_one_that_holds_both(tmp_path: Path) -> None:
    one = write_store(tmp_path / "one.zarr", np.ones((2, 3), np.float16), {"id": ["a", "b"], "n": [1, 2], "t": [1, 2]})
    two = write_store(
        tmp_path / "two.zarr", np.zeros((2, 3), np.float16), {"id": ["c", "d"], "n": [0.5, 2], "t": ["x", "y"]}
    )
    store = stacked(tmp_path / "all.zarr", one, two)
    assert store.column("n").to_pylist() == [1, 2, 0.5, 2]
    assert store.column("t").to_pylist() == ["1", "2", "x", "y"]


def test_a_store_for_each_token_is_concatenated_too(tmp_path: Path) -> None:
    reads = random_reads(60, longest=40)
    options = Options(poolings=("none",))
    for name, some, first in (("a", reads[:25], 0), ("b", reads[25:], 25)):
        fasta = write_fasta(tmp_path / f"{name}.fa", some, first)
        run_extract(tmp_path / f"{name}.zarr", fasta, model=LetterEncoder(), options=options)
    a, b = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")
    store = stacked(tmp_path / "all.zarr", a.path, b.path)
    assert store.per_token
    assert store.length == a.length + b.length
    for row in (0, 24, 25, 59):
        np.testing.assert_array_equal(store[row], a[row] if row < 25 else b[row - 25])
    with pytest.raises(StoreError, match="keeps every token"):
        store.take([0])


def test_the_command_says_what_it_did_and_can_copy(tmp_path: Path, stores: tuple[Store, Store]) -> None:
    viral, host = stores
    output = tmp_path / "copy.zarr"
    words = ["concat", f"{viral.path}:label=1", f"{host.path}:label=0", "-o", str(output), "--materialize"]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert "viral.zarr: 1,100 rows, label 1" in result.stderr
    assert "3,000 rows x 32 float16 of kmer:3" in result.stderr
    copy = open_store(output)
    assert isinstance(copy, ShardedStore)
    np.testing.assert_array_equal(copy.embeddings, np.concatenate([viral.embeddings, host.embeddings]))
    assert copy.column("sequence").to_pylist()[1100:1103] == host.column("sequence").to_pylist()[:3]
