"""Ridge regression reaches its optimum at every strength, whatever the features, and keeps scikit-learn's rules."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedcache.errors import HeadError
from embedcache.search.standardising import standardise
from heads.data.features import ArrayRows, Design
from heads.data.gram import WIDEST, spectrum
from heads.data.target import Examples, Target
from heads.fitting import Problem
from heads.head import TENSORS
from heads.linear.linear_estimators import RidgeHead
from heads.linear.ridge import ALPHAS, RidgeModel, RidgeOptions, RidgePath, fit, fit_path
from tests.heads.reference import standardised


def measured(rows=600, dim=30, targets=1, *, noise=1.0, seed=0, dtype=np.float32):
    """Features with a steep spectrum and means far from zero, and values that depend on them."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    X = (rng.standard_normal((rows, dim)) * np.arange(1, dim + 1) ** -1.5) @ basis
    Y = X @ rng.standard_normal((dim, targets)) / X.std() + noise * rng.standard_normal((rows, targets)) + 7
    return (X + rng.normal(0, 3, dim) * X.std(0)).astype(dtype), Y


def design_of(X, **given) -> Design:
    source, rows = ArrayRows(np.asarray(X)), np.arange(len(X))
    return Design(source, rows, standardise(source, rows), **given)


def objective(Z, y, s, alpha, w, b) -> float:
    return float(0.5 * (s * (y - b - Z @ w) ** 2).sum() + 0.5 * alpha * (w**2).sum())


def gaps(X, Y, path: RidgePath, weights=None) -> np.ndarray:
    """True relative distance (A, T) of every objective to its minimum in float64, by the normal equations."""
    Z, s = standardised(X), np.ones(len(X)) if weights is None else weights
    made = standardise(ArrayRows(X), np.arange(len(X)))
    shift = Z - (X - made.centre.double().numpy()) * made.factor.double().numpy()  # the centre is rounded to float32
    A = np.column_stack([Z, np.ones(len(Z))])
    moments = A.T @ (s[:, None] * A)
    found = np.empty((len(ALPHAS), Y.shape[1]))
    for a, alpha in enumerate(ALPHAS):
        penalty = alpha * np.diag(np.arange(len(moments)) < Z.shape[1])
        for t, y in enumerate(Y.T):
            best = np.linalg.solve(moments + penalty, A.T @ (s * y))
            least = objective(Z, y, s, alpha, best[:-1], best[-1])
            w = path.weights[a, t].double().numpy()
            b = float(path.intercepts[a, t] - shift.mean(0) @ w)
            found[a, t] = (objective(Z, y, s, alpha, w, b) - least) / least
    return found


@pytest.mark.parametrize(
    ("rows", "dim", "targets", "dtype"),
    [
        (600, 30, 1, np.float32),
        (2000, 40, 3, np.float16),
        (60, 100, 2, np.float32),  # fewer rows than features
        (400, 17, 1, np.float64),
        (3000, 530, 1, np.float16),  # more than one panel of the Gram matrix, and more than one block
    ],
)
def test_every_strength_is_within_1e_6_of_the_float64_optimum(rows, dim, targets, dtype):
    X, Y = measured(rows, dim, targets, dtype=dtype)
    path = fit_path(design_of(X), Y, ALPHAS)
    assert path.weights.shape == (len(ALPHAS), targets, dim)
    assert gaps(X, Y, path).max() < 1e-6
    assert path.gaps.max() < 1e-6


def test_values_without_noise_and_means_far_above_the_deviation_lose_no_digits():
    X, Y = measured(500, 20, noise=1e-4)
    far = (X.astype(np.float64) / X.std(0) + 1000).astype(np.float32)
    path = fit_path(design_of(far), Y + 1e6, ALPHAS)
    assert gaps(far, Y + 1e6, path).max() < 1e-6


def test_reported_objectives_and_gaps_are_true():
    X, Y = measured(800, 40, 2)
    path = fit_path(design_of(X), Y, ALPHAS)
    true = [
        [
            objective(standardised(X), y, 1, alpha, w.double().numpy(), float(b))
            for y, w, b in zip(Y.T, W, B, strict=True)
        ]
        for alpha, W, B in zip(ALPHAS, path.weights, path.intercepts, strict=True)
    ]
    np.testing.assert_allclose(path.objectives, true, rtol=1e-6)
    worse = fit_path(design_of(X), Y, tuple(1.5 * alpha for alpha in ALPHAS))
    assert (gaps(X, Y, worse)[5] > 1e-6).all()  # the judge sees a wrong strength


def test_a_weight_counts_as_that_many_rows():
    X, Y = measured(300, 12, 2)
    times = np.random.default_rng(0).integers(0, 4, 300)
    design = design_of(X)
    weighted = fit_path(design, Y, ALPHAS, times.astype(np.float64))
    assert gaps(X, Y, weighted, times).max() < 1e-6
    repeated = Design(design.source, np.repeat(np.arange(300), times), design.standardisation)
    again = fit_path(repeated, np.repeat(Y, times, axis=0), ALPHAS)
    np.testing.assert_allclose(again.weights, weighted.weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(again.objectives, weighted.objectives, rtol=1e-9)


def test_moments_of_an_earlier_fit_give_the_same_path_for_a_new_target():
    X, Y = measured(500, 20, 2)
    moments = spectrum(design_of(X))
    fresh = fit_path(design_of(X), Y[:, 1:], ALPHAS)
    warm = fit_path(design_of(X), Y[:, 1:], ALPHAS, moments=moments)
    assert torch.equal(warm.weights, fresh.weights)


def test_streamed_or_in_memory_in_blocks_of_any_size_the_path_is_the_same():
    X, Y = measured(3000, 32, dtype=np.float16)
    whole = fit_path(design_of(X), Y, ALPHAS)
    for given in ({"memory_bytes": 0}, {"block_rows": 700}, {"memory_bytes": 0, "block_rows": 333}):
        other = fit_path(design_of(X, **given), Y, ALPHAS)
        np.testing.assert_allclose(other.objectives, whole.objectives, rtol=1e-12)


def test_constant_features_take_no_weight_and_huge_ones_do_no_harm():
    X, Y = measured(400, 20)
    X[:, 3] = 0.1
    X[:, 7] *= 1e15
    path = fit_path(design_of(X), Y, ALPHAS)
    assert (path.weights[..., 3] == 0).all()
    assert gaps(X, Y, path).max() < 1e-6


def test_a_constant_target_is_its_mean():
    X, _ = measured(100, 5)
    path = fit_path(design_of(X), np.full((100, 1), 3.25), ALPHAS)
    assert (path.weights == 0).all()
    assert (path.intercepts == 3.25).all()
    assert (path.gaps == 0).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_agrees_with_scikit_learn(dtype):
    X, Y = measured(500, 25, 2, dtype=dtype)
    weights = np.random.default_rng(1).uniform(0, 2, 500)
    for y in (Y, Y[:, 0]):
        theirs = make_pipeline(StandardScaler(), Ridge(alpha=30)).fit(
            X.astype(np.float64), y, ridge__sample_weight=weights
        )
        ours = RidgeHead(alpha=30).fit(X, y, weights)
        assert ours.predict(X).shape == y.shape
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X.astype(np.float64)), atol=1e-4)


def problem(X, y, kind="regression", select="r2") -> Problem:
    target = Target(kind, ("y",), y)
    rows = np.arange(len(X))
    examples = Examples(rows, target)
    return Problem(ArrayRows(X), examples.take(rows[::2]), examples.take(rows[1::2]), select)


def test_the_strength_of_the_best_validation_score_is_taken():
    X, Y = measured(300, 60, noise=3)
    fitted = fit(problem(X, Y[:, 0]), RidgeOptions((1e-2, 1.0, 1e2, 1e4)))
    judged = []
    for trial in fitted.trials:
        theirs = make_pipeline(StandardScaler(), Ridge(alpha=trial["alpha"])).fit(X[::2].astype(np.float64), Y[::2, 0])
        judged.append(r2_score(Y[1::2, 0], theirs.predict(X[1::2].astype(np.float64))))
    np.testing.assert_allclose([trial["val_r2"] for trial in fitted.trials], judged, atol=1e-5)
    assert fitted.best == int(np.argmax(judged))
    outputs = fitted.head(ArrayRows(X), np.arange(1, 300, 2))
    assert outputs.shape == (150, 1)
    assert r2_score(Y[1::2, 0], outputs[:, 0]) == pytest.approx(fitted.chosen["val_r2"])


def test_a_best_strength_at_the_end_of_the_path_is_told():
    X, Y = measured(200, 10, noise=0.01)
    assert fit(problem(X, Y[:, 0]), RidgeOptions((1.0, 10.0, 1e4))).notes == (
        "the best alpha, 1, is the smallest that was tried: smaller --alpha may do better",
    )
    assert fit(problem(X, Y[:, 0]), RidgeOptions((1.0,))).notes == ()


def test_a_saved_model_gives_identical_values(tmp_path):
    X, Y = measured(200, 10)
    model = RidgeHead().fit(X, Y).model_
    again = RidgeModel.load(tmp_path, json.loads(json.dumps(model.save(tmp_path))))
    assert (again.dim, again.outputs, again.quantiles) == (10, 1, ())
    np.testing.assert_array_equal(again(ArrayRows(X), np.arange(200)), model(ArrayRows(X), np.arange(200)))


def test_files_that_hold_no_sound_model_are_refused(tmp_path):
    X, Y = measured(200, 10)
    settings = RidgeHead().fit(X, Y).model_.save(tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    for key, tensor in (
        ("weights", torch.zeros(1, 9)),
        ("intercepts", torch.zeros(2)),
        ("centre", torch.full((10,), torch.inf)),
    ):
        save_file(tensors | {key: tensor}, tmp_path / TENSORS)
        with pytest.raises(ValueError, match="fit each other|not finite"):
            RidgeModel.load(tmp_path, settings)
    save_file({key: tensor for key, tensor in tensors.items() if key != "factor"}, tmp_path / TENSORS)
    with pytest.raises(KeyError):
        RidgeModel.load(tmp_path, settings)


@pytest.mark.parametrize("alphas", [(), (0.0,), (1.0, -1.0), (float("nan"),), (float("inf"),)])
def test_strengths_that_are_not_positive_numbers_are_refused(alphas):
    with pytest.raises(HeadError, match="--alpha takes positive numbers, not"):
        RidgeOptions(alphas)


def test_classes_and_features_that_are_not_finite_are_refused():
    X, Y = measured(100, 5)
    with pytest.raises(HeadError, match="learns a measured quantity"):
        fit(problem(X, (Y[:, 0] > 7).astype(np.int64), "binary"), RidgeOptions())
    model = RidgeHead().fit(X, Y).model_
    X[[4, 9], 2] = np.nan
    with pytest.raises(HeadError, match="feature 2 holds"):
        fit(problem(X, Y[:, 0]), RidgeOptions())
    with pytest.raises(HeadError, match=r"features of row 4 \(and 1 more\) are not finite"):
        model(ArrayRows(X), np.arange(100))


def test_more_features_than_have_eigenvectors_in_a_day_are_refused():
    X = np.broadcast_to(np.float32(0), (2, WIDEST + 1))
    with pytest.raises(HeadError, match="16,385 features are too many for an eigenvalue decomposition"):
        spectrum(design_of(X))


UNWEIGHTED = "features are standardised over all rows alike, as StandardScaler in a pipeline does"


@parametrize_with_checks(
    [RidgeHead()],
    expected_failed_checks=lambda _: dict.fromkeys(
        ["check_sample_weight_equivalence_on_dense_data", "check_sample_weights_invariance"], UNWEIGHTED
    ),
)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)
