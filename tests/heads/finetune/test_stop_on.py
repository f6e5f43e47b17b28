"""A fine-tuning stops, and keeps its best epoch, by the rows that it is told to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from heads.finetune.journal import Journal
from tests.heads.finetune.conftest import reads
from tests.heads.finetune.test_going_on import refused_in
from tests.heads.finetune.test_modes import QUICK, metrics
from tests.heads.program import refused, run
from tests.stores import run_extract


@pytest.fixture(scope="module")
def parted(ground: Path) -> Path:
    """The reads with a further value in their split column, as early.zarr."""
    parts = ("train", "train", "early", "val", "test")
    lines = [f"r{i}\t{s}\t{i % 2}\t{parts[i // 2 % 5]}" for i, s in enumerate(reads())]
    (ground / "early.tsv").write_text("\n".join(["id\tsequence\tlabel\tsplit", *lines]) + "\n")
    run_extract(ground / "early.zarr", ground / "early.tsv", model=str(ground / "model"))
    return ground


def test_rows_of_their_own_choose_the_epoch_and_take_no_other_part(parted):
    options = ("--mode", "top", "--top-layers", "1", "--epochs", "4", "--patience", "1", "--lr", "1e-3")
    run(
        parted,
        "finetune",
        "--features",
        "early.zarr",
        "--bootstrap",
        "0",
        *options,
        "--stop-on",
        "early",
        "--output",
        "own",
    )
    found = metrics(parted / "own")
    best = max(found["history"], key=lambda line: line["stop_auprc"])
    chosen = found["selected"]
    assert chosen["best_epoch"] == best["epoch"]
    assert (chosen["val_auprc"], chosen["stop_auprc"]) == (best["val_auprc"], best["stop_auprc"])
    assert found["val"]["auprc"] == pytest.approx(best["val_auprc"], abs=2e-2), "the weights are those of that epoch"
    assert found["stop"]["auprc"] == pytest.approx(best["stop_auprc"], abs=2e-2)
    assert {part: found[part]["rows"] for part in ("train", "stop", "val", "test")} == {
        "train": 96, "stop": 48, "val": 48, "test": 48,
    }  # fmt: skip
    assert "stopped early by that of the rows of the split 'early'" in (parted / "own" / "README.md").read_text()


def test_frozen_stops_on_training_rows_as_heads_train_does(ground):
    options = ("--epochs", "4", "--batch", "32", "--stop-on", "train")
    run(ground, "finetune", *QUICK, "--mode", "frozen", *options, "--output", "frozen-train")
    run(ground, "train", *QUICK, "--head", "mlp", *options, "--output", "plain-train")
    ours, theirs = metrics(ground / "frozen-train"), metrics(ground / "plain-train")
    assert ours["stop_on"] == theirs["stop_on"] == "train"
    for own, other in zip(ours["history"], theirs["history"], strict=True):
        assert own["stop_auprc"] == pytest.approx(other["stop_auprc"], abs=1e-2)
        assert own["val_auprc"] == pytest.approx(other["val_auprc"], abs=1e-2)


def test_folds_stop_on_training_rows(ground):
    options = ("--mode", "frozen", "--epochs", "2", "--split", "kfold:2", "--stop-on", "train")
    run(ground, "finetune", *QUICK, *options, "--output", "folds-train")
    found = metrics(ground / "folds-train")
    assert found["stop_on"] == "train"
    assert {line["fold"] for line in found["history"] if "stop_auprc" in line} == {"fold 1", "fold 2"}


def test_a_journal_that_is_read_again_stops_where_it_stopped(tmp_path):
    journal = Journal("auprc", 2)
    for epoch, (val, stop) in enumerate([(0.1, 0.5), (0.2, 0.4), (0.3, 0.3)], 1):
        journal.records.append({"epoch": epoch, "val_auprc": val, "stop_auprc": stop})
    journal.write(tmp_path)
    stopping = Journal.read(tmp_path).stopping
    assert (stopping.epoch, stopping.value, stopping.stopped) == (1, 0.5, True)


def test_a_training_is_not_gone_on_with_by_other_rows(ground):
    astray = (
        "--mode",
        "full",
        "--lr",
        "1e18",
        "--clip",
        "0",
        "--batch",
        "16",
        "--save-steps",
        "1",
        "--output",
        "by-val",
    )
    refused_in(ground, *astray)  # leaves the checkpoint of its first step
    said = refused_in(ground, *astray, "--stop-on", "train")
    assert re.search(r'begun with stop-on "val", and this one has "train".*--restart', said)


def test_rows_that_cannot_stop_are_refused(ground):
    for word, sentence in (
        ("test", "--stop-on test: test rows judge"),
        ("early", "--stop-on early: no row with a label has this value in the split column 'split'"),
    ):
        assert sentence in refused(ground, "finetune", *QUICK, "--mode", "frozen", "--stop-on", word)
