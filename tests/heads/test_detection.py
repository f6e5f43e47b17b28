"""Detection rates of a measured quantity, by class, with their intervals, in train and evaluate."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedcache.errors import HeadError
from heads.data.strata import Strata
from heads.judging.detection import Detector, detect
from heads.judging.detection_rule import DetectionRule
from heads.judging.results import Judging
from tests.heads.program import refused, run
from tests.heads.stores import planted, write_store

RIDGE = ("--head", "ridge", "--label", "psi", "--alpha", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("psi")
    X, codes = planted(900)
    psi = 10 * (X.astype(np.float64) @ np.random.default_rng(3).standard_normal(24))
    psi -= psi.mean()
    kinds = [None if i % 40 == 0 else "altering" if abs(value) > 30 else "normal" for i, value in enumerate(psi)]
    columns = {"psi": psi.tolist(), "kind": kinds, "label": codes.tolist(), "exon": [f"e{i // 6}" for i in range(900)]}
    write_store(folder / "psi.zarr", X, columns)
    options = (
        "--detect",
        "abs:30",
        "--detect",
        "below:-20",
        "--detect-by",
        "kind",
        "--group",
        "exon",
        "--bootstrap",
        "100",
    )
    result = run(folder, "train", "--features", "psi.zarr", *RIDGE, *options, "--output", "run")
    return folder, result.stdout


def test_train_writes_the_rates_of_every_model_and_class(folder):
    folder, said = folder
    found = json.loads((folder / "run" / "metrics.json").read_text())["detection"]
    assert {rule: held["by"] for rule, held in found.items()} == {"abs:30": "kind", "below:-20": "kind"}
    assert list(found["abs:30"]["test"]) == ["ridge head", "mean only"]
    table = pq.read_table(folder / "run" / "predictions.parquet").to_pydict()
    kinds = pq.read_table(folder / "psi.zarr" / "embeddings" / "rows" / "00000000.parquet")["kind"].to_pylist()
    lines = zip(table["row"], table["split"], table["y_pred"], strict=True)
    altering = [value for row, split, value in lines if split == "test" and kinds[row] == "altering"]
    rate = found["abs:30"]["test"]["ridge head"]["altering"]
    assert (rate["rows"], rate["detected"]) == (len(altering), sum(abs(value) >= 30 for value in altering))
    assert rate["rate_ci"][0] <= rate["rate"] <= rate["rate_ci"][1]
    assert found["abs:30"]["test"]["mean only"]["altering"]["rate"] == 0
    assert "predicted |y| >= 30" in said
    assert f"altering ({len(altering)} rows)" in said
    page = (folder / "run" / "report.html").read_text()
    assert "<h2>Detected in test</h2>" in page
    assert "predicted y &lt;= -20" in page


def test_evaluate_counts_by_the_truth_where_no_column_is_named(folder):
    folder, _ = folder
    options = ("--features", "psi.zarr", "--detect", "abs:30", "--bootstrap", "0", "-o", "m.json")
    said = run(folder, "evaluate", "run", *options).stdout
    found = json.loads((folder / "m.json").read_text())["detection"]["abs:30"]
    table = pq.read_table(folder / "run" / "predictions.parquet").to_pydict()
    test = np.array(table["split"]) == "test"
    true, predicted = (np.array(table[name])[test] for name in ("y_true", "y_pred"))
    hits = found["models"]["run"]["true: |y| >= 30"]
    assert found["by"] == "truth"
    assert hits["rows"] == (np.abs(true) >= 30).sum()
    assert hits["detected"] == ((np.abs(true) >= 30) & (np.abs(predicted) >= 30)).sum()
    assert "true: not |y| >= 30" in said


def test_intervals_draw_whole_groups():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 50)
    values = np.repeat(rng.standard_normal(20), 50)
    classes = Strata("kind", np.zeros(1000, np.int64), ("all", "none"))
    detector = Detector((DetectionRule.parse("0.5"),), classes)
    widths = []
    for of in (groups, None):
        (found,) = detect(detector, values, [("head", values)], Judging(resamples=200), of)
        low, high = found.models[0][1][0].interval
        widths.append(high - low)
    assert widths[0] > 4 * widths[1]
    whole = detect(
        Detector((DetectionRule.parse("-9"),), classes), values, [("head", values)], Judging(resamples=20), groups
    )
    assert whole[0].models[0][1][0].interval == (pytest.approx(0.025 ** (1 / 20)), 1.0)
    none = found.models[0][1][1]
    assert (none.rows, none.interval) == (0, None)
    assert found.to_json()["head"]["none"]["rate"] is None


@pytest.mark.parametrize("given", ["", "x", "abs:-3", "abs:0", "over:3", "inf", "abs:nan", "1:2:3"])
def test_thresholds_that_are_none_are_refused(given):
    with pytest.raises(HeadError, match="give the value from which a row counts as detected"):
        DetectionRule.parse(given)


def test_detection_is_refused_where_it_means_nothing(folder):
    folder, _ = folder
    train = ("train", "--features", "psi.zarr", "--output", "no")
    assert "--detect is for measured quantities" in refused(folder, *train, "--detect", "3")
    assert "--detect-by kind: say from which value" in refused(folder, *train, *RIDGE, "--detect-by", "kind")
    assert "--detect-by what: psi.zarr has no such column" in refused(
        folder, *train, *RIDGE, "--detect-by", "what", "--detect", "3"
    )
