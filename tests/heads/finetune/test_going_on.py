"""A training that is killed, shared among processes, or gone astray."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from heads.finetune.trackers import trackers_at
from tests.heads.finetune.test_modes import QUICK, metrics, probabilities
from tests.heads.program import in_two_processes, refused, run
from tests.processes import Program

DROPOUT = ("--mode", "full", "--epochs", "3", "--lr", "1e-3", "--batch", "16", "--mixup", "0.4", "--mask", "0.05")


def weights(folder: Path) -> dict:
    return load_file(folder / "encoder" / "model.safetensors")


@pytest.mark.slow
def test_a_training_killed_within_an_epoch_goes_on_to_the_same_weights(ground):
    options = [*QUICK, *DROPOUT, "--accumulate", "2", "--save-steps", "2"]
    run(ground, "finetune", *options, "--output", "unbroken")
    work = ground / "killed.training"
    # the second epoch has steps 6 to 10: it waits at 8, in the midst of it
    kept = work / "checkpoint-8" / "journal.json"
    waits = (
        "import time\nfrom pathlib import Path\nfrom heads.finetune.training import Workshop\nbatch = Workshop.batch\n"
        f"Workshop.batch = lambda *a: (time.sleep(200 * Path({str(kept)!r}).exists()), batch(*a))[1]"
    )
    killed = Program("heads", ("finetune", *options, "--output", "killed"), cwd=ground, before=waits)
    while not kept.exists() and killed.poll() is None:
        time.sleep(0.02)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not (ground / "killed").exists()
    best_before = (work / "best.safetensors").read_bytes()
    assert best_before
    done = run(ground, "finetune", *options, "--output", "killed")
    assert done.exit_code == 0
    np.testing.assert_array_equal(probabilities(ground / "killed"), probabilities(ground / "unbroken"))
    ours, theirs = weights(ground / "killed"), weights(ground / "unbroken")
    assert all(tensor.equal(theirs[name]) for name, tensor in ours.items())
    assert metrics(ground / "killed")["history"] == metrics(ground / "unbroken")["history"]
    assert not work.exists()


@pytest.mark.slow
def test_two_processes_train_what_one_trains(ground):
    options = [*QUICK, "--mode", "full", "--epochs", "1", "--lr", "1e-3", "--batch", "48", "--hidden-dropout", "0",
               "--attention-dropout", "0", "--dropout", "0", "--device", "cpu", "--schedule", "constant",
               "--mixup", "0.6", "--save-steps", "1", "--keep-checkpoints"]  # fmt: skip
    run(ground, "finetune", *options, "--output", "one")
    in_two_processes(ground, "finetune", *options, "--output", "two")
    one = weights(ground / "one")
    for name, tensor in weights(ground / "two").items():
        # keys all shifted alike change no attention: their bias has no gradient but rounding, which Adam makes steps of
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(tensor, one[name], atol=1e-4)
    np.testing.assert_allclose(probabilities(ground / "two"), probabilities(ground / "one"), atol=1e-3)
    for own, other in zip(metrics(ground / "two")["history"], metrics(ground / "one")["history"], strict=True):
        assert own["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert own["val_loss"] == pytest.approx(other["val_loss"], rel=1e-4)
    # in the midst of the epoch: a training that goes on from there tells the loss of all processes
    within = [
        json.loads((ground / f"{name}.training" / "checkpoint-2" / "journal.json").read_text())
        for name in ("two", "one")
    ]
    assert within[0]["loss"] == pytest.approx(within[1]["loss"], rel=1e-4)
    assert within[0]["loss"] > 0


def test_a_loss_that_is_no_number_stops_with_the_ids_of_its_batch(ground):
    sentence = refused_in(
        ground, "--mode", "full", "--lr", "1e18", "--epochs", "2", "--clip", "0", "--output", "astray"
    )
    assert re.search(r"not a finite number in step \d+, a batch of r\d+, r\d+.*lower --lr", sentence)
    assert not (ground / "astray").exists()


def refused_in(folder: Path, *options: str) -> str:
    from embedcache.errors import HeadError

    with pytest.raises(HeadError) as caught:
        run(folder, "finetune", *QUICK, *options)
    return str(caught.value)


def test_a_folder_of_another_training_is_not_gone_on_with(ground):
    astray = ("--mode", "full", "--lr", "1e18", "--clip", "0", "--batch", "16", "--save-steps", "1")
    refused_in(ground, *astray, "--output", "other")  # leaves the checkpoint of its first step
    sentence = refused_in(ground, "--mode", "full", "--lr", "2e-5", "--clip", "0", "--batch", "16", "--output", "other")
    assert re.search(r"begun with lr 1e\+18, and this one has 2e-05.*--restart", sentence)
    done = run(ground, "finetune", *QUICK, "--mode", "frozen", "--epochs", "1", "--output", "other", "--restart")
    assert done.exit_code == 0


def test_restart_removes_trainings_only(ground):
    (ground / "mine.training").mkdir()
    (ground / "mine.training" / "thesis.tex").write_text("...")
    assert "it has no plan.json" in refused(
        ground, "finetune", *QUICK, "--mode", "frozen", "--output", "mine", "--restart"
    )


def test_trackers_write_into_the_run(ground):
    run(
        ground,
        "finetune",
        *QUICK,
        "--mode",
        "frozen",
        "--epochs",
        "2",
        "--report-to",
        "tensorboard",
        "--output",
        "told",
    )
    assert list((ground / "told" / "logs").rglob("events.out.tfevents.*"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the trackers' own libraries
@pytest.mark.parametrize(("tracker", "file"), [("mlflow", "mlflow.db"), ("wandb", "run-*.wandb")])
def test_each_fold_has_a_run_of_its_own_in_a_tracker(ground, tracker, file):
    pytest.importorskip(tracker)
    options = ["--mode", "frozen", "--epochs", "1", "--split", "kfold:2", "--report-to", tracker]
    run(ground, "finetune", *QUICK, *options, "--output", tracker)
    assert all(len(list((ground / tracker / fold / "logs").rglob(file))) == 1 for fold in ("fold-1", "fold-2"))


def test_trackers_ask_no_server_unless_the_environment_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    with trackers_at(tmp_path / "logs", (), "run"):
        assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/logs/mlflow.db"
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        assert os.environ["WANDB_MODE"] == "online"
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert not (tmp_path / "logs").exists()


@pytest.mark.skipif(find_spec("wandb") is not None, reason="it is here")
def test_a_tracker_that_is_not_here_is_named_with_the_line_to_type(ground):
    assert "pip install wandb" in refused(ground, "finetune", *QUICK, "--mode", "frozen", "--report-to", "wandb")


def test_steps_of_many_small_batches_are_those_of_one_large_one(ground):
    plain = [*QUICK, "--mode", "top", "--top-layers", "1", "--epochs", "1", "--hidden-dropout", "0",
             "--attention-dropout", "0", "--dropout", "0"]  # fmt: skip
    run(ground, "finetune", *plain, "--batch", "48", "--output", "large")
    run(ground, "finetune", *plain, "--batch", "24", "--accumulate", "2", "--output", "small")
    np.testing.assert_allclose(probabilities(ground / "small"), probabilities(ground / "large"), atol=1e-4)
    small, large = (metrics(ground / name)["history"][0]["train_loss"] for name in ("small", "large"))
    assert small == pytest.approx(large, rel=1e-3)
