"""What a training is told to do, and what it says of itself: on the screen, in metrics.json and in the report."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from cli.heads import heads
from heads.data.features import ArrayRows
from heads.data.target import Examples, Target
from heads.fitting import Problem
from heads.judging import plots
from heads.linear.logistic import LogisticOptions, fit
from tests.heads.program import run
from tests.heads.stores import ROWS, planted, write_store

QUICK = ("--bootstrap", "0", "--c", "0.1", "--class-weight", "none", "--output", "out")


def train(folder, store, *options):
    """Train quickly; return what it said, and its metrics."""
    said = run(folder, "train", "--features", store, *QUICK, "--overwrite", *options).stdout
    return said, json.loads((folder / "out" / "metrics.json").read_text())


def test_split_none_draws_a_split_and_group_none_leaves_the_groups_out(store, tmp_path):
    said, _ = train(tmp_path, store, "--split", "none")
    assert "with groups kept whole, drawn with seed 0 (column 'group')" in said
    said, metrics = train(tmp_path, store, "--split", "none", "--group", "none")
    assert "split: stratified 60/20/20, drawn with seed 0" in said
    assert metrics["test"]["rows"] == ROWS // 5
    columns = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["columns"]
    assert (columns["split"], columns["group"]) == ("none", "none")
    run(tmp_path, "evaluate", "out", "--features", store, "--bootstrap", "100")


@pytest.mark.parametrize("strand", [False, True])
def test_sequences_of_train_in_test_are_counted(data, columns, tmp_path, strand):
    split = ["train"] * 800 + ["val"] * 300 + ["test"] * 400
    X = data[0].copy()
    X[1100:1140] = X[:40]
    both = {}
    if strand:  # the same 30 sequences from the other strand: only the canonical digests agree
        both["rc_digest"] = [i.to_bytes(16, "big") for i in [*range(1470), *range(30)]]
        X = data[0]
    store = write_store(tmp_path / "s.zarr", X, {"label": columns["label"], "split": split} | both)
    said, metrics = train(tmp_path, store)
    expected = (
        "30 of 400 test rows have a sequence whose reverse complement is in train"
        if strand
        else "40 of 400 test rows have a sequence that is in train"
    )
    assert expected in metrics["notes"]
    assert f"LEAK: {expected}" in said
    assert expected in said
    assert expected in (tmp_path / "out" / "report.html").read_text()


def test_few_groups_in_a_part_are_said_and_one_gets_no_interval(data, columns, tmp_path):
    groups = [{"test": f"t{i % 3}", "dev": "v"}.get(split, f"g{i}") for i, split in enumerate(columns["split"])]
    wanted = {"label": columns["label"], "split": columns["split"], "group": groups}
    store = write_store(tmp_path / "s.zarr", data[0], wanted)
    said, metrics = train(tmp_path, store, "--bootstrap", "100")
    assert "test has 3 groups: its intervals are rough" in metrics["notes"]
    assert "val has 1 group: it gets no intervals" in said
    assert metrics["val"]["auprc_ci"] is None
    val = said[said.index("\nval (") : said.index("\ntest (")]
    assert "[" not in val.split("\n")[2]


def test_the_metric_that_chose_the_head_is_the_one_that_is_said(store, tmp_path):
    said, metrics = train(tmp_path, store, "--select", "auroc")
    assert f"(val AUROC {metrics['selected']['val_auroc']:.4f})" in said
    assert "Chosen by val AUROC" in (tmp_path / "out" / "report.html").read_text()


def test_balanced_probabilities_are_called_so(store, tmp_path):
    note = "as if the classes were equally frequent"
    assert note not in train(tmp_path, store)[0]
    said, metrics = train(tmp_path, store, "--class-weight", "balanced")
    assert note in said
    assert any(note in one for one in metrics["notes"])
    assert note in (tmp_path / "out" / "report.html").read_text()


def test_the_kmer_baseline_does_not_depend_on_the_grid_of_the_head(store, tmp_path):
    one, other = (
        train(tmp_path, store, "--c", c, "--class-weight", weight)[1]["baselines"]["kmer:4 lr"]
        for c, weight in (("1e-6", "none"), ("10", "balanced"))
    )
    assert one == other


def test_heads_that_saturate_are_told_apart_by_their_scores():
    # rows whose probabilities are all 1.0 in float32, in perfect order: a ranking on those would be worth half
    X = np.linspace(-1, 1, 400)[:, None].astype(np.float32) * np.ones((1, 2), np.float32)
    X[200:] += 50
    train_codes, val_codes = (np.arange(400) >= 200).astype(np.int64), (np.arange(200) >= 100).astype(np.int64)
    examples = Examples(np.arange(400), Target("binary", (0, 1), train_codes))
    val = Examples(np.arange(200, 400), Target("binary", (0, 1), val_codes))
    fitted = fit(Problem(ArrayRows(X), examples, val, "auroc"), LogisticOptions((1e6,), ("none",)))
    assert fitted.chosen["val_auroc"] > 0.99


@pytest.mark.parametrize(
    ("option", "value"), [("--seed", "-1"), ("--seed", str(2**32)), ("--bootstrap", "1"), ("--bootstrap", "99")]
)
def test_seeds_and_resamples_that_cannot_serve_are_refused(store, tmp_path, option, value):
    for verb in (["train"], ["evaluate", "run"]):
        done = CliRunner().invoke(heads, [*verb, "--features", str(store), option, value])
        assert done.exit_code == 2
        assert option in done.output


def test_of_many_classes_the_most_frequent_are_drawn_and_the_legend_says_so(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_draw", lambda path, curves, *_, legend, **__: drawn.append((curves, legend)))
    labels = np.concatenate([np.arange(14), np.repeat([13, 3, 5, 7, 9], [50, 40, 30, 20, 10])])
    scores = np.random.default_rng(0).dirichlet(np.ones(14), len(labels))
    target = Target("multiclass", tuple(f"class{i}" for i in range(14)), labels)
    plots.draw_curves(tmp_path, target, scores)
    for curves, legend in drawn:
        assert legend == "the 5 most frequent of 14 classes"
        assert [curve.name.split(",")[0] for curve in curves] == ["class13", "class3", "class5", "class7", "class9"]


def test_fourteen_classes_get_plots_and_a_threshold_metric_is_said_to_have_no_effect(tmp_path):
    X, codes = planted(1400, 8, 3)
    codes = codes * 5 + np.arange(1400) % 5
    store = write_store(tmp_path / "many.zarr", X, {"label": codes}, alphabet="protein")
    assert "has no effect" in train(tmp_path, store, "--threshold", "mcc")[0]
    assert "has no effect" not in train(tmp_path, store)[0]
    assert (tmp_path / "out" / "plots" / "pr.png").stat().st_size > 10_000
