"""The nearest class mean after whitening is linear discriminant analysis, from one pass, with any number of rows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedcache.errors import HeadError
from heads.estimators import PrototypeHead
from heads.linear.prototype import PrototypeModel, PrototypeOptions, fit
from tests.heads.split_problem import split_problem
from tests.heads.stores import planted

X, CODES = planted(800, 24, 3)


def by_hand(X, codes, held, shrinkage, weights):
    """Class probabilities of the docstring's formula in float64."""
    X, held = X.astype(np.float64), held.astype(np.float64)
    mean, scale = X.mean(0), X.std(0)
    Z, H = (X - mean) / scale, (held - mean) / scale
    classes = codes.max() + 1
    means = np.stack([np.average(Z[codes == c], axis=0, weights=weights[codes == c]) for c in range(classes)])
    from_mean = Z - means[codes]
    within = (from_mean * weights[:, None]).T @ from_mean / weights.sum()
    inverse = np.linalg.inv((1 - shrinkage) * within + shrinkage * np.eye(X.shape[1]))
    from_each = H[:, None] - means
    distances = np.einsum("nkd,de,nke->nk", from_each, inverse, from_each)
    votes = np.bincount(codes, weights) / weights.sum() * np.exp(-(distances - distances.min(1, keepdims=True)) / 2)
    return votes / votes.sum(1, keepdims=True)


def outputs_of(fitted, problem):
    return fitted.head(problem.source, problem.val.rows)


@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_probabilities_are_those_of_the_formula(shrinkage, weighted):
    weights = np.random.default_rng(0).uniform(0.5, 2, len(X)) if weighted else None
    problem = split_problem("multiclass", X, CODES, "auroc", weights=weights)
    found = outputs_of(fit(problem, PrototypeOptions((shrinkage,))), problem)
    train, val = problem.train.rows, problem.val.rows
    expected = by_hand(
        X[train], CODES[train], X[val], shrinkage, np.ones(len(train)) if weights is None else weights[train]
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_without_shrinkage_it_is_scikit_learns_discriminant_analysis(classes):
    features, codes = planted(800, 24, classes)
    problem = split_problem("binary" if classes == 2 else "multiclass", features, codes, "auroc")
    found = outputs_of(fit(problem, PrototypeOptions((1e-9,))), problem)
    train, val = problem.train.rows, problem.val.rows
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(features[train].astype(np.float64), codes[train])
    np.testing.assert_allclose(found, theirs.predict_proba(features[val].astype(np.float64)), atol=1e-3)


def test_balanced_weights_give_all_classes_the_same_share():
    problem = split_problem("multiclass", X, CODES, "auroc")
    found = outputs_of(fit(problem, PrototypeOptions((0.5,), "balanced")), problem)
    train, val = problem.train.rows, problem.val.rows
    counts = np.bincount(CODES[train])
    expected = by_hand(X[train], CODES[train], X[val], 0.5, (len(train) / 3 / counts)[CODES[train]])
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("each", [1, 2, 5])
def test_a_few_rows_of_each_class_are_enough(each):
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 2, (4, 200))
    codes = np.repeat(np.arange(4), 60)
    values = (centres[codes] + rng.standard_normal((240, 200))).astype(np.float16)
    order = rng.permutation(240)
    problem = split_problem("multiclass", values[order], codes[order], "acc")
    few = np.concatenate([np.flatnonzero(problem.train.target.values == c)[:each] for c in range(4)])
    fitted = fit(replace(problem, train=problem.train.take(np.sort(few))), PrototypeOptions())
    assert fitted.chosen["val_acc"] > 0.95


def test_the_shrinkage_is_chosen_on_validation_rows():
    problem = split_problem("multiclass", X, CODES, "log_loss")
    fitted = fit(problem, PrototypeOptions((0.01, 0.3, 1.0)))
    values = [trial["val_log_loss"] for trial in fitted.trials]
    assert fitted.best == int(np.argmin(values))
    alone = fit(problem, PrototypeOptions((fitted.chosen["shrinkage"],)))
    np.testing.assert_allclose(outputs_of(fitted, problem), outputs_of(alone, problem), atol=1e-6)


def test_constant_features_do_no_harm():
    constant = X.copy()
    constant[:, [2, 9]] = 5
    problem = split_problem("multiclass", constant, CODES, "auroc")
    without = split_problem("multiclass", np.delete(constant, [2, 9], axis=1), CODES, "auroc")
    options = PrototypeOptions((0.1,))
    np.testing.assert_allclose(
        outputs_of(fit(problem, options), problem), outputs_of(fit(without, options), without), atol=1e-4
    )


def test_a_class_without_training_rows_gets_no_probability():
    problem = split_problem("multiclass", X, CODES, "acc")
    without = problem.train.take(np.flatnonzero(problem.train.target.values < 2))
    found = outputs_of(fit(replace(problem, train=without), PrototypeOptions()), problem)
    assert (found[:, 2] == 0).all()
    np.testing.assert_allclose(found.sum(1), 1)


def test_a_saved_head_gives_the_same_scores(tmp_path):
    problem = split_problem("multiclass", X, CODES, "auroc")
    fitted = fit(problem, PrototypeOptions())
    settings = json.loads(json.dumps(fitted.head.save(tmp_path)))
    again = PrototypeModel.load(tmp_path, settings)
    assert (again.dim, again.outputs, again.quantiles) == (24, 3, ())
    assert np.array_equal(again(problem.source, problem.val.rows), outputs_of(fitted, problem))


def test_tensors_that_do_not_fit_each_other_are_refused(tmp_path):
    head = fit(split_problem("multiclass", X, CODES, "auroc"), PrototypeOptions()).head
    for changed in (
        {"weights": head.map.weights[:1], "intercepts": head.map.intercepts[:1]},
        {"weights": torch.ones(3, 5)},
    ):
        settings = replace(head, map=replace(head.map, **changed)).save(tmp_path)
        with pytest.raises(ValueError, match="do not fit"):
            PrototypeModel.load(tmp_path, settings)


def test_what_cannot_be_is_refused_by_name():
    for shrinkages in ((), (0.0,), (1.5,)):
        with pytest.raises(HeadError, match="--shrinkage"):
            PrototypeOptions(shrinkages)
    with pytest.raises(HeadError, match="take --head knn"):
        fit(split_problem("regression", X, X[:, 0].astype(np.float64), "r2"), PrototypeOptions())
    broken = X.copy()
    broken[5, 3] = np.inf
    with pytest.raises(HeadError, match="feature 3"):
        fit(split_problem("multiclass", broken, CODES, "auroc"), PrototypeOptions())


def test_a_shrinkage_too_small_for_few_rows_is_refused():
    problem = split_problem("binary", np.repeat(X[:40], 1, axis=0), np.arange(40) % 2, "auroc")
    few = replace(problem, train=problem.train.take(np.arange(6)))
    with pytest.raises(HeadError, match="give a larger one"):
        fit(few, PrototypeOptions((1e-12,)))


WEIGHTS = "features are scaled by all rows, whatever they weigh, and products are float32"


@parametrize_with_checks(
    [PrototypeHead()], expected_failed_checks=lambda _: {"check_sample_weight_equivalence_on_dense_data": WEIGHTS}
)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)
