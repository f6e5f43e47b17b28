"""Boosted trees: bins that are made once, a loss with true derivatives, and files that are doubted before they are read."""

from __future__ import annotations

import json
from dataclasses import replace

import lightgbm
import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedcache.errors import HeadError
from heads.estimators import LightGBMClassifierHead, LightGBMRegressorHead
from heads.judging.metrics import score
from heads.trees.boosting import BoostingModel, BoostingOptions, fit
from heads.trees.focal import FocalLoss
from heads.trees.model import Trees
from tests.heads.split_problem import split_problem
from tests.heads.stores import planted
from tests.processes import run_code

X, CODES = planted(900)
QUANTITY = X.astype(np.float64) @ np.random.default_rng(3).standard_normal(24) / 5
LABELS = np.stack([CODES, 1 - CODES, X[:, 0] > np.median(X[:, 0])], axis=1).astype(np.int64)


def options(**given):
    return BoostingOptions(**{"rounds": 40, "patience": 10, "cache": None} | given)


def outputs_of(fitted, problem):
    return fitted.head(problem.source, problem.val.rows)


def test_a_head_ranks_as_well_as_lightgbm_with_the_same_settings():
    problem = split_problem("binary", X, CODES, "auroc")
    fitted = fit(problem, options(patience=0, extra={"deterministic": True}))
    theirs = lightgbm.LGBMClassifier(
        n_estimators=40, learning_rate=0.05, num_leaves=15, max_bin=63, min_child_samples=33, n_jobs=1, verbose=-1
    )
    rows, held = problem.train.rows, problem.val.rows
    theirs.fit(X[rows].astype(np.float64), CODES[rows])
    expected = theirs.predict_proba(X[held].astype(np.float64))
    np.testing.assert_allclose(outputs_of(fitted, problem), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "values", "select", "given", "least"),
    [
        ("binary", CODES, "auprc", {}, 0.5),
        ("binary", CODES, "log_loss", {"focal_gamma": 1.0}, None),
        ("multiclass", planted(900, 24, 3)[1], "auroc", {}, 0.7),
        ("multiclass", planted(900, 24, 3)[1], "auroc", {"focal_gamma": 2.0}, 0.7),
        ("multiclass", planted(900, 24, 3)[1], "auroc", {"extra": {"objective": "multiclassova"}}, 0.7),
        ("multilabel", LABELS, "auroc", {}, 0.7),
        ("regression", QUANTITY, "r2", {}, 0.6),
        ("regression", QUANTITY - QUANTITY.min() + 1, "r2", {"extra": {"objective": "poisson"}}, 0.5),
        ("regression", QUANTITY, "pinball", {"quantiles": (0.1, 0.5, 0.9)}, None),
        ("binary", CODES, "auroc", {"seeds": (1, 2)}, 0.7),
    ],
)  # fmt: skip
def test_every_target_is_learned_saved_and_read_again_with_equal_scores(kind, values, select, given, least, tmp_path):
    features = planted(900, 24, 3)[0] if kind == "multiclass" else X
    problem = split_problem(kind, features, values, select)
    fitted = fit(problem, options(**given))
    found = outputs_of(fitted, problem)
    assert found.shape == (225, fitted.head.outputs)
    assert fitted.head.outputs == (len(given.get("quantiles", "")) or len(problem.target.names))
    # what chose the head is what the head gives: bins and features lead to the same leaves
    assert score(problem.val.target, found, select, fitted.head.quantiles) == pytest.approx(
        fitted.chosen[f"val_{select}"]
    )
    if least is not None:
        assert fitted.chosen[f"val_{select}"] > least
    if problem.target.has_classes:
        np.testing.assert_allclose(found.sum(1), 1)
    settings = json.loads(json.dumps(fitted.head.save(tmp_path)))
    again = BoostingModel.load(tmp_path, settings)
    assert np.array_equal(again(problem.source, problem.val.rows), found)


def test_a_head_gives_the_same_scores_in_another_process(tmp_path):
    problem = split_problem("binary", X, CODES, "auroc")
    fitted = fit(problem, options(focal_gamma=2.0))
    (tmp_path / "settings.json").write_text(json.dumps(fitted.head.save(tmp_path)))
    np.save(tmp_path / "X.npy", X)
    code = (
        "import json, sys, numpy as np; from pathlib import Path; from heads.trees.boosting import BoostingModel; "
        "from heads.data.features import ArrayRows; folder = Path(sys.argv[1]); "
        "head = BoostingModel.load(folder, json.loads((folder / 'settings.json').read_text())); "
        "np.save(folder / 'out.npy', head(ArrayRows(np.load(folder / 'X.npy')), np.arange(900)))"
    )
    run_code(code, tmp_path)
    assert np.array_equal(np.load(tmp_path / "out.npy"), fitted.head(problem.source, np.arange(900)))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_derivatives_of_the_focal_loss_are_those_of_finite_differences(gamma, classes):
    rng = np.random.default_rng(0)
    codes = rng.integers(classes, size=30)
    scores = rng.normal(0, 3, 30 if classes == 2 else (30, classes))
    loss = FocalLoss(gamma, codes)
    slope, curvature = loss.derivatives(scores)

    def total(flat):
        return loss.value(flat.reshape(scores.shape)).sum()

    def slopes(flat):
        return loss.derivatives(flat.reshape(scores.shape))[0].ravel()

    np.testing.assert_allclose(slope.ravel(), approx_fprime(scores.ravel(), total, 1e-6), atol=2e-5)
    second = np.diag(approx_fprime(scores.ravel(), slopes, 1e-6))
    np.testing.assert_allclose(curvature.ravel(), second, atol=2e-5)
    assert (loss.newton(scores)[1] > 0).all()


def test_focal_scores_are_probabilities_that_start_at_the_share_of_the_positives():
    problem = split_problem("binary", X, CODES, "log_loss")
    fitted = fit(problem, options(rounds=1, patience=0, learning_rate=(1e-6,), focal_gamma=2.0))
    np.testing.assert_allclose(outputs_of(fitted, problem)[:, 1], CODES[problem.train.rows].mean(), atol=1e-4)


def test_without_gamma_the_focal_loss_is_the_log_loss():
    scores = np.linspace(-4, 4, 9)
    codes = np.arange(9) % 2
    slope, curvature = FocalLoss(0.0, codes).derivatives(scores)
    p = 1 / (1 + np.exp(-scores))
    np.testing.assert_allclose(slope, p - codes)
    np.testing.assert_allclose(curvature, p * (1 - p))


def test_a_quantile_never_crosses_another_and_covers_its_share():
    problem = split_problem("regression", X, QUANTITY, "pinball")
    fitted = fit(problem, options(quantiles=(0.1, 0.25, 0.5, 0.75, 0.9), rounds=150))
    found = outputs_of(fitted, problem)
    assert (np.diff(found, axis=1) >= 0).all()
    assert fitted.head.quantiles == (0.1, 0.25, 0.5, 0.75, 0.9)
    below = (problem.val.target.values[:, None] <= found).mean(0)
    np.testing.assert_allclose(below, fitted.head.quantiles, atol=0.1)


@pytest.mark.parametrize(("select", "down"), [("auprc", False), ("log_loss", True)])
def test_growth_stops_at_the_best_round_of_the_chosen_metric(select, down):
    problem = split_problem("binary", X, CODES, select)
    fitted = fit(problem, options(rounds=400, learning_rate=(0.3,)))
    values = [line[f"val_{select}"] for line in fitted.history]
    best = min(values) if down else max(values)
    assert len(values) < 400
    assert fitted.chosen[f"val_{select}"] == pytest.approx(best)
    assert fitted.chosen["rounds"] == values.index(best) + 1
    assert len(values) == values.index(best) + 1 + 10


def test_the_grid_is_tried_whole_and_the_best_is_taken():
    problem = split_problem("binary", X, CODES, "auroc")
    fitted = fit(problem, options(leaves=(2, 15), learning_rate=(0.05, 0.2)))
    scores = [trial["val_auroc"] for trial in fitted.trials]
    assert len(scores) == 4
    assert fitted.best == int(np.argmax(scores))
    assert fitted.trials[0].keys() == fitted.trials[3].keys()


def test_class_weights_are_row_weights():
    weights = np.where(CODES == 1, 3.0, 1.0)
    by_class = fit(split_problem("binary", X, CODES, "auroc"), options(class_weight={"b": 3.0}))
    by_row = fit(split_problem("binary", X, CODES, "auroc", weights=weights), options())
    problem = split_problem("binary", X, CODES, "auroc")
    np.testing.assert_array_equal(outputs_of(by_class, problem), outputs_of(by_row, problem))


def test_lightgbms_own_parameters_go_first_by_any_name():
    problem = split_problem("binary", X, CODES, "auroc")
    fitted = fit(problem, options(rounds=3, extra={"max_leaves": 2.0, "eta": 0.5}))
    assert all(f"num_leaves={leaves}" not in fitted.head.trees[0].text for leaves in (3, 15))
    assert "[learning_rate: 0.5]" in fitted.head.trees[0].text


@pytest.mark.parametrize(
    ("kind", "values", "given", "message"),
    [
        ("binary", CODES, {"extra": {"n_estimators": 5}}, "--rounds"),
        ("binary", CODES, {"extra": {"metric": "auc"}}, "--select"),
        ("binary", CODES, {"extra": {"boosting": "dart"}}, "saved and read here"),
        ("binary", CODES, {"extra": {"objective": "lambdarank"}}, "take binary"),
        ("binary", CODES, {"extra": {"lambda_l2": -1}}, "LightGBM does not take"),
        ("binary", CODES, {"quantiles": (0.5,)}, "measured quantity"),
        ("regression", QUANTITY, {"focal_gamma": 2.0}, "loss of classes"),
        ("regression", QUANTITY, {"quantiles": (0.9, 0.1)}, "rising"),
        ("regression", QUANTITY, {"class_weight": "balanced"}, "no classes"),
        ("binary", CODES, {"feature_fraction": (1.5,)}, "above 0, at most 1"),
        ("binary", CODES, {"leaves": ()}, "at least one value"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(kind, values, given, message):
    with pytest.raises(HeadError, match=message):
        fit(split_problem(kind, X, values, "auroc" if kind == "binary" else "r2"), options(**given))


def test_cached_bins_lead_to_the_same_trees(tmp_path):
    problem = split_problem("binary", X, CODES, "auroc")
    texts = [fit(problem, options(cache=cache)).head.trees[0].text for cache in (None, tmp_path, tmp_path)]
    assert texts[0] == texts[1] == texts[2]
    other = fit(split_problem("regression", X, QUANTITY, "r2"), options(cache=tmp_path))
    assert not any("binned" in note for note in other.notes)
    assert len(list(tmp_path.iterdir())) == 2  # training and validation rows, for both targets


@pytest.fixture(scope="module")
def text():
    return fit(split_problem("binary", X, CODES, "auroc"), options(rounds=3)).head.trees[0].text


def test_a_text_that_is_cut_anywhere_is_refused(text):
    end = text.index("end of trees\n") + len("end of trees\n")
    for stop in range(0, end, 37):
        with pytest.raises(ValueError, match="tree|header|line"):
            Trees.parse(text[:stop])
    assert Trees.parse(text[:end]).dim == 24


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("split_feature=", "split_feature=9"),
        ("left_child=", "left_child=99 "),
        ("left_child=3 ", "left_child=0 "),
        ("right_child=", "right_child=-"),
        ("num_leaves=15", "num_leaves=2000000000"),
        ("num_cat=0", "num_cat=1"),
        ("decision_type=2", "decision_type=1"),
        ("leaf_value=", "leaf_value=nan "),
        ("threshold=", "threshold=1_0 "),
        ("max_feature_idx=23", "max_feature_idx=5"),
        ("num_class=1", "num_class=3"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=2"),
        ("tree_sizes=", "tree_sizes=-"),
        ("tree_sizes=", "tree_sizes=1"),
        ("Tree=1", "Tree=7"),
        ("objective=binary", "objective=$(touch x)"),
        ("version=v4", "version=v4\nmachines=x"),
        ("is_linear=0", "is_linear=1"),
        ("\ntree_sizes", "\nextra\ntree_sizes"),
    ],
)
def test_a_text_that_was_changed_is_refused_before_lightgbm_sees_it(text, old, new, monkeypatch):
    assert old in text
    monkeypatch.setattr(lightgbm, "Booster", None)
    changed = text.replace(old, new, 1)
    with pytest.raises(ValueError, match="tree|header|line"):
        # sizes are put right, so that it is the change itself that is found
        Trees.parse(resized(changed))
    with pytest.raises(ValueError, match="tree|header|line"):
        Trees.parse(changed)


def resized(text):
    head, _, body = text.partition("\n\n")
    trees = body[: body.index("end of trees")].split("Tree=")[1:]
    sizes = " ".join(str(len("Tree=" + tree)) for tree in trees)
    lines = [f"tree_sizes={sizes}" if line.startswith("tree_sizes=") and "=-" not in line and "=1" not in line[:12] else line
             for line in head.split("\n")]  # fmt: skip
    return "\n".join(lines) + "\n\n" + body


@pytest.mark.parametrize(
    "wrong",
    [
        {"digests": ["0" * 32]},
        {"digests": []},
        {"start": [[0.0, 0.0]]},
        {"start": [[float("nan")]]},
        {"target": "multiclass"},
        {"target": "regression"},
        {"link": "exec"},
        {"members": 0},
        {"members": 2},
        {"quantiles": [0.5]},
    ],
)
def test_settings_that_do_not_belong_to_the_trees_are_refused(wrong, tmp_path):
    head = fit(split_problem("binary", X, CODES, "auroc"), options(rounds=3)).head
    settings = dict(head.save(tmp_path))
    assert BoostingModel.load(tmp_path, settings).outputs == 2
    with pytest.raises((ValueError, TypeError)):
        BoostingModel.load(tmp_path, settings | wrong)


def test_one_row_and_constant_features_give_the_share_of_the_classes():
    constant = np.ones_like(X)
    problem = split_problem("binary", constant, CODES, "log_loss")
    fitted = fit(problem, options(rounds=5))
    np.testing.assert_allclose(outputs_of(fitted, problem)[:, 1], CODES[problem.train.rows].mean(), atol=1e-6)
    alone = replace(problem, train=problem.train.take(np.arange(1)))
    assert np.isfinite(fit(alone, options(rounds=5)).head(problem.source, problem.val.rows)).all()


def test_a_class_without_training_rows_is_given_nearly_no_probability():
    features, codes = planted(900, 24, 3)
    problem = split_problem("multiclass", features, codes, "acc")
    without = problem.train.take(np.flatnonzero(codes[problem.train.rows] < 2))
    for gamma in (0.0, 2.0):
        found = outputs_of(fit(replace(problem, train=without), options(focal_gamma=gamma)), problem)
        assert found[:, 2].max() < 1e-3


WEIGHTS = "a row of weight 2 is one row of a leaf and of a bin, not two"


@parametrize_with_checks(
    [LightGBMClassifierHead(rounds=30), LightGBMRegressorHead(rounds=100)],
    expected_failed_checks=lambda _: {"check_sample_weight_equivalence_on_dense_data": WEIGHTS},
)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_estimators_give_quantiles_and_several_labels():
    quantiles = LightGBMRegressorHead(quantiles=(0.1, 0.9)).fit(X, QUANTITY).predict(X)
    assert quantiles.shape == (900, 2)
    head = LightGBMClassifierHead(class_weight={0: 2.0}).fit(X, LABELS)
    assert head.predict_proba(X).shape == head.predict(X).shape == (900, 3)
