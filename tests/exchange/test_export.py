"""Export: what leaves a store comes back the same, and other programs read it with their own means."""

from __future__ import annotations

import hashlib
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from embedcache.errors import InputError
from embedcache.extraction.preflight import Options
from embedcache.storage.store import Store
from tests.exchange.files import imported, program
from tests.letter_encoder import LetterEncoder
from tests.stores import make_store, random_reads, run_extract, write_fasta


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    reads = random_reads(2500)
    table = folder / "labels.tsv"
    lines = [f"r{row}\t{row % 2}\t{'ab'[row % 3 > 0]}\t{'' if row % 5 else row}\n" for row in range(2500)]
    table.write_text("id\tlabel\tkind\tgap\n" + "".join(lines))
    return make_store(folder / "s.zarr", write_fasta(folder / "r.fa", reads), metadata=table)


@pytest.mark.parametrize("form", ["npy", "npz", "parquet", "hdf5", "h5ad", "pt", "safetensors"])
def test_what_is_exported_is_imported_again_the_same(store: Store, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"x.{form}"
    program("export", store.path, "--to", form, "-o", file)
    ids = ("--ids", tmp_path / "x.ids.txt") if form in ("npy", "safetensors") else ()
    back = imported(tmp_path / "s.zarr", file, *ids)
    place = {name: row for row, name in enumerate(back.ids.tolist())}
    order = [place[name] for name in store.ids.tolist()]
    np.testing.assert_array_equal(back.take(order), np.asarray(store.embeddings))
    assert back.dtype == store.dtype
    if form in ("npz", "parquet", "h5ad"):
        assert back.column("label").to_pylist() == store.column("label").to_pylist()
        assert back.column("kind").to_pylist() == store.column("kind").to_pylist()
        gaps = [None if value is None or np.isnan(value) else int(value) for value in back.column("gap").to_pylist()]
        assert gaps == store.column("gap").to_pylist()
    if form == "pt":
        assert back.column("label").to_pylist() == store.column("label").to_pylist()


def test_each_format_is_what_its_own_library_reads(store: Store, tmp_path: Path) -> None:
    expected, ids = np.asarray(store.embeddings), store.ids.tolist()
    for form in ("npz", "parquet", "h5ad", "pt", "safetensors", "npy"):
        program(
            "export",
            store.path,
            "--to",
            form,
            "-o",
            tmp_path / f"x.{form}",
            "--columns",
            "label,sequence",
            "--overwrite",
        )
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)
    assert (tmp_path / "x.ids.txt").read_text().splitlines() == ids
    with np.load(tmp_path / "x.npz") as archive:
        np.testing.assert_array_equal(archive["embeddings"], expected)
        assert archive["ids"].tolist() == ids
    frame = pd.read_parquet(tmp_path / "x.parquet")
    np.testing.assert_array_equal(np.stack(frame["embedding"]), expected)
    assert frame["sequence"].tolist() == store.column("sequence").to_pylist()
    cells = anndata.read_h5ad(tmp_path / "x.h5ad")
    np.testing.assert_array_equal(cells.X, expected)
    assert cells.obs_names.tolist() == ids
    assert cells.obs["label"].tolist() == store.column("label").to_pylist()
    assert cells.var_names[:2].tolist() == ["kmer:3.0", "kmer:3.1"]
    held = torch.load(tmp_path / "x.pt", weights_only=True)
    np.testing.assert_array_equal(held["data"].numpy(), expected)
    assert (held["ids"], held["labels"]) == (ids, store.column("label").to_pylist())
    np.testing.assert_array_equal(load_file(tmp_path / "x.safetensors")["embeddings"], expected)


def test_a_real_pt_file_comes_out_as_it_went_in(shared_data: Path, tmp_path: Path) -> None:
    for name in ("output_1_merged.pt", "test_with_orfs_output_1_merged.pt"):
        original = shared_data / "virnucpro_fixtures" / name
        store = imported(tmp_path / "s.zarr", f"{original}:label=1", "--blocks", "dna=768,protein=2560", "--overwrite")
        program("export", store.path, "--to", "pt", "-o", tmp_path / "x.pt", "--overwrite")
        before, after = (torch.load(file, weights_only=True) for file in (original, tmp_path / "x.pt"))
        assert after["ids"] == before["ids"]
        assert torch.equal(after["data"], before["data"])
        assert after["labels"] == [1]
        program("export", store.path, "--to", "pt", "-o", tmp_path / "x.pt", "--overwrite", "--block", "protein")
        assert torch.equal(torch.load(tmp_path / "x.pt", weights_only=True)["data"], before["data"][:, 768:])


@pytest.mark.parametrize("form", ["npz", "hdf5"])
def test_real_residue_embeddings_come_out_as_they_went_in(shared_data: Path, tmp_path: Path, form: str) -> None:
    file = shared_data / "bio_embeddings_reference" / "esm1b.npz"
    store = imported(tmp_path / "s.zarr", file)
    program("export", store.path, "--to", form, "-o", tmp_path / f"x.{form}")
    again = imported(tmp_path / "t.zarr", tmp_path / f"x.{form}")
    with np.load(file) as original:
        assert again.ids.tolist() == original.files
        for stored, name in zip(again, original.files, strict=True):
            np.testing.assert_array_equal(stored, original[name])
    if form == "npz":
        with np.load(tmp_path / "x.npz") as written, np.load(file) as original:
            assert written.files == original.files
    with pytest.raises(InputError, match="keeps every token"):
        program("export", store.path, "--to", "pt", "-o", tmp_path / "x.pt")


def test_hdf5_is_keyed_as_biotrainer_keys_it(store: Store, tmp_path: Path) -> None:
    program("export", store.path, "--to", "hdf5", "-o", tmp_path / "x.h5")
    sequence = store.column("sequence")[3].as_py()
    with h5py.File(tmp_path / "x.h5") as written:
        dataset = written[hashlib.sha256(f"{sequence}_{len(sequence)}".encode()).hexdigest()]
        assert dataset.attrs["original_id"] == "r3"
        np.testing.assert_array_equal(dataset[:], store[3])
    reads = write_fasta(tmp_path / "twice.fa", ["ACGTACGT", "ACGTACGT"])
    make_store(tmp_path / "twice.zarr", reads)
    said = program("export", tmp_path / "twice.zarr", "--to", "hdf5", "-o", tmp_path / "y.h5")
    assert "by id, because sequences that occur twice" in said


def test_a_store_that_keeps_tokens_leaves_with_one_array_a_sequence(tmp_path: Path) -> None:
    run_extract(
        tmp_path / "t.zarr", write_fasta(tmp_path / "r.fa", random_reads(40)), model=LetterEncoder(),
        options=Options(poolings=("none",)),
    )  # fmt: skip
    program("export", tmp_path / "t.zarr", "--to", "hdf5", "-o", tmp_path / "x.h5", "--dtype", "float32")
    back = imported(tmp_path / "b.zarr", tmp_path / "x.h5")
    assert back.per_token
    assert back.dtype == np.float32
    assert sorted(back.ids.tolist()) == sorted(f"r{row}" for row in range(40))


def test_nothing_is_overwritten_unasked_and_nothing_half_written_stays(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    program("export", store.path, "--to", "parquet", "-o", file)
    with pytest.raises(InputError, match="is there already"):
        program("export", store.path, "--to", "parquet", "-o", file)
    program("export", store.path, "--to", "parquet", "-o", file, "--overwrite", "--dtype", "float32")
    assert pq.read_schema(file).field("embedding").type.value_type == "float"
    with pytest.raises(InputError, match="no column 'nothing'"):
        program("export", store.path, "--to", "parquet", "-o", tmp_path / "y.parquet", "--columns", "nothing")
    np.savez(tmp_path / "big.npz", embeddings=np.full((3, 4), 1e6, np.float32), ids=["a", "b", "c"])
    imported(tmp_path / "big.zarr", tmp_path / "big.npz")
    with pytest.raises(InputError, match="beyond float16"):
        program("export", tmp_path / "big.zarr", "--to", "npy", "-o", tmp_path / "z.npy", "--dtype", "float16")
    assert not [entry for entry in tmp_path.iterdir() if "partial" in entry.name or entry.name.startswith(("y", "z"))]
