"""The training of a logistic regression: the grid and the choice from it, several labels, bad input, and saved heads."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from embedcache.errors import HeadError
from heads.data.features import ArrayRows
from heads.data.target import Examples, Target
from heads.fitting import Problem
from heads.head import DAMAGED, load_tensors, save_tensors
from heads.judging.metrics import score
from heads.linear import logistic, objective
from heads.linear.kernel import NoKernel
from heads.linear.logistic import LogisticModel, LogisticOptions, fit
from tests.heads.stores import planted


def problem(X, target, *, weights=None, val=None, select="auprc", **options):
    """A problem whose last third of rows chooses."""
    rows = np.arange(len(X))
    train = rows[: 2 * len(rows) // 3]
    everything = Examples(rows, target, weights)
    chosen = everything.take(np.setdiff1d(rows, train)) if val is None else everything.take(val)
    return Problem(ArrayRows(X), everything.take(train), chosen, select, **options)


def labels(rows=450, count=3, seed=0):
    """Features, and several labels that depend on them."""
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((rows, 10)) + 3).astype(np.float16)
    scores = X @ rng.standard_normal((10, count))
    codes = (scores > scores.mean(0) + [0.5, 1, 1.5][:count]).astype(np.int64)
    return X, Target("multilabel", ("a", "b", "c")[:count], codes)


def test_labels_fitted_together_are_those_fitted_alone():
    X, target = labels()
    fitted = fit(problem(X, target), LogisticOptions((0.1, 1.0), ("balanced",)))
    together = fitted.head(ArrayRows(X), np.arange(len(X)))
    assert together.shape == (450, 3)
    for label in range(3):
        single = Target("binary", (0, 1), target.values[:, label])
        alone = fit(problem(X, single), LogisticOptions((float(fitted.chosen["C"]),), ("balanced",)))
        np.testing.assert_allclose(together[:, label], alone.head(ArrayRows(X), np.arange(len(X)))[:, 1], atol=1e-3)


def test_one_point_is_chosen_for_all_labels_by_the_mean_of_the_metric():
    X, target = labels()
    fitted = fit(problem(X, target, select="auroc"), LogisticOptions((1e-4, 1.0)))
    assert [trial["C"] for trial in fitted.trials] == [1e-4, 1e-4, 1.0, 1.0]
    assert fitted.chosen["val_auroc"] == max(trial["val_auroc"] for trial in fitted.trials)
    held = np.arange(300, 450)
    each = [roc_auc_score(target.values[held, k], fitted.head(ArrayRows(X), held)[:, k]) for k in range(3)]
    assert fitted.chosen["val_auroc"] == pytest.approx(np.mean(each), abs=1e-6)


@pytest.mark.parametrize("select", ["auprc", "auroc", "mcc", "f1", "log_loss", "brier", "balanced_acc"])
def test_the_head_is_the_best_of_the_grid_by_any_metric(select):
    X, codes = planted(450, 10)
    target = Target("binary", ("host", "viral"), codes)
    fitted = fit(problem(X, target, select=select), LogisticOptions((1e-4, 1e-2, 1.0)))
    found = [float(trial[f"val_{select}"]) for trial in fitted.trials]
    outputs = fitted.head(ArrayRows(X), np.arange(300, 450))
    assert score(target.take(np.arange(300, 450)), outputs, select) == pytest.approx(found[fitted.best], abs=1e-6)
    assert found[fitted.best] == (min(found) if select in ("log_loss", "brier") else max(found))


def test_a_class_weight_by_name_multiplies_the_loss_of_its_rows():
    X, codes = planted(450, 10)
    target = Target("binary", ("host", "viral"), codes)
    named = fit(problem(X, target), LogisticOptions((0.1,), ({"viral": 4.0},)))
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight={1: 4.0}, tol=1e-10, max_iter=5000))
    theirs.fit(X[:300].astype(np.float64), codes[:300])
    found = named.head(ArrayRows(X), np.arange(450))
    np.testing.assert_allclose(found, theirs.predict_proba(X.astype(np.float64)), atol=5e-4)
    assert named.chosen["class_weight"] == "viral=4"


def test_many_classes_are_fitted_in_parts_as_they_are_at_once(monkeypatch):
    X, codes = planted(900, 8, 4)
    target = Target("multiclass", (0, 1, 2, 3), codes)
    whole = fit(problem(X, target), LogisticOptions((0.01, 1.0)))
    monkeypatch.setattr(logistic, "MOST_COLUMNS", 5)
    parts = fit(problem(X, target), LogisticOptions((0.01, 1.0)))
    assert [trial["passes"] for trial in parts.trials] == [trial["passes"] for trial in whole.trials]
    np.testing.assert_allclose(
        parts.head(ArrayRows(X), np.arange(900)), whole.head(ArrayRows(X), np.arange(900)), atol=1e-5
    )


def test_without_a_compiler_the_fit_says_so_and_chooses_the_same_head(monkeypatch):
    X, codes = planted(450, 10)
    made = problem(X, Target("binary", ("host", "viral"), codes))
    fused = fit(made, LogisticOptions())
    for module in (logistic, objective):
        monkeypatch.setattr(module, "find_kernel", lambda: NoKernel("there is no C compiler"))
    plain = fit(made, LogisticOptions())
    assert [note for note in plain.notes if "products by torch" in note and note.endswith("there is no C compiler")]
    assert plain.best == fused.best
    assert [trial["objective"] for trial in plain.trials] == pytest.approx(
        [trial["objective"] for trial in fused.trials], rel=1e-6
    )


def test_progress_ends_with_every_regression():
    X, target = labels()
    told = []
    fit(problem(X, target, progress=lambda *args: told.append(args)), LogisticOptions((0.1, 1.0)))
    assert told[-1] == (12, 12, "12 of 12 regressions at their optimum")


def test_a_measured_quantity_is_refused():
    X, _ = planted(30, 4)
    target = Target("regression", ("height",), np.arange(30.0))
    with pytest.raises(HeadError, match="height is a measured quantity"):
        fit(problem(X, target, select="r2"), LogisticOptions())


def test_a_class_without_training_rows_is_named():
    X, codes = planted(300, 8, 3)
    codes[:200] %= 2
    with pytest.raises(HeadError, match="none of the 200 training rows has the class phage"):
        fit(problem(X, Target("multiclass", ("host", "viral", "phage"), codes)), LogisticOptions())
    weights = np.where(codes == 1, 0.0, 1.0)
    with pytest.raises(HeadError, match="has the class viral"):
        fit(problem(X, Target("binary", ("host", "viral"), codes % 2), weights=weights), LogisticOptions())


def test_a_label_that_never_changes_in_train_is_named():
    X, target = labels()
    target.values[:300, 1] = 0
    with pytest.raises(HeadError, match="label b is 0 in all 300 training rows"):
        fit(problem(X, target), LogisticOptions())


def test_one_training_row_is_refused_as_lacking_a_class():
    X, codes = planted(10, 4)
    rows = Examples(np.arange(10), Target("binary", ("host", "viral"), codes))
    alone = Problem(ArrayRows(X), rows.take(np.arange(1)), rows, "auprc")
    with pytest.raises(HeadError, match="none of the 1 training rows has the class"):
        fit(alone, LogisticOptions())


@pytest.mark.parametrize("strength", [0.0, -1.0, np.nan, np.inf])
def test_a_strength_that_is_no_number_above_zero_is_refused(strength):
    X, codes = planted(60, 4)
    with pytest.raises(HeadError, match="--c"):
        fit(problem(X, Target("binary", (0, 1), codes)), LogisticOptions((strength,)))


def test_a_grid_without_validation_rows_is_refused_and_a_single_head_is_not():
    X, codes = planted(300, 6)
    empty = problem(X, Target("binary", (0, 1), codes), val=np.arange(0))
    with pytest.raises(HeadError, match="no validation rows to choose from 16"):
        fit(empty, LogisticOptions())
    assert len(fit(empty, LogisticOptions((1.0,), ("none",))).trials) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused_in_train_and_in_val(value):
    X, codes = planted(300, 6)
    for row, message in ((7, "feature 3 holds a value that is not a finite number"), (299, "the features of row 299")):
        bad = X.copy()
        bad[row, 3] = value
        with pytest.raises(HeadError, match=message):
            fit(problem(bad, Target("binary", (0, 1), codes)), LogisticOptions((1.0,), ("none",)))


def test_an_optimum_at_the_edge_of_the_grid_and_balanced_weights_are_noted():
    X, codes = planted(450, 10)
    fitted = fit(problem(X, Target("binary", (0, 1), codes)), LogisticOptions((1e-6, 1e-5), ("balanced",)))
    assert any("of the grid: a wider --c may do better" in note for note in fitted.notes)
    assert any("as if the classes were equally frequent" in note for note in fitted.notes)


def test_heads_that_saturate_are_told_apart_by_their_scores():
    # rows whose probabilities are all 1.0 in float32, in perfect order: a ranking on those would be worth half
    X = np.linspace(-1, 1, 400)[:, None].astype(np.float32) * np.ones((1, 2), np.float32)
    X[200:] += 50
    target = Target("binary", (0, 1), (np.arange(400) >= 200).astype(np.int64))
    train = Examples(np.arange(400), target)
    val = Examples(np.arange(200, 400), Target("binary", (0, 1), (np.arange(200) >= 100).astype(np.int64)))
    fitted = fit(Problem(ArrayRows(X), train, val, "auroc"), LogisticOptions((1e3,), ("none",)))
    assert fitted.chosen["val_auroc"] > 0.99


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_a_saved_head_is_loaded_with_identical_outputs(kind, tmp_path):
    X, target = labels()
    if kind != "multilabel":
        X, codes = planted(450, 10, 2 if kind == "binary" else 3)
        target = Target(kind, ("host", "viral", "phage")[: codes.max() + 1], codes)
    head = fit(problem(X, target), LogisticOptions((0.1,), ("none",))).head
    back = LogisticModel.load(tmp_path, json.loads(json.dumps(head.save(tmp_path))))
    rows = np.arange(len(X))
    assert (back(ArrayRows(X), rows) == head(ArrayRows(X), rows)).all()
    assert (back.dim, back.outputs, back.quantiles) == (10, len(target.names), ())
    if kind == "multilabel":
        return
    np.testing.assert_allclose(back(ArrayRows(X), rows).sum(1), 1)


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({"weights": torch.zeros(5)}, {"multilabel": False}),
        ({"weights": torch.zeros(2, 10)}, {"multilabel": False}),
        ({"centre": torch.zeros(3)}, {"multilabel": False}),
        ({"factor": torch.full((10,), torch.nan)}, {"multilabel": False}),
        ({}, {"multilabel": "yes"}),
        ({}, {}),
    ],
)
def test_files_that_make_no_head_are_refused(change, settings, tmp_path):
    X, codes = planted(450, 10)
    head = fit(problem(X, Target("binary", (0, 1), codes)), LogisticOptions((0.1,), ("none",))).head
    head.save(tmp_path)
    save_tensors(tmp_path, load_tensors(tmp_path) | change)
    with pytest.raises(DAMAGED):
        LogisticModel.load(tmp_path, settings)
