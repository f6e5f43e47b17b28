"""Scores of windows are put together to scores of their parents, by `heads predict` and `heads evaluate`."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score, f1_score

from embedcache.errors import HeadError
from heads.deciding.decisions import Decisions
from heads.deciding.thresholds import Thresholds
from heads.judging.aggregation import Aggregation
from heads.judging.parents import Parents
from tests.heads.program import refused, run
from tests.heads.stores import planted, write_store

QUICK = ("--bootstrap", "0", "--c", "0.1", "--class-weight", "none")
WINDOWS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of windows, five to a parent and not beside each other, and heads of every kind of target trained on it."""
    folder = tmp_path_factory.mktemp("windows")
    write_store(folder / "windows.zarr", *_windows(1500))
    write_store(folder / "new.zarr", *_windows(400, seed=3))
    for name, label in (("two", "label"), ("three", "kind"), ("labels", "a,b"), ("value", "value")):
        options = () if name == "value" else QUICK[2:]
        kind = ("--head", "ridge") if name == "value" else ()
        by = ("--strata", "context", "--threshold-by-stratum") if name == "two" else ()
        train = ("train", "--features", "windows.zarr", "--label", label, *kind, *options, *by)
        assert run(folder, *train, "--bootstrap", "0", "--group", "parent", "--output", name).exit_code == 0
    return folder


def _windows(rows, seed=0):
    X, codes = planted(rows, seed=0)
    rng = np.random.default_rng(seed)
    parents = rng.permutation(rows) % (rows // WINDOWS)
    first = np.array([np.flatnonzero(parents == one)[0] for one in range(rows // WINDOWS)])
    shared = codes[first][parents]  # all windows of a parent have the label of the first
    centre = X.astype(np.float64).mean(0)
    values = (X + 0.8 * (X.astype(np.float64)[first][parents] - centre)).astype(np.float16)
    number = values.astype(np.float64)[first][parents] @ rng.standard_normal(X.shape[1])
    columns = {
        "label": np.array(["host", "viral"])[shared].tolist(),
        "kind": [("one", "two", "three")[(one + label) % 3] for one, label in zip(parents, shared, strict=True)],
        "a": shared.tolist(),
        "b": (parents % 2).tolist(),
        "value": number.tolist(),
        "parent": [f"contig{one}" for one in parents],
        "context": [("CG", "CHG")[one % 2] for one in parents],
        "sequence": ["ACGT"] * rows,
    }
    return values, columns


def predictions(folder, name, *options):
    out = folder / f"{name}.parquet"
    result = run(folder, "predict", name, "--features", "new.zarr", "-o", out, *options)
    assert result.exit_code == 0
    return pq.read_table(out), result.stdout


def by_parent(folder, name):
    """The predictions of all windows, and the windows of each parent."""
    table, _ = predictions(folder, name)
    parents = pq.read_table(folder / "new.zarr" / "embeddings" / "rows" / "00000000.parquet", columns=["parent"])
    names = parents["parent"].to_pylist()
    return table, {one: np.flatnonzero(np.array(names) == one) for one in dict.fromkeys(names)}


@pytest.mark.parametrize(("how", "together"), [("mean", np.mean), ("max", np.max), ("vote", np.mean)])
def test_two_classes_are_put_together_by_mean_maximum_and_votes(folder, how, together):
    windows, parents = by_parent(folder, "two")
    table, said = predictions(folder, "two", "--aggregate", how)
    assert table.column_names == ["id", "windows", "y_prob", "y_pred"]
    assert table["id"].to_pylist() == list(parents)
    assert set(table["windows"].to_pylist()) == {WINDOWS}
    values = windows["y_prob"].to_numpy() if how != "vote" else np.array(windows["y_pred"].to_pylist()) == "viral"
    expected = np.array([together(values[rows]) for rows in parents.values()])
    np.testing.assert_allclose(table["y_prob"].to_numpy(), expected, atol=1e-12)
    assert "80 predictions" in said
    assert f"{how} of 400 rows by 'parent'" in said
    if how == "vote":
        assert (np.array(table["y_pred"].to_pylist()) == "viral").tolist() == (expected > 0.5).tolist()


def test_the_mean_is_cut_at_the_threshold_of_the_parents_stratum(folder):
    cuts = json.loads((folder / "two" / "model" / "head.json").read_text())["decisions"]["thresholds"]["strata"]
    table, _ = predictions(folder, "two", "--aggregate", "mean")
    numbers = [int(name.removeprefix("contig")) for name in table["id"].to_pylist()]
    cut = np.array([cuts[("CG", "CHG")[one % 2]][0] for one in numbers])
    assert (np.array(table["y_pred"].to_pylist()) == "viral").tolist() == (table["y_prob"].to_numpy() >= cut).tolist()


@pytest.mark.parametrize("how", ["mean", "max", "vote"])
def test_three_classes_keep_probabilities_that_sum_to_1(folder, how):
    windows, parents = by_parent(folder, "three")
    table, _ = predictions(folder, "three", "--aggregate", how)
    names = ["one", "three", "two"]
    found = np.stack([table[f"y_prob_{name}"].to_numpy() for name in names], axis=1)
    np.testing.assert_allclose(found.sum(1), 1)
    scores = np.stack([windows[f"y_prob_{name}"].to_numpy() for name in names], axis=1)
    first = next(iter(parents.values()))
    if how == "mean":
        np.testing.assert_allclose(found[0], scores[first].mean(0))
    if how == "max":
        np.testing.assert_allclose(found[0], scores[first].max(0) / scores[first].max(0).sum())
    assert [names[place] for place in found.argmax(1)][:1] == table["y_pred"].to_pylist()[:1]


def test_labels_are_put_together_one_by_one(folder):
    windows, parents = by_parent(folder, "labels")
    table, _ = predictions(folder, "labels", "--aggregate", "vote")
    for name in "ab":
        said = windows[f"y_pred_{name}"].to_numpy()
        shares = [said[rows].mean() for rows in parents.values()]
        np.testing.assert_allclose(table[f"y_prob_{name}"].to_numpy(), shares)
        assert table[f"y_pred_{name}"].to_pylist() == [int(share > 0.5) for share in shares]


@pytest.mark.parametrize(("how", "together"), [("mean", np.mean), ("max", np.max), ("median", np.median)])
def test_quantities_have_mean_maximum_and_median(folder, how, together):
    windows, parents = by_parent(folder, "value")
    table, _ = predictions(folder, "value", "--aggregate", how)
    values = windows["y_pred"].to_numpy()
    np.testing.assert_allclose(table["y_pred"].to_numpy(), [together(values[rows]) for rows in parents.values()])


def test_what_cannot_be_put_together_so_is_refused(folder):
    common = ("--features", folder / "new.zarr", "-o", "p.parquet", "--aggregate")
    assert "a measured quantity has no votes" in refused(folder, "predict", "value", *common, "vote")
    assert "median is for measured quantities" in refused(folder, "predict", "two", *common, "median")
    said = refused(folder, "predict", "two", *common, "mean", "--by", "contig")
    assert "no column 'contig'" in said
    assert "It has row, id" in said


def test_equal_votes_are_decided_by_the_mean():
    decisions = Decisions("binary", 2, thresholds=Thresholds((0.4,), {}))
    for scores, expected in (((0.9, 0.3), 1), ((0.45, 0.1), 0)):
        aggregation = Aggregation("vote", decisions)
        outputs = np.array([[1 - score, score] for score in scores])
        aggregation.add(np.zeros(2, np.int64), 1, decisions.apply(outputs))
        found = aggregation.finish(1).decided
        assert (found.outputs[0, 1], int(found.predictions[0])) == (0.5, expected)


def test_blocks_make_no_difference_and_windows_without_a_parent_are_counted():
    rng = np.random.default_rng(0)
    names = [None if i % 50 == 0 else f"p{i % 17}" for i in range(1000)]
    scores = rng.random(1000)
    decisions = Decisions("binary", 2, thresholds=Thresholds((0.5,), {}))
    found = []
    for size in (7, 1000):
        aggregation, parents = Aggregation("mean", decisions), Parents("parent")
        for start in range(0, 1000, size):
            part = slice(start, start + size)
            decided = decisions.apply(np.stack([1 - scores[part], scores[part]], axis=1))
            aggregation.add(parents.codes(pa.array(names[part], pa.string())), len(parents), decided)
        found.append(aggregation.finish(len(parents)))
    np.testing.assert_allclose(found[0].decided.outputs, found[1].decided.outputs)
    assert found[0].windows.sum() == 980
    assert "20 windows without a parent are left out" in found[0].notes
    with pytest.raises(HeadError, match="no row names its parent"):
        Aggregation("mean", decisions).finish(0)


def test_parents_whose_windows_are_of_several_strata_get_the_threshold_of_all_rows():
    decisions = Decisions("binary", 2, thresholds=Thresholds((0.5,), {"CG": (0.1,), "CHG": (0.9,)}))
    aggregation = Aggregation("mean", decisions)
    outputs = np.array([[0.7, 0.3]] * 4)
    strata = ["CG", "CG", "CG", "CHG"]
    aggregation.add(np.array([0, 0, 1, 1]), 2, decisions.apply(outputs, strata), strata)
    found = aggregation.finish(2)
    assert found.decided.predictions.tolist() == [1, 0]
    assert any("several strata" in note for note in found.notes)


def test_evaluate_judges_windows_and_parents(folder):
    options = ("--aggregate", "mean", "--strata", "context", "--bootstrap", "100", "-o", folder / "m.json")
    result = run(folder, "evaluate", "two", "--features", "new.zarr", *options)
    judged = json.loads((folder / "m.json").read_text())
    assert (judged["rows"], judged["parents"]["rows"]) == (400, 80)
    assert judged["parents"]["rows_of"] == "parents by 'parent', mean of 400 windows"
    assert sum(part["rows"] for part in judged["parents"]["breakdown"]["context"].values()) == 80
    assert judged["parents"]["auprc"] > judged["auprc"]
    table, _ = predictions(folder, "two", "--aggregate", "mean")
    truth = pq.read_table(folder / "new.zarr" / "embeddings" / "rows" / "00000000.parquet").to_pydict()
    labels = dict(zip(truth["parent"], truth["label"], strict=True))
    true = np.array([labels[name] == "viral" for name in table["id"].to_pylist()])
    assert judged["parents"]["auprc"] == pytest.approx(average_precision_score(true, table["y_prob"].to_numpy()))
    said = np.array(table["y_pred"].to_pylist()) == "viral"
    assert judged["parents"]["f1"] == pytest.approx(f1_score(true, said))
    assert judged["parents"]["auprc_ci"][0] < judged["parents"]["auprc"]
    assert "80 parents" in result.stdout
    assert "400 rows" in result.stdout


def test_the_test_parents_of_the_own_store_are_whole(folder):
    run(
        folder,
        "evaluate",
        "two",
        "--features",
        "windows.zarr",
        "--aggregate",
        "vote",
        "--bootstrap",
        "0",
        "-o",
        "o.json",
    )
    judged = json.loads((folder / "o.json").read_text())
    assert judged["parents"]["rows"] * WINDOWS == judged["rows"] == 300
    assert not any("trained or tuned" in note for note in judged["notes"])


def test_parents_on_both_sides_of_the_split_are_said(folder):
    rows = ("train", "--features", "windows.zarr", *QUICK, "--group", "none", "--output", "loose", "--near", "0")
    assert run(folder, *rows).exit_code == 0
    result = run(folder, "evaluate", "loose", "--features", "windows.zarr", "--aggregate", "mean", "--bootstrap", "0")
    assert "parents trained or tuned the head as well: group by 'parent' when you train" in result.stdout


def test_windows_that_do_not_agree_on_the_label_name_their_parent(folder, tmp_path):
    X, columns = _windows(400, seed=3)
    columns["label"][7] = "host" if columns["label"][7] == "viral" else "viral"
    write_store(tmp_path / "torn.zarr", X + 1, columns)
    said = refused(
        tmp_path, "evaluate", folder / "two", "--features", "torn.zarr", "--aggregate", "mean", "--bootstrap", "0"
    )
    assert f"those of '{columns['parent'][7]}' have" in said
    assert "of 1 of 80 parents" in said


def test_predictions_are_written_as_text_by_the_name_of_the_file(folder):
    for name, delimiter in (("p.csv", ","), ("p.tsv.gz", "\t")):
        run(folder, "predict", "two", "--features", "new.zarr", "-o", name, "--aggregate", "mean")
        read = pyarrow.csv.read_csv(folder / name, parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter))
        assert (read.num_rows, read.column_names) == (80, ["id", "windows", "y_prob", "y_pred"])


def test_predict_says_which_rows_trained_the_head(folder):
    result = run(folder, "predict", "two", "--features", "windows.zarr", "-o", "own.parquet")
    assert "1,200 of 1,500 rows trained or tuned this head" in result.stdout
    assert "trained or tuned" not in run(folder, "predict", "two", "--features", "new.zarr", "-o", "n.parquet").stdout


def test_predict_says_that_the_column_of_the_strata_is_missing(folder, tmp_path):
    X, columns = _windows(400, seed=3)
    del columns["context"]
    write_store(tmp_path / "bare.zarr", X, columns)
    said = run(tmp_path, "predict", folder / "two", "--features", "bare.zarr", "-o", "p.parquet").stdout
    assert "the head has a threshold for each stratum of 'context', and bare.zarr has no such column" in said


def test_by_alone_is_refused(folder):
    result = run(folder, "predict", "two", "--features", "new.zarr", "-o", "p.parquet", "--by", "parent")
    assert (result.exit_code, "--by names the parents" in result.output) == (2, True)
