"""The grid of logistic regressions reaches its optimum, whatever the data, and however it is read."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedcache.errors import HeadError
from embedcache.search.standardising import standardise
from heads.data.features import ArrayRows, Design
from heads.linear.kernel import NoKernel
from heads.linear.linear_estimators import LogisticHead
from heads.linear.logistic import NotConvergedWarning
from heads.linear.logistic_grid import LogisticGrid, fit_grid
from tests.heads.reference import minimum, objective, standardised
from tests.heads.stores import planted

STRENGTHS = np.logspace(-4, 1, 8)
NO_KERNEL = NoKernel("not asked for")


def balanced(codes, classes):
    """Class weights by which every class counts alike."""
    return len(codes) / (classes * np.bincount(codes, minlength=classes))


def fit(X, codes, strengths=STRENGTHS, *, class_weights=None, row_weights=None, kernel=None, **design):
    """Fit the default grid, both class weights, and return it with the weights of its heads."""
    source, rows = ArrayRows(np.asarray(X)), np.arange(len(X))
    classes = int(codes.max()) + 1
    if class_weights is None:
        class_weights = np.repeat([np.ones(classes), balanced(codes, classes)], len(strengths), axis=0)
        strengths = np.tile(strengths, 2)
    made = Design(source, rows, standardise(source, rows, row_weights), **design)
    strengths = np.asarray(strengths, np.float64)
    return (
        fit_grid(made, codes, strengths, class_weights, row_weights=row_weights, kernel=kernel),
        strengths,
        class_weights,
    )


def gaps(X, codes, fitted: tuple[LogisticGrid, np.ndarray, np.ndarray]) -> np.ndarray:
    """True relative distance of every objective to its minimum in float64."""
    grid, strengths, class_weights = fitted
    Z = standardised(X)
    found = []
    for k, (C, weights) in enumerate(zip(strengths, class_weights, strict=True)):
        least = minimum(Z, codes, C, weights)
        W, b = grid.weights[k].double().numpy(), grid.intercepts[k].double().numpy()
        found.append((objective(Z, codes, C, weights, W, b) - least) / least)
    return np.array(found)


def spectrum(rows=600, dim=30, rate=0.2, seed=0, dtype=np.float32):
    """Features with a steep spectrum, and labels with the given share of positives."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    X = (rng.standard_normal((rows, dim)) * np.arange(1, dim + 1) ** -1.5) @ basis
    score = X @ rng.standard_normal(dim) / X.std() + rng.logistic(size=rows)
    return X.astype(dtype), (score > np.quantile(score, 1 - rate)).astype(np.int64)


@pytest.mark.parametrize(
    ("rows", "dim", "rate", "dtype"),
    [
        (3000, 40, 0.024, np.float16),
        (600, 30, 0.5, np.float32),
        (60, 100, 0.3, np.float16),  # fewer rows than features
        (400, 17, 0.1, np.float64),
        (5000, 64, 0.02, np.float16),
    ],
)
def test_every_head_of_the_grid_is_within_1e_6_of_the_float64_optimum(rows, dim, rate, dtype):
    X, codes = spectrum(rows, dim, rate, dtype=dtype)
    fitted = fit(X, codes)
    assert fitted[0].converged.all()
    assert gaps(X, codes, fitted).max() < 1e-6


def test_reported_objective_and_gap_are_true():
    X, codes = spectrum(2000, 40, 0.1)
    grid, strengths, class_weights = fit(X, codes)
    Z = standardised(X)
    true = [
        objective(Z, codes, C, weights, W.double().numpy(), b.double().numpy())
        for C, weights, W, b in zip(strengths, class_weights, grid.weights, grid.intercepts, strict=True)
    ]
    np.testing.assert_allclose(grid.objectives, true, rtol=1e-6)
    assert grid.gaps.max() <= 2e-7


def test_means_far_above_the_deviation_do_not_cancel():
    X, codes = spectrum(800, 20, 0.3)
    far = X.astype(np.float64) / X.std(0) + 1000.0
    fitted = fit(far.astype(np.float32), codes)
    assert gaps(far.astype(np.float32), codes, fitted).max() < 1e-6


def test_separable_classes_at_a_weak_penalty_end_with_a_cap_and_a_warning():
    X, codes = spectrum(40, 60, 0.5)
    with pytest.warns(NotConvergedWarning, match="smaller C"):
        head = LogisticHead(C=1e12, most_passes=12).fit(X, codes)
    assert head.n_iter_ <= 12
    assert np.isfinite(head.predict_proba(X)).all()
    fitted = fit(X, codes, [1e3], class_weights=np.ones((1, 2)))
    assert gaps(X, codes, fitted).max() < 1e-6


def test_constant_features_take_no_weight_and_do_no_harm():
    X, codes = spectrum(500, 20, 0.3)
    X[:, [3, 7]] = [0.1, 40000.0]
    fitted = fit(X, codes)
    assert (fitted[0].weights[..., [3, 7]] == 0).all()
    assert gaps(X, codes, fitted).max() < 1e-6


def test_a_class_of_one_row_is_fitted():
    X, codes = spectrum(300, 12, 0.3)
    codes = np.zeros(300, np.int64)
    codes[17] = 1
    assert gaps(X, codes, fit(X, codes)).max() < 1e-6


@pytest.mark.parametrize("heads", [1, 3, 17])
def test_grids_of_any_width_give_each_head_its_optimum(heads):
    X, codes = spectrum(700, 25, 0.2)
    strengths = np.logspace(-3, 1, heads)
    assert gaps(X, codes, fit(X, codes, strengths, class_weights=np.ones((heads, 2)))).max() < 1e-6


def test_any_chunking_in_memory_or_streamed_gives_the_same_heads():
    X, codes = spectrum(3000, 32, 0.1, dtype=np.float16)
    whole, *_ = fit(X, codes)
    for design in ({"block_rows": 700}, {"memory_bytes": 0}, {"memory_bytes": 0, "block_rows": 333}):
        other, *_ = fit(X, codes, **design)
        assert torch.equal(other.weights, whole.weights)
    plain, *_ = fit(X, codes, kernel=NO_KERNEL)
    for design in ({"block_rows": 700}, {"memory_bytes": 0}, {"memory_bytes": 0, "block_rows": 333}):
        other, *_ = fit(X, codes, kernel=NO_KERNEL, **design)
        np.testing.assert_allclose(other.objectives, plain.objectives, rtol=3e-7)


@pytest.mark.parametrize("classes", [3, 5])
def test_multinomial_heads_are_within_1e_6_of_the_float64_optimum(classes):
    X, codes = planted(600, 9, classes)
    fitted = fit(X, codes)
    assert fitted[0].converged.all()
    assert gaps(X, codes, fitted).max() < 1e-6


def test_agrees_with_scikit_learn():
    X, codes = planted(800, 12, 3)
    for labels in (codes, codes > 0):
        theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, tol=1e-10, max_iter=5000))
        theirs.fit(X.astype(np.float64), labels)
        ours = LogisticHead(C=0.5).fit(X, labels)
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X.astype(np.float64)), atol=5e-4)
        assert (ours.classes_ == theirs.classes_).all()


def test_values_that_are_not_finite_are_refused_by_name():
    X, _ = spectrum(100, 8, 0.3)
    X[5, 2] = np.nan
    with pytest.raises(HeadError, match="feature 2 holds"):
        standardise(ArrayRows(X), np.arange(100))


def multinomial(rows=600):
    return planted(rows, 9, 3)


@pytest.mark.parametrize("data", [spectrum, multinomial])
def test_products_by_torch_and_the_kernel_end_at_the_same_optimum(data):
    X, codes = data()
    fused, *_ = fit(X, codes)
    plain, *_ = fit(X, codes, kernel=NO_KERNEL)
    assert gaps(X, codes, fit(X, codes, kernel=NO_KERNEL)).max() < 1e-6
    np.testing.assert_allclose(plain.objectives, fused.objectives, rtol=1e-7)


@pytest.mark.parametrize("classes", [2, 3])
def test_integer_sample_weights_are_rows_repeated(classes):
    X, codes = planted(300, 8, classes)
    times = np.random.default_rng(1).integers(0, 4, len(X))
    once = LogisticHead(C=0.3).fit(X, codes, sample_weight=times)
    repeated = LogisticHead(C=0.3).fit(np.repeat(X, times, axis=0), np.repeat(codes, times))
    np.testing.assert_allclose(once.objective_, repeated.objective_, rtol=1e-6)
    np.testing.assert_allclose(once.predict_proba(X), repeated.predict_proba(X), atol=1e-3)


def test_weighted_heads_are_within_1e_6_of_the_float64_optimum():
    X, codes = spectrum(500, 12, 0.3)
    X = X.astype(np.float64)
    times = np.random.default_rng(2).integers(0, 3, len(X))
    grid, strengths, class_weights = fit(X, codes, row_weights=times.astype(np.float64))
    repeated = np.repeat(X, times, axis=0), np.repeat(codes, times)
    assert gaps(*repeated, (grid, strengths, class_weights)).max() < 1e-6


def test_the_estimator_takes_several_labels():
    X, codes = planted(450, 10, 3)
    head = LogisticHead(C=0.5).fit(X, np.eye(3, dtype=int)[codes])
    assert head.predict_proba(X).shape == (450, 3)
    assert set(np.unique(head.predict(X))) == {0, 1}


NOT_EXACT = {
    "check_sample_weight_equivalence_on_dense_data": "asks for equal digits of two fits that are equal to 1e-6 of the "
    "objective; see test_integer_sample_weights_are_rows_repeated"
}


@parametrize_with_checks([LogisticHead()], expected_failed_checks=lambda _: NOT_EXACT)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        check(estimator)
