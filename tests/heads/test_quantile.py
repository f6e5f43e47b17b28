"""Quantile regression reaches the minimum of the pinball loss, and its quantiles never cross."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize
from sklearn.linear_model import QuantileRegressor
from sklearn.metrics import mean_pinball_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedcache.errors import HeadError
from embedcache.search.standardising import standardise
from heads.data.features import ArrayRows, Design
from heads.data.target import Examples, Target
from heads.fitting import Problem
from heads.head import TENSORS
from heads.linear.linear_estimators import QuantileHead
from heads.linear.linear_map import LinearMap
from heads.linear.logistic import NotConvergedWarning
from heads.linear.quantile import (
    ALPHAS,
    CERTIFIED,
    QuantileModel,
    QuantileOptions,
    QuantilePath,
    fit,
    fit_path,
)
from tests.heads.reference import standardised
from tests.heads.test_ridge import design_of, measured

LEVELS = (0.1, 0.5, 0.9)


def spread(rows=400, dim=8, seed=0, dtype=np.float32):
    """Features, and values whose spread depends on them as their middle does."""
    X, Y = measured(rows, dim, noise=0, seed=seed, dtype=dtype)
    rng = np.random.default_rng(seed)
    scale = np.exp(0.7 * (X[:, 0] - X[:, 0].mean()) / X[:, 0].std())
    return X, Y[:, 0] + 3 * scale.astype(np.float64) * rng.standard_normal(rows)


def objective(Z, y, s, quantile, alpha, w, b) -> float:
    """The objective as `heads.linear.quantile` states it."""
    unit = np.average(np.abs(y - _median(y, s)), weights=s)
    r = y - b - Z @ w
    return float((s * np.maximum(quantile * r, (quantile - 1) * r)).sum() + 0.5 * alpha * (w**2).sum() / unit)


def _median(y, s) -> float:
    order = np.argsort(y)
    return float(y[order][np.searchsorted(np.cumsum(s[order]), 0.5 * s.sum())])


def dual_bound(Z, y, s, quantile, alpha) -> float:
    """A value that no w and b go below: sum t y - unit/2a |Z't|^2 for any t_i in s_i [q - 1, q] of sum 0, here the best."""
    unit = np.average(np.abs(y - _median(y, s)), weights=s)
    strength, centred = unit / alpha, y - _median(y, s)
    found = minimize(
        lambda t: 0.5 * strength * ((Z.T @ t) ** 2).sum() - t @ centred,
        np.zeros(len(y)),
        jac=lambda t: strength * (Z @ (Z.T @ t)) - centred,
        bounds=list(zip(s * (quantile - 1), s * quantile, strict=True)),
        constraints={"type": "eq", "fun": np.sum, "jac": lambda t: np.ones(len(t))},
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    assert abs(found.x.sum()) < 1e-7
    return -float(found.fun)


def true_gaps(X, y, path: QuantilePath, levels, alphas, weights=None) -> np.ndarray:
    """Relative distance (A, Q) of each objective to the bound from below, in float64."""
    Z, s = standardised(X), np.ones(len(X)) if weights is None else weights
    found = np.empty(path.objectives.shape)
    for a, alpha in enumerate(alphas):
        for q, quantile in enumerate(levels):
            w, b = path.weights[a, q].double().numpy(), float(path.intercepts[a, q])
            least = dual_bound(Z, y, s, quantile, alpha)
            found[a, q] = (objective(Z, y, s, quantile, alpha, w, b) - least) / least
    return found


@pytest.mark.parametrize(("rows", "dim", "dtype"), [(90, 6, np.float32), (60, 5, np.float16), (30, 50, np.float64)])
def test_every_objective_is_within_1e_4_of_its_minimum(rows, dim, dtype):
    X, y = spread(rows, dim, dtype=dtype)
    alphas = (0.1, 1.0, 100.0)
    path = fit_path(design_of(X), y, LEVELS, alphas)
    assert path.converged.all()
    gaps = true_gaps(X, y, path, LEVELS, alphas)
    assert gaps.max() < CERTIFIED
    assert (gaps < 2 * path.gaps).all()


def test_reported_objectives_are_true():
    X, y = spread(500, 10)
    path = fit_path(design_of(X), y, LEVELS, ALPHAS)
    Z, s = standardised(X), np.ones(500)
    for a, alpha in enumerate(ALPHAS):
        for q, quantile in enumerate(LEVELS):
            w, b = path.weights[a, q].double().numpy(), float(path.intercepts[a, q])
            assert path.objectives[a, q] == pytest.approx(objective(Z, y, s, quantile, alpha, w, b), rel=1e-6)


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.8])
def test_without_a_penalty_agrees_with_scikit_learn(quantile):
    X, y = spread(500, 8)
    theirs = make_pipeline(StandardScaler(), QuantileRegressor(quantile=quantile, alpha=0)).fit(X.astype(np.float64), y)
    ours = QuantileHead(quantile, alpha=1e-6).fit(X, y)
    least = mean_pinball_loss(y, theirs.predict(X.astype(np.float64)), alpha=quantile)
    found = mean_pinball_loss(y, ours.predict(X), alpha=quantile)
    assert 0 <= found / least - 1 < CERTIFIED
    assert (y < ours.predict(X)).mean() == pytest.approx(quantile, abs=0.02)


def test_the_unit_and_the_origin_of_the_values_change_nothing_but_the_unit_and_the_origin():
    X, y = spread(300, 8)
    plain = QuantileHead(0.8, alpha=10).fit(X, y).predict(X)
    other = QuantileHead(0.8, alpha=10).fit(X, 1e-4 * y - 5).predict(X)
    np.testing.assert_allclose((other + 5) / 1e-4, plain, atol=1e-3 * y.std())


def test_a_weight_counts_as_that_many_rows():
    X, y = spread(60, 5)
    times = np.random.default_rng(0).integers(1, 4, 60).astype(np.float64)
    path = fit_path(design_of(X), y, LEVELS, (1.0, 100.0), times)
    assert true_gaps(X, y, path, LEVELS, (1.0, 100.0), times).max() < CERTIFIED
    design = design_of(X)
    repeated = Design(design.source, np.repeat(np.arange(60), times.astype(int)), design.standardisation)
    again = fit_path(repeated, np.repeat(y, times.astype(int)), LEVELS, (1.0, 100.0))
    np.testing.assert_allclose(again.objectives, path.objectives, rtol=CERTIFIED)


def test_a_quantile_never_crosses_another():
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((60, 30)).astype(np.float32), rng.standard_normal(60)
    levels = tuple(np.linspace(0.1, 0.9, 9).tolist())
    examples = Examples(np.arange(60), Target("regression", ("y",), y))
    model = fit(Problem(ArrayRows(X), examples, examples, "pinball"), QuantileOptions(levels, (10.0,))).head
    assert isinstance(model, QuantileModel)
    other = rng.standard_normal((500, 30)).astype(np.float32) * 3
    crossing = model.map(ArrayRows(other), np.arange(500))
    assert (np.diff(crossing, axis=1) < 0).any()  # the fitted planes do cross out there
    outputs = model(ArrayRows(other), np.arange(500))
    assert (np.diff(outputs, axis=1) >= 0).all()
    np.testing.assert_array_equal(outputs, np.sort(crossing, axis=1))


def problem(X, y, select="pinball", kind="regression") -> Problem:
    examples = Examples(np.arange(len(X)), Target(kind, ("y",), y))
    even, odd = np.arange(0, len(X), 2), np.arange(1, len(X), 2)
    return Problem(ArrayRows(X), examples.take(even), examples.take(odd), select)


def test_the_strength_of_the_best_validation_score_is_taken():
    X, y = spread(160, 30)
    alphas = (10.0, 1e3)
    fitted = fit(problem(X, y), QuantileOptions(LEVELS, alphas))
    losses = []
    for alpha in alphas:
        alone = [QuantileHead(quantile, alpha).fit(X[::2], y[::2]).predict(X[1::2]) for quantile in LEVELS]
        outputs = np.sort(np.stack(alone, 1), axis=1)
        losses.append(np.mean([mean_pinball_loss(y[1::2], o, alpha=q) for o, q in zip(outputs.T, LEVELS, strict=True)]))
    np.testing.assert_allclose([trial["val_pinball"] for trial in fitted.trials], losses, rtol=5e-3)
    assert fitted.best == int(np.argmin(losses))
    assert fitted.head.quantiles == LEVELS
    assert fitted.head(ArrayRows(X), np.arange(7)).shape == (7, 3)


def test_a_value_that_all_rows_share_is_every_quantile_of_it():
    X, _ = spread(50, 4)
    path = fit_path(design_of(X), np.full(50, 3.25), LEVELS, (1.0,))
    assert (path.weights == 0).all()
    assert (path.intercepts == 3.25).all()
    assert path.converged.all()


def test_constant_features_take_no_weight():
    X, y = spread(200, 8)
    X[:, 3] = 40000.0
    assert (fit_path(design_of(X), y, LEVELS, (1.0,)).weights[..., 3] == 0).all()


def test_streamed_or_in_memory_in_blocks_of_any_size_the_objectives_are_the_same():
    X, y = spread(3000, 12, dtype=np.float16)
    whole = fit_path(design_of(X), y, LEVELS, (1.0, 100.0))
    for given in ({"memory_bytes": 0}, {"memory_bytes": 0, "block_rows": 333}):
        other = fit_path(design_of(X, **given), y, LEVELS, (1.0, 100.0))
        np.testing.assert_allclose(other.objectives, whole.objectives, rtol=CERTIFIED)


def test_too_few_passes_end_with_a_warning_and_a_note():
    X, y = spread(200, 20)
    with pytest.warns(NotConvergedWarning, match="stopped after .* a larger alpha converges sooner"):
        head = QuantileHead(0.9, alpha=1e-3, most_passes=5).fit(X, y)
    assert head.gap_ > CERTIFIED
    assert np.isfinite(head.predict(X)).all()


def test_a_saved_model_gives_identical_values(tmp_path):
    X, y = spread(200, 10)
    model = fit(problem(X, y), QuantileOptions()).head
    again = QuantileModel.load(tmp_path, json.loads(json.dumps(model.save(tmp_path))))
    assert (again.dim, again.outputs, again.quantiles) == (10, 3, LEVELS)
    np.testing.assert_array_equal(again(ArrayRows(X), np.arange(200)), model(ArrayRows(X), np.arange(200)))


def test_files_that_hold_no_sound_model_are_refused(tmp_path):
    X, _ = spread(50, 4)
    source, rows = ArrayRows(X), np.arange(50)
    made = LinearMap(standardise(source, rows), torch.zeros(2, 4), torch.zeros(2, dtype=torch.float64))
    settings = QuantileModel(made, (0.1, 0.9)).save(tmp_path)
    for bad in ([0.1], [0.9, 0.1], [0.1, 1.0], [0.1, float("nan")], ["a", "b"], 3):
        with pytest.raises((TypeError, ValueError)):
            QuantileModel.load(tmp_path, {"quantiles": bad})
    with pytest.raises(KeyError):
        QuantileModel.load(tmp_path, {})
    save_file(load_file(tmp_path / TENSORS) | {"intercepts": torch.zeros(3)}, tmp_path / TENSORS)
    with pytest.raises(ValueError, match="fit each other"):
        QuantileModel.load(tmp_path, settings)


@pytest.mark.parametrize("quantiles", [(), (0.0,), (1.0,), (0.9, 0.1), (0.5, 0.5), (float("nan"),)])
def test_quantiles_that_do_not_rise_between_0_and_1_are_refused(quantiles):
    with pytest.raises(HeadError, match="--quantiles takes rising numbers between 0 and 1"):
        QuantileOptions(quantiles)


def test_strengths_below_zero_and_classes_are_refused():
    with pytest.raises(HeadError, match="--alpha takes positive numbers"):
        QuantileOptions(LEVELS, (-1.0,))
    X, y = spread(50, 4)
    with pytest.raises(HeadError, match="learns a measured quantity"):
        fit(problem(X, (y > 7).astype(np.int64), kind="binary"), QuantileOptions())


@parametrize_with_checks(
    [QuantileHead()],
    expected_failed_checks=lambda _: {
        "check_sample_weight_equivalence_on_dense_data": "features are standardised over all rows alike, as "
        "StandardScaler in a pipeline does"
    },
)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        check(estimator)
