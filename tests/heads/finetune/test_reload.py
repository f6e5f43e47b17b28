"""A run that is read back, in another process and another place, says what it said when it was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from embedcache import load_encoder, open_store
from embedcache.errors import HeadError, ModelError
from tests.heads.finetune.test_modes import QUICK, probabilities
from tests.heads.program import process, run
from tests.processes import command

KINDS = ("frozen", "top", "full", "lora")


def said(file: Path) -> np.ndarray:
    return np.asarray(pq.read_table(file)["y_prob"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_process_says_the_same_of_raw_sequences_bit_by_bit(kind, ground, tuned, tmp_path):
    done = process("predict", tuned[kind], "--input", ground / "reads.tsv", "-o", tmp_path / "p.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(said(tmp_path / "p.parquet"), probabilities(tuned[kind]))


def test_a_run_that_was_moved_brings_its_encoder_along(ground, tuned, tmp_path):
    moved = shutil.copytree(tuned["full"], tmp_path / "elsewhere")
    run(tmp_path, "predict", moved, "--input", ground / "reads.tsv", "-o", tmp_path / "p.parquet")
    np.testing.assert_array_equal(said(tmp_path / "p.parquet"), probabilities(tuned["full"]))


@pytest.mark.parametrize("kind", ["top", "full", "lora"])
def test_extract_takes_a_run_as_its_encoder_and_heads_take_the_store(kind, ground, tuned, tmp_path):
    words = ("extract", "--model", tuned[kind], "--input", ground / "reads.tsv", "--output", tmp_path / "new.zarr")
    command(*words, "--quiet", check=True)
    new, own = open_store(tmp_path / "new.zarr"), open_store(tuned[kind] / "features.zarr")
    assert new.fingerprint == own.fingerprint != open_store(ground / "reads.zarr").fingerprint
    np.testing.assert_array_equal(new.read(0, len(new)), own.read(0, len(own)))
    run(tmp_path, "predict", tuned[kind], "--features", "new.zarr", "-o", "p.parquet")
    np.testing.assert_array_equal(said(tmp_path / "p.parquet"), probabilities(tuned[kind]))


def test_evaluate_on_the_runs_own_features_repeats_its_metrics(tuned, tmp_path):
    run(tmp_path, "evaluate", tuned["full"], "--features", tuned["full"] / "features.zarr", "-o", "m.json")
    again, first = (
        json.loads((tmp_path / "m.json").read_text()),
        json.loads((tuned["full"] / "metrics.json").read_text()),
    )
    assert again["auroc"] == first["test"]["auroc"]


def test_the_saved_encoder_loads_in_transformers(ground, tuned):
    from transformers import BertModel

    theirs = BertModel.from_pretrained(tuned["full"] / "encoder", add_pooling_layer=False).eval()
    encoder = load_encoder(str(tuned["full"]))
    tokens = encoder.tokenize(["ACGTACGTTAGC"])
    with torch.no_grad():
        expected = theirs(input_ids=torch.from_numpy(tokens.ids).long()[None]).last_hidden_state[0]
    np.testing.assert_allclose(encoder.hidden_states(["ACGTACGTTAGC"])[0][-1], expected, atol=2e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_load_in_peft_on_the_published_model(ground, tuned):
    from peft import PeftModel
    from transformers import BertModel

    base = BertModel.from_pretrained(ground / "model", add_pooling_layer=False).eval()
    adapted = PeftModel.from_pretrained(base, str(tuned["lora"] / "encoder")).eval()
    encoder = load_encoder(str(tuned["lora"]))
    tokens = encoder.tokenize(["ACGTACGTTAGC"])
    with torch.no_grad():
        expected = adapted(input_ids=torch.from_numpy(tokens.ids).long()[None]).last_hidden_state[0]
    np.testing.assert_allclose(encoder.hidden_states(["ACGTACGTTAGC"])[0][-1], expected, atol=2e-5)
    plain = load_encoder(str(ground / "model")).hidden_states(["ACGTACGTTAGC"])[0][-1]
    assert np.abs(plain - expected.numpy()).max() > 1e-3, "the adapters have learned something"


def test_merged_adapters_say_the_same_as_separate_ones(ground, tuned):
    options = ["--mode", "full", "--lora", "4", "--epochs", "2", "--lr", "1e-2", "--merge-adapters"]
    run(ground, "finetune", *QUICK, *options, "--output", "merged")
    np.testing.assert_array_equal(probabilities(ground / "merged"), probabilities(tuned["lora"]))
    files = {file.name for file in (ground / "merged" / "encoder").iterdir()}
    assert "model.safetensors" in files
    assert not any("adapter" in name for name in files)
    assert not (tuned["lora"] / "encoder" / "model.safetensors").exists()


def test_adapters_on_other_weights_than_they_were_trained_on_are_refused(ground, tuned, tmp_path):
    folder = shutil.copytree(tuned["lora"] / "encoder", tmp_path / "adapters")
    base = json.loads((folder / "base.json").read_text())
    (folder / "base.json").write_text(json.dumps(base | {"digest": "0" * 64}))
    with pytest.raises(ModelError, match="other weights"):
        load_encoder(str(folder))
    (folder / "base.json").write_text(json.dumps(base | {"directory": str(tmp_path / "gone")}))
    with pytest.raises(ModelError, match="gone, which is not there.*--merge-adapters"):
        load_encoder(str(folder))


def test_a_frozen_run_names_the_encoder_that_it_left_alone(tuned):
    with pytest.raises(ModelError, match="left its encoder as it was"):
        load_encoder(str(tuned["frozen"]))


def test_a_fine_tuning_goes_on_from_another_with_its_head_or_without(ground, tuned):
    shared = ["--input", "reads.tsv", "--model", "full", "--mode", "full", "--epochs", "1", "--lr", "1e-6"]
    shared += ["--bootstrap", "0"]
    run(ground, "finetune", *shared, "--head-lr", "1e-6", "--output", "on")
    np.testing.assert_allclose(probabilities(ground / "on"), probabilities(tuned["full"]), atol=5e-3)
    run(ground, "finetune", *shared, "--head-lr", "1e-6", "--store", "on.zarr", "--reinit-head", "--output", "anew")
    assert np.abs(probabilities(ground / "anew") - probabilities(tuned["full"])).max() > 1e-2
    with pytest.raises(HeadError, match="the head of --model full.*read out by other layers, poolings"):
        run(ground, "finetune", *shared, "--pool", "cls", "--output", "of-cls")


def test_a_head_of_heads_train_is_gone_on_with(ground, tuned):
    run(ground, "train", *QUICK, "--head", "mlp", "--epochs", "2", "--output", "head")
    options = ["--mode", "top", "--top-layers", "1", "--epochs", "1", "--lr", "1e-7", "--head-lr", "1e-7"]
    run(ground, "finetune", *QUICK, *options, "--init-head", "head", "--output", "warm")
    np.testing.assert_allclose(probabilities(ground / "warm"), probabilities(ground / "head"), atol=5e-3)
