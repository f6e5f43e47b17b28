"""A store in Python: datasets for torch in any kind of worker, and tables of other libraries."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from embedcache import open_store
from embedcache.errors import InputError, StoreError
from embedcache.extraction.preflight import Options
from embedcache.storage.store import Store
from tests.exchange.files import program
from tests.letter_encoder import LetterEncoder
from tests.stores import make_store, random_reads, run_extract, write_fasta

ROWS = 1500


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    table = folder / "labels.tsv"
    lines = [f"r{row}\t{row % 2}\t{'ab'[row % 3 > 0]}\t{'' if row % 5 else row}\n" for row in range(ROWS)]
    table.write_text("id\tlabel\tkind\tgap\n" + "".join(lines))
    return make_store(folder / "s.zarr", write_fasta(folder / "r.fa", random_reads(ROWS)), metadata=table)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("tokens")
    run_extract(
        folder / "t.zarr", write_fasta(folder / "r.fa", random_reads(60)), model=LetterEncoder(),
        options=Options(poolings=("none",)),
    )  # fmt: skip
    return open_store(folder / "t.zarr")


@pytest.mark.parametrize("workers", [None, "fork", "spawn"])
def test_a_loader_gives_every_row_with_its_columns(store: Store, workers: str | None) -> None:
    dataset = store.to_torch(["label", "kind", "gap", "id"])
    assert len(dataset) == ROWS
    np.testing.assert_array_equal(store.take([3]), dataset[3]["embedding"][None].numpy())  # maps before the fork
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=256, num_workers=2 if workers else 0, multiprocessing_context=workers
    )
    batches = list(loader)
    np.testing.assert_array_equal(torch.cat([b["embedding"] for b in batches]).numpy(), np.asarray(store.embeddings))
    assert torch.cat([b["label"] for b in batches]).tolist() == store.column("label").to_pylist()
    assert [kind for b in batches for kind in b["kind"]] == store.column("kind").to_pylist()
    assert [name for b in batches for name in b["id"]] == store.ids.tolist()
    gaps = torch.cat([b["gap"] for b in batches]).tolist()
    assert [None if np.isnan(gap) else gap for gap in gaps] == store.column("gap").to_pylist()


@pytest.mark.parametrize("workers", ["fork", "spawn"])
def test_compressed_stores_are_safe_in_workers_as_well(tmp_path: Path, workers: str) -> None:
    options = Options(shard_rows=1024, compress="zstd")
    run_extract(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", random_reads(ROWS)), options=options)
    store = open_store(tmp_path / "s.zarr")
    dataset = store.to_torch()
    assert dataset[0]["embedding"].shape == (32,)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=500, num_workers=2, multiprocessing_context=workers)
    found = torch.cat([batch["embedding"] for batch in loader]).numpy()
    np.testing.assert_array_equal(found, np.asarray(store.embeddings))


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_of_tokens_are_ragged_and_padded_together(tokens: Store, workers: int) -> None:
    dataset = tokens.to_torch(["length"])
    assert [len(dataset[row]["embedding"]) for row in (0, 7)] == [len(tokens[row]) for row in (0, 7)]
    row = 0
    for batch in DataLoader(dataset, batch_size=16, num_workers=workers, collate_fn=dataset.collate):
        for padded, mask in zip(batch["embedding"], batch["mask"], strict=True):
            np.testing.assert_array_equal(padded[mask].numpy(), tokens[row])
            assert not padded[~mask].any()
            row += 1
    assert row == 60


def test_a_store_and_its_dataset_travel_as_a_path(store: Store) -> None:
    assert len(pickle.dumps(store)) < 500
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).take([5, 1]), store.take([5, 1]))
    there = pickle.loads(pickle.dumps(store.to_torch(["label"])))
    assert there[9]["label"] == 1
    with pytest.raises(IndexError):
        there[ROWS]
    with pytest.raises(InputError, match="no column 'nothing'"):
        store.to_torch(["nothing"])
    with pytest.raises(StoreError, match="no block"):
        store.to_torch(blocks=["nothing"])


def test_pandas_has_the_rows_and_on_request_the_values(store: Store, tokens: Store) -> None:
    frame = store.to_pandas()
    assert list(frame.columns) == ["label", "kind", "gap"]
    assert frame.loc["r3", "label"] == 1
    assert frame["gap"].isna().sum() == ROWS - ROWS // 5
    assert frame["gap"].dtype.name == "Int64"
    wide = store.to_pandas(["label"], embeddings=True)
    np.testing.assert_array_equal(wide.iloc[:, 1:].to_numpy(np.float16), np.asarray(store.embeddings))
    assert tokens.to_pandas(["length"]).shape == (60, 1)
    with pytest.raises(StoreError, match="keeps every token"):
        tokens.to_pandas(embeddings=True)


def test_anndata_has_values_rows_and_names(store: Store) -> None:
    cells = store.to_anndata(["label", "kind"])
    np.testing.assert_array_equal(cells.X, np.asarray(store.embeddings))
    assert cells.obs_names.tolist() == store.ids.tolist()
    assert cells.obs["kind"].tolist() == store.column("kind").to_pylist()
    assert cells.var_names[0] == "kmer:3.0"


def test_xarray_reads_only_what_is_computed_with(store: Store, tokens: Store) -> None:
    data = store.to_xarray()
    assert data["embeddings"].dims == ("row", "dim")
    assert not data["embeddings"].variable._in_memory
    some = data.isel(row=[7, 3, 3], dim=slice(2, 9))
    np.testing.assert_array_equal(some["embeddings"].values, store.take([7, 3, 3])[:, 2:9])
    assert some["id"].values.tolist() == ["r7", "r3", "r3"]
    ones = data.where(data["label"] == 1, drop=True)
    assert ones.sizes["row"] == ROWS // 2
    np.testing.assert_array_equal(data["embeddings"].isel(row=5).values, store[5])
    np.testing.assert_array_equal(data["embeddings"][10:20:3, [4, 1]].values, store.take([10, 13, 16, 19])[:, [4, 1]])
    ragged = tokens.to_xarray([])
    assert ragged["embeddings"].dims == ("token", "dim")
    np.testing.assert_array_equal(ragged["embeddings"].values[ragged["token_row"].values == 7], tokens[7])


@pytest.mark.parametrize("workers", ["fork", "spawn"])
def test_virtual_stores_leave_as_others_do(tmp_path: Path, workers: str) -> None:
    for number in range(2):
        fasta = write_fasta(tmp_path / f"{number}.fa", random_reads(300, seed=number), first=300 * number)
        make_store(tmp_path / f"{number}.zarr", fasta)
    program("concat", tmp_path / "0.zarr", tmp_path / "1.zarr", "-o", tmp_path / "both.zarr")
    store = open_store(tmp_path / "both.zarr")
    expected = store.take(np.arange(600))
    loader: DataLoader[Any] = DataLoader(
        store.to_torch(["id"]), batch_size=250, num_workers=2, multiprocessing_context=workers
    )
    batches = list(loader)
    np.testing.assert_array_equal(torch.cat([batch["embedding"] for batch in batches]).numpy(), expected)
    assert [name for batch in batches for name in batch["id"]] == [f"r{row}" for row in range(600)]
    np.testing.assert_array_equal(store.to_xarray()["embeddings"][299:301].values, expected[299:301])
    np.testing.assert_array_equal(store.to_anndata().X, expected)
    program("export", store.path, "--to", "npy", "-o", tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)
