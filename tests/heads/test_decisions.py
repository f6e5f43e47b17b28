"""Decisions are made in one order, kept as text, and the same after it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit, softmax

from embedcache.errors import HeadError
from heads.data.target import Target
from heads.deciding.calibration import METHODS
from heads.deciding.decisions import CHOSEN_ON, DecisionOptions, Decisions, fit_decisions
from heads.deciding.prior import PriorShift
from heads.deciding.thresholds import ThresholdRule, best_cut

QUANTILES = (0.05, 0.5, 0.95)
STRATA = ("CG", "CHG", "CHH")
ROWS = 1500


def drawn(kind, rows=ROWS, seed=0):
    """A target and what a head says of it."""
    rng = np.random.default_rng(seed)
    if kind == "regression":
        values = rng.standard_normal(rows)
        spread = np.abs(rng.standard_normal((rows, 1)))
        outputs = (values + rng.standard_normal(rows))[:, None] + spread * np.array([-1, 0, 1])
        return Target("regression", ("effect",), values), outputs
    if kind == "multilabel":
        logits = 2 * rng.standard_normal((rows, 3)) - 1
        return Target("multilabel", ("a", "b", "c"), (rng.random((rows, 3)) < expit(logits)).astype(int)), expit(
            2 * logits
        )
    classes = 2 if kind == "binary" else 4
    logits = 1.5 * rng.standard_normal((rows, classes)) - np.arange(classes) / 2
    codes = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return Target(kind, tuple("abcd"[:classes]), codes), softmax(2 * logits, axis=1)


def strata_of(rows=ROWS):
    return [STRATA[row % 3] for row in range(rows)]


def fitted(kind, seed=0, **options):
    target, outputs = drawn(kind, seed=seed)
    shares = {"binary": [0.6, 0.4], "multiclass": [0.4, 0.3, 0.2, 0.1], "multilabel": [[0.6, 0.4]] * 3}.get(kind)
    return fit_decisions(
        target,
        outputs,
        DecisionOptions(**options),
        strata=strata_of(),
        natural_shares=None if shares is None else np.array(shares),
        trained_shares=None if shares is None else np.full(np.shape(shares), 1 / np.shape(shares)[-1]),
        quantiles=QUANTILES if kind == "regression" else (),
    )


EVERYTHING = [
    *(
        (kind, {"calibration": method, "prior": "train", "by_stratum": True, "alpha": 0.1})
        for kind in ("binary", "multiclass", "multilabel")
        for method in METHODS
    ),
    ("binary", {"threshold": "recall:0.9", "alpha": 0.1, "by_class": True}),
    ("regression", {"alpha": 0.1}),
    ("binary", {}),
    ("multiclass", {}),
]


@pytest.mark.parametrize(("kind", "options"), EVERYTHING)
def test_decisions_read_back_from_text_are_the_same_to_the_bit(kind, options):
    decisions = fitted(kind, **options)
    again = Decisions.from_json(json.loads(json.dumps(decisions.to_json(), allow_nan=False)))
    assert again == decisions
    _, outputs = drawn(kind, seed=1)
    ours, theirs = (vars(made.apply(outputs, strata_of())) for made in (decisions, again))
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_rows_are_decided_alike_one_by_one_and_together(kind):
    decisions = fitted(kind, **({"alpha": 0.1} if kind == "regression" else EVERYTHING[1][1]))
    _, outputs = drawn(kind, rows=30, seed=1)
    together = decisions.apply(outputs, strata_of(30))
    for row in range(30):
        alone = decisions.apply(outputs[row : row + 1], strata_of(30)[row : row + 1])
        np.testing.assert_array_equal(alone.outputs[0], together.outputs[row])
        np.testing.assert_array_equal(alone.predictions[0], together.predictions[row])


def test_the_order_is_prior_then_calibration_then_threshold():
    target, outputs = drawn("binary")
    made = fitted("binary", prior="train", calibration="platt", threshold="mcc", alpha=0.1)
    corrected = PriorShift((0.6 / 0.5, 0.4 / 0.5)).apply("binary", outputs)
    np.testing.assert_allclose(made.prior.apply("binary", outputs), corrected, rtol=1e-12)
    calibrated = made.calibrator.apply("binary", made.prior.apply("binary", outputs))
    assert made.threshold == best_cut(target.values == 1, calibrated[:, 1], ThresholdRule("mcc"))
    decided = made.apply(outputs)
    np.testing.assert_array_equal(decided.outputs, calibrated)
    np.testing.assert_array_equal(decided.predictions, calibrated[:, 1] >= made.threshold)
    np.testing.assert_array_equal(decided.thresholds, np.full(ROWS, made.threshold))
    np.testing.assert_array_equal(decided.sets, made.conformal.apply(corrected))


def test_each_kind_is_decided_in_its_own_way():
    _, outputs = drawn("multiclass")
    decided = fitted("multiclass").apply(outputs)
    np.testing.assert_array_equal(decided.predictions, outputs.argmax(1))
    assert decided.thresholds is None

    _, outputs = drawn("multilabel")
    decisions = fitted("multilabel")
    decided = decisions.apply(outputs)
    assert len(set(decisions.threshold)) == 3
    np.testing.assert_array_equal(decided.predictions, outputs >= np.array(decisions.threshold))
    assert decided.predictions.dtype == np.int64

    _, outputs = drawn("regression")
    decided = fitted("regression", alpha=0.1).apply(outputs[:, ::-1])
    np.testing.assert_array_equal(decided.outputs, outputs)
    np.testing.assert_array_equal(decided.predictions, outputs[:, 1])
    assert decided.intervals.shape == (ROWS, 2)
    assert decided.sets is None

    mean = fit_decisions(Target("regression", ("effect",), np.zeros(5)), np.ones((5, 1)), DecisionOptions())
    np.testing.assert_array_equal(mean.apply(np.full((2, 1), 3.0)).predictions, [3.0, 3.0])


def test_each_row_is_cut_at_the_threshold_of_its_stratum():
    decisions = fitted("binary", by_stratum=True)
    _, outputs = drawn("binary", seed=1)
    strata = [*strata_of(ROWS - 2), "CN", "CN"]
    decided = decisions.apply(outputs, strata)
    own = [decisions.thresholds.strata.get(name, decisions.thresholds.overall)[0] for name in strata]
    assert len(set(own)) == 4
    np.testing.assert_array_equal(decided.thresholds, own)
    np.testing.assert_array_equal(decided.predictions, outputs[:, 1] >= own)
    assert decided.notes == (
        "2 rows are of strata that have no threshold of their own, and take that of all validation rows: CN",
    )


def test_sets_and_intervals_say_that_their_rows_also_chose_the_head():
    for kind in ("binary", "multiclass", "regression"):
        assert fitted(kind, alpha=0.1).notes[-1] == CHOSEN_ON
        assert fitted(kind).notes == ()
    decisions = fitted("multilabel", alpha=0.1)
    assert decisions.conformal is None
    assert decisions.notes == ("no conformal sets: they are for rows of one class each, and these have several labels",)


def test_few_validation_rows_leave_everything_out_and_say_so():
    target, outputs = drawn("binary", rows=7)
    options = DecisionOptions(calibration="isotonic", threshold="f1", by_stratum=True, alpha=0.05)
    decisions = fit_decisions(target, outputs, options, strata=strata_of(7))
    assert decisions.calibrator is None
    assert decisions.conformal is None
    assert decisions.thresholds.strata == dict.fromkeys(STRATA, (0.5,))
    calibration, threshold, strata, conformal = decisions.notes
    assert calibration.startswith("isotonic calibration leaves b as it is: 7 validation rows")
    assert threshold.startswith("the threshold is 0.5 and not tuned")
    assert strata.startswith("3 of 3 strata have no threshold of their own")
    assert conformal.startswith("no conformal sets: 7 validation rows are too few")
    none = fit_decisions(target.take(np.arange(0)), outputs[:0], options, strata=[])
    assert none.threshold == 0.5


def test_probabilities_a_rounding_above_1_are_decided_and_read_back():
    target, outputs = drawn("binary")
    outputs[target.values == 1] = [-1e-7, 1 + 1e-7]
    for method in METHODS:
        decisions = fit_decisions(target, outputs, DecisionOptions(calibration=method, alpha=0.3))
        assert Decisions.from_json(json.loads(json.dumps(decisions.to_json()))) == decisions
        assert decisions.apply(outputs).outputs.max() <= 1


def test_a_stratum_threshold_is_remarked_on_where_there_is_none():
    (note,) = fitted("multiclass", by_stratum=True).notes
    assert note == "--threshold-by-stratum has no effect: a multiclass target has no threshold"


def test_fixed_decisions_are_a_threshold_or_the_most_probable_class():
    outputs = np.array([[0.8, 0.2], [0.6, 0.4]])
    assert Decisions.fixed(0.3).apply(outputs).predictions.tolist() == [0, 1]
    assert Decisions.fixed(None).apply(outputs).predictions.tolist() == [0, 0]
    assert Decisions.fixed(None, 3).apply(np.array([[0.2, 0.1, 0.7]])).predictions.tolist() == [2]
    for decisions in (Decisions.fixed(0.3), Decisions.fixed(None), Decisions.fixed(None, 3)):
        assert Decisions.from_json(json.loads(json.dumps(decisions.to_json()))) == decisions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": "best"}, "--threshold best"),
        ({"calibration": "beta"}, "--calibration beta: give none, temperature, platt, isotonic"),
        ({"alpha": 0.0}, "--conformal 0: give the share"),
        ({"alpha": 0.9}, "--conformal 0.9"),
        ({"alpha": float("nan")}, "--conformal nan"),
        ({"prior": 1.5}, "--prior 1.5: give none, train"),
        ({"prior": {"a": float("nan"), "b": 0.5}}, "--prior a=nan,b=0.5"),
        ({"prior": "test"}, "--prior test"),
    ],
)
def test_options_that_there_are_not_are_refused(options, message):
    with pytest.raises(HeadError, match=message):
        DecisionOptions(**options)


def test_options_that_the_target_does_not_have_are_refused():
    target, outputs = drawn("regression")
    for options in ({"calibration": "platt"}, {"prior": "train"}):
        with pytest.raises(HeadError, match="effect is a measured quantity"):
            fit_decisions(target, outputs, DecisionOptions(**options), quantiles=QUANTILES)
    target, outputs = drawn("binary")
    with pytest.raises(HeadError, match="--threshold-by-stratum"):
        fit_decisions(target, outputs, DecisionOptions(by_stratum=True))
    with pytest.raises(HeadError, match="--prior 0.1: the shares"):
        fit_decisions(target, outputs, DecisionOptions(prior=0.1))


def test_outputs_that_are_not_the_heads_are_refused():
    target, outputs = drawn("binary")
    for wrong in (outputs[:, 1], outputs[:, :1], outputs[:9]):
        with pytest.raises(HeadError, match="outputs of the head are"):
            fit_decisions(target, wrong, DecisionOptions())
    outputs[3, 0] = np.nan
    with pytest.raises(HeadError, match="gives 1 rows no finite output, the first is 3"):
        fit_decisions(target, outputs, DecisionOptions())
    with pytest.raises(HeadError, match=r"are \(4, 3\), and must be \(4, 2\)"):
        fitted("binary").apply(np.ones((4, 3)))
    with pytest.raises(HeadError, match="2 strata for 4 rows"):
        fitted("binary").apply(np.ones((4, 2)), ["CG", "CG"])


def spoiled():
    """Saved decisions, each with one value that must not be there."""
    whole = fitted("binary", calibration="isotonic", prior="train", by_stratum=True, alpha=0.1).to_json()
    lines = fitted("multilabel", calibration="platt").to_json()
    quantity = fitted("regression", alpha=0.1).to_json()
    places = [
        *((whole, ("kind",), value) for value in ("multiclass", "multilabel", "regression", "poem", None, 3, [])),
        *((whole, ("columns",), value) for value in (0, 1, 3, 2.0, True, "2", None, 10**30, 10**400)),
        *((whole, ("quantiles",), value) for value in ([0.5], None, 0.5)),
        *((whole, ("notes",), value) for value in ("text", [1], None)),
        *(
            (whole, (part,), value)
            for part in ("prior", "calibrator", "thresholds", "conformal")
            for value in ([], 1, {})
        ),
        *((whole, ("prior", "factors"), value) for value in ([1], [1, 0], [1, -1], [1, float("inf")], [1, "1"], None)),
        *((whole, ("calibrator", "method"), value) for value in ("platt", "pickle", None, [])),
        *((whole, ("calibrator", "columns"), value) for value in ([], [{}], [{"scores": [], "values": []}], None)),
        (whole, ("calibrator", "columns"), [{"scores": [0.2, 0.1], "values": [0.1, 0.2]}]),
        (whole, ("calibrator", "columns"), [{"scores": [0.1, 0.2], "values": [0.2, 0.1]}]),
        (whole, ("calibrator", "columns"), [{"scores": [0.1, 0.2], "values": [0.2]}]),
        *((whole, ("thresholds", "overall"), value) for value in ([], [0.1, 0.2], [float("nan")], [-1], [True], 0.5)),
        *((whole, ("thresholds", "strata"), value) for value in (None, [], {"CG": []}, {"CG": [2]}, {"CG": 0.5})),
        *((whole, ("conformal", "alpha"), value) for value in (0, 1, "0.1", None, float("nan"))),
        *((whole, ("conformal", "limits"), value) for value in ([0.5], [0.5, 2], [0.5, None])),
        (whole, ("more",), 1),
        (lines, ("thresholds",), None),
        (lines, ("conformal",), whole["conformal"]),
        (lines, ("calibrator", "columns", 0, "slope"), 0),
        (lines, ("calibrator", "columns", 0, "offset"), float("inf")),
        *((quantity, ("quantiles",), value) for value in ([], [0.5], [0.9, 0.5, 0.1], [0.1, 0.5, 1.5])),
        *((quantity, ("conformal", "low"), value) for value in (-1, 3, 0.0, True, None)),
        (quantity, ("conformal", "margin"), float("nan")),
        (quantity, ("prior",), {"factors": [1.0, 1.0, 2.0]}),
        (quantity, ("thresholds",), whole["thresholds"]),
        (quantity, ("calibrator",), whole["calibrator"]),
    ]
    for source, path, value in places:
        copy = json.loads(json.dumps(source))
        inner = copy
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        yield f"{source['kind']}: {path} is {value}", copy
    yield from ((repr(rubbish), rubbish) for rubbish in ([], None, "text", 1, {}))


def reads(values):
    try:
        Decisions.from_json(values)
    except (TypeError, ValueError, KeyError):
        return False
    return True


def test_rubbish_is_not_read_as_decisions():
    assert [what for what, values in spoiled() if reads(values)] == []


def test_whole_decisions_lack_no_field():
    whole = fitted("binary", calibration="platt", prior="train", alpha=0.1).to_json()
    for key in whole:
        with pytest.raises(KeyError):
            Decisions.from_json({name: value for name, value in whole.items() if name != key})
