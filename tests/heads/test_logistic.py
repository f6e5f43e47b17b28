"""The grid of logistic regressions reaches its optimum, whatever the data, and however it is read."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedcache.errors import HeadError
from heads.features import ArrayRows, Design
from heads.logistic import LogisticGrid, LogisticHead, NotConvergedWarning, balanced, fit_grid
from heads.moments import standardise
from tests.heads.reference import minimum, objective, standardised
from tests.heads.stores import planted

STRENGTHS = np.logspace(-4, 1, 8)


def fit(X, codes, strengths=STRENGTHS, *, class_weights=None, **design):
    """Fit the default grid, both class weights, and return it with the weights of its heads."""
    source, rows = ArrayRows(np.asarray(X)), np.arange(len(X))
    classes = int(codes.max()) + 1
    if class_weights is None:
        class_weights = np.repeat([np.ones(classes), balanced(codes, classes)], len(strengths), axis=0)
        strengths = np.tile(strengths, 2)
    made = Design(source, rows, standardise(source, rows), **design)
    return fit_grid(made, codes, np.asarray(strengths, np.float64), class_weights), strengths, class_weights


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
        np.testing.assert_allclose(other.objectives, whole.objectives, rtol=3e-7)
    streamed, *_ = fit(X, codes, memory_bytes=0)
    assert torch.equal(streamed.weights, whole.weights)


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


def test_the_grid_ranks_rows_as_its_heads_do_and_keeps_apart_what_probabilities_near_one_do_not():
    X, codes = planted(500, 10)
    for labels in (codes, planted(500, 10, 3)[1]):
        grid, *_ = fit(X, labels)
        source, rows = ArrayRows(X), np.arange(len(X))
        rankings = list(grid.rankings(Design(source, rows, standardise(source, rows))))
        assert len(rankings) == 16
        alone = LogisticHead(C=STRENGTHS[3]).fit(X, labels).predict_proba(X)
        found = rankings[3] if labels.max() == 2 else 1 / (1 + np.exp(-rankings[3]))
        np.testing.assert_allclose(found, alone, atol=1e-4)
    far = replace(grid, weights=1000 * fit(X, codes)[0].weights, intercepts=fit(X, codes)[0].intercepts)
    ranking = next(far.rankings(Design(source, rows, standardise(source, rows))))
    assert ranking.dtype == np.float64
    assert len(np.unique(ranking[:, 1])) > 0.99 * len(X)


def test_values_that_are_not_finite_are_refused_by_name():
    X, _ = spectrum(100, 8, 0.3)
    X[5, 2] = np.nan
    with pytest.raises(HeadError, match="feature 2 holds"):
        standardise(ArrayRows(X), np.arange(100))


@parametrize_with_checks([LogisticHead()])
def test_passes_the_checks_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        check(estimator)
