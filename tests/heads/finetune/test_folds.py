"""In folds every row is judged once by an encoder and a head that have not seen it, and each fold is a run of its own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from embedcache import open_store
from embedcache.errors import EmbedcacheError, Interrupted
from heads.finetune import write_tuned
from heads.finetune.training import Workshop
from heads.running.open_run import open_run
from heads.running.runs import fold_folders, fold_runs
from tests.heads.finetune.conftest import ROWS, reads, write_table
from tests.heads.finetune.test_going_on import weights
from tests.heads.finetune.test_modes import QUICK, metrics, probabilities
from tests.heads.program import in_two_processes, process, refused, run
from tests.stores import run_extract

FULL = ("--mode", "full", "--epochs", "1", "--lr", "1e-3")


def table(folder: Path) -> pd.DataFrame:
    return pq.read_table(folder / "predictions.parquet").to_pandas().set_index("id")


@pytest.fixture(scope="module")
def few(ground, tmp_path_factory) -> Path:
    """A folder with few.zarr, of 30 reads of three donors."""
    folder = tmp_path_factory.mktemp("few")
    write_table(folder / "few.tsv", reads(30))
    run_extract(folder / "few.zarr", folder / "few.tsv", model=str(ground / "model"))
    return folder


@pytest.fixture(scope="module")
def folded(ground) -> Path:
    """Three folds of the whole encoder."""
    done = run(ground, "finetune", *QUICK, *FULL, "--split", "kfold:3", "--output", "folded")
    assert "fold 2/3 fold 2: epoch 1, train loss" in done.output
    assert "mean over 3 folds: AUROC" in done.output
    return ground / "folded"


def test_each_row_is_judged_once_by_a_model_that_did_not_train_on_it(folded):
    whole, tested = table(folded), []
    assert [folder.name for folder in fold_runs(folded)] == ["fold-1", "fold-2", "fold-3"]
    for number, folder in enumerate(fold_runs(folded), 1):
        own = table(folder)
        assert len(own) == ROWS
        judged = own.index[own["split"] == "test"]
        assert set(judged) == set(whole.index[whole["split"] == f"fold {number}"])
        np.testing.assert_array_equal(own["y_prob"][judged], whole["y_prob"][judged])
        tested += list(judged)
    assert sorted(tested) == sorted(whole.index)
    found = metrics(folded)
    assert found["test"]["rows"] == ROWS
    assert [fold["rows"] for fold in found["folds"]] == [80, 80, 80]
    for fold, folder in zip(found["folds"], fold_runs(folded), strict=True):
        assert fold["auroc"] == metrics(folder)["test"]["auroc"]


def test_every_fold_trains_its_own_encoder_from_the_same_start(ground, folded):
    first, second, _ = (weights(folder) for folder in fold_runs(folded))
    before = load_file(ground / "model" / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.weight"
    assert not first[name].equal(second[name])
    for tuned in (first, second):
        assert (tuned[name] - before[f"bert.{name}"]).abs().max() < 0.01


def test_the_run_of_a_fold_is_a_run_like_any(ground, folded, tmp_path):
    fold = folded / "fold-2"
    done = process("predict", fold, "--input", ground / "reads.tsv", "-o", tmp_path / "p.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(pq.read_table(tmp_path / "p.parquet")["y_prob"], probabilities(fold))
    run_extract(tmp_path / "new.zarr", ground / "reads.tsv", model=str(fold))
    assert open_store(tmp_path / "new.zarr").fingerprint == open_store(fold / "features.zarr").fingerprint
    again = run(tmp_path, "evaluate", fold, "--features", fold / "features.zarr", "--bootstrap", "0")
    assert "test rows of the training" in again.stdout
    assert metrics(fold)["split"].startswith("fold 2 of 3 folds")


def test_the_folds_are_averaged_where_sequences_are_given(ground, folded, tmp_path):
    run(tmp_path, "predict", folded, "--input", ground / "reads.tsv", "-o", tmp_path / "p.parquet")
    mean = np.mean([probabilities(folder) for folder in fold_runs(folded)], axis=0)
    np.testing.assert_allclose(pq.read_table(tmp_path / "p.parquet")["y_prob"], mean, atol=1e-6)
    moved = folded.rename(folded.with_name("moved"))
    run(tmp_path, "predict", moved, "--input", ground / "reads.tsv", "-o", tmp_path / "m.parquet")
    moved.rename(folded)
    assert pq.read_table(tmp_path / "m.parquet").equals(pq.read_table(tmp_path / "p.parquet"))


def test_where_one_encoder_is_needed_a_fold_is_named(ground, folded):
    store = ("--features", "reads.zarr")
    for words in (("predict", folded, *store, "-o", "p.parquet"), ("evaluate", folded, *store)):
        sentence = refused(ground, *words)
        assert re.search("an encoder for each of its 3 folds.*--input.*such as .*folded/fold-1", sentence)
    assert re.search("3 folds: name a run.*folded/fold-1", refused(ground, "export", folded, "--to", "sklearn"))
    for words, said in (
        (("--init-head", folded), "name a run with one.*folded/fold-1"),
        (("--model", folded, "--reinit-head"), "an encoder for each of 3 folds: name one, such as .*folded/fold-1"),
    ):
        with pytest.raises(EmbedcacheError, match=said):
            run(ground, "finetune", *QUICK, "--mode", "frozen", "--output", "refused", *words)


def test_the_log_has_every_fold(folded, tmp_path):
    run(tmp_path, "log", folded)
    text = (tmp_path / "TRAINING_HISTORY.md").read_text()
    assert "### Folds, test rows" in text
    assert f"| fold 3 | {metrics(folded)['folds'][2]['auroc']:.4f} |" in text
    assert "val rows (true" not in text


def test_folds_of_a_frozen_encoder_are_those_of_heads_train(ground):
    options = ("--epochs", "3", "--batch", "32", "--split", "kfold:3")
    run(ground, "finetune", *QUICK, "--mode", "frozen", *options, "--output", "frozen-folds")
    run(ground, "train", *QUICK, "--head", "mlp", *options, "--output", "plain-folds")
    ours, theirs = metrics(ground / "frozen-folds"), metrics(ground / "plain-folds")
    np.testing.assert_allclose(probabilities(ground / "frozen-folds"), probabilities(ground / "plain-folds"), atol=2e-3)
    assert ours["folds"][0].keys() == theirs["folds"][0].keys()
    for own, other in zip(ours["history"], theirs["history"], strict=True):
        assert (own["fold"], own["epoch"]) == (other["fold"], other["epoch"])
        assert own["val_loss"] == pytest.approx(other["val_loss"], rel=1e-3)
    run(ground, "predict", "frozen-folds", *QUICK[:2], "-o", "p.parquet")
    assert open_run(ground / "frozen-folds").one_encoder


def test_each_donor_is_left_out_once(few):
    options = ("--mode", "full", "--lora", "2", "--epochs", "1", "--lr", "1e-2", "--split", "leave-out:donor")
    run(few, "finetune", "--features", "few.zarr", "--bootstrap", "0", *options, "--output", "donors")
    whole = table(few / "donors")
    donors = pd.Series(open_store(few / "few.zarr").column("donor").to_pylist(), whole.index)
    assert (whole["split"] == "donor=" + donors).all()
    assert {folder.name for folder in fold_runs(few / "donors")} == {"donor=d0", "donor=d1", "donor=d2"}
    assert (few / "donors" / "donor=d1" / "encoder" / "adapter_config.json").exists()


def test_folds_whose_names_differ_in_odd_letters_alone_have_folders_of_their_own():
    names = ["donor=a b", "donor=a/b", "donor=" + 300 * "c"]
    folders = fold_folders(names)
    assert [folders[name] for name in names] == ["donor=a-b", "donor=a-b-2", "donor=" + 94 * "c"]


def test_nested_folds_average_their_pairs_on_states_that_were_computed_once(few):
    options = ("--mode", "top", "--top-layers", "1", "--epochs", "1", "--split", "nested:2x2", "--keep-checkpoints")
    done = run(few, "finetune", "--features", "few.zarr", "--bootstrap", "0", *options, "--output", "nested")
    assert done.stderr.count("computed once") == 1
    assert [place.parent.name for place in few.glob("nested.training/**/states.zarr")] == ["nested.training"]
    whole = table(few / "nested")
    for number in (1, 2):
        one, other = (table(few / "nested" / f"fold-{number}-{pair}") for pair in (1, 2))
        rows = whole.index[whole["split"] == f"fold {number}"]
        np.testing.assert_allclose(whole["y_prob"][rows], (one["y_prob"][rows] + other["y_prob"][rows]) / 2, atol=1e-6)
        assert set(one.index[one["split"] == "val"]) == set(other.index[other["split"] == "train"])
        assert (one["split"][rows] == "test").all()


def test_an_interrupted_run_goes_on_in_the_fold_in_work(few, monkeypatch):
    options = ("--features", "few.zarr", "--bootstrap", "0", "--mode", "full", "--lr", "1e-3", "--epochs", "2",
               "--batch", "6", "--split", "kfold:2")  # fmt: skip
    run(few, "finetune", *options, "--output", "unbroken")
    batch, steps = Workshop.batch, []

    def breaks(workshop, ticket):
        steps.append(ticket)
        if len(steps) == 8:  # a fold takes two epochs of two steps
            raise KeyboardInterrupt
        return batch(workshop, ticket)

    monkeypatch.setattr(Workshop, "batch", breaks)
    with pytest.raises(Interrupted):
        run(few, "finetune", *options, "--output", "broken")
    assert not (few / "broken").exists()
    assert not list((few / "broken.training" / "fold-1").glob("checkpoint-*"))
    assert "begun with split" in refused(few, "finetune", *options, "--split", "kfold:3", "--output", "broken")
    monkeypatch.setattr(write_tuned, "_WORTH_SAYING", 0)
    done = run(few, "finetune", *options, "--output", "broken")
    assert "fold 1/2 fold 1 is over" in done.output
    assert re.search("broken needs about .* more for 1 encoder and the rows as seen", done.output)
    assert len(steps) == 10, "the second epoch of the second fold is all that was trained again"
    for ours, other in zip(fold_runs(few / "broken"), fold_runs(few / "unbroken"), strict=True):
        theirs = weights(other)
        assert all(tensor.equal(theirs[name]) for name, tensor in weights(ours).items())
    np.testing.assert_array_equal(probabilities(few / "broken"), probabilities(few / "unbroken"))
    assert metrics(few / "broken")["history"] == metrics(few / "unbroken")["history"]
    assert not (few / "broken.training").exists()


def test_a_fold_that_tests_rows_which_a_head_has_seen_does_not_start_from_it(ground, tuned):
    slow = ("--mode", "frozen", "--epochs", "1", "--head-lr", "1e-7", "--split", "leave-out:split")
    done = run(ground, "finetune", *QUICK, *slow, "--init-head", "frozen", "--output", "started")
    assert "split=train, split=val: begins with a new head, since frozen trained or tuned" in done.output
    ours, before = table(ground / "started"), table(tuned["frozen"])
    test = before.index[before["split"] == "test"]
    np.testing.assert_allclose(ours["y_prob"][test], before["y_prob"][test], atol=1e-3)
    seen = before.index.difference(test)
    assert np.abs(ours["y_prob"][seen] - before["y_prob"][seen]).max() > 1e-2


def test_an_encoder_that_has_seen_rows_which_are_tested_is_told_of(ground, tuned):
    options = ("--input", "reads.tsv", "--model", "full", "--mode", "frozen", "--epochs", "1", "--bootstrap", "0")
    run(ground, "finetune", *options, "--split", "kfold:2", "--output", "again")
    (note,) = [note for note in metrics(ground / "again")["notes"] if "encoder in" in note]
    assert re.search("WARNING: 192 of 240 rows that are tested trained or tuned the encoder in .*full", note)


def test_folds_of_one_class_are_refused_as_heads_train_does(ground):
    words = (*QUICK, "--split", "leave-out:label")
    ours = refused(ground, "finetune", *words, "--mode", "full", "--output", "classes")
    assert ours == refused(ground, "train", *words, "--head", "mlp", "--output", "classes")


@pytest.mark.slow
def test_two_processes_train_the_folds_that_one_trains(few, ground):
    options = ["--features", "few.zarr", "--bootstrap", "0", *FULL, "--split", "kfold:2", "--batch", "8",
               "--hidden-dropout", "0", "--attention-dropout", "0", "--dropout", "0", "--device", "cpu"]  # fmt: skip
    run(few, "finetune", *options, "--output", "one")
    in_two_processes(few, "finetune", *options, "--output", "two")
    np.testing.assert_allclose(probabilities(few / "two"), probabilities(few / "one"), atol=1e-3)
