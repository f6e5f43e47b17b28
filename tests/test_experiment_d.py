"""Experiment D from its raw inputs: tumour cells of several donors, from counts to Geneformer's tokens to heads.

The encoder is a small one with random weights and a made-up vocabulary over the real gene symbols, so that what a head finds
means nothing; what naive Bayes finds in the ranks does.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr
from anndata.io import read_elem
from click.testing import CliRunner
from numpy.typing import NDArray
from scipy import sparse
from scipy.io import mmwrite

from cli.embedcache import cli
from cli.heads import heads
from embedcache import open_store
from embedcache.cells.dictionary import read_numbers, read_tokens
from embedcache.storage.store import Store
from tests.cells.small_geneformer import SPECIALS, write_geneformer, write_weights
from tests.conftest import shared_folder
from tests.stores import store_bytes


def say(program: Any, *arguments: object) -> str:
    """Run a program in this process; what it printed."""
    result = CliRunner().invoke(program, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def extract(*arguments: object) -> str:
    return say(cli, "extract", "--device", "cpu", *arguments)


@pytest.fixture(scope="module")
def expression() -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Genes (G,), cells (n,), and values (n, G) of the oligodendrogliomas."""
    with gzip.open(shared_folder("data") / "oligodendroglioma" / "expression.tsv.gz", "rt") as lines:
        rows = csv.reader(lines, delimiter="\t")
        cells = next(rows)[1:]
        genes, values = zip(*((row[0], np.array(row[1:], float)) for row in rows), strict=True)
    return list(genes), cells, np.stack(values, axis=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, expression: tuple[list[str], list[str], Any]) -> Path:
    """Knows every third gene of the tumours, and those of the blood cells."""
    with np.load(shared_folder("data") / "pbmc68k_reduced" / "pbmc68k_reduced.npz", allow_pickle=False) as blood:
        genes = dict.fromkeys([*expression[0][::3], *blood["genes"].tolist()])
    return write_geneformer(tmp_path_factory.mktemp("d") / "geneformer", list(genes), limit=128)


@pytest.fixture(scope="module")
def tumours(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """The store of the oligodendrogliomas, made from the table of expression and the table of cells."""
    data, output = shared_folder("data") / "oligodendroglioma", tmp_path_factory.mktemp("d") / "tumours.zarr"
    said = extract(
        "--model", model, "--input", data / "expression.tsv.gz", "--metadata", data / "cells.tsv", "--output", output
    )
    assert "184 records" in said
    assert "genes    3,820 of 10,338 (first column) have a token; 6,518 have none" in said
    assert "caution" in said and "are no whole numbers" in said  # noqa: PT018
    return output


def texts_of(store: Store) -> list[str]:
    return [str(text) for text in store.column("sequence").to_pylist()]


def test_a_table_of_expression_becomes_cells_with_their_donors(tumours: Path) -> None:
    store = open_store(tumours)
    with (shared_folder("data") / "oligodendroglioma" / "cells.tsv").open() as lines:
        table = {row["cell"]: row for row in csv.DictReader(lines, delimiter="\t")}
    assert set(store.ids) == set(table)
    for name in ("annotation", "donor", "class"):
        assert store.column(name).to_pylist() == [table[cell][name] for cell in store.ids]
    assert store.blocks[0].name == "layer1.mean"  # of two layers the second to last
    assert np.isfinite(np.asarray(store.embeddings)).all()


def test_the_tokens_are_those_of_the_published_rule(
    tumours: Path, model: Path, expression: tuple[list[str], list[str], NDArray[np.float64]]
) -> None:
    tokens, medians = _tokens(model), read_numbers(model / "gene_median_dictionary_gc104M.pkl", "medians")
    genes, cells, values = expression
    known = np.array([at for at, gene in enumerate(genes) if gene in tokens])
    of_known = np.array([tokens[genes[at]] for at in known])
    median = np.array([medians[genes[at]] for at in known])
    store = open_store(tumours)
    assert list(store.ids) == cells
    for cell, text in enumerate(texts_of(store)):
        counts = values[cell]
        scaled = counts[known] / counts.sum() * 10_000 / median
        ranked = of_known[np.argsort(-scaled, kind="stable")][: (scaled > 0).sum()]
        assert text.split() == [str(token) for token in (2, *ranked[:126], 3)]


def test_the_store_remembers_what_made_its_tokens(tumours: Path) -> None:
    recorded = open_store(tumours).attrs["cells"]
    assert [entry["file"] for entry in recorded["dictionaries"]] == [
        "token_dictionary_gc104M.pkl",
        "gene_median_dictionary_gc104M.pkl",
    ]
    assert all(len(entry["sha256"]) == 64 for entry in recorded["dictionaries"])


def test_a_stopped_run_ends_with_the_same_bytes_and_a_store_of_cells_is_verified(
    tumours: Path, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tumours, tmp_path / "t.zarr")
    next((tmp_path / "t.zarr" / "embeddings" / "commit").glob("*.json")).unlink()
    data = shared_folder("data") / "oligodendroglioma"
    command = ("--model", model, "--input", data / "expression.tsv.gz", "--metadata", data / "cells.tsv")
    extract(*command, "--output", tmp_path / "t.zarr")
    for name, content in store_bytes(tumours).items():
        assert store_bytes(tmp_path / "t.zarr")[name] == content or "commit" in name, name
    assert "nothing: all shards are there" in extract(*command, "--output", tmp_path / "t.zarr")
    assert "20 bit for bit" in say(cli, "verify", tmp_path / "t.zarr", "--recompute", 20, "--device", "cpu")


def test_cells_of_a_store_go_to_another_encoder(tumours: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "wider")
    rows = json.loads((model / "config.json").read_text())["vocab_size"]
    write_weights(tmp_path / "wider", rows, limit=128, hidden=24, layers=3)
    extract("--model", tmp_path / "wider", "--input", tumours, "--output", tmp_path / "wider.zarr")
    assert open_store(tmp_path / "wider.zarr").dim == 24
    assert texts_of(open_store(tmp_path / "wider.zarr")) == texts_of(open_store(tumours))


@pytest.mark.slow
def test_each_donor_is_left_out_once_and_naive_bayes_on_ranks_stands_beside(tumours: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = say(
        heads, "train", "--features", tumours, "--label", "class", "--split", "leave-out:donor", "--bootstrap", 0,
        "--output", run,
    )  # fmt: skip
    predictions = pq.read_table(run / "predictions.parquet").to_pylist()
    donors = dict(zip(open_store(tumours).ids, open_store(tumours).column("donor").to_pylist(), strict=True))
    assert {row["id"]: row["split"] for row in predictions} == {cell: f"donor={name}" for cell, name in donors.items()}
    (line,) = [line for line in said.splitlines() if line.startswith("naive bayes")][-1:]
    assert float(line.split()[-1]) > 0.95  # accuracy on the donors that did not train: their classes are easy


@pytest.mark.slow
def test_a_head_scores_new_cells_from_their_counts(
    tumours: Path, model: Path, tmp_path: Path, expression: tuple[list[str], list[str], NDArray[np.float64]]
) -> None:
    say(
        heads, "train", "--features", tumours, "--label", "class", "--split", "none", "--bootstrap", 0,
        "--output", tmp_path / "run",
    )  # fmt: skip
    genes, cells, values = expression
    new = anndata.AnnData(values[:20], pd.DataFrame(index=cells[:20]), pd.DataFrame(index=genes))
    new.write_h5ad(tmp_path / "new.h5ad")
    said = say(heads, "predict", tmp_path / "run", "--input", tmp_path / "new.h5ad", "-o", tmp_path / "new.parquet")
    assert "3,820 of 10,338" in said
    say(heads, "predict", tmp_path / "run", "--features", tumours, "-o", tmp_path / "stored.parquet")
    raw, stored = (pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("new", "stored"))
    assert [row["id"] for row in raw] == [row["id"] for row in stored[:20]]
    for of_counts, of_store in zip(raw, stored, strict=False):
        assert of_counts["y_prob_Malignant"] == pytest.approx(of_store["y_prob_Malignant"], abs=1e-5)


@pytest.mark.slow
def test_the_users_own_layout_gives_the_same_cells_and_splits(tumours: Path, model: Path, tmp_path: Path) -> None:
    """``*_gene_rank_tokens.npz`` with numbers of its own, gene_vocab.tsv, metadata in row order, splits_by_patient.npz."""
    store = open_store(tumours)
    encoders = {gene: token for gene, token in _tokens(model).items() if gene not in SPECIALS}
    own = {symbol: at for at, symbol in enumerate(reversed(encoders))}
    number = {encoders[symbol]: at for symbol, at in own.items()}
    ranked = [[number[int(token)] for token in text.split()[1:-1]] for text in texts_of(store)]
    tokens = np.full((len(ranked), 2048), len(own), np.int32)  # padding is the largest number and one
    for cell, numbers in enumerate(ranked):
        tokens[cell, : len(numbers)] = numbers
    lengths = np.array([len(numbers) for numbers in ranked])
    np.savez(tmp_path / "tumor_gene_rank_tokens.npz", tokens=tokens, lengths=lengths)
    (tmp_path / "gene_vocab.tsv").write_text(
        "gene_symbol\ttoken_id\n" + "".join(f"{symbol}\t{at}\n" for symbol, at in own.items())
    )
    donors, classes = store.column("donor").to_pylist(), store.column("class").to_pylist()
    (tmp_path / "metadata.tsv").write_text(
        "Patient\tClass\tSample\ttoken_length\n"
        + "".join(f"{d}\t{c}\ts{at}\t{n}\n" for at, (d, c, n) in enumerate(zip(donors, classes, lengths, strict=True)))
    )
    parts = {"train": ("MGH53", "MGH93", "MGH97"), "val": ("MGH36",), "test": ("MGH54",)}
    rows = {
        f"{part}_idx": np.array([at for at, donor in enumerate(donors) if donor in held])
        for part, held in parts.items()
    }
    np.savez(tmp_path / "splits_by_patient.npz", **rows)
    extract(
        "--model", model, "--input", tmp_path / "tumor_gene_rank_tokens.npz", "--metadata", tmp_path / "metadata.tsv",
        "--splits", tmp_path / "splits_by_patient.npz", "--output", tmp_path / "own.zarr",
    )  # fmt: skip
    mine = open_store(tmp_path / "own.zarr")
    assert texts_of(mine) == texts_of(store)
    assert np.array_equal(np.asarray(mine.embeddings), np.asarray(store.embeddings))
    split = mine.column("split").to_pylist()
    assert {part: [at for at, of_row in enumerate(split) if of_row == part] for part in parts} == {
        part: sorted(rows[f"{part}_idx"].tolist()) for part in parts
    }
    said = say(
        heads, "train", "--features", tmp_path / "own.zarr", "--label", "Class", "--bootstrap", 0,
        "--output", tmp_path / "run",
    )  # fmt: skip
    assert "naive bayes on gene" in said
    manifest = json.loads((tmp_path / "run" / "run_manifest.json").read_text())
    assert "split" in json.dumps(manifest)


# Blood cells


def test_scaled_values_are_refused_with_the_layer_that_has_counts(model: Path, tmp_path: Path) -> None:
    path = shared_folder("data") / "pbmc68k_reduced" / "10x_pbmc68k_reduced.zarr.zip"
    command = ["extract", "--model", str(model), "--input", str(path), "--output", str(tmp_path / "p.zarr")]
    with pytest.raises(Exception, match=r"X has values that are negative.*--counts-layer counts"):
        CliRunner().invoke(cli, command, catch_exceptions=False)
    assert not (tmp_path / "p.zarr").exists()


@pytest.mark.slow
def test_blood_cells_are_the_same_from_zarr_h5ad_and_a_10x_folder(model: Path, tmp_path: Path) -> None:
    path = shared_folder("data") / "pbmc68k_reduced" / "10x_pbmc68k_reduced.zarr.zip"
    extract("--model", model, "--input", path, "--counts-layer", "counts", "--output", tmp_path / "zarr.zarr")
    store = open_store(tmp_path / "zarr.zarr")
    with (path.parent / "cells.tsv").open() as lines:
        table = list(csv.DictReader(lines, delimiter="\t"))
    assert list(store.ids) == [row["cell"] for row in table]
    assert store.column("bulk_labels").to_pylist() == [row["bulk_labels"] for row in table]
    counts, genes = _counts(path)
    cells = anndata.AnnData(counts, pd.DataFrame(index=list(store.ids)), pd.DataFrame(index=genes))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    folder = tmp_path / "filtered_feature_bc_matrix"
    folder.mkdir()
    mmwrite(folder / "matrix.mtx", sparse.coo_matrix(counts.T))
    (folder / "genes.tsv").write_text("".join(f"none\t{gene}\n" for gene in genes))
    (folder / "barcodes.tsv").write_text("".join(f"{cell}\n" for cell in store.ids))
    for number, form in enumerate((tmp_path / "cells.h5ad", f"{folder}:donor=d1")):
        extract("--model", model, "--input", form, "--output", tmp_path / f"{number}.zarr")
        other = open_store(tmp_path / f"{number}.zarr")
        assert texts_of(other) == texts_of(store)
        assert np.array_equal(np.asarray(other.embeddings), np.asarray(store.embeddings))
    said = say(
        heads, "train", "--features", tmp_path / "zarr.zarr", "--label", "bulk_labels", "--bootstrap", 0,
        "--output", tmp_path / "run",
    )  # fmt: skip
    assert "naive bayes on gene" in said


@pytest.mark.slow
def test_an_input_that_grew_encodes_what_is_new(model: Path, tmp_path: Path) -> None:
    path = shared_folder("data") / "pbmc68k_reduced" / "10x_pbmc68k_reduced.zarr.zip"
    counts, genes = _counts(path)
    counts = sparse.vstack([counts, counts, counts[:100]], format="csr")
    cells = anndata.AnnData(counts, pd.DataFrame(index=[f"c{at}" for at in range(1500)]), pd.DataFrame(index=genes))
    command = ("--model", model, "--input", tmp_path / "cells.h5ad", "--shard-rows", 1024)
    for kept in (1100, 1500):
        cells[:kept].write_h5ad(tmp_path / "cells.h5ad")
        said = extract(*command, "--output", tmp_path / "grown.zarr")
    assert "1 of 2 shards is there" in said
    extract(*command, "--output", tmp_path / "whole.zarr")
    grown, whole = open_store(tmp_path / "grown.zarr"), open_store(tmp_path / "whole.zarr")
    assert np.array_equal(np.asarray(grown.embeddings), np.asarray(whole.embeddings))
    changed = counts.copy()
    changed.data[:50] += 40
    anndata.AnnData(changed, cells.obs, cells.var).write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(Exception, match="shard 0"):
        extract(*command, "--output", tmp_path / "grown.zarr")


# Cells that are ranked already


def test_token_lists_of_genecorpus_are_encoded_as_they_are(tmp_path: Path) -> None:
    path = shared_folder("data") / "geneformer_tokens_500" / "genecorpus_500_samples.parquet"
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(path).slice(0, 6), few)
    folder = tmp_path / "v1"
    folder.mkdir()
    write_weights(
        folder, 25426, limit=2048, hidden=8, layers=2
    )  # as many genes as V1 has, whose cells have no specials
    extract("--model", folder, "--input", few, "--output", tmp_path / "s.zarr")
    store = open_store(tmp_path / "s.zarr")
    cells = pq.read_table(path)["input_ids"].to_pylist()
    assert texts_of(store) == [" ".join(map(str, cell)) for cell in islice(cells, 6)]
    assert store.column("n_tokens").to_pylist() == [len(cell) for cell in islice(cells, 6)]


def _tokens(model: Path) -> dict[str, int]:
    return read_tokens(model / "token_dictionary_gc104M.pkl")


def _counts(path: Path) -> tuple[sparse.csr_matrix, list[str]]:
    """The layer of counts (700, 765) and the genes, read with zarr alone."""
    store = zarr.storage.ZipStore(path, mode="r")
    group = zarr.open_group(store, mode="r", use_consolidated=False)
    counts, genes = read_elem(group["layers/counts"]), list(read_elem(group["var"]).index)
    store.close()
    return counts, genes
