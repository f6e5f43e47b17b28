"""Heads that learn a label for each letter: `heads train --per-position` on a store that keeps every token."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedcache.extraction.preflight import Options
from tests.encoders.golden import golden_folder
from tests.exchange.files import imported
from tests.heads.program import refused, run
from tests.letter_encoder import LetterEncoder
from tests.stores import random_reads, run_extract, write_fasta

NONE = Options(poolings=("none",), layers=(0, -1), drop_sequence=True)
QUICK = ("--features", "t.zarr", "--per-position", "--bootstrap", "0")
RECORDS = 60


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A folder with t.zarr, every token of proteins in which the letters of a motif are labelled, in several forms."""
    folder = tmp_path_factory.mktemp("positions")
    golden_folder("esm2", folder)
    rng, sequences, labels = np.random.default_rng(0), [], []
    for record in range(RECORDS):
        letters = rng.choice(list("ADEFGIKLMNPQRSTVY"), rng.integers(10, 30))
        marked = np.full(len(letters), "0")
        if record % 3:
            start = int(rng.integers(0, len(letters) - 3))
            letters[start : start + 3], marked[start : start + 3] = list("WCH"), "1"
        sequences.append("".join(letters))
        labels.append("".join(marked) if record != 7 else None)
    lists = [None if text is None else [*map(int, text)] for text in labels]
    table = {
        "id": [f"r{i}" for i in range(RECORDS)],
        "sequence": sequences,
        "label": labels,
        "commas": [None if text is None else ",".join(text) for text in labels],
        "list": lists,
        "score": [None if own is None else [one + 0.01 * at for at, one in enumerate(own)] for own in lists],
        "short": [text and text[:-1] for text in labels],
        "family": [f"f{i // 6}" if i != 11 else None for i in range(RECORDS)],
    }
    pq.write_table(pa.table(table), folder / "t.parquet")
    run_extract(folder / "t.zarr", folder / "t.parquet", model=str(folder / "esm2"), options=NONE)
    run(folder, "train", *QUICK, "--output", "run")
    return folder


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_a_planted_motif_is_found_letter_by_letter(ground):
    found = metrics(ground / "run")
    assert found["test"]["auroc"] > 0.999
    assert "`label`: `1` (positive) or `0`, letter by letter" in (ground / "run" / "README.md").read_text()
    predictions = pq.read_table(ground / "run" / "predictions.parquet").to_pydict()
    sequences = pq.read_table(ground / "t.parquet")["sequence"].to_pylist()
    for name, record, position, true in zip(
        *(predictions[c] for c in ("id", "record", "position", "y_true")), strict=True
    ):
        assert name == f"{record}:{position}"
        assert true == int(sequences[int(record[1:])][position] in "WCH")


def test_records_are_whole_in_drawn_splits_and_folds_with_and_without_groups(ground):
    run(ground, "train", *QUICK, "--split", "kfold:3", "--output", "folds")
    run(ground, "train", *QUICK, "--group", "family", "--output", "families")
    for name, column in (("run", "record"), ("folds", "record"), ("families", "family")):
        table = pq.read_table(ground / name / "predictions.parquet")
        known = dict(zip(*(pq.read_table(ground / "t.parquet")[c].to_pylist() for c in ("id", "family")), strict=True))
        units = {}
        for record, split in zip(table["record"].to_pylist(), table["split"].to_pylist(), strict=True):
            units.setdefault((known[record] or record) if column == "family" else record, set()).add(split)
        assert all(len(splits) == 1 for splits in units.values()), name
        assert "r7" not in units, "it has no labels"
    certificate = json.loads((ground / "run" / "split_certificate.json").read_text())
    assert (certificate["leaks"], certificate["grouped"], certificate["threshold"]) == ([], True, None)


@pytest.mark.parametrize("column", ["commas", "list"])
def test_texts_commas_and_lists_give_the_same_run(ground, column):
    run(ground, "train", *QUICK, "--label", column, "--output", column)
    ours, theirs = (pq.read_table(ground / name / "predictions.parquet") for name in (column, "run"))
    assert ours.equals(theirs)


def test_numbers_are_learned_as_a_measured_quantity(ground):
    said = run(ground, "train", *QUICK, "--label", "score", "--head", "ridge", "--output", "score").stdout
    assert "a measured quantity" in said
    assert metrics(ground / "score")["test"]["r2"] > 0.8


def test_raw_sequences_get_the_predictions_of_the_store_and_both_name_each_letter(ground):
    run(ground, "predict", "run", "--features", "t.zarr", "-o", "stored.parquet")
    run(ground, "predict", "run", "--input", "t.parquet", "-o", "raw.parquet")
    run(ground, "predict", "run", "--features", "t.zarr", "--aggregate", "max", "--by", "record", "-o", "records.tsv")
    stored = pq.read_table(ground / "stored.parquet")
    assert stored.column_names == ["row", "id", "record", "position", "y_prob", "y_pred"]
    assert stored.equals(pq.read_table(ground / "raw.parquet"))
    letters = sum(map(len, pq.read_table(ground / "t.parquet")["sequence"].to_pylist()))
    assert stored["row"].to_pylist() == list(range(letters))
    assert len((ground / "records.tsv").read_text().splitlines()) == RECORDS + 1


def test_a_saved_head_is_judged_on_its_test_positions_and_on_another_store(ground, tmp_path):
    run(ground, "evaluate", "run", "--features", "t.zarr", "--bootstrap", "0", "-o", "same.json")
    same = json.loads((ground / "same.json").read_text())
    assert same["auroc"] == metrics(ground / "run")["test"]["auroc"]
    table = pq.read_table(ground / "t.parquet").rename_columns(["id", "sequence", "a", "b", "truth", "c", "d", "e"])
    ids = pa.array([f"n{i}" for i in range(RECORDS)])
    pq.write_table(table.set_column(0, "id", ids), tmp_path / "new.parquet")
    options = Options(poolings=("none",), layers=(0, -1))
    run_extract(tmp_path / "new.zarr", tmp_path / "new.parquet", model=str(ground / "esm2"), options=options)
    arguments = ("evaluate", ground / "run", "--features", "new.zarr", "--bootstrap", "0")
    assert "--label" in refused(tmp_path, *arguments)
    said = run(tmp_path, *arguments, "--label", "truth").stdout
    assert "rows without a label are left out" in said
    assert "prior only" in said


def test_blocks_labels_of_a_table_and_sweeps_go_together_with_positions(ground, tmp_path):
    table = pq.read_table(ground / "t.parquet", columns=["id", "label"]).rename_columns(["id", "joined"])
    pq.write_table(table, tmp_path / "labels.parquet")
    run(
        ground, "train", *QUICK, "--labels", tmp_path / "labels.parquet", "--label", "joined", "--blocks", "layer0.none",
        "--output", "blocks",
    )  # fmt: skip
    assert metrics(ground / "blocks")["test"]["auroc"] > 0.999
    run(ground, "predict", "blocks", "--features", "t.zarr", "-o", "stored.csv")
    run(ground, "predict", "blocks", "--input", "t.parquet", "-o", "raw.csv")
    assert (ground / "stored.csv").read_bytes() == (ground / "raw.csv").read_bytes()
    run(ground, "sweep", *QUICK, "--vary", "head=lr,prototype", "--output", "sweep")
    assert len(list(ground.glob("sweep/*/metrics.json"))) == 2


def test_what_cannot_be_is_refused_in_a_sentence(ground):
    sequences = pq.read_table(ground / "t.parquet")["sequence"].to_pylist()
    letters = len(sequences[0])
    said = refused(ground, "train", *QUICK, "--label", "short")
    assert f"'r0' has {letters - 1} values in column 'short' and a sequence of {letters} letters" in said
    assert "with --per-position" in refused(ground, "train", "--features", "t.zarr")
    write_fasta(ground / "r.fa", random_reads(5))
    run_extract(ground / "mean.zarr", ground / "r.fa", model=LetterEncoder())
    assert "--pool none" in refused(ground, "train", "--features", "mean.zarr", "--per-position")
    assert "--pool none" in refused(ground, "predict", "run", "--features", "mean.zarr", "-o", "p.csv")
    assert "no such column" in refused(ground, "train", *QUICK, "--label", "structure")


def test_a_genome_with_its_coding_mask_is_learned_base_by_base(tmp_path, shared_data):
    folder = shared_data / "ath_chloroplast"
    genome = "".join(gzip.open(folder / "NC_000932.fa.gz", "rt").read().split("\n")[1:])
    mask = gzip.open(folder / "cds_mask.txt.gz", "rt").read().strip()
    assert len(genome) == len(mask)
    lines = ["id,sequence,coding,block"]
    for start in range(0, 100_000, 2_000):
        lines.append(f"w{start},{genome[start : start + 200]},{mask[start : start + 200]},{start // 10_000}")
    (tmp_path / "w.csv").write_text("\n".join(lines) + "\n")
    model = str(golden_folder("hyenadna", tmp_path))
    run_extract(tmp_path / "w.zarr", tmp_path / "w.csv", model=model, options=Options(poolings=("none",)))
    said = run(
        tmp_path, "train", "--features", "w.zarr", "--per-position", "--label", "coding", "--group", "block",
        "--bootstrap", "100", "--output", "run",
    ).stdout  # fmt: skip
    assert "10,000 positions of 50 records" in said
    assert "onehot:41" in said
    found = metrics(tmp_path / "run")
    assert sum(found[part]["rows"] for part in ("train", "val", "test")) == 10_000
    low, high = found["test"]["auroc_ci"]
    assert 0 < low < found["test"]["auroc"] < high < 1
    table = pq.read_table(tmp_path / "run" / "predictions.parquet")
    coding = dict(zip(table["id"].to_pylist(), table["y_true"].to_pylist(), strict=True))
    assert all(coding[f"w{start}:{place}"] == int(mask[start + place]) for start in (0, 98_000) for place in range(200))


def test_residues_that_another_program_embedded_are_learned_where_they_are_letters(tmp_path, shared_data):
    archive = shared_data / "bio_embeddings_reference" / "esm1b.npz"
    imported(tmp_path / "r.zarr", archive)
    with np.load(archive) as arrays:
        labels = {name: "".join("HE"[at % 2] for at in range(len(array))) for name, array in arrays.items()}
    lines = [f"{name},{text},{part}" for (name, text), part in zip(labels.items(), ("train", "test"), strict=True)]
    (tmp_path / "l.csv").write_text("\n".join(["id,structure,split", *lines]) + "\n")
    arguments = ("--features", "r.zarr", "--labels", "l.csv", "--per-position", "--label", "structure")
    said = run(tmp_path, "train", *arguments, "--output", "run", "--bootstrap", "0", "--head", "prototype").stdout
    assert "15 positions of 2 records" in said
    assert "no baselines of the sequences" in said


def test_binding_residues_of_real_proteins_are_learned_with_their_published_split(tmp_path, shared_data):
    folder, parts = shared_data / "flip_bind", []
    for name in ("sequences", "from_publication"):
        with gzip.open(folder / f"{name}.fasta.gz", "rt") as file:
            parts.append([entry.split("\n", 1) for entry in file.read().split(">")[1:]])
    sequences = {head.split()[0]: text.replace("\n", "") for head, text in parts[0]}
    lines, some = ["id\tsequence\tbinds\tsplit"], {"train": 30, "val": 10, "test": 10}
    for head, text in parts[1]:
        name, split = head.split()[0], "test" if "SET=test" in head else "val" if "VALIDATION=True" in head else "train"
        if some[split] and len(sequences[name]) < 200:
            some[split] -= 1
            lines.append("\t".join((name, sequences[name], text.strip(), split)))
    assert not any(some.values())
    (tmp_path / "p.tsv").write_text("\n".join(lines) + "\n")
    run_extract(tmp_path / "p.zarr", tmp_path / "p.tsv", model=str(golden_folder("esm2", tmp_path)), options=NONE)
    arguments = ("--features", "p.zarr", "--per-position", "--label", "binds", "--split", "split", "--bootstrap", "0")
    run(tmp_path, "train", *arguments, "--output", "run", "--head", "prototype")
    found = metrics(tmp_path / "run")
    assert found["classes"][:2] == [0, 1], "a digit is a class, however many stand side by side"
    letters = {
        split: sum(len(line.split("\t")[1]) for line in lines if line.endswith(split)) for split in ("val", "test")
    }
    assert {split: found[split]["rows"] for split in letters} == letters
