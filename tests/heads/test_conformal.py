"""Conformal sets and intervals hold the truth as often as they promise, on rows drawn as the validation rows were."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.special import softmax

from heads.data.target import Target
from heads.deciding.conformal import Intervals, Sets, conformal_quantile, fewest_rows, fit_intervals, fit_sets, nearest
from heads.deciding.rearrangement import rearrange

DRAWS = 300
"""Draws of validation rows: the promise is a mean over them."""


def classes(rng, rows):
    """Three classes, the last one rare and hard, and the outputs of a head that is too sure."""
    codes = rng.choice(3, rows, p=[0.5, 0.4, 0.1])
    logits = rng.standard_normal((rows, 3)) + np.where(codes == 2, 0.5, 2)[:, None] * np.eye(3)[codes]
    return Target("multiclass", ("a", "b", "c"), codes), softmax(2 * logits + [0.5, 0.5, -0.5], axis=1)


def measured(rng, rows):
    """A quantity whose spread grows with x, the mean that a head gives, and its 5, 50 and 95 % quantiles, too narrow."""
    x = rng.random(rows)
    spread = 0.2 + 2 * x
    values = 3 * x + spread * rng.standard_normal(rows)
    quantiles = (3 * x)[:, None] + spread[:, None] * np.array([-1.0, 0.1, 1.2])
    return Target("regression", ("effect",), values), (3 * x)[:, None] + 0.3, quantiles


def held(rng, draw, rows=80, new=50):
    """Means over `DRAWS` draws of validation rows, and their standard errors, of what `draw` says of new rows."""
    shares = np.array([draw(rng, rows, new) for _ in range(DRAWS)])
    return shares.mean(0), shares.std(0) / np.sqrt(DRAWS)


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_sets_hold_the_class_in_the_promised_share_of_new_rows(alpha):
    def draw(rng, rows, new):
        sets, notes = fit_sets(*classes(rng, rows), alpha)
        target, outputs = classes(rng, new)
        assert notes == ()
        return sets.apply(outputs)[np.arange(new), target.values].mean()

    share, error = held(np.random.default_rng(0), draw)
    assert 1 - alpha - 3 * error <= share <= 1 - alpha + 1 / 81 + 3 * error


def test_sets_by_class_hold_each_class_in_the_promised_share_of_its_rows():
    def draw(rng, rows, new, by_class):
        sets, _ = fit_sets(*classes(rng, rows), 0.1, by_class=by_class)
        target, outputs = classes(rng, new)
        inside = sets.apply(outputs)[np.arange(new), target.values]
        return [inside[target.values == code].mean() for code in range(3)]

    rng = np.random.default_rng(0)
    shares, errors = held(rng, lambda *given: draw(*given, True), rows=400, new=300)
    assert (shares >= 0.9 - 3 * errors).all()
    assert (shares <= 0.9 + 1 / 25 + 3 * errors).all()
    shares, _ = held(rng, lambda *given: draw(*given, False), rows=400, new=300)
    assert shares[2] < 0.7  # a rare, hard class is missed where the promise is for all rows together


@pytest.mark.parametrize("quantiles", [(), (0.05, 0.5, 0.95)])
def test_intervals_hold_the_value_in_the_promised_share_of_new_rows(quantiles):
    def draw(rng, rows, new):
        target, mean, three = measured(rng, rows)
        intervals, notes = fit_intervals(target, three if quantiles else mean, 0.1, quantiles)
        target, mean, three = measured(rng, new)
        low, high = intervals.apply(three if quantiles else mean).T
        assert notes == ()
        return ((low <= target.values) & (target.values <= high)).mean()

    share, error = held(np.random.default_rng(0), draw)
    assert 0.9 - 3 * error <= share <= 0.9 + 1 / 81 + 3 * error


def test_intervals_of_quantiles_are_wide_where_the_spread_is_and_those_of_a_mean_are_of_one_width():
    target, mean, three = measured(np.random.default_rng(0), 500)
    widths = np.ptp(fit_intervals(target, mean, 0.1)[0].apply(mean), axis=1)
    np.testing.assert_allclose(widths, widths[0])
    by_quantiles = np.ptp(fit_intervals(target, three, 0.1, (0.05, 0.5, 0.95))[0].apply(three), axis=1)
    assert np.corrcoef(by_quantiles, mean[:, 0])[0, 1] > 0.99
    assert by_quantiles.mean() < widths.mean()


def test_margins_and_limits_are_the_brute_force_quantiles_of_their_scores():
    rng = np.random.default_rng(0)
    target, mean, three = measured(rng, 57)
    residuals = sorted(abs(target.values - mean[:, 0]))
    assert fit_intervals(target, mean, 0.1)[0].margin == residuals[52]  # ceil(58 * 0.9) = 53
    low, high = target.values - three[:, 0], target.values - three[:, 2]
    scores = sorted(max(-down, up) for down, up in zip(low, high, strict=True))
    assert fit_intervals(target, three, 0.1, (0.05, 0.5, 0.95))[0] == Intervals(0.1, scores[52], 0, 2)
    target, outputs = classes(rng, 57)
    scores = sorted(1 - outputs[np.arange(57), target.values])
    assert fit_sets(target, outputs, 0.1)[0] == Sets(0.1, (scores[52],) * 3)


@pytest.mark.parametrize("alpha", ["0.1", "0.05", "0.2", "0.5", "0.01", "0.3", "0.001"])
def test_the_rank_of_the_limit_is_exact_whatever_the_rounding_of_alpha(alpha):
    miss = Fraction(alpha)
    rows = next(n for n in range(1, 1001) if math.ceil((n + 1) * (1 - miss)) <= n)
    assert fewest_rows(float(alpha)) == rows
    for n in (rows, rows + 1, 10 * rows - 1):
        rank = math.ceil((n + 1) * (1 - miss))
        assert conformal_quantile(np.arange(1.0, n + 1), float(alpha)) == rank


def test_too_few_rows_make_no_sets_and_no_intervals_and_say_so():
    rng = np.random.default_rng(0)
    assert fit_sets(*classes(rng, 8), 0.1) == (
        None,
        ("no conformal sets: 8 validation rows are too few for alpha 0.1 (9)",),
    )
    target, mean, _ = measured(rng, 18)
    assert fit_intervals(target, mean, 0.05) == (
        None,
        ("no conformal intervals: 18 validation rows are too few for alpha 0.05 (19)",),
    )


def test_a_class_of_too_few_rows_is_in_every_set():
    target, outputs = classes(np.random.default_rng(0), 200)
    few = np.flatnonzero((target.values != 2) | (np.cumsum(target.values == 2) <= 8))
    sets, (note,) = fit_sets(target.take(few), outputs[few], 0.1, by_class=True)
    assert sets.apply(outputs)[:, 2].all()
    assert note == "c is in every conformal set: 8 validation rows of it are too few (9)"


def test_intervals_that_a_negative_margin_would_turn_round_are_turned_back():
    ends = Intervals(0.1, -1.0, 0, 1).apply(np.array([[0.0, 1.0], [0.0, 4.0]]))
    assert ends.tolist() == [[0.0, 1.0], [1.0, 3.0]]


def test_the_nearest_quantile_is_the_point_value_and_carries_the_interval():
    assert [nearest((0.1, 0.5, 0.9), level) for level in (0.05, 0.5, 0.95)] == [0, 1, 2]
    assert nearest((0.1, 0.9), 0.5) == 0
    assert nearest((0.9,), 0.05) == 0
    assert nearest((), 0.5) == 0


def test_a_quantile_never_crosses_another():
    rng = np.random.default_rng(0)
    crossing = rng.standard_normal((200, 5))
    rising = rearrange(crossing)
    assert (np.diff(rising, axis=1) >= 0).all()
    assert [sorted(row) for row in crossing.tolist()] == rising.tolist()
    np.testing.assert_array_equal(rearrange(rising), rising)


def test_rearranged_quantiles_are_never_farther_from_the_true_ones():
    rng = np.random.default_rng(0)
    true = np.sort(rng.standard_normal((500, 5)), axis=1)
    estimated = true + rng.standard_normal((500, 5))
    for power in (1, 2, 4):
        distances = [(np.abs(found - true) ** power).sum(1) for found in (rearrange(estimated), estimated)]
        assert (distances[0] <= distances[1] + 1e-12).all()
