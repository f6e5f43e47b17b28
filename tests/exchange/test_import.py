"""Import: the vectors of every layout that people have arrive under their ids, or the file is refused whole."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
import torch
from safetensors.numpy import save_file

from embedcache import open_store
from embedcache.errors import EmbedcacheError, InputError, StoreError
from embedcache.exchange import importing
from tests.exchange.files import imported, names, program, vectors, write_ids
from tests.heads.program import run


def by_id(store: Any) -> dict[str, Any]:
    return dict(zip(store.ids.tolist(), store, strict=True))


def test_the_three_layouts_of_real_pt_files_hold_the_same_vectors(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "virnucpro_fixtures"
    merged = imported(tmp_path / "m.zarr", folder / "output_1_merged.pt", "--blocks", "dna=768,protein=2560")
    dna = imported(tmp_path / "d.zarr", f"{folder / 'output_1_DNABERT_S.pt'}:label=1,run=a1")
    protein = imported(tmp_path / "p.zarr", folder / "output_1_ESM.pt")
    whole = torch.load(folder / "output_1_merged.pt", weights_only=True)
    np.testing.assert_array_equal(np.asarray(merged.embeddings), whole["data"].numpy())
    assert merged.ids.tolist() == whole["ids"]
    for name, vector in by_id(merged).items():
        np.testing.assert_array_equal(vector[merged.block("dna")], by_id(dna)[name])
        np.testing.assert_array_equal(vector[merged.block("protein")], by_id(protein)[name])
    assert dna.column("label").to_pylist() == [1] * 4
    assert dna.column("run").to_pylist() == ["a1"] * 4
    assert "imported" in program("info", merged.path)


def test_labels_of_a_pt_file_are_one_for_each_id_or_one_for_all(tmp_path: Path) -> None:
    data = torch.from_numpy(vectors(6))
    torch.save({"ids": names(6), "data": data, "labels": [1]}, tmp_path / "one.pt")
    torch.save(
        {"ids": [f"b{i}" for i in range(6)], "data": data, "labels": torch.tensor([0, 1] * 3)}, tmp_path / "six.pt"
    )
    store = imported(tmp_path / "s.zarr", tmp_path / "one.pt", tmp_path / "six.pt")
    assert store.column("label").to_pylist() == [1] * 6 + [0, 1] * 3
    np.testing.assert_array_equal(store.read(6, 12), data.numpy())


def test_half_precision_stays_and_bfloat16_becomes_float32(tmp_path: Path) -> None:
    data = torch.from_numpy(vectors(6))
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        torch.save({"ids": names(6), "data": data.to(kind)}, tmp_path / "x.pt")
        store = imported(tmp_path / "x.zarr", tmp_path / "x.pt", "--overwrite")
        assert store.dtype == (np.float16 if kind == torch.float16 else np.float32)
        np.testing.assert_array_equal(
            np.asarray(store.embeddings), data.to(kind).to(torch.float32).numpy().astype(store.dtype)
        )


def test_plain_arrays_take_their_ids_from_a_list_or_a_table(tmp_path: Path) -> None:
    values, ids = vectors(), names()
    np.save(tmp_path / "x.npy", values)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(values))
    torch.save(torch.from_numpy(values), tmp_path / "x.pt")
    save_file({"embeddings": values}, tmp_path / "x.safetensors")
    plain = write_ids(tmp_path / "ids.txt", ids)
    table = tmp_path / "ids.tsv"
    table.write_text("id\tlabel\n" + "".join(f"{name}\t{row % 2}\n" for row, name in enumerate(ids)))
    for file in ("x.npy", "fortran.npy", "x.pt", "x.safetensors"):
        store = imported(tmp_path / "s.zarr", tmp_path / file, "--ids", plain, "--overwrite")
        np.testing.assert_array_equal(np.asarray(store.embeddings), values)
        assert store.ids.tolist() == ids
    store = imported(tmp_path / "t.zarr", tmp_path / "x.npy", "--ids", table)
    assert store.column("label").to_pylist() == [0, 1] * 20


def test_residue_embeddings_of_bio_embeddings_keep_every_token(shared_data: Path, tmp_path: Path) -> None:
    for name in ("esm1b", "prottrans_albert_bfd"):
        file = shared_data / "bio_embeddings_reference" / f"{name}.npz"
        store = imported(tmp_path / f"{name}.zarr", file)
        assert store.per_token
        with np.load(file) as archive:
            for key, matrix in archive.items():
                np.testing.assert_array_equal(by_id(store)[key], matrix)
        assert store.column("n_tokens").to_pylist() == [7, 8]


def test_a_ready_made_array_of_cells_becomes_features_with_their_labels(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "pbmc68k_reduced"
    store = imported(
        tmp_path / "c.zarr", folder / "pbmc68k_reduced.npz", "--key", "X_pca", "--metadata", folder / "cells.tsv",
        "--id-column", "cell", "--label-column", "bulk_labels",
    )  # fmt: skip
    with np.load(folder / "pbmc68k_reduced.npz") as archive:
        np.testing.assert_array_equal(np.asarray(store.embeddings), archive["X_pca"])
        assert store.ids.tolist() == archive["cells"].tolist()
    assert store.column("label").null_count == 0
    output = run(
        tmp_path, "train", "--features", store.path, "--head", "lr", "--output", "run", "--bootstrap", "100"
    ).output
    assert "no sequences: not checked for identical ones" in output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["acc"] > 0.7  # 0.85 on another split, with all genes
    assert "trained or tuned" not in run(tmp_path, "evaluate", "run", "--features", store.path).output


@pytest.mark.parametrize("residues", [False, True], ids=["reduced", "per residue"])
def test_hdf5_of_bio_embeddings_and_biotrainer_is_found_under_its_original_ids(tmp_path: Path, residues: bool) -> None:
    matrices = [vectors(3 + row if residues else 1, seed=row)[slice(None) if residues else 0] for row in range(12)]
    with h5py.File(tmp_path / "x.h5", "w") as written:
        for row, matrix in enumerate(matrices):
            written.create_dataset(str(row), data=matrix).attrs["original_id"] = f"P{row}"
    store = imported(tmp_path / "s.zarr", tmp_path / "x.h5")
    assert store.ids.tolist() == [f"P{row}" for row in range(12)]  # 2 before 10
    for stored, matrix in zip(store, matrices, strict=True):
        np.testing.assert_array_equal(stored, matrix)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 24), pa.large_list(pa.float64())])
def test_a_list_column_of_parquet_is_the_vector_and_the_others_travel_along(tmp_path: Path, kind: pa.DataType) -> None:
    values = vectors()
    table = pa.table(
        {"accession": names(), "vector": pa.array(values.tolist(), kind), "label": [0, 1] * 20, "length": [5] * 40}
    )
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=7)
    store = imported(tmp_path / "s.zarr", tmp_path / "x.parquet")
    np.testing.assert_array_equal(np.asarray(store.embeddings), values)
    assert store.column("label").to_pylist() == [0, 1] * 20
    assert store.column("length_in").to_pylist() == [5] * 40


def write_zarr(cells: anndata.AnnData, folder: Path) -> None:
    """Write an AnnData as Zarr of the version that it will have from its next release on."""
    with anndata.settings.override(zarr_write_format=3), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells.write_zarr(folder)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("form", ["h5ad", "zarr", "zarr.zip"])
def test_anndata_gives_its_matrix_or_an_array_of_obsm_and_its_obs(tmp_path: Path, sparse: bool, form: str) -> None:
    values, other = vectors(), vectors(40, 5, seed=1)
    obs = pd.DataFrame({"kind": pd.Categorical(["a", None] * 20), "n": np.arange(40)}, index=names())
    held = scipy.sparse.csr_matrix(values) if sparse else values
    cells = anndata.AnnData(held, obs=obs, obsm={"X_pca": other})
    if form == "h5ad":
        cells.write_h5ad(tmp_path / "x.h5ad")
    else:
        write_zarr(cells, tmp_path / "x.zarr")
    if form == "zarr.zip":
        shutil.make_archive(str(tmp_path / "x.zarr"), "zip", tmp_path / "x.zarr")
    store = imported(tmp_path / "s.zarr", tmp_path / f"x.{form}")
    pca = imported(tmp_path / "p.zarr", tmp_path / f"x.{form}", "--key", "X_pca")
    np.testing.assert_array_equal(np.asarray(store.embeddings), values)
    np.testing.assert_array_equal(np.asarray(pca.embeddings), other)
    assert store.column("kind").to_pylist() == ["a", None] * 20
    assert store.column("n").to_pylist() == list(range(40))
    assert store.ids.tolist() == names()
    with pytest.raises(InputError, match="in obsm, X_pca"):
        imported(tmp_path / "q.zarr", tmp_path / f"x.{form}", "--key", "X_umap")


def test_a_zip_that_was_cut_off_and_a_store_are_no_anndata(tmp_path: Path) -> None:
    write_zarr(anndata.AnnData(vectors(), obs=pd.DataFrame(index=names())), tmp_path / "x.zarr")
    whole = Path(shutil.make_archive(str(tmp_path / "x.zarr"), "zip", tmp_path / "x.zarr"))
    cut = tmp_path / "cut.zarr.zip"
    cut.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(InputError, match="zip was cut off"):
        imported(tmp_path / "s.zarr", cut)
    store = imported(tmp_path / "s.zarr", whole)
    with pytest.raises(InputError, match="is a store already"):
        imported(tmp_path / "t.zarr", store.path)


def test_a_store_of_several_shards_has_every_row_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "_SHARD_BYTES", 1024 * 24 * 4)
    values = vectors(3000)
    flat = pa.array(values.reshape(-1))
    pq.write_table(
        pa.table({"id": names(3000), "v": pa.FixedSizeListArray.from_arrays(flat, 24)}), tmp_path / "x.parquet"
    )
    store = imported(tmp_path / "s.zarr", tmp_path / "x.parquet")
    assert store.layout.shards == 3
    np.testing.assert_array_equal(np.asarray(store.embeddings), values)


def test_sequences_give_digests_lengths_and_the_alphabet(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", vectors(3))
    ids = write_ids(tmp_path / "ids.txt", ["a", "b", "c"])
    fasta = tmp_path / "s.fa"
    fasta.write_text(">c\nACGT\n>a\nACGTT\n>b\nAACGT\n>d\nA\n")
    store = imported(tmp_path / "s.zarr", tmp_path / "x.npy", "--ids", ids, "--sequences", fasta)
    assert store.column("sequence").to_pylist() == ["ACGTT", "AACGT", "ACGT"]
    assert store.column("length").to_pylist() == [5, 5, 4]
    assert store.attrs["encoder"]["alphabet"] == "dna"
    assert len(set(store.column("digest").to_pylist())) == 3
    assert len(set(store.column("rc_digest").to_pylist())) == 2  # b is the other strand of a
    fasta.write_text(">c\nACGT\n")
    with pytest.raises(InputError, match="no sequence for 2 of 3 ids"):
        imported(tmp_path / "t.zarr", tmp_path / "x.npy", "--ids", ids, "--sequences", fasta)


def test_imports_of_one_named_encoder_fit_together_and_unnamed_ones_only_with_themselves(tmp_path: Path) -> None:
    stores = []
    for seed, named in ((0, True), (1, True), (0, False), (1, False), (0, False)):
        np.savez(tmp_path / "x.npz", embeddings=vectors(seed=seed), ids=names())
        options = ("--encoder", "esm1b", "--pool", "mean") if named else ()
        stores.append(imported(tmp_path / f"{len(stores)}.zarr", tmp_path / "x.npz", *options).fingerprint)
    assert stores[0] == stores[1]
    assert len(set(stores)) == 3
    assert stores[2] == stores[4]


def test_a_vector_that_is_not_finite_is_refused_by_name_or_set_aside(tmp_path: Path) -> None:
    values = vectors()
    values[7, 3] = np.nan
    values[9, 0] = 1e6
    np.savez(tmp_path / "x.npz", embeddings=values, ids=names())
    with pytest.raises(EmbedcacheError, match=r"'a protein 7' \(record 8 of .*NaN"):
        imported(tmp_path / "s.zarr", tmp_path / "x.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]
    store = imported(tmp_path / "s.zarr", tmp_path / "x.npz", "--on-bad-row", "quarantine")
    assert store.quarantined.tolist() == [7]
    values[7] = 0
    np.savez(tmp_path / "x.npz", embeddings=values, ids=names())
    with pytest.raises(EmbedcacheError, match=r"'a protein 9'.* beyond float16.*--dtype float32"):
        imported(tmp_path / "h.zarr", tmp_path / "x.npz", "--dtype", "float16")


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)

    marker = ""


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pt_file_that_would_run_code_does_not(tmp_path: Path, zipped: bool) -> None:
    attack = Malicious()
    attack.marker = str(tmp_path / "ran")
    torch.save({"ids": ["a"], "data": attack}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"x\.pt: .*holds Python objects.*refused"):
        imported(tmp_path / "s.zarr", tmp_path / "x.pt")
    np.save(tmp_path / "x.npy", np.array([attack], object), allow_pickle=True)
    with pytest.raises(InputError, match="Python objects"):
        imported(tmp_path / "s.zarr", tmp_path / "x.npy", "--ids", write_ids(tmp_path / "i", ["a"]))
    np.savez(tmp_path / "x.npz", a=np.array([attack], object))
    with pytest.raises(InputError, match="Python objects"):
        imported(tmp_path / "s.zarr", tmp_path / "x.npz")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("kind", ["pt", "npy", "npz", "h5", "parquet", "h5ad", "safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.6, 0.99])
def test_a_truncated_file_is_refused_and_leaves_nothing(tmp_path: Path, kind: str, keep: float) -> None:
    values, ids, file = vectors(400), names(400), tmp_path / f"x.{kind}"
    if kind == "pt":
        torch.save({"ids": ids, "data": torch.from_numpy(values)}, file)
    elif kind == "npy":
        np.save(file, values)
    elif kind == "npz":
        np.savez(file, embeddings=values, ids=ids)
    elif kind == "parquet":
        pq.write_table(pa.table({"id": ids, "v": values.tolist()}), file)
    elif kind == "h5ad":
        anndata.AnnData(values, obs=pd.DataFrame(index=ids)).write_h5ad(file)
    elif kind == "safetensors":
        save_file({"embeddings": values}, file)
    else:
        with h5py.File(file, "w") as written:
            for name, vector in zip(ids, values, strict=True):
                written.create_dataset(name, data=vector)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * keep)])
    options = ("--ids", write_ids(tmp_path / "ids", ids)) if kind in ("npy", "safetensors") else ()
    with pytest.raises(EmbedcacheError, match=r"x\.\w+"):
        imported(tmp_path / "s.zarr", file, *options)
    assert {entry.name for entry in tmp_path.iterdir()} <= {file.name, "ids"}


def test_what_does_not_fit_together_is_refused_by_name(tmp_path: Path) -> None:
    def refused(says: str, *arguments: object) -> None:
        with pytest.raises(InputError, match=says):
            imported(tmp_path / "s.zarr", *arguments)

    np.save(tmp_path / "x.npy", vectors(5))
    few = write_ids(tmp_path / "few.txt", names(4))
    refused("without ids", tmp_path / "x.npy")
    refused("4 ids, .* 5 vectors", tmp_path / "x.npy", "--ids", few)
    refused(
        "'a' occurs twice, as record 1 .* record 3",
        tmp_path / "x.npy", "--ids", write_ids(tmp_path / "twice.txt", ["a", "b", "a", "c", "d"]),
    )  # fmt: skip
    refused("line 2: the line is empty", tmp_path / "x.npy", "--ids", write_ids(tmp_path / "gap.txt", ["a", "", "c"]))
    table = tmp_path / "ids.tsv"
    table.write_text("id,label\na,1\n")
    refused("no column 'nothing', given with --id-column", tmp_path / "x.npy", "--ids", table, "--id-column", "nothing")
    np.savez(tmp_path / "r.npz", a=np.ones(3, np.float32), b=np.ones(4, np.float32))
    refused("'b' has 4 values a vector, 'a' has 3", tmp_path / "r.npz")
    np.savez(tmp_path / "m.npz", a=np.ones(3, np.float32), b=np.ones((4, 3), np.float32))
    refused("either every record has a vector", tmp_path / "m.npz")
    np.savez(tmp_path / "t.npz", a=np.array(["x", "y"]))
    refused("embeddings are numbers", tmp_path / "t.npz")
    np.savez(tmp_path / "w.npz", embeddings=vectors(2, 3), ids=["x", "y"])
    np.savez(tmp_path / "v.npz", embeddings=vectors(2, 4), ids=["x", "y"])
    refused("4 values, those of .*w.npz 3", tmp_path / "w.npz", tmp_path / "v.npz")
    refused("do not make up the 3 values", tmp_path / "w.npz", "--blocks", "dna=2")
    refused("no array 'Y'", tmp_path / "w.npz", "--key", "Y")
    refused("it has ids of its own", tmp_path / "w.npz", "--ids", few)
    torch.save(
        {"nucleotide": ["a", "b"], "data": [{"label": n, "mean_representation": [1.0]} for n in "ba"]},
        tmp_path / "s.pt",
    )
    refused("labelled 'b', the id there is 'a': the rows are shifted", tmp_path / "s.pt")
    torch.save({"state": torch.ones(2)}, tmp_path / "o.pt")
    refused("a dictionary of 'state'", tmp_path / "o.pt")
    torch.save({"ids": ["a"], "data": torch.ones(1, 2), "labels": [1, 2]}, tmp_path / "l.pt")
    refused("2 labels for 1 id:", tmp_path / "l.pt")
    (tmp_path / "x.csv").write_text("id,vector\na,1 2 3\n")
    refused("vectors in CSV or TSV are not read", tmp_path / "x.csv")
    refused("does not exist", tmp_path / "gone.npy")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"id": ["a", "b"], "v": ["1 2", "3 4"]}, "no column holds lists of numbers.*Vectors as text"),
        ({"id": ["a", "b"], "v": [["x"], ["y"]]}, "no column holds lists of numbers"),
        ({"id": ["a", "b"], "v": [[1.0, 2.0], [1.0]]}, "'b' has 1 value, the first vector has 2"),
        ({"key": ["a", "b"], "v": [[1.0], [2.0]]}, "no column is named like the ids.*--id-column"),
        ({"id": ["a", "b"], "v": [[1.0], [2.0]], "w": [[1.0], [2.0]]}, "several columns.*--key"),
        ({"id": ["a", None], "v": [[1.0], [2.0]]}, "the id of record 2 is None"),
        ({"id": ["a", "b"], "v": pa.array([[], []], pa.list_(pa.float32()))}, "every list in the column 'v' is empty"),
    ],
)
def test_parquet_that_holds_no_vectors_is_refused(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=says):
        imported(tmp_path / "s.zarr", tmp_path / "x.parquet")


def test_links_of_hdf5_to_other_files_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as written:
        written["x"] = np.ones(3)
    with h5py.File(tmp_path / "link.h5", "w") as written:
        written["a"] = h5py.ExternalLink("secret.h5", "/x")
    with pytest.raises(InputError, match="link to another file"):
        imported(tmp_path / "s.zarr", tmp_path / "link.h5")
    (tmp_path / "raw").write_bytes(bytes(24))
    with h5py.File(tmp_path / "raw.h5", "w") as written:
        written.create_dataset("a", (3,), "f8", external=[(str(tmp_path / "raw"), 0, 24)])
    with pytest.raises(InputError, match="keeps its values in another file"):
        imported(tmp_path / "s.zarr", tmp_path / "raw.h5")


def test_a_store_that_is_there_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", embeddings=vectors(), ids=names())
    imported(tmp_path / "s.zarr", tmp_path / "x.npz")
    with pytest.raises(StoreError, match="is there already"):
        imported(tmp_path / "s.zarr", tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", embeddings=vectors(seed=1), ids=names())
    store = imported(tmp_path / "s.zarr", tmp_path / "x.npz", "--overwrite")
    np.testing.assert_array_equal(np.asarray(store.embeddings), vectors(seed=1))
    (tmp_path / "precious").mkdir()
    with pytest.raises(StoreError, match="not an embedcache store"):
        imported(tmp_path / "precious", tmp_path / "x.npz", "--overwrite")


def test_an_imported_store_cannot_be_encoded_again_and_says_why(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", embeddings=vectors(3), ids=["a", "b", "c"])
    fasta = tmp_path / "s.fa"
    fasta.write_text(">c\nACGT\n>a\nACGTT\n>b\nAACGT\n")
    imported(tmp_path / "s.zarr", tmp_path / "x.npz", "--sequences", fasta)
    with pytest.raises(StoreError, match="was imported"):
        program("verify", tmp_path / "s.zarr", "--recompute", 1)
    assert open_store(tmp_path / "s.zarr").attrs["keeps_sequences"]
