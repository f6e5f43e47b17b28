"""Which rows stop a fit: those of validation, of training, or rows of their own that do nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from embedcache.errors import HeadError
from heads.data.features import ArrayRows
from heads.data.labels import MISSING, encode
from heads.data.target import Examples, Target
from heads.fitting import Problem
from heads.judging.metrics import score
from heads.perceptron import mlp
from heads.perceptron.mlp import MLPOptions
from heads.splitting.splits import STOP, TEST, TRAIN, VAL, Split, check_split, read_split
from heads.splitting.stop_on import StopOn
from heads.trees import boosting
from heads.trees.boosting import BoostingOptions
from tests.heads.program import refused, run
from tests.heads.stores import ROWS, planted, write_store

X, CODES = planted(900)
MANY, THREE = planted(900, 24, 3)
LABELS = np.stack([CODES, X[:, 0] > np.median(X[:, 0])], axis=1).astype(np.int64)
QUANTITY = X.astype(np.float64) @ np.random.default_rng(3).standard_normal(24) / 5
PERCEPTRON = MLPOptions(hidden=(32,), epochs=30, batch_size=64, lr=(3e-2,), schedule="constant", patience=2)
TREES = BoostingOptions(rounds=60, patience=5, learning_rate=(0.3,), cache=None)


def problem(kind, values, select, X=X):
    """A third of the rows trains, a third validates, a third stops."""
    values = np.asarray(values)
    outputs = 1 if kind == "regression" else values.shape[1] if values.ndim == 2 else int(values.max()) + 1
    every = Examples(np.arange(len(X)), Target(kind, tuple("abc"[:outputs]), values))
    train, val, stop = (every.take(np.arange(part, 900, 3)) for part in range(3))
    return Problem(ArrayRows(X), train, val, select, stop=stop)


@pytest.mark.parametrize(("fit", "options"), [(mlp.fit, PERCEPTRON), (boosting.fit, TREES)], ids=["mlp", "lightgbm"])
@pytest.mark.parametrize(
    ("kind", "values", "select", "changes"),
    [
        ("binary", CODES, "auprc", {}),
        ("binary", CODES, "log_loss", {"focal_gamma": 1.0}),
        ("multiclass", THREE, "mcc", {}),
        ("multilabel", LABELS, "auroc", {}),
        ("regression", QUANTITY, "rmse", {}),
        ("regression", QUANTITY, "pinball", {"quantiles": (0.1, 0.9)}),
    ],
)
def test_a_head_that_stops_on_rows_of_its_own_is_the_one_whose_val_rows_are_those(
    fit, options, kind, values, select, changes
):
    given = problem(kind, values, select, MANY if kind == "multiclass" else X)
    options = replace(options, **changes)
    fitted, other = fit(given, options), fit(replace(given, val=given.stop, stop=None), options)
    rows = np.arange(900)
    np.testing.assert_array_equal(fitted.head(given.source, rows), other.head(given.source, rows))
    named = {"trial", "epoch", "part"}
    stopped = [
        {**{k: v for k, v in line.items() if k in named}, "value": line[f"stop_{select}"]} for line in fitted.history
    ]
    validated = [
        {**{k: v for k, v in line.items() if k in named}, "value": line[f"val_{select}"]} for line in other.history
    ]
    assert stopped == validated
    assert fitted.chosen[f"stop_{select}"] == other.chosen[f"val_{select}"]
    outputs = fitted.head(given.source, given.val.rows)
    reached = score(given.val.target, outputs, select, options.quantiles)
    # float32 on the way through the head, or products in bfloat16
    assert fitted.chosen[f"val_{select}"] == pytest.approx(reached, abs=2e-2)
    assert f"stop_{select}" not in {name for line in other.history for name in line}


@pytest.mark.parametrize(
    ("fit", "options"),
    [(mlp.fit, replace(PERCEPTRON, lr=(1e-2,))), (boosting.fit, TREES)],
    ids=["mlp", "lightgbm"],
)
def test_on_noise_training_rows_never_stop_a_fit_and_validation_rows_do(fit, options):
    given = problem("binary", np.random.default_rng(0).integers(0, 2, 900), "log_loss")
    lasting = fit(replace(given, stop=given.train), options)
    brief = fit(replace(given, stop=None), options)
    last = PERCEPTRON.epochs if fit is mlp.fit else TREES.rounds
    assert max(line["epoch"] for line in lasting.history) == last
    assert max(line["epoch"] for line in brief.history) < last
    assert lasting.chosen["stop_log_loss"] < 0.4 < np.log(2) < lasting.chosen["val_log_loss"], (
        "it learned noise by heart"
    )
    assert not any("may do better" in note for note in lasting.notes), "more rounds only fit the training rows better"


def test_training_rows_that_stop_are_binned_once_and_others_are_binned_like_them(tmp_path):
    given = problem("binary", CODES, "auprc")
    options = replace(TREES, rounds=2, cache=tmp_path)
    boosting.fit(replace(given, stop=given.train), options)
    assert len(list(tmp_path.iterdir())) == 2
    boosting.fit(given, options)
    assert len(list(tmp_path.iterdir())) == 3


def test_validation_rows_choose_among_the_points_whatever_stops_them():
    given = problem("binary", CODES, "auprc")
    options = replace(PERCEPTRON, lr=(1e-5, 1e-3, 3e-2), seeds=(0, 1))
    for fitted in (mlp.fit(given, options), boosting.fit(given, replace(TREES, leaves=(2, 15)))):
        values = [trial["val_auprc"] for trial in fitted.trials]
        assert fitted.best == int(np.argmax(values))
        best = {}
        for line in fitted.history:
            best[line["trial"]] = max(best.get(line["trial"], 0), line["stop_auprc"])
        assert [trial["stop_auprc"] for trial in fitted.trials] == pytest.approx(list(best.values()))


def test_members_of_an_ensemble_stop_each_on_their_own():
    fitted = mlp.fit(problem("binary", CODES, "auprc"), replace(PERCEPTRON, seeds=(0, 1), ensemble=True))
    assert (fitted.chosen["seed"], fitted.chosen["stop_auprc"]) == ("all", None)
    assert len({tuple(trial) for trial in fitted.trials}) == 1


def test_rows_that_stop_and_do_not_have_the_metric_are_said():
    given = problem("binary", CODES, "auroc")
    one = np.flatnonzero(given.stop.target.values == 0)
    fitted = mlp.fit(replace(given, stop=given.stop.take(one)), replace(PERCEPTRON, epochs=3))
    assert fitted.chosen["best_epoch"] == 3
    assert fitted.notes == ("auroc is not defined on the rows that stop a fit: the last epoch was taken",)


# the split


def of_column(values, stop=None):
    column = encode(pa.chunked_array([values]), "split")
    return read_split(column, Target("binary", ("a", "b"), np.arange(len(values)) % 2), None, 0, stop)


def test_a_further_value_of_the_split_column_is_a_part_of_its_own():
    values = ["train", " Early ", "val", "test", "early", "other"] * 4
    found = of_column(values, "early")
    assert found.codes[:6].tolist() == [TRAIN, STOP, VAL, TEST, STOP, MISSING]
    assert found.notes == ("4 rows with split = 'other' take no part",)
    assert (of_column(values).codes[[1, 4]] == MISSING).all()


def test_val_that_is_drawn_takes_no_rows_that_stop():
    found = of_column(["train"] * 20 + ["early"] * 5 + ["test"] * 5, "early")
    assert np.bincount(found.codes).tolist() == [16, 4, 5, 5]


def test_a_value_that_the_column_does_not_hold_is_refused_with_those_that_it_does():
    with pytest.raises(
        HeadError, match="--stop-on soon: no row with a label .* 'split'; it holds 'early', 'test', 'train'"
    ):
        of_column(["train", "early", "test"] * 3, "soon")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target("binary", ("a", "b"), np.array([0, 1, 0, 1, 0, 1, 0, 0])), "stop lacks class b. .*; stop a: 2, b: 0"),
        (Target("multilabel", ("a",), np.array([[0, 1, 0, 1, 0, 1, 0, 0]]).T), "stop has the same value .* for a"),
    ],
)
def test_rows_that_stop_and_have_one_class_are_refused_as_those_of_val(target, message):
    with pytest.raises(HeadError, match=message):
        check_split(Split(np.repeat([TRAIN, VAL, TEST, STOP], 2), "a column"), target)


def test_words_are_read_as_the_split_column_is():
    assert [StopOn.parse(word).part for word in (None, "val", "Dev", "training", "early")] == [
        VAL,
        VAL,
        VAL,
        TRAIN,
        STOP,
    ]
    assert StopOn.parse("dev") == StopOn()
    with pytest.raises(HeadError, match="--stop-on Test: test rows judge, and nothing may be chosen by them"):
        StopOn.parse("Test")


# the program

QUICK = ("--head", "mlp", "--hidden", "8", "--epochs", "6", "--bootstrap", "0", "--strata", "context")
EARLY = [("train", "train", "early", "dev", "test")[i // 10 % 5] for i in range(ROWS)]


@pytest.fixture(scope="module")
def parted(tmp_path_factory, data, columns):
    """A store whose split has a further value, with one of its sequences in test, and a run that stops on it."""
    folder = tmp_path_factory.mktemp("stop_on")
    values = data[0].copy()
    values[40] = values[20]
    write_store(folder / "reads.zarr", values, columns | {"split": EARLY})
    done = run(folder, "train", "--features", "reads.zarr", *QUICK, "--stop-on", "early", "--output", "early")
    return folder, done.stdout


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_rows_that_stop_are_a_part_of_the_run_and_in_no_metric_of_val_and_test(parted):
    folder, said = parted
    found = metrics(folder / "early")
    table = pq.read_table(folder / "early" / "predictions.parquet")
    parts = np.array([{"early": "stop", "dev": "val"}.get(part, part) for part in EARLY])
    assert table["split"].to_pylist() == parts.tolist()
    for part in ("train", "val", "test", "stop"):
        chosen = parts == part
        assert found[part]["rows"] == chosen.sum()
        probabilities = np.asarray(table["y_prob"])[chosen]
        outputs = np.stack([1 - probabilities, probabilities], axis=1)
        codes = np.array([label == "viral" for label in table["y_true"].to_pylist()], np.int64)[chosen]
        assert found[part]["auprc"] == pytest.approx(
            score(Target("binary", ("a", "b"), codes), outputs, "auprc"), abs=1e-6
        )
    assert found["stop_on"] == "early"
    assert {"val_auprc", "stop_auprc"} < found["history"][0].keys()
    best = max(found["history"], key=lambda line: line["stop_auprc"])
    assert (found["selected"]["best_epoch"], found["selected"]["stop_auprc"]) == (best["epoch"], best["stop_auprc"])
    assert re.search(r"stop +300 rows .* positive", said)
    assert re.search(r"chosen: .*\(val AUPRC 0\.\d+, stopped by rows of the split 'early'\)", said)


def test_card_report_and_config_say_what_stopped_the_fit(parted):
    folder, _ = parted
    card = (folder / "early" / "README.md").read_text()
    assert "by AUPRC; each fit was stopped early by that of the rows of the split 'early')" in card
    assert "(train 600, stop 300, val 300, test 300)" in card
    assert "stopped by rows of the split &#x27;early&#x27;" in (folder / "early" / "report.html").read_text()
    assert yaml.safe_load((folder / "early" / "config.yaml").read_text())["stop_on"] == "early"


def test_rows_that_stop_are_held_against_all_others(parted):
    folder, _ = parted
    certificate = json.loads((folder / "early" / "split_certificate.json").read_text())
    assert [part["part"] for part in certificate["parts"]] == ["train", "val", "test", "stop"]
    pairs = {(one["part"], one["other"]): one["identical"] for one in certificate["overlaps"]}
    assert pairs == {
        ("val", "train"): 0, ("test", "train"): 0, ("test", "val"): 0,
        ("stop", "train"): 0, ("val", "stop"): 0, ("test", "stop"): 1,
    }  # fmt: skip
    assert certificate["leaks"] == ["1 of 300 test rows have a sequence that is in stop"]
    assert "--strict: the split leaks: 1 of 300 test rows" in refused(
        folder, "train", "--features", "reads.zarr", *QUICK, "--stop-on", "early", "--strict"
    )


def test_a_store_of_other_rows_is_not_judged_by_those_that_stopped(parted, data, columns):
    folder, _ = parted
    values = np.concatenate([data[0], data[0][:50] + 1]).astype(np.float16)
    more = {name: [*column, *column[:50]] for name, column in (columns | {"split": EARLY}).items()}
    write_store(folder / "grown.zarr", values, more)
    said = run(folder, "evaluate", "early", "--features", "grown.zarr", "--bootstrap", "0").stdout
    assert "1,200 rows that trained or tuned the head are left out" in said
    assert "350 rows" in said


def test_folds_and_drawn_splits_stop_on_training_rows(parted):
    folder, _ = parted
    for split, name in (("kfold:2", "folds"), ("none", "drawn")):
        run(
            folder,
            "train",
            "--features",
            "reads.zarr",
            *QUICK,
            "--stop-on",
            "train",
            "--split",
            split,
            "--output",
            name,
        )
        found = metrics(folder / name)
        assert found["stop_on"] == "train"
        assert "stop" not in found
        assert "stop_auprc" in found["history"][0]
        assert "stopped by training rows" in (folder / name / "report.html").read_text()


def test_a_sweep_varies_the_rows_that_stop(parted):
    folder, _ = parted
    options = ("--vary", "stop-on=val,train,early", *QUICK, "--output", "swept")
    done = run(folder, "sweep", "--features", "reads.zarr", *options)
    assert done.exit_code == 0, done.output
    found = [metrics(folder / "swept" / f"stop-on={value}")["stop_on"] for value in ("val", "train", "early")]
    assert found == ["val", "train", "early"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--head", "mlp", "--stop-on", "test"], "--stop-on test: test rows judge"),
        (["--head", "mlp", "--stop-on", "later"], "'split'; it holds 'dev', 'early', 'test', 'train'$"),
        (
            ["--head", "mlp", "--stop-on", "early", "--split", "none"],
            "and --split none is a plan .*: take val or train",
        ),
        (["--head", "lightgbm", "--stop-on", "early", "--split", "kfold:3"], "and --split kfold:3 is a plan"),
    ],
)
def test_rows_that_cannot_stop_are_refused_with_a_way_out(parted, options, message):
    said = refused(parted[0], "train", "--features", "reads.zarr", *options)
    assert "\n" not in said
    assert re.search(message, said), said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--head", kind], f"--stop-on is an option of --head mlp and --head lightgbm, not of {kind}")
        for kind in ("lr", "ridge", "quantile", "knn", "prototype")
    ]
    + [(["--head", "lightgbm", "--patience", "0"], "with --patience 0 none do: leave one out")],
)
def test_heads_that_nothing_stops_refuse_the_option(parted, options, message):
    done = run(parted[0], "train", "--features", "reads.zarr", *options, "--stop-on", "val")
    assert done.exit_code == 2
    assert message in done.output.replace("\n", " ")
