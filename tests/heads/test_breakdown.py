"""Each stratum is judged as its rows alone would be, and says what it is too small for."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest

from embedcache.errors import HeadError
from heads.data.strata import Strata, numeric_bins, parse_strata
from heads.data.target import Target
from heads.deciding.decisions import Decided, Decisions
from heads.judging.breakdown import breakdown, mean_records, means, records, to_json
from heads.judging.metrics import evaluate
from heads.judging.results import Model


def contexts(rows=300, seed=0):
    """Two classes in three strata; the last stratum has negatives only, and some rows have no stratum."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, 3, rows)
    yes = (rng.random(rows) < 0.3) & (codes != 2)
    p = np.clip(0.5 * yes + 0.5 * rng.random(rows), 0, 1)
    target = Target("binary", ("no", "yes"), yes.astype(np.int64))
    head = Model("head", Decisions.fixed(0.4), Decided(np.stack([1 - p, p], 1), (p > 0.4).astype(np.int64)))
    return target, [head], Strata("context", codes, ("CG", "CHG", "CHH"))


def prior(rows):
    """A baseline that says the same of every row."""
    return Model("prior only", Decisions.fixed(0.5), Decided(np.tile([0.8, 0.2], (rows, 1)), np.zeros(rows, np.int64)))


def test_baselines_stand_beside_the_head_in_every_stratum():
    target, models, strata = contexts()
    models.append(prior(len(target)))
    parts = breakdown(target, models, strata, resamples=20, seed=4)
    for code, part in enumerate(parts):
        rows = np.flatnonzero(strata.codes == code)
        assert [name for name, _ in part.models] == ["head", "prior only"]
        for model, (_, evaluation) in zip(models, part.models, strict=True):
            said = model.decided
            alone = evaluate(target.take(rows), said.outputs[rows], said.predictions[rows], resamples=20, seed=4)
            assert repr(evaluation) == repr(alone)
    lines = records(parts)
    assert [(line["stratum"], line["model"]) for line in lines[:3]] == [
        ("CG", "head"), ("CG", "prior only"), ("CHG", "head"),
    ]  # fmt: skip
    found = to_json(parts)["context"]["CG"]
    assert (found["auroc"], found["baselines"]["prior only"]["auroc"]) == (lines[0]["auroc"], 0.5)
    assert means(parts)["context"]["baselines"]["prior only"]["auroc"] == pytest.approx(0.5)
    assert [(line["stratum"], line["model"]) for line in mean_records(parts)] == [
        ("mean, weighted by rows", "head"), ("mean, weighted by rows", "prior only"),
    ]  # fmt: skip


def test_a_stratum_is_judged_as_its_rows_alone():
    target, models, strata = contexts()
    groups = np.arange(len(target)) // 5
    outputs, predictions = models[0].decided.outputs, models[0].decided.predictions
    parts = breakdown(target, models, strata, resamples=30, groups=groups, seed=4)
    assert [part.name for part in parts] == ["CG", "CHG", "CHH"]
    for code, part in enumerate(parts):
        rows = np.flatnonzero(strata.codes == code)
        alone = evaluate(target.take(rows), outputs[rows], predictions[rows], resamples=30, groups=groups[rows], seed=4)
        assert repr(part.evaluation) == repr(alone)  # by repr, since NaN is not equal to itself


def test_a_stratum_of_one_class_has_no_ranking_metrics_and_says_so():
    parts = breakdown(*contexts(), resamples=20)
    line = records(parts)[2]
    assert line["auroc"] is None
    assert line["auprc_low"] is None
    assert line["acc"] is not None
    assert "has no rows of class yes: AUROC and AUPRC are not defined" in str(line["note"])
    assert line["detection_yes"] is None
    assert 0 < line["detection_no"] < 1


def test_a_small_stratum_is_noted_and_an_empty_one_left_out():
    target, models, strata = contexts()
    codes = np.where(np.arange(len(target)) < 4, 3, np.where(strata.codes == 0, -1, strata.codes))
    parts = breakdown(target, models, Strata("context", codes, ("CG", "CHG", "CHH", "new")), resamples=0)
    assert [part.name for part in parts] == ["CHG", "CHH", "new"]
    assert any("few rows" in note for note in parts[2].evaluation.notes)


def test_a_group_as_stratum_is_one_unit_or_its_rows():
    target, models, strata = contexts()
    groups = strata.codes.copy()
    as_unit = breakdown(target, models, strata, groups=groups, resamples=20)
    assert as_unit[0].evaluation.intervals["acc"] is None
    assert "has 1 group: it gets no intervals" in as_unit[0].evaluation.notes
    by_row = breakdown(target, models, strata, resamples=20)
    assert by_row[0].evaluation.intervals["acc"] is not None


def test_the_lines_of_a_table_are_flat_and_alike():
    target, models, strata = contexts()
    predictions = models[0].decided.predictions
    lines = records(breakdown(target, models, strata, resamples=20))
    assert {tuple(line) for line in lines} == {tuple(lines[0])}
    file = io.StringIO()
    writer = csv.DictWriter(file, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    read = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert [line["stratum"] for line in read] == ["CG", "CHG", "CHH"]
    assert float(read[0]["auroc_low"]) <= float(read[0]["auroc"]) <= float(read[0]["auroc_high"])
    inside = strata.codes == 0
    yes = target.values[inside] == 1
    assert int(read[0]["rows_yes"]) == yes.sum()
    assert float(read[0]["detection_yes"]) == pytest.approx(predictions[inside][yes].mean())
    assert float(read[0]["positive_rate"]) == pytest.approx(predictions[inside].mean())
    assert read[2]["auroc"] == ""


def test_json_holds_the_evaluations_by_column_and_stratum():
    found = json.loads(json.dumps(to_json(breakdown(*contexts(), resamples=20)), allow_nan=False))
    assert list(found) == ["context"]
    assert list(found["context"]) == ["CG", "CHG", "CHH"]
    assert found["context"]["CHH"]["auroc"] is None
    assert found["context"]["CHH"]["notes"]
    assert len(found["context"]["CG"]["auroc_ci"]) == 2


def test_quantiles_of_a_quantity_are_judged_by_stratum_too():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(200)
    outputs = np.sort(values[:, None] + rng.standard_normal((200, 2)), axis=1)
    strata = Strata("gene", np.arange(200) % 2, ("a", "b"))
    head = Model("head", Decisions("regression", 2, quantiles=(0.5, 0.9)), Decided(outputs, outputs[:, 0]))
    lines = records(breakdown(Target("regression", ("psi",), values), [head], strata, resamples=20))
    over = values[::2] - outputs[::2, 1]
    assert lines[0]["pinball_0.9"] == pytest.approx(np.maximum(0.9 * over, -0.1 * over).mean())
    assert lines[0]["spearman_p"] < 0.05
    assert "prevalence" not in lines[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("context", ("context", ())),
        ("length:200,500", ("length", (200.0, 500.0))),
        ("gc: 0.4 , 5e-1", ("gc", (0.4, 0.5))),
        ("a:b:-1", ("a:b", (-1.0,))),
    ],
)
def test_strata_are_a_column_and_edges(text, expected):
    assert parse_strata(text) == expected


@pytest.mark.parametrize("text", ["length:", "length:200,", "length:short,long"])
def test_edges_that_are_no_numbers_are_refused(text):
    with pytest.raises(HeadError, match="is no list of numbers; name a column, or a numeric column and rising edges"):
        parse_strata(text)


@pytest.mark.parametrize("text", ["length:500,200", "length:200,200", "length:nan", "length:1,inf"])
def test_edges_that_do_not_rise_are_refused(text):
    with pytest.raises(HeadError, match=f"--strata {text}: the edges do not rise from number to number"):
        parse_strata(text)


def test_edges_without_a_column_are_refused():
    with pytest.raises(HeadError, match="--strata :1,2 names no column"):
        parse_strata(":1,2")


def test_a_bin_holds_its_lower_edge_and_a_missing_number_has_none():
    codes, names = numeric_bins(np.array([199, 200, 499.5, 500, 1e9, np.nan, -np.inf]), (200, 500), "length")
    assert codes.tolist() == [0, 1, 1, 2, 2, -1, 0]
    assert names == ("length < 200", "200 <= length < 500", "length >= 500")
    codes, names = numeric_bins(np.array([0, 1], np.int8), (0.5,), "flag")
    assert codes.tolist() == [0, 1]
    assert names == ("flag < 0.5", "flag >= 0.5")


def test_text_cannot_be_cut_into_bins():
    with pytest.raises(HeadError, match="column 'context' holds no numbers and cannot be cut into bins"):
        numeric_bins(np.array(["CG", "CHH"]), (200,), "context")
    with pytest.raises(HeadError, match="need one edge or more"):
        numeric_bins(np.array([1.0]), (), "length")


def test_strata_of_other_rows_are_refused():
    target, models, strata = contexts()
    with pytest.raises(HeadError, match="300 rows need one stratum each, and 'context' has 299"):
        breakdown(target, models, Strata("context", strata.codes[1:], strata.names))


def test_means_over_the_strata_are_weighted_by_their_rows():
    parts = breakdown(*contexts(), resamples=0)
    (found,) = means(parts).items()
    known = [part.evaluation for part in parts if not math.isnan(part.evaluation.values["auprc"])]
    expected = np.average([one.values["auprc"] for one in known], weights=[one.rows for one in known])
    assert found[0] == "context"
    assert found[1]["auprc"] == pytest.approx(expected)
    assert means(parts[:1]) == {}
