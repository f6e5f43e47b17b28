"""What each mode trains, and that frozen, top and full are one scale with the heads at its end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from embedcache import load_encoder, open_store
from tests.heads.finetune.conftest import ROWS
from tests.heads.program import refused, run

QUICK = ("--features", "reads.zarr", "--bootstrap", "0")


def probabilities(folder: Path) -> np.ndarray:
    return np.asarray(pq.read_table(folder / "predictions.parquet")["y_prob"])


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_frozen_is_heads_train_with_an_mlp(ground, tuned):
    options = ["--epochs", "4", "--batch", "32"]
    run(ground, "train", *QUICK, "--head", "mlp", *options, "--output", "plain")
    ours, theirs = metrics(tuned["frozen"]), metrics(ground / "plain")
    np.testing.assert_allclose(probabilities(tuned["frozen"]), probabilities(ground / "plain"), atol=2e-3)
    assert len(ours["history"]) == len(theirs["history"]) == 4
    for own, other in zip(ours["history"], theirs["history"], strict=True):
        assert own["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
        assert own["val_loss"] == pytest.approx(other["val_loss"], rel=1e-3)
        assert own["lr"] == pytest.approx(other["lr"], rel=1e-6)
    assert not (tuned["frozen"] / "encoder").exists(), "its encoder is the one that it was"


def test_a_run_has_all_that_heads_train_writes(tuned):
    for folder in tuned.values():
        files = {file.name for file in folder.iterdir()}
        assert {
            "metrics.json", "run_manifest.json", "predictions.parquet", "predictions_val_test.npz", "history.csv",
            "report.html", "plots", "README.md", "split_certificate.json", "config.yaml", "model",
        } <= files  # fmt: skip
        assert not folder.with_name(folder.name + ".training").exists()
    manifest = json.loads((tuned["full"] / "run_manifest.json").read_text())
    assert manifest["dataset_path"].endswith("reads.zarr")
    assert manifest["args"]["finetune"]["mode"] == "full"


def changed(folder: Path, before: Path) -> set[str]:
    ours, theirs = load_file(folder / "encoder" / "model.safetensors"), load_file(before / "model.safetensors")
    return {name for name, tensor in ours.items() if not tensor.equal(theirs[f"bert.{name}"])}


def test_top_changes_its_layers_and_nothing_else(ground, tuned):
    found = changed(tuned["top"], ground / "model")
    assert found
    assert all(name.startswith(("encoder.layer.1.", "encoder.layer.2.")) for name in found)
    assert any(name.startswith("embeddings.") for name in changed(tuned["full"], ground / "model"))


def test_top_from_cached_states_is_top_with_the_whole_encoder_below(ground, tuned):
    options = ["--mode", "top", "--top-layers", "2", "--epochs", "2"]
    run(ground, "finetune", *QUICK, *options, "--no-cache", "--output", "uncached")
    np.testing.assert_allclose(probabilities(ground / "uncached"), probabilities(tuned["top"]), atol=1e-5)
    ours = load_file(ground / "uncached" / "encoder" / "model.safetensors")
    for name, tensor in load_file(tuned["top"] / "encoder" / "model.safetensors").items():
        np.testing.assert_allclose(tensor, ours[name], atol=1e-5)


def test_cached_states_can_be_stored_in_half_the_space(ground, tuned):
    options = ["--mode", "top", "--top-layers", "2", "--epochs", "2", "--cache-dtype", "float16", "--keep-checkpoints"]
    run(ground, "finetune", *QUICK, *options, "--output", "half")
    store = open_store(ground / "half.training" / "states.zarr")
    assert (store.dtype, store.per_token, len(store)) == (np.float16, True, ROWS)
    assert store.attrs["blocks"][0]["layer"] == 1
    np.testing.assert_allclose(probabilities(ground / "half"), probabilities(tuned["top"]), atol=2e-2)


def test_the_features_of_a_run_are_those_of_its_encoder(ground, tuned):
    store = open_store(tuned["full"] / "features.zarr")
    encoder = load_encoder(str(tuned["full"]))
    sequences = store.column("sequence").slice(0, 8).to_pylist()
    np.testing.assert_array_equal(encoder.encode(sequences).astype(np.float16), store.read(0, 8))
    assert store.fingerprint != open_store(ground / "reads.zarr").fingerprint


@pytest.mark.slow
def test_full_fine_tuning_learns_a_word_that_frozen_features_cannot_tell(words):
    for mode, options in (("frozen", ["--epochs", "20", "--batch", "32"]), ("full", ["--epochs", "7", "--lr", "3e-3"])):
        shared = [
            "--features",
            "words.zarr",
            "--bootstrap",
            "0",
            "--near",
            "0",
            "--select",
            "auroc",
            "--head-lr",
            "3e-3",
        ]
        run(words, "finetune", *shared, "--mode", mode, *options, "--output", mode)
    assert metrics(words / "frozen")["test"]["auroc"] < 0.8
    assert metrics(words / "full")["test"]["auroc"] > 0.97


def test_what_cannot_be_is_refused_with_a_way_out(ground):
    asked = [
        (["--mode", "top", "--top-layers", "7"], "--top-layers 7.*1 to 3"),
        (["--mode", "frozen", "--lora", "4"], "--lora.*--mode top or full"),
        (["--mode", "top", "--mask", "0.1", "--cache"], "--mask.*--cache"),
        (["--mode", "full", "--split", "kfold:1"], "at least 2 folds"),
        (["--mode", "full", "--model", "kmer:3"], "kmer:3 has no weights.*--mode frozen"),
    ]
    for options, sentence in asked:
        assert re.search(sentence, refused(ground, "finetune", *QUICK, *options)), sentence
