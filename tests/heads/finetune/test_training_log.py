"""The log of runs says what each run's own files say, once."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from embedcache.errors import HeadError
from tests.heads.program import run


def test_an_entry_has_config_epochs_metrics_and_confusion_matrix(ground, tuned, tmp_path):
    run(tmp_path, "log", tuned["full"])
    text = (tmp_path / "TRAINING_HISTORY.md").read_text()
    metrics = json.loads((tuned["full"] / "metrics.json").read_text())
    assert text.startswith("# Training history")
    for said in ("| mode | full |", "| lr | 0.001 |", "| epochs | 2 |", "### Epochs", "### Metrics", "| seed | 0 |"):
        assert said in text
    assert "mixup" not in text
    assert f"best epoch {metrics['selected']['best_epoch']} of 2: val AUPRC" in text
    assert f"{metrics['test']['auroc']:.4f}" in text
    said = pq.read_table(tuned["full"] / "predictions.parquet")
    test = [
        (t, p)
        for s, t, p in zip(*(said[c].to_pylist() for c in ("split", "y_true", "y_pred")), strict=True)
        if s == "test"
    ]
    assert f"| 1 | {test.count((1, 0))} | {test.count((1, 1))} |" in text


def test_a_run_is_logged_once_and_others_below_it(tuned, tmp_path):
    run(tmp_path, "log", tuned["full"])
    first = (tmp_path / "TRAINING_HISTORY.md").read_text()
    assert "already" in run(tmp_path, "log", tuned["full"]).stdout
    assert (tmp_path / "TRAINING_HISTORY.md").read_text() == first
    assert "already" in run(tmp_path, "log", tuned["full"], tuned["frozen"]).stdout
    again = (tmp_path / "TRAINING_HISTORY.md").read_text()
    assert again.startswith(first.rstrip())
    assert again.index("## full,") < again.index("## frozen,")


def test_a_run_that_went_on_from_another_says_what_changed(ground, tuned, tmp_path):
    options = ["--features", "reads.zarr", "--mode", "top", "--top-layers", "1", "--epochs", "1", "--bootstrap", "0"]
    run(ground, "finetune", *options, "--init-head", "frozen", "--output", "later", "--log", tmp_path / "history.md")
    text = (tmp_path / "history.md").read_text()
    before, now = (
        json.loads((ground / name / "metrics.json").read_text())["test"]["auroc"] for name in ("frozen", "later")
    )
    assert "### Change against frozen" in text
    assert f"{before:.4f} -> {now:.4f} ({now - before:+.4f})" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(HeadError, match="metrics.json is missing"):
        run(tmp_path, "log", tmp_path)
    assert not (tmp_path / "TRAINING_HISTORY.md").exists()
