"""Fine-tuning on a label for each letter: `heads finetune --per-position`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from embedcache import load_encoder, open_store
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.extraction.preflight import Options, encoding_of
from embedcache.storage.positionstore import PositionStore
from heads.finetune.positions import PositionReading, Positions
from heads.finetune.states import states_of
from tests.heads.finetune.conftest import small_model
from tests.heads.program import in_two_processes, refused, run
from tests.stores import random_reads, run_extract, write_fasta

NONE = Options(poolings=("none",))
QUICK = ("--per-position", "--bootstrap", "0")
MOTIF = "WHCW"
ROWS = 120


@pytest.fixture(scope="module")
def proteins(tmp_path_factory) -> Path:
    """A folder with p.tsv, proteins in which the letters of a motif are labelled, and t.zarr, every token of them."""
    folder = tmp_path_factory.mktemp("letters")
    small_model("esm2", folder).rename(folder / "model")
    rng, parts = np.random.default_rng(0), ("train", "train", "train", "val", "test")
    lines = ["id\tsequence\tlabel\tsplit"]
    for row in range(ROWS):
        letters = rng.choice(list("ADEFGIKLMNPQRSTVYWHC"), rng.integers(20, 40))
        marked, start = np.full(len(letters), "."), int(rng.integers(0, len(letters) - len(MOTIF)))
        letters[start : start + len(MOTIF)], marked[start : start + len(MOTIF)] = list(MOTIF), "m"
        marked[-1] = "-"
        lines.append(f"p{row}\t{''.join(letters)}\t{''.join(marked)}\t{parts[row // 2 % 5]}")
    (folder / "p.tsv").write_text("\n".join(lines) + "\n")
    run_extract(folder / "t.zarr", folder / "p.tsv", model=str(folder / "model"), options=NONE)
    return folder


@pytest.fixture(scope="module")
def tuned(proteins) -> dict[str, Path]:
    """A short run of each kind, by name."""
    asked = {
        "frozen": ["--mode", "frozen", "--epochs", "3"],
        "top": ["--mode", "top", "--top-layers", "2", "--epochs", "2", "--batch", "8"],
        "full": ["--mode", "full", "--epochs", "2", "--lr", "1e-3", "--batch-tokens", "200"],
        "lora": ["--mode", "full", "--lora", "4", "--epochs", "2", "--lr", "1e-2", "--batch", "8"],
    }
    for name, options in asked.items():
        run(proteins, "finetune", "--features", "t.zarr", *QUICK, *options, "--output", name)
    return {name: proteins / name for name in asked}


def probabilities(file: Path) -> dict[str, float]:
    table = pq.read_table(file, columns=["id", "y_prob"])
    return dict(zip(table["id"].to_pylist(), table["y_prob"].to_pylist(), strict=True))


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("family", ["dna_bert_6", "ntv1"])
def test_letters_in_a_batch_have_the_states_that_a_store_of_positions_holds(tmp_path, family):
    model = str(small_model(family, tmp_path))
    limit = {"dna_bert_6": 512, "ntv1": 1000 * 6}[family]
    reads = [
        *random_reads(6, shortest=6),
        "".join(random_reads(limit // 80, shortest=100))[: limit + 700],
        "ACGTTAACCGG",
    ]
    encoder = load_encoder(model)
    assert isinstance(encoder, TransformerEncoder)
    options = Options(poolings=("none",), layers=(1, -1), dtype="float32")
    run_extract(tmp_path / "t.zarr", write_fasta(tmp_path / "r.fa", reads), model=encoder, options=options)
    encoding = encoding_of(encoder, options, ())
    store = PositionStore(open_store(tmp_path / "t.zarr"))
    rows = np.setdiff1d(np.arange(len(store)), [0, 70, 71, 300])
    letters = Positions.read(store, rows, encoding)
    assert letters.rows.windows.counts.max() > 1
    chosen = np.sort(np.random.default_rng(0).choice(len(rows), 900, replace=False))
    selection, tokens = letters.select(chosen)
    reading = PositionReading(encoding.readout, torch.from_numpy(tokens), torch.from_numpy(letters.counts[chosen]))
    blocks = {}
    for layer in {block.layer for block in encoding.readout.blocks}:
        blocks |= reading(layer, states_of(encoder, selection.tokens, layer))
    found = torch.cat([blocks[number] for number in range(len(blocks))], dim=1).numpy()
    np.testing.assert_allclose(found, store.take(rows[chosen]), atol=2e-5)


def test_batches_are_whole_records_and_every_labelled_letter_is_in_one(proteins):
    encoding = encoding_of(load_encoder(str(proteins / "model")), NONE, ())
    store = PositionStore(open_store(proteins / "t.zarr"), ["label"])
    rows = np.flatnonzero(np.asarray(store.column("label").is_valid()))
    letters = Positions.read(store, rows, encoding)
    train = np.flatnonzero(letters.record % 3 > 0)
    units = letters.units(train)
    assert units.sizes is not None
    drawn = train[units.rows_of(np.array([5, 2]))]
    records = np.unique(letters.record[train])[[5, 2]]
    assert drawn.tolist() == [row for record in records for row in np.flatnonzero(letters.record == record)]
    assert np.sort(units.rows_of(np.arange(len(units.sizes)))).tolist() == list(range(len(train)))


def test_frozen_is_heads_train_per_position_with_an_mlp(proteins, tuned):
    run(proteins, "train", "--features", "t.zarr", *QUICK, "--head", "mlp", "--epochs", "3", "--output", "plain")
    ours, theirs = (probabilities(folder / "predictions.parquet") for folder in (tuned["frozen"], proteins / "plain"))
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose([*ours.values()], [*theirs.values()], atol=2e-3)


def test_every_mode_trains_and_its_run_says_the_same_of_raw_sequences_and_of_a_store(proteins, tuned):
    for name, folder in tuned.items():
        assert metrics(folder)["test"]["rows"] == sum(split == "test" for split in column(folder, "split"))
        said = probabilities(folder / "predictions.parquet")
        run(proteins, "predict", name, "--input", "p.tsv", "-o", f"{name}.parquet")
        raw = probabilities(proteins / f"{name}.parquet")
        assert len(raw) - len(said) == ROWS, "letters without a label are predicted too"
        np.testing.assert_allclose([raw[letter] for letter in said], [*said.values()], atol=1e-6)
    run_extract(proteins / "again.zarr", proteins / "p.tsv", model=str(tuned["lora"]), options=NONE)
    run(proteins, "predict", "lora", "--features", "again.zarr", "-o", "again.parquet")
    assert probabilities(proteins / "again.parquet") == probabilities(proteins / "lora.parquet")
    assert open_store(tuned["full"] / "features.zarr").per_token


def column(folder: Path, name: str) -> list:
    return pq.read_table(folder / "predictions.parquet")[name].to_pylist()


def test_records_of_files_and_stores_of_vectors_can_be_trained_letter_by_letter(proteins, tuned):
    options = ["--mode", "top", "--top-layers", "2", "--epochs", "2", "--batch", "8"]
    run(proteins, "finetune", *QUICK, *options, "--model", "model", "--input", "p.tsv", "--output", "files")
    run_extract(proteins / "mean.zarr", proteins / "p.tsv", model=str(proteins / "model"))
    run(proteins, "finetune", *QUICK, *options, "--features", "mean.zarr", "--output", "vectors")
    for name in ("files", "vectors"):
        assert column(proteins / name, "id") == column(tuned["top"], "id")
        np.testing.assert_allclose(column(proteins / name, "y_prob"), column(tuned["top"], "y_prob"), atol=1e-5)


@pytest.mark.slow
def test_full_fine_tuning_finds_a_motif_that_frozen_letters_cannot_tell(proteins, tuned):
    options = ["--mode", "full", "--epochs", "8", "--lr", "3e-3", "--batch", "6", "--patience", "0"]
    run(proteins, "finetune", "--features", "t.zarr", *QUICK, *options, "--output", "long")
    assert metrics(tuned["frozen"])["test"]["auroc"] < 0.97
    assert metrics(proteins / "long")["test"]["auroc"] > 0.99


@pytest.mark.slow
def test_two_processes_train_what_one_trains(proteins):
    options = ["--features", "t.zarr", *QUICK, "--mode", "full", "--epochs", "1", "--lr", "1e-3", "--batch", "12",
               "--hidden-dropout", "0", "--attention-dropout", "0", "--dropout", "0", "--device", "cpu",
               "--mixup", "0.6"]  # fmt: skip
    run(proteins, "finetune", *options, "--output", "one")
    in_two_processes(proteins, "finetune", *options, "--output", "two")
    ours, theirs = (metrics(proteins / name)["history"][0] for name in ("two", "one"))
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
    assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-3)


def test_what_cannot_be_is_refused_with_a_way_out(proteins):
    for options, sentence in (
        (["--per-position", "--sampler", "class"], "--sampler class draws rows.*--class-weight"),
        (["--per-position", "--pool", "mean", "--model", "model"], "leave --pool out"),
        ([], "keeps every token.*--per-position"),
    ):
        found = refused(proteins, "finetune", "--features", "t.zarr", *options)
        assert re.search(sentence, found), found


def test_folds_of_letters_keep_records_whole_and_are_averaged(proteins):
    options = ("--mode", "full", "--epochs", "1", "--lr", "1e-3", "--batch", "8", "--split", "kfold:2")
    run(proteins, "finetune", "--features", "t.zarr", *QUICK, *options, "--output", "halves")
    table = pq.read_table(proteins / "halves" / "predictions.parquet")
    folds = {}
    for name, split in zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True):
        folds.setdefault(name.partition(":")[0], set()).add(split)
    assert len(folds) == ROWS
    assert set(map(len, folds.values())) == {1}
    found = []
    for name in ("halves", "halves/fold-1", "halves/fold-2"):
        run(proteins, "predict", name, "--input", "p.tsv", "-o", "said.parquet")
        found.append(list(probabilities(proteins / "said.parquet").values()))
    np.testing.assert_allclose(found[0], np.mean(found[1:], axis=0), atol=1e-6)
