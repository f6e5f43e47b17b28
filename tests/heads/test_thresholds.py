"""Thresholds are the best of all cuts by scikit-learn's metrics, and every fallback is said."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from embedcache.errors import HeadError
from heads.deciding.thresholds import (
    FEWEST_OF_CLASS,
    FEWEST_ROWS,
    ThresholdRule,
    Thresholds,
    best_cut,
    fit_thresholds,
)


def drawn(rows=120, rate=0.2, digits=15, seed=0):
    """Labels and probabilities of some skill; of few digits many are tied."""
    rng = np.random.default_rng(seed)
    positive = rng.random(rows) < rate
    positive[:2] = False, True
    return positive, np.round(1 / (1 + np.exp(-1.5 * positive - rng.standard_normal(rows))), digits)


def every_cut(scores):
    """A cut at each score, and one above all."""
    return [*np.unique(scores), 1.1]


SCORES = {"f1": sk.f1_score, "mcc": sk.matthews_corrcoef, "balanced_acc": sk.balanced_accuracy_score}


@pytest.mark.parametrize("aim", SCORES)
@pytest.mark.parametrize("digits", [1, 15])
def test_a_threshold_is_the_best_of_all_cuts(aim, digits):
    for seed in range(6):
        positive, scores = drawn(digits=digits, seed=seed)
        cut = best_cut(positive, scores, ThresholdRule.parse(aim))
        best = max(SCORES[aim](positive, scores >= other) for other in every_cut(scores))
        assert SCORES[aim](positive, scores >= cut) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(("miss", "alarm"), [(1, 1), (10, 1), (1, 20), (1e-6, 1), (1, 1e-6)])
@pytest.mark.parametrize("digits", [1, 15])
def test_a_cost_ratio_gives_the_cut_of_least_cost_also_none_and_all(miss, alarm, digits):
    for seed in range(6):
        positive, scores = drawn(digits=digits, seed=seed)

        def cost(cut, positive=positive, scores=scores):
            taken = scores >= cut
            return miss * (positive & ~taken).sum() + alarm * (~positive & taken).sum()

        cut = best_cut(positive, scores, ThresholdRule.parse(f"cost:{miss}:{alarm}"))
        assert cost(cut) == pytest.approx(min(map(cost, every_cut(scores))), rel=1e-12)


@pytest.mark.parametrize("floor", [0.3, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("digits", [1, 15])
def test_a_recall_floor_gives_the_highest_precision_that_keeps_it(floor, digits):
    for seed in range(6):
        positive, scores = drawn(digits=digits, seed=seed)
        cut = best_cut(positive, scores, ThresholdRule.parse(f"recall:{floor}"))
        kept = [c for c in np.unique(scores) if sk.recall_score(positive, scores >= c) >= floor]
        best = max(sk.precision_score(positive, scores >= c) for c in kept)
        assert sk.recall_score(positive, scores >= cut) >= floor
        assert sk.precision_score(positive, scores >= cut) == pytest.approx(best, abs=1e-12)


def test_a_recall_floor_finds_more_where_that_costs_no_precision():
    positive = np.array([True] * 5 + [False] * 5)
    assert best_cut(positive, np.linspace(0.95, 0.05, 10), ThresholdRule("recall", (0.4,))) == pytest.approx(0.5)


def test_a_threshold_lies_between_scores_so_that_rounding_moves_no_row():
    positive, scores = np.array([False, True, True]), np.array([0.2, 0.4, 0.9])
    assert best_cut(positive, scores, ThresholdRule("f1")) == pytest.approx(0.3)


def test_neighbouring_floats_and_certain_rows_are_cut_apart():
    below = np.nextafter(0.5, 0)
    for low, high in ((below, 0.5), (0.5, np.nextafter(0.5, 1)), (np.nextafter(1, 0), 1.0), (0.0, 5e-324)):
        cut = best_cut(np.array([False, True]), np.array([low, high]), ThresholdRule("f1"))
        assert low < cut <= high
    certain = best_cut(np.array([False, False, True]), np.array([1.0, 1.0, 1.0]), ThresholdRule("cost", (1, 9)))
    assert certain > 1
    assert best_cut(np.array([True, False]), np.array([0.0, 0.0]), ThresholdRule("cost", (9, 1))) == 0


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("f1", ThresholdRule("f1")),
        ("balanced_acc", ThresholdRule("balanced_acc")),
        ("cost:10:1", ThresholdRule("cost", (10, 1))),
        ("recall:0.9", ThresholdRule("recall", (0.9,))),
        ("0.25", ThresholdRule("fixed", (0.25,))),
    ],
)
def test_rules_are_read_from_text(given, rule):
    assert ThresholdRule.parse(given) == rule


NO_RULES = (
    "F2 f1:2 cost cost:1 cost:0:1 cost:1:-1 cost:inf:1 recall:0 recall:1.1 recall:x 0 1.5 nan -0.1 fixed fixed:0.5"
)


@pytest.mark.parametrize("given", ["", *NO_RULES.split()])
def test_any_other_text_is_refused_with_what_there_is(given):
    with pytest.raises(HeadError, match=f"--threshold {given}.*f1, mcc.*recall:0.9"):
        ThresholdRule.parse(given)


def stratified(seed=0):
    """Rows of a rich stratum of low scores, a rich one of high scores, one of few rows and one of few positives."""
    sizes = {"low": (200, 60), "high": (200, 60), "small": (FEWEST_ROWS - 1, 24), "rare": (300, 19)}
    rng = np.random.default_rng(seed)
    positive = np.concatenate([np.arange(rows) < positives for rows, positives in sizes.values()])
    strata = np.repeat(list(sizes), [rows for rows, _ in sizes.values()])
    scores = rng.standard_normal(len(positive)) + 2 * positive + 3 * (strata == "high")
    order = rng.permutation(len(positive))
    return positive[order], 1 / (1 + np.exp(-scores[order])), strata[order].tolist()


def test_a_stratum_with_enough_rows_has_its_own_threshold_and_the_others_the_one_of_all_rows():
    positive, scores, strata = stratified()
    rule = ThresholdRule("f1")
    thresholds, (note,) = fit_thresholds(positive[:, None], scores[:, None], rule, ["sick"], strata)
    for name in ("low", "high"):
        own = np.array(strata) == name
        assert thresholds.strata[name] == (best_cut(positive[own], scores[own], rule),)
    assert thresholds.strata["low"] < thresholds.strata["high"]
    assert thresholds.overall == (best_cut(positive, scores, rule),)
    assert thresholds.strata["small"] == thresholds.strata["rare"] == thresholds.overall
    assert note.startswith(
        "2 of 4 strata have no threshold of their own, and take that of all validation rows: rare, small"
    )
    assert note.endswith("and 20 of either class)")


def test_strata_go_by_name_and_unseen_ones_get_the_threshold_of_all_rows_and_are_counted():
    thresholds = Thresholds((0.5,), {"CG": (0.2,), "CHH": (0.8,)})
    cuts, notes = thresholds.each(5, ["CHH", "new", "CG", "new", "other"])
    assert cuts[:, 0].tolist() == [0.8, 0.5, 0.2, 0.5, 0.5]
    assert notes == (
        "3 rows are of strata that have no threshold of their own, and take that of all validation rows: new, other",
    )
    assert thresholds.each(2, ["CG", "CG"])[1] == ()
    cuts, notes = thresholds.each(2, None)
    assert (cuts == 0.5).all()
    assert "the 2 rows have none" in notes[0]
    assert Thresholds((0.5,), {}).each(2, ["CG", "CG"])[1] == ()


def test_a_long_list_of_strata_is_cut_short():
    _, (note,) = Thresholds((0.5,), {"CG": (0.2,)}).each(9, list("abcdefghi"))
    assert note.endswith(": a, b, c, d, e and 4 more")


@pytest.mark.parametrize(("rows", "positives"), [(0, 0), (FEWEST_ROWS - 1, 20), (200, FEWEST_OF_CLASS - 1), (200, 200)])
def test_too_few_validation_rows_leave_the_threshold_at_a_half_and_say_how_many_there_were(rows, positives):
    positive = (np.arange(rows) < positives)[:, None]
    thresholds, (note,) = fit_thresholds(positive, np.full((rows, 1), 0.3), ThresholdRule("mcc"), ["sick"])
    assert thresholds.overall == (0.5,)
    assert f"threshold is 0.5 and not tuned: {rows} validation rows, {positives} of them positive" in note


def test_each_label_has_its_own_threshold_and_note():
    positive, scores = drawn(300)
    never = np.zeros(300, bool)
    flags, both = np.stack([positive, never], 1), np.stack([scores, scores], 1)
    thresholds, (note,) = fit_thresholds(flags, both, ThresholdRule("f1"), ["a", "b"])
    assert thresholds.overall == (best_cut(positive, scores, ThresholdRule("f1")), 0.5)
    assert "of label b is 0.5" in note
    assert thresholds.each(4, None)[0].shape == (4, 2)


def test_a_fixed_threshold_needs_no_rows():
    thresholds, notes = fit_thresholds(np.zeros((0, 2), bool), np.zeros((0, 2)), ThresholdRule.parse("0.3"), ["a", "b"])
    assert (thresholds.overall, notes) == ((0.3, 0.3), ())
    _, notes = fit_thresholds(np.zeros((1, 1), bool), np.zeros((1, 1)), ThresholdRule.parse("0.3"), ["a"], ["CG"])
    assert notes == ("a fixed threshold is the same in every stratum",)
