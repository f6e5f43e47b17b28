"""Calibrations equal scikit-learn's and come true; the prior correction is exact where the model is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from embedcache.errors import HeadError
from heads.data.target import Target
from heads.deciding.calibration import FEWEST_OF_CLASS, FEWEST_ROWS, METHODS, Calibrator, Line, fit_calibrator
from heads.deciding.prior import PriorShift, parse_prior, prior_shift


def overconfident(rows=2000, classes=2, seed=0):
    """A target and outputs whose logits are 2.5 times too large and shifted."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((rows, classes)) - np.arange(classes) / 2
    true = softmax(logits, axis=1)
    codes = (true.cumsum(1) < rng.random((rows, 1))).sum(1).clip(max=classes - 1)
    outputs = softmax(2.5 * logits + 0.8 * np.arange(classes), axis=1)
    names = tuple("abcdefg"[:classes])
    return Target("binary" if classes == 2 else "multiclass", names, codes.astype(np.int64)), outputs


def labels(rows=2000, count=3, seed=0):
    """The same for several labels."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.standard_normal((rows, count)) - np.arange(count) / 2
    values = (rng.random((rows, count)) < expit(logits)).astype(np.int64)
    return Target("multilabel", tuple("abcdefg"[:count]), values), expit(2.5 * logits + 0.8)


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose features are the outputs of another: of its decision function the log odds or the outputs."""

    def __init__(self, classes=2, method="platt"):
        self.classes, self.method = classes, method

    def fit(self, X, y):
        self.classes_ = np.arange(self.classes)
        return self

    def decision_function(self, X):
        scores = X if self.method == "isotonic" else logit(X)
        return scores[:, 1] if self.classes == 2 else scores

    def predict(self, X):
        return X.argmax(1)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_platt_and_isotonic_equal_scikit_learns_one_against_rest(method, classes):
    target, outputs = overconfident(classes=classes)
    calibrator, notes = fit_calibrator(target, outputs, method)
    given = Given(classes, method).fit(outputs, target.values)
    theirs = CalibratedClassifierCV(FrozenEstimator(given), method={"platt": "sigmoid"}.get(method, method))
    theirs.fit(outputs, target.values)
    _, new = overconfident(classes=classes, seed=1)
    np.testing.assert_allclose(calibrator.apply(target.kind, new), theirs.predict_proba(new), atol=1e-6)
    assert notes == ()


def test_the_temperature_of_two_classes_is_a_logistic_regression_on_the_log_odds_without_intercept():
    target, outputs = overconfident()
    calibrator, _ = fit_calibrator(target, outputs, "temperature")
    theirs = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-10)
    theirs.fit(logit(outputs[:, 1:]), target.values)
    assert calibrator.columns[0].slope == pytest.approx(theirs.coef_[0, 0], rel=1e-5)


def test_the_temperature_of_more_classes_is_the_one_of_least_log_loss():
    target, outputs = overconfident(classes=4)
    calibrator, _ = fit_calibrator(target, outputs, "temperature")

    def loss(probabilities):
        return -np.log(probabilities[np.arange(len(target)), target.values]).mean()

    best = min(loss(softmax(np.log(outputs) / temperature, axis=1)) for temperature in np.linspace(1.5, 4, 200))
    found = loss(calibrator.apply("multiclass", outputs))
    assert found == pytest.approx(best, abs=1e-5)
    assert found <= best


@pytest.mark.parametrize("method", METHODS)
def test_each_label_is_calibrated_as_two_classes_are(method):
    target, outputs = labels()
    calibrator, _ = fit_calibrator(target, outputs, method)
    found = calibrator.apply("multilabel", outputs)
    for label in range(3):
        alone = Target("binary", ("no", "yes"), target.values[:, label])
        pair = np.stack([1 - outputs[:, label], outputs[:, label]], axis=1)
        own, _ = fit_calibrator(alone, pair, method)
        np.testing.assert_allclose(found[:, label], own.apply("binary", pair)[:, 1], atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classes", [2, 4])
def test_calibrated_probabilities_are_probabilities_and_lose_less_on_new_rows(method, classes):
    target, outputs = overconfident(4000, classes)
    calibrator, _ = fit_calibrator(target, outputs, method)
    new, new_outputs = overconfident(4000, classes, seed=1)
    calibrated = calibrator.apply(new.kind, new_outputs)
    np.testing.assert_allclose(calibrated.sum(1), 1, atol=1e-12)
    assert calibrated.min() >= 0

    def brier(probabilities):
        return ((probabilities - np.eye(classes)[new.values]) ** 2).sum(1).mean()

    assert brier(calibrated) < 0.97 * brier(new_outputs)


def test_temperature_and_platt_keep_ranks_also_where_probabilities_near_one_fall_together():
    target, outputs = overconfident()
    far = np.array([20.0, 30.0, 36.0])
    pairs = np.stack([expit(-far), expit(far)], axis=1)
    for method in ("temperature", "platt"):
        calibrator, _ = fit_calibrator(target, outputs, method)
        order = np.argsort(outputs[:, 1])
        assert (np.diff(calibrator.apply("binary", outputs)[order, 1]) >= 0).all()
        assert (np.diff(calibrator.apply("binary", pairs)[:, 0]) < 0).all()


def test_isotonic_knots_give_what_scikit_learns_regression_gives_and_ties_get_one_value():
    target, outputs = overconfident()
    outputs = np.round(outputs, 2)
    calibrator, _ = fit_calibrator(target, outputs, "isotonic")
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(outputs[:, 1], target.values)
    positive = np.linspace(0, 1, 501)
    found = calibrator.apply("binary", np.stack([1 - positive, positive], axis=1))[:, 1]
    np.testing.assert_allclose(found, theirs.predict(positive), atol=1e-12)
    assert (np.diff(found) >= 0).all()
    assert len(np.unique(found)) < len(np.unique(positive))


def test_outputs_of_exactly_0_and_1_stay_finite():
    target, _ = overconfident()
    certain = np.eye(2)[np.where(np.arange(2000) % 10, target.values, 1 - target.values)]
    for method in METHODS:
        calibrator, _ = fit_calibrator(target, certain, method)
        assert np.isfinite(calibrator.apply("binary", certain)).all()
    certain = certain[:, 1:]
    calibrator, _ = fit_calibrator(Target("multilabel", ("a",), target.values[:, None]), certain, "platt")
    assert np.isfinite(calibrator.apply("multilabel", certain)).all()


def test_a_row_that_no_isotonic_curve_knows_has_all_classes_alike():
    target, outputs = overconfident(4000, classes=3)
    calibrator, _ = fit_calibrator(target, outputs, "isotonic")
    np.testing.assert_allclose(calibrator.apply("multiclass", np.zeros((1, 3))), np.full((1, 3), 1 / 3))


@pytest.mark.parametrize("method", METHODS)
def test_too_few_rows_are_refused_and_counted(method):
    fewest = FEWEST_ROWS[method]
    target, outputs = overconfident(fewest)
    some = np.arange(fewest - 1)
    calibrator, (note,) = fit_calibrator(target.take(some), outputs[some], method)
    assert calibrator is None
    assert f"{fewest - 1:,} validation rows" in note
    assert f"it takes {fewest:,}" in note
    assert fit_calibrator(target, outputs, method)[0] is not None


def test_too_few_rows_for_the_temperature_of_many_classes_are_refused():
    target, outputs = overconfident(49, classes=4)
    assert fit_calibrator(target, outputs, "temperature") == (
        None,
        ("no temperature calibration: 49 validation rows are too few (it takes 50)",),
    )


def test_a_label_of_few_positives_stays_as_it_is_beside_others_that_are_calibrated():
    target, outputs = labels()
    values = target.values.copy()
    values[:, 1] = np.arange(len(values)) < FEWEST_OF_CLASS - 1
    for method in METHODS:
        calibrator, (note,) = fit_calibrator(Target("multilabel", target.names, values), outputs, method)
        found = calibrator.apply("multilabel", outputs)
        np.testing.assert_allclose(found[:, 1], outputs[:, 1], atol=1e-12)
        assert np.abs(found[:, 0] - outputs[:, 0]).max() > 0.05
        assert note.startswith(f"{method} calibration leaves b as it is: 2,000 validation rows with 9 positive")


def test_probabilities_that_fall_where_it_is_true_are_not_turned_round():
    target, outputs = overconfident()
    calibrator, (note,) = fit_calibrator(target, outputs[:, ::-1], "platt")
    assert calibrator is None
    assert "leaves b as it is: its probabilities are higher where it is not true" in note


def test_rows_without_a_mistake_end_at_the_steepest_temperature():
    target = Target("binary", ("a", "b"), np.arange(100) % 2)
    calibrator, _ = fit_calibrator(target, np.where(target.values[:, None] == [0, 1], 0.6, 0.4), "temperature")
    assert calibrator.columns[0].slope == pytest.approx(20, rel=1e-6)


def test_a_measured_quantity_has_no_calibration():
    with pytest.raises(HeadError, match="--calibration platt: length is a measured quantity"):
        fit_calibrator(Target("regression", ("length",), np.zeros(100)), np.zeros((100, 1)), "platt")


def test_prior_correction_of_two_classes_adds_the_log_ratio_of_odds_to_the_logit():
    target, outputs = overconfident()
    natural, trained, p1, r1 = np.array([0.9, 0.1]), np.array([0.4, 0.6]), 0.1, 0.6
    shift = prior_shift(target, "train", natural, trained)
    found = logit(shift.apply("binary", outputs)[:, 1])
    np.testing.assert_allclose(found, logit(outputs[:, 1]) + np.log(p1 * (1 - r1) / ((1 - p1) * r1)), atol=1e-9)
    label = Target("multilabel", ("b",), target.values[:, None])
    shift = prior_shift(label, "train", natural[None], trained[None])
    np.testing.assert_allclose(logit(shift.apply("multilabel", outputs[:, 1:])[:, 0]), found, atol=1e-9)


def test_prior_correction_gives_the_exact_probabilities_of_other_shares():
    rng = np.random.default_rng(0)
    densities = rng.dirichlet(np.ones(3), 50)
    trained, wanted = np.array([0.2, 0.3, 0.5]), np.array([0.7, 0.2, 0.1])
    target = Target("multiclass", ("a", "b", "c"), np.zeros(50, np.int64))
    given = dict(zip("abc", wanted, strict=True))
    shift = prior_shift(target, given, trained, None)
    posterior = densities * trained / (densities @ trained)[:, None]
    np.testing.assert_allclose(
        shift.apply("multiclass", posterior), densities * wanted / (densities @ wanted)[:, None], atol=1e-12
    )


def test_prior_correction_undoes_balanced_class_weights():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20000, 1))
    y = (rng.random(20000) < expit(1.5 * X[:, 0] - 3)).astype(np.int64)
    plain, weighted = (LogisticRegression(C=1e9, class_weight=weight).fit(X, y) for weight in (None, "balanced"))
    natural = np.bincount(y) / len(y)
    shift = prior_shift(Target("binary", (0, 1), y), "train", natural, np.array([0.5, 0.5]))
    corrected = shift.apply("binary", weighted.predict_proba(X))[:, 1]
    assert corrected.mean() == pytest.approx(y.mean(), rel=0.03)
    np.testing.assert_allclose(corrected, plain.predict_proba(X)[:, 1], atol=0.02)


def test_shares_that_nothing_changed_need_no_correction():
    target, _ = overconfident()
    shares = np.array([0.9, 0.1])
    assert prior_shift(target, "none", shares, shares[::-1]) is None
    assert prior_shift(target, "train", shares, None) is None
    assert prior_shift(target, "train", shares, shares.copy()) is None
    assert prior_shift(target, 0.1, shares, None) is None
    assert prior_shift(target, 0.1, shares, shares[::-1]) == prior_shift(target, "train", shares, shares[::-1])


def test_priors_are_read_from_text():
    assert (parse_prior("none"), parse_prior("train"), parse_prior("0.02")) == ("none", "train", 0.02)
    assert parse_prior("sick=0.02, well=0.98") == {"sick": 0.02, "well": 0.98}


@pytest.mark.parametrize("given", ["", "test", "0", "1", "nan", "a=", "a=0", "a=2", "a=0.1,b"])
def test_priors_that_are_no_shares_are_refused(given):
    with pytest.raises(HeadError, match=f"--prior {given}: give none, train"):
        parse_prior(given)


@pytest.mark.parametrize(
    ("prior", "natural", "message"),
    [
        (0.1, [0.2, 0.3, 0.5], "name each, as in a=0.1"),
        ({"a": 0.5, "b": 0.5}, [0.2, 0.3, 0.5], "a share to each of a, b, c"),
        ({"a": 0.5, "b": 0.5, "c": 0.5}, [0.2, 0.3, 0.5], "add up to 1.5"),
        ("train", None, "not known here"),
        ("train", [0.5, 0.0, 0.5], "no rows in training"),
    ],
)
def test_priors_that_do_not_fit_the_classes_are_refused(prior, natural, message):
    target, _ = overconfident(classes=3)
    with pytest.raises(HeadError, match=message):
        prior_shift(target, prior, None if natural is None else np.array(natural), np.ones(3) / 3)
    with pytest.raises(HeadError, match="measured quantity"):
        prior_shift(Target("regression", ("length",), np.zeros(3)), prior, None, None)


def test_unknown_calibrations_are_not_read():
    line = Calibrator("platt", (Line(2.0, 1.0),))
    assert Calibrator.from_json(line.to_json(), "binary", 2) == line
    assert PriorShift.from_json({"factors": [2.0, 0.5]}, 2) == PriorShift((2.0, 0.5))
    with pytest.raises(ValueError, match="'magic'"):
        Calibrator.from_json({"method": "magic", "columns": []}, "binary", 2)
