"""Every kind of head through the program: what it can learn, what it leaves, and that what it leaves works again."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cli.heads import heads
from tests.heads.program import refused, run
from tests.heads.stores import ROWS, planted, write_store
from tests.processes import Program

SMALL = {
    "lr": ["--c", "0.1,1"],
    "mlp": ["--hidden", "16", "--epochs", "15", "--lr", "1e-2"],
    "lightgbm": ["--rounds", "20"],
    "knn": ["--k", "10,20"],
    "prototype": [],
    "ridge": ["--alpha", "1,100"],
    "quantile": ["--alpha", "1", "--quantiles", "0.1,0.5,0.9"],
}
CLASSES = [(kind, "label") for kind in ("lr", "mlp", "lightgbm", "knn", "prototype")]
LABELS = [(kind, "a,b") for kind in ("lr", "mlp", "lightgbm", "knn")]
QUANTITIES = [(kind, "amount") for kind in ("ridge", "quantile", "mlp", "lightgbm", "knn")]


@pytest.fixture(scope="module")
def rich(tmp_path_factory, data, columns):
    """A store whose rows say a class, two labels, a quantity, lengths and weights; and no sequences."""
    X, codes, _ = data
    rng = np.random.default_rng(3)
    amount = X.astype(np.float64) @ rng.standard_normal(X.shape[1])
    more = {
        "a": codes,
        "b": (X[:, 0] > X[:, 0].mean()).astype(int),
        "amount": amount + rng.standard_normal(ROWS),
        "length": rng.integers(50, 600, ROWS),
        "w": rng.random(ROWS),
    }
    plain = {name: values for name, values in columns.items() if name != "sequence"}
    return write_store(tmp_path_factory.mktemp("rich") / "rich.zarr", X, plain | more)


def columns_of(file):
    """The columns of a parquet file as arrays."""
    table = pq.read_table(file)
    return {name: np.array(table[name].to_pylist(), object if "y_set" in name else None) for name in table.column_names}


def rows_of(table, split):
    """Those of one split."""
    return {name: values[table["split"] == split] for name, values in table.items()}


def train(folder, store, *words):
    """Train without intervals; return what it said, and its metrics."""
    done = run(folder, "train", "--features", store, "--bootstrap", "0", "--output", "out", "--overwrite", *words)
    assert done.exit_code == 0, done.output
    return done.stdout, json.loads((folder / "out" / "metrics.json").read_text())


@pytest.mark.parametrize(("kind", "label"), CLASSES + LABELS + QUANTITIES)
def test_a_head_learns_predicts_and_is_evaluated_as_it_was_judged(rich, tmp_path, monkeypatch, kind, label):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said, metrics = train(tmp_path, rich, "--head", kind, "--label", label, *SMALL[kind])
    metric = "spearman" if label == "amount" else "auroc"
    assert metrics["test"][metric] > (0.8 if label == "amount" else 0.65)
    assert f"{kind} head" in said
    assert "chosen:" in said
    run(tmp_path, "predict", "out", "--features", rich, "-o", "p.parquet")
    own, new = pq.read_table(tmp_path / "out" / "predictions.parquet"), pq.read_table(tmp_path / "p.parquet")
    for name in (name for name in new.column_names if name.startswith("y_")):
        if name.startswith("y_pred") and label != "amount":
            assert own[name].to_pylist() == new[name].to_pylist()
        else:
            np.testing.assert_allclose(own[name].to_numpy(), new[name].to_numpy(), rtol=1e-5, atol=1e-6)
    run(tmp_path, "evaluate", "out", "--features", rich, "--bootstrap", "0", "-o", "m.json")
    judged = json.loads((tmp_path / "m.json").read_text())
    assert judged[metric] == pytest.approx(metrics["test"][metric], abs=1e-9)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "heads predict" in card
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


def test_quantiles_rise_along_every_row_and_hold_their_share(rich, tmp_path):
    train(tmp_path, rich, "--head", "quantile", "--label", "amount", "--conformal", "0.2", *SMALL["quantile"])
    table = columns_of(tmp_path / "out" / "predictions.parquet")
    test = rows_of(table, "test")
    assert (test["y_q0.1"] <= test["y_q0.5"]).all()
    assert (test["y_q0.5"] <= test["y_q0.9"]).all()
    assert (test["y_true"] <= test["y_q0.9"]).mean() == pytest.approx(0.9, abs=0.08)
    held = (test["y_low"] <= test["y_true"]) & (test["y_true"] <= test["y_high"])
    assert held.mean() == pytest.approx(0.8, abs=0.1)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["test"]["conformal"]["coverage"] == pytest.approx(held.mean())
    constant, mean = (
        metrics["baselines"][name]["test"]["pinball"] for name in ("quantiles of train only", "mean only")
    )
    assert metrics["test"]["pinball"] < constant < mean


def test_every_row_is_judged_once_by_a_head_that_has_not_seen_it(rich, tmp_path):
    said, metrics = train(tmp_path, rich, "--split", "kfold:3", "--c", "0.1,1")
    assert [fold["fold"] for fold in metrics["folds"]] == ["fold 1", "fold 2", "fold 3"]
    assert metrics["test"]["rows"] == ROWS
    assert metrics["test"]["auroc"] == pytest.approx(np.mean([fold["auroc"] for fold in metrics["folds"]]), abs=0.05)
    assert metrics["baselines"]
    for rival in metrics["baselines"].values():
        assert [fold["fold"] for fold in rival["folds"]] == ["fold 1", "fold 2", "fold 3"]
    folds = (tmp_path / "out" / "report.html").read_text().partition("<h2>Folds</h2>")[2].partition("</table>")[0]
    assert folds.count("<tr>") == 1 + 3 * (1 + len(metrics["baselines"]))
    assert "fold 2: chosen" in said
    assert "mean over 3 folds: AUROC" in said
    assert sorted(folder.name for folder in (tmp_path / "out" / "model").iterdir()) == ["fold-1", "fold-2", "fold-3"]
    table = columns_of(tmp_path / "out" / "predictions.parquet")
    for group in np.unique(table["row"] // 10):
        assert len(set(table["split"][table["row"] // 10 == group])) == 1
    run(tmp_path, "predict", "out", "--features", rich, "-o", "p.parquet")
    assert "while they were held out" in refused(tmp_path, "evaluate", "out", "--features", rich)


def test_nested_folds_and_left_out_groups_give_heads_that_predict(rich, tmp_path):
    _, metrics = train(tmp_path, rich, "--split", "nested:2x2", "--head", "knn", "--k", "10", "--prior", "0.2")
    assert len(metrics["selected"]) == 4
    _, metrics = train(tmp_path, rich, "--split", "leave-out:context", "--head", "prototype")
    assert [fold["fold"] for fold in metrics["folds"]] == ["context=CG", "context=CHG", "context=CHH"]
    run(tmp_path, "predict", "out", "--features", rich, "-o", "p.parquet")
    assert len(pq.read_table(tmp_path / "p.parquet")) == ROWS


def test_a_threshold_for_each_stratum_is_used_when_predicting(rich, tmp_path):
    words = ["--strata", "length:300", "--threshold-by-stratum", "--calibration", "platt", "--c", "0.1"]
    said, metrics = train(tmp_path, rich, *words)
    cuts = metrics["decisions"]["thresholds"]["strata"]
    assert set(cuts) == {"length < 300", "length >= 300"}
    assert set(metrics["breakdown"]["length:300"]) == set(cuts)
    stratum = metrics["breakdown"]["length:300"]["length < 300"]
    assert stratum["baselines"]["stratum only"]["rows"] == stratum["rows"]
    assert f"length < 300 ({stratum['rows']} rows)" in said.partition("test by length:300")[2]
    run(tmp_path, "predict", "out", "--features", rich, "-o", "p.parquet")
    table = columns_of(tmp_path / "p.parquet")
    own = columns_of(tmp_path / "out" / "predictions.parquet")
    assert (table["y_pred"] == own["y_pred"]).all()
    shown = run(tmp_path, "evaluate", "out", "--features", rich, "--strata", "context", "--bootstrap", "0").stdout
    assert "prior only" in shown.partition("CHH")[2]


def test_weights_steps_focal_loss_samplers_and_mixup_go_through(rich, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for words in (
        [
            "--head",
            "lr",
            "--c",
            "0.1",
            "--class-weight",
            "viral=3",
            "--weight",
            "w",
            "--steps",
            "l2,standardise,pca:8,whiten",
        ],
        [
            "--head",
            "lr",
            "--c",
            "0.1",
            "--pos-weight",
            "2",
            "--prior",
            "train",
            "--select",
            "mcc",
            "--threshold",
            "recall:0.9",
        ],
        [
            "--head",
            "mlp",
            *SMALL["mlp"],
            "--focal",
            "2",
            "--sampler",
            "class-group",
            "--mixup",
            "0.3",
            "--patience",
            "2",
        ],
        ["--head", "lightgbm", *SMALL["lightgbm"], "--focal", "1", "--extra", "lambda_l2=1", "--threshold", "cost:5:1"],
        [
            "--head",
            "mlp",
            *SMALL["mlp"],
            "--seeds",
            "0,1",
            "--ensemble",
            "--label-smoothing",
            "0.1",
            "--calibration",
            "isotonic",
        ],
    ):
        _, metrics = train(tmp_path, rich, *words)
        assert metrics["test"]["auroc"] > 0.6, words


def test_a_head_goes_on_from_another_with_its_hidden_layers_frozen(rich, tmp_path):
    train(tmp_path, rich, "--head", "mlp", *SMALL["mlp"])
    (tmp_path / "out").rename(tmp_path / "first")
    words = ["--init", tmp_path / "first", "--freeze", "hidden"]
    train(tmp_path, rich, "--head", "mlp", "--epochs", "3", *words)
    from heads.saving.saved import load

    before, after = (load(tmp_path / name / "model").head.perceptron.weights for name in ("first", "out"))
    changed = [not bool((a == b).all()) for a, b in zip(before, after, strict=True)]
    assert changed == [False, True]
    said = refused(tmp_path, "train", "--features", rich, "--label", "a,b", "--head", "mlp", *words)
    assert "--init" in said
    assert "head mlp goes on" in refused(
        tmp_path, "train", "--features", rich, "--head", "lr", "--init", tmp_path / "first"
    )


def test_strict_refuses_a_split_that_leaks_and_rows_that_are_far(data, columns, tmp_path):
    X, *_ = data
    split = ["train"] * 800 + ["val"] * 300 + ["test"] * 400
    plain = {"label": columns["label"], "split": split}
    leaking = X.copy()
    leaking[1100:1140] = X[:40]
    store = write_store(tmp_path / "leaking.zarr", leaking, plain)
    assert "40 of 400 test rows" in refused(tmp_path, "train", "--features", store, "--strict", "--c", "1")
    clean = write_store(tmp_path / "clean.zarr", X, plain)
    train(tmp_path, clean, "--strict", "--c", "1")
    far = write_store(tmp_path / "far.zarr", X + 30, plain)
    assert "far from those that the head was trained on" in refused(
        tmp_path, "predict", "out", "--features", far, "-o", "p.parquet", "--strict"
    )
    said = run(tmp_path, "predict", "out", "--features", far, "-o", "p.parquet").stdout
    assert "WARNING" in said


def test_sequences_get_the_scores_of_their_store(tmp_path):
    rng = np.random.default_rng(0)
    reads = [
        "".join(rng.choice(list("ACGT"), 80, p=p))
        for p in ([0.3, 0.2, 0.2, 0.3], [0.2, 0.3, 0.3, 0.2])
        for _ in range(150)
    ]
    table = "id,sequence,label\n" + "".join(f"r{i},{read},{i // 150}\n" for i, read in enumerate(reads))
    (tmp_path / "r.csv").write_text(table)
    (tmp_path / "r.fa").write_text("".join(f">r{i}\n{read}\n" for i, read in enumerate(reads)))
    from cli.embedcache import cli

    words = ["extract", "--model", "kmer:3", "--input", str(tmp_path / "r.csv"), "--output", str(tmp_path / "r.zarr")]
    assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
    _, metrics = train(tmp_path, tmp_path / "r.zarr", "--c", "1")
    assert metrics["test"]["auroc"] > 0.8
    run(tmp_path, "predict", "out", "--features", tmp_path / "r.zarr", "-o", "store.parquet")
    run(tmp_path, "predict", "out", "--input", tmp_path / "r.fa", "-o", "raw.parquet")
    store, raw = (pq.read_table(tmp_path / name) for name in ("store.parquet", "raw.parquet"))
    assert store.equals(raw)
    done = CliRunner().invoke(heads, ["predict", str(tmp_path / "out"), "-o", "x"])
    assert done.exit_code == 2
    assert "--features STORE, or --input FILE" in done.output


@pytest.mark.parametrize("form", ["onnx", "sklearn"])
def test_an_exported_head_gives_the_scores_of_predict(rich, data, tmp_path, form):
    pytest.importorskip("onnxruntime")
    train(tmp_path, rich, "--steps", "pca:8", "--c", "0.1", "--calibration", "platt")
    run(tmp_path, "export", "out", "--to", form)
    expected = columns_of(tmp_path / "out" / "predictions.parquet")
    X = data[0].astype(np.float32)[expected["row"]]
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(tmp_path / "out" / "head.onnx"))
        found = session.run(None, {session.get_inputs()[0].name: X})[0][:, 1]
    else:
        np.save(tmp_path / "X.npy", X)
        script = (
            "import numpy as np, sys; from sklearn_head import load\n"
            "np.save('p.npy', load().predict_proba(np.load(sys.argv[1]))[:, 1])"
        )
        folder = tmp_path / "out" / "sklearn"
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "X.npy")], check=True, cwd=folder)
        found = np.load(folder / "p.npy")
    np.testing.assert_allclose(found, expected["y_prob"], atol=1e-5)


def test_options_of_another_kind_are_refused_by_name(rich, tmp_path):
    for words, message in (
        (["--head", "lr", "--hidden", "8"], "--hidden is an option of --head mlp, not of lr"),
        (["--head", "knn", "--c", "1"], "--c is an option of --head lr, not of knn"),
        (["--head", "mlp", "--class-weight", "both"], "takes one --class-weight"),
        (["--pos-weight", "2", "--class-weight", "balanced"], "not both"),
        (["--class-weight", "heavy"], "give none, balanced, both"),
        (["--hidden", "x"], "is not a list of whole numbers"),
        (["--threshold-by-stratum"], "name their column with --strata"),
        (["--head", "mlp", "--freeze", "hidden"], "name its run with --init"),
    ):
        done = CliRunner().invoke(heads, ["train", "--features", str(rich), *words])
        assert done.exit_code == 2, words
        assert message in " ".join(done.output.split()), done.output


def test_a_calibration_that_undoes_the_prior_says_so_and_the_note_on_weights_goes(rich, tmp_path):
    words = ["--class-weight", "balanced", "--c", "0.1", "--prior", "train"]
    assert "as if the classes" in train(tmp_path, rich, "--class-weight", "balanced", "--c", "0.1")[0]
    said, _ = train(tmp_path, rich, *words)
    assert "as if the classes" not in said
    assert "leaves nothing of --prior" not in said
    assert "leaves nothing of --prior" in train(tmp_path, rich, *words, "--calibration", "platt")[0]


def test_quantiles_without_the_median_say_what_the_predictions_are(rich, tmp_path):
    words = ["--head", "quantile", "--label", "amount", "--alpha", "1", "--quantiles", "0.1,0.9"]
    assert "are those of the quantile 0.1" in train(tmp_path, rich, *words)[0]


def test_a_lookup_of_the_stratum_keeps_its_threshold_where_heads_have_one_each(rich, tmp_path):
    words = ["--strata", "length:300", "--c", "0.1", "--threshold", "mcc"]
    both = [train(tmp_path, rich, *words, *more)[1]["baselines"] for more in ([], ["--threshold-by-stratum"])]
    assert both[0]["stratum only"]["test"]["mcc"] == both[1]["stratum only"]["test"]["mcc"]


def test_seeds_of_a_sweep_are_judged_on_the_same_rows(rich, tmp_path):
    words = [
        "--features",
        rich,
        "--split",
        "none",
        "--vary",
        "seed=0,1",
        "--c",
        "1",
        "--bootstrap",
        "0",
        "--output",
        "s",
    ]
    run(tmp_path, "sweep", *words)
    first, second = (columns_of(tmp_path / "s" / f"seed={seed}" / "predictions.parquet") for seed in (0, 1))
    assert (first["split"] == second["split"]).all()


def test_a_sweep_says_what_failed_and_ends_with_1(rich, tmp_path):
    words = ("sweep", "--features", rich, "--c", "1", "--bootstrap", "0", "--vary", "head=lr,mlp", "--output", "s")
    result = run(tmp_path, *words)
    assert result.exit_code == 1
    assert "FAILED: --c is an option of --head lr, not of mlp" in result.output
    assert "1 of 2 runs failed; to see why: heads train --features" in result.output
    assert "--head mlp --output s/head=mlp" in result.output
    assert "next: heads evaluate s/head=lr --features" in result.output
    again = run(tmp_path, *words[:-4], "--vary", "head=lr", "--output", "s")
    assert again.exit_code == 0
    assert "earlier" in again.output


def test_a_value_that_cannot_be_read_stops_a_sweep_before_its_first_run(rich, tmp_path):
    result = run(tmp_path, "sweep", "--features", rich, "--vary", "c=1,x", "--output", "s")
    assert (result.exit_code, (tmp_path / "s").exists()) == (2, False)
    said = refused(tmp_path, "sweep", "--features", "nowhere.zarr", "--vary", "c=1,2", "--output", "s")
    assert "there is no store at nowhere.zarr" in said


def test_a_sweep_of_quantities_chooses_by_their_own_metric(rich, tmp_path):
    words = ("sweep", "--features", rich, "--label", "amount", "--head", "ridge", "--vary", "alpha=1,100")
    said = run(tmp_path, *words, "--bootstrap", "0", "--output", "s").stdout
    assert "alpha 1: val r2 0." in said
    assert "val r2" in (tmp_path / "s" / "sweep.md").read_text()


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_where_it_stopped(rich, tmp_path):
    words = ["sweep", "--features", str(rich), "--vary", "c=0.01,0.1,1", "--vary", "seed=0,1", "--bootstrap", "0"]
    words += ["--class-weight", "none", "--output", "sweep"]
    process = Program("heads", words, cwd=tmp_path)
    first = tmp_path / "sweep" / "c=0.01,seed=0" / "metrics.json"
    while not first.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate()
    before = first.stat().st_mtime_ns
    said = run(tmp_path, *words).stdout
    assert first.stat().st_mtime_ns == before
    assert "finished before" in said
    assert len(list((tmp_path / "sweep").glob("*/metrics.json"))) == 6
    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        assert len([line for line in csv.DictReader(file) if line["run"]]) == 6
    assert "has no option --colour" in " ".join(
        CliRunner().invoke(heads, [*words[:3], "--vary", "colour=red", "--output", str(tmp_path / "x")]).output.split()
    )


def test_planted_features_of_three_classes_are_learned_by_all_that_can(tmp_path):
    X, codes = planted(900, 16, 3)
    store = write_store(tmp_path / "three.zarr", X, {"label": np.array(["a", "b", "c"])[codes].tolist()})
    for kind in ("lr", "mlp", "knn", "prototype"):
        _, metrics = train(tmp_path, store, "--head", kind, *SMALL[kind], "--conformal", "0.2")
        assert metrics["test"]["auroc"] > 0.65
        table = columns_of(tmp_path / "out" / "predictions.parquet")
        test = rows_of(table, "test")
        held = np.mean([true in chosen for true, chosen in zip(test["y_true"], test["y_set"], strict=True)])
        assert held == pytest.approx(0.8, abs=0.12)
