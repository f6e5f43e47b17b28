"""`heads train`, `predict` and `evaluate` on small stores: what they leave, what they say, what they refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from tests.heads.program import ROOT, process, refused, run
from tests.heads.stores import ROWS, planted, write_store


def test_train_with_nothing_but_a_store_leaves_a_whole_run(trained):
    outdir, said = trained
    assert {file.name for file in outdir.iterdir()} == {
        "config.yaml",
        "run_manifest.json",
        "metrics.json",
        "predictions.parquet",
        "predictions_val_test.npz",
        "history.csv",
        "breakdown.csv",
        "split_certificate.json",
        "README.md",
        "model",
        "baselines",
        "plots",
        "report.html",
    }
    assert {file.name for file in (outdir / "plots").iterdir()} == {
        "pr.png",
        "roc.png",
        "calibration.png",
        "confusion.png",
    }
    assert {file.name for file in outdir.parent.iterdir()} == {"reads-lr"}
    for line in ("lr head", "prior only", "stratum only", "kmer:4 lr", "positive class viral", "prevalence"):
        assert line in said
    assert "next: heads predict runs/reads-lr" in said


def test_strata_that_are_the_groups_are_judged_once(store, tmp_path):
    words = ("--split", "kfold:3", "--group", "context", "--strata", "context")
    words += ("--c", "1", "--class-weight", "none", "--bootstrap", "100", "--output", "out")
    said = run(tmp_path, "train", "--features", store, *words).stdout
    table = (tmp_path / "out" / "breakdown.csv").read_text().splitlines()
    held = [tuple(line.split(",")[:3]) for line in table[1:]]
    assert held == [
        ("context", name, model) for name in ("CG", "CHG", "CHH") for model in dict.fromkeys(m for *_, m in held)
    ]
    assert ("context", "CG", "prior only") in held
    assert re.search(r"CG \(500 rows\)\n  lr head +0\.\d+ +0\.\d+ \[", said)


def test_many_strata_are_in_the_file_and_not_on_the_screen(store, tmp_path):
    words = ("--strata", "group", "--group", "none", "--c", "1", "--class-weight", "none", "--bootstrap", "0")
    said = run(tmp_path, "train", "--features", store, *words, "--output", "out").stdout
    assert re.search(r"\ntest by group: \d+ strata, see out/breakdown.csv\n", said)


def test_metrics_and_manifest_have_the_agreed_names(trained, store):
    outdir, _ = trained
    metrics = json.loads((outdir / "metrics.json").read_text())
    assert metrics["n_rows"] == ROWS
    assert len(metrics["history"]) == 16
    for split, rows in (("train", 900), ("val", 300), ("test", 300)):
        found = metrics[split]
        assert found["rows"] == rows
        for name in ("auroc", "auprc", "mcc", "f1", "acc"):
            low, high = found[f"{name}_ci"]
            assert low <= found[name] <= high
        assert {"mcc", "f1", "acc"} <= set(found["at_half"])
    assert set(metrics["baselines"]) == {"prior only", "stratum only", "kmer:4 lr", "onehot:50 lr"}
    assert metrics["baselines"]["prior only"]["test"]["auroc"] == 0.5
    manifest = json.loads((outdir / "run_manifest.json").read_text())
    assert {
        "git_commit_sha",
        "command",
        "args",
        "dataset_path",
        "outdir",
        "hostname",
        "device",
        "started_at_utc",
        "finished_at_utc",
        "python_version",
        "package_versions",
        "resolved_tokenization",
        "store_fingerprint",
        "encoder",
    } <= set(manifest)
    assert manifest["dataset_path"] == str(store)
    config = yaml.safe_load((outdir / "config.yaml").read_text())
    assert config["columns"] == {
        "label": "label",
        "split": "split",
        "group": "group",
        "stratum": "context",
        "weight": None,
    }
    certificate = json.loads((outdir / "split_certificate.json").read_text())
    assert manifest["split_certificate"] == certificate["hash"]


def test_the_chosen_head_is_the_one_scikit_learn_would_choose(trained, data, columns):
    X, codes, _ = data
    parts = np.array(columns["split"])
    scaler = StandardScaler().fit(X[parts == "train"].astype(np.float64))
    Z = scaler.transform(X.astype(np.float64))
    metrics = json.loads((trained[0] / "metrics.json").read_text())
    for trial in metrics["history"]:
        weight = None if trial["class_weight"] == "none" else "balanced"
        model = LogisticRegression(C=trial["C"], class_weight=weight, tol=1e-8, max_iter=1000)
        model.fit(Z[parts == "train"], codes[parts == "train"])
        score = average_precision_score(codes[parts == "dev"], model.predict_proba(Z[parts == "dev"])[:, 1])
        assert trial["val_auprc"] == pytest.approx(score, abs=2e-3)
    best = max(metrics["history"], key=lambda trial: trial["val_auprc"])
    assert metrics["selected"] == best


def test_predictions_hold_every_row_that_took_part(trained, data):
    outdir, _ = trained
    table = pq.read_table(outdir / "predictions.parquet")
    assert table.column_names == ["row", "id", "split", "y_true", "y_prob", "y_pred", "digest"]
    assert len(table) == ROWS
    assert set(table["split"].to_pylist()) == {"train", "val", "test"}
    threshold = json.loads((outdir / "metrics.json").read_text())["threshold"]
    predicted = np.array(table["y_pred"].to_pylist()) == "viral"
    assert (predicted == (table["y_prob"].to_numpy() >= threshold)).all()
    with np.load(outdir / "predictions_val_test.npz") as arrays:
        assert sorted(arrays) == ["test_y_prob", "test_y_true", "val_y_prob", "val_y_true"]
        codes = data[1]
        test = table["row"].to_numpy()[np.array(table["split"].to_pylist()) == "test"]
        assert (arrays["test_y_true"] == codes[test]).all()


def test_evaluate_repeats_the_test_metrics_of_the_run_on_its_own_store(trained, store, tmp_path):
    outdir, _ = trained
    said = run(tmp_path, "evaluate", outdir, "--features", store, "--bootstrap", "100", "-o", "m.json").stdout
    assert "test rows of the training" in said
    judged = json.loads((tmp_path / "m.json").read_text())
    trained_on = json.loads((outdir / "metrics.json").read_text())["test"]
    assert {name: judged[name] for name in trained_on} == trained_on


def test_predict_scores_a_store_without_labels(trained, data, tmp_path):
    outdir, _ = trained
    bare = write_store(tmp_path / "bare.zarr", data[0], {}, quarantined=(3,))
    said = run(tmp_path, "predict", outdir, "--features", bare, "-o", "p.parquet").stdout
    assert "1 rows set aside" in said
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["row", "id", "y_prob", "y_pred"]
    assert len(table) == ROWS - 1
    own = pq.read_table(outdir / "predictions.parquet")
    np.testing.assert_allclose(table["y_prob"], own["y_prob"].to_numpy()[np.arange(ROWS) != 3], rtol=1e-5)


def test_evaluate_on_another_store_takes_all_its_rows_and_matches_classes_by_name(trained, data, tmp_path):
    outdir, _ = trained
    X, codes, _ = data
    labels = np.array(["host", "viral"])[codes[:400]].tolist()
    other = write_store(tmp_path / "other.zarr", X[:400] + 1, {"kind": labels})
    said = run(tmp_path, "evaluate", outdir, "--features", other, "--label", "kind", "--bootstrap", "0").stdout
    assert "all rows" in said
    assert "400 rows" in said
    strange = write_store(tmp_path / "strange.zarr", X[:4], {"label": ["host", "viral", "phage", "host"]})
    assert "has the class 'phage'" in refused(tmp_path, "evaluate", outdir, "--features", strange)


def test_features_of_another_encoder_are_refused_naming_both(trained, data, tmp_path):
    outdir, _ = trained
    other = write_store(tmp_path / "other.zarr", data[0], {}, encoder="someone-else")
    for verb in (
        ["predict", outdir, "--features", other, "-o", "p.parquet"],
        ["evaluate", outdir, "--features", other],
    ):
        said = refused(tmp_path, *verb)
        assert "made-up" in said
        assert "someone-else" in said


def test_three_classes_get_one_probability_each(tmp_path):
    X, codes = planted(900, 16, 3)
    many = write_store(tmp_path / "many.zarr", X, {"label": codes}, alphabet="protein")
    said = run(tmp_path, "train", "--features", many, "--bootstrap", "100").stdout
    assert "no baselines of the sequences: the store keeps none" in said
    outdir = tmp_path / "runs" / "many-lr"
    table = pq.read_table(outdir / "predictions.parquet")
    assert table.column_names == [
        "row",
        "id",
        "split",
        "y_true",
        "y_prob_0",
        "y_prob_1",
        "y_prob_2",
        "y_pred",
        "digest",
    ]
    metrics = json.loads((outdir / "metrics.json").read_text())
    assert metrics["threshold"] is None
    assert metrics["test"]["auroc"] > 0.7
    assert metrics["test"]["mcc"] > metrics["baselines"]["prior only"]["test"]["mcc"] + 0.1
    run(tmp_path, "predict", outdir, "--features", many, "-o", "p.parquet")
    judged = run(tmp_path, "evaluate", outdir, "--features", many, "--bootstrap", "0")
    assert judged.exit_code == 0


def test_rows_without_a_label_or_set_aside_take_no_part(data, columns, tmp_path):
    X = data[0].copy()
    X[[5, 1200]] = np.nan
    labels = [None if i % 100 == 0 else label for i, label in enumerate(columns["label"])]
    holed = write_store(tmp_path / "holed.zarr", X, {"label": labels}, quarantined=(5, 1200), meaningless=True)
    said = run(tmp_path, "train", "--features", holed, "--bootstrap", "0", "--output", "out").stdout
    assert "15 rows without a label take no part" in said
    assert "2 rows set aside at extraction take no part" in said
    assert "WARNING: the encoder has random weights" in said
    assert "random weights" in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["n_rows"] == ROWS - 15 - 1  # row 1200 is both


def test_the_store_may_be_streamed_instead_of_kept_in_memory(trained, store, tmp_path):
    run(tmp_path, "train", "--features", store, "--bootstrap", "0", "--memory", "0", "--output", "out")
    streamed, kept = (
        pq.read_table(outdir / "predictions.parquet")["y_prob"].to_numpy() for outdir in (tmp_path / "out", trained[0])
    )
    np.testing.assert_allclose(streamed, kept, rtol=1e-5)


def test_the_best_strength_at_the_border_is_said(store, tmp_path):
    said = run(tmp_path, "train", "--features", store, "--bootstrap", "0", "--c", "1e-6,1e-5").stdout
    assert "is the largest of the grid" in said


def test_outputs_are_numbered_and_never_overwritten_unasked(store, tmp_path):
    quick = ("train", "--features", store, "--bootstrap", "0", "--c", "0.1,1", "--class-weight", "none")
    for name in ("reads-lr", "reads-lr-2"):
        run(tmp_path, *quick)
        assert (tmp_path / "runs" / name / "metrics.json").exists()
    run(tmp_path, *quick, "--output", "mine", "--positive", "host")
    assert "is not empty" in refused(tmp_path, *quick, "--output", "mine")
    run(tmp_path, *quick, "--output", "mine", "--overwrite")
    assert json.loads((tmp_path / "mine" / "metrics.json").read_text())["classes"] == ["host", "viral"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    assert "replaces runs only" in refused(tmp_path, *quick, "--output", "thesis", "--overwrite")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"label": None}, [], "has no column 'label'; name one with --label. It has row, id, "),
        ({}, ["--label", "lable"], "--label lable: .* has no such column; it has row, id, .*label"),
        ({}, ["--split", "fold"], "--split fold is no column of the store and no plan"),
        ({"label": ["viral"] * ROWS}, [], "only the class 'viral'"),
        ({"label": np.linspace(0, 1, ROWS)}, [], "--head lr cannot learn a measured quantity .*take --head ridge"),
        ({"label": [np.inf, *np.linspace(0, 1, ROWS - 1)]}, ["--head", "ridge"], "infinite value in row 0"),
        ({}, ["--head", "ridge"], "label column 'label' has type string: it must be a column of numbers"),
        ({}, ["--head", "ridge", "--task", "classes"], "--head ridge cannot learn two classes .*take --head lr"),
        ({"label": ["inf", *map(str, np.linspace(0, 1, ROWS - 1))]}, ["--head", "ridge"], "infinite value in row 0"),
        ({}, ["--label", "label,group"], "of several labels each must be 0 or 1"),
        ({}, ["--weight", "context"], "must be a column of numbers"),
        ({"w": [-1.0] * ROWS}, ["--weight", "w"], "is empty or negative in 1,500 rows"),
        ({}, ["--select", "rmse"], "rmse"),
        ({}, ["--steps", "pca"], "pca"),
        ({}, ["--threshold", "recall:2"], "--threshold recall:2"),
        ({}, ["--strata", "label:1,2"], "must be a column of numbers"),
        ({}, ["--split", "kfold:1"], "at least 2 folds"),
        ({}, ["--init", "nowhere"], "there is no run directory nowhere"),
        ({"split": ["train"] * ROWS}, [], "test has no rows"),
        ({"label": ["viral"] + [None] * (ROWS - 1)}, [], "only the class 'viral'"),
        (
            {"label": [0.5] + [None] * (ROWS - 1)},
            ["--task", "regression", "--head", "ridge"],
            "has 1 row with a label",
        ),
        (
            {"label": ["host"] * 900 + ["viral"] * 600, "split": ["train"] * 900 + ["val", "test"] * 300},
            [],
            "train lacks class viral",
        ),
        ({"group": ["one"] * ROWS}, ["--split", "none"], "group"),
        ({"group": ["one"] * ROWS}, ["--split", "leave-out:group"], "two are needed"),
        (
            {"group": [f"g{i}" for i in range(ROWS)]},
            ["--split", "leave-out:group"],
            "take --split kfold:5 --group group",
        ),
        ({}, ["--positive", "phage"], "has the classes host, viral"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(data, columns, tmp_path, changes, options, message):
    wanted = {name: values for name, values in (columns | changes).items() if values is not None}
    bad = write_store(tmp_path / "bad.zarr", data[0], wanted)
    said = refused(tmp_path, "train", "--features", bad, *options)
    assert "\n" not in said
    assert re.search(message, said), said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_said(store, tmp_path):
    assert "torch sees no GPU" in refused(tmp_path, "train", "--features", store, "--device", "cuda")


def test_a_mistake_ends_the_process_with_code_2_and_one_line(tmp_path):
    done = process("train", "--features", "nowhere.zarr", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no store at nowhere.zarr")
    assert done.stderr.count("\n") == 1


def test_our_own_fault_ends_with_code_1_and_names_a_file_with_the_traceback(tmp_path):
    script = (
        "import click; from cli.errors import run\n"
        "@click.group()\ndef program(): pass\n"
        "@program.command()\ndef fail(): raise RuntimeError('first\\nsecond')\n"
        "run(program, 'program')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, "fail"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "unexpected RuntimeError: first second" in done.stderr
    assert "Traceback" not in done.stderr
    (kept,) = tmp_path.glob("program-error-*.txt")
    assert str(kept) in done.stderr
    assert "Traceback" in kept.read_text()


def test_predicting_and_evaluating_do_without_scikit_learn(trained, store, tmp_path):
    block = (
        "import sys\n"
        "for name in [name for name in sys.modules if name.split('.')[0] == 'sklearn'] + ['sklearn']:\n"
        "    sys.modules[name] = None"
    )
    for words in (("predict", "-o", "p.parquet"), ("evaluate", "-o", "m.json", "--bootstrap", "0")):
        done = process(words[0], trained[0], "--features", store, *words[1:], cwd=tmp_path, before=block)
        assert done.returncode == 0, done.stderr


def test_help_imports_nothing_heavy(tmp_path):
    script = (
        "import sys; sys.argv = ['heads', 'train', '--help']\nfrom cli.heads import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'sklearn', 'matplotlib', 'numpy', 'pyarrow'} & set(sys.modules)\nassert not heavy, heavy"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True)
