"""Perceptrons learn every kind of target, come out the same alone and in a stack, and are saved as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from embedcache.errors import HeadError
from heads.data.features import ArrayRows
from heads.data.target import Target
from heads.judging.metrics import score
from heads.linear.linear_estimators import LogisticHead
from heads.perceptron import mlp
from heads.perceptron.mlp import MLPModel, fit
from heads.perceptron.perceptrons import Dropout
from tests.heads.problems import DIM, ROWS, SMALL, TRAIN, features, learned, of_a_quantity, of_classes, outputs, problem


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_are_learned_as_well_as_by_logistic_regression(classes):
    given = of_classes(classes, "auroc")
    X, codes = features(classes)
    theirs = LogisticHead().fit(X[:TRAIN], codes[:TRAIN]).predict_proba(X[TRAIN:])
    assert learned(given, replace(SMALL, epochs=15)) > score(given.val.target, theirs, "auroc") - 0.05


def test_what_no_line_separates_is_learned_too():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((ROWS, 4)).astype(np.float32)
    codes = (X[:, 0] * X[:, 1] > 0).astype(np.int64)
    given = problem(X, Target("binary", ("no", "yes"), codes), "auroc")
    assert learned(given, replace(SMALL, hidden=(32, 16), epochs=25)) > 0.95


def test_several_labels_are_learned_at_once():
    X, codes = features(3)
    labels = np.stack([codes == 0, codes == 1], axis=1).astype(np.int64)
    given = problem(X, Target("multilabel", ("p", "q"), labels), "auroc")
    fitted = fit(given, replace(SMALL, epochs=10))
    assert outputs(fitted, given).shape == (ROWS - TRAIN, 2)
    assert fitted.chosen["val_auroc"] > 0.75


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_a_quantity_is_learned_in_its_own_units(loss):
    given = of_a_quantity()
    fitted = fit(given, replace(SMALL, epochs=20, loss=loss))
    assert outputs(fitted, given).shape == (ROWS - TRAIN, 1)
    assert fitted.chosen["val_r2"] > 0.7


def test_a_head_of_the_correlation_loss_gives_values_in_the_units_of_the_quantity():
    given = of_a_quantity()
    fitted = fit(given, replace(SMALL, epochs=20, loss="correlation"))
    assert fitted.chosen["val_r2"] > 0.7
    assert score(given.val.target, outputs(fitted, given), "pearson") > 0.85


def test_a_quantile_never_crosses_another_and_has_its_share_of_the_values_below_it():
    given = of_a_quantity("pinball")
    fitted = fit(given, replace(SMALL, epochs=20, quantiles=(0.9, 0.1, 0.5)))
    assert fitted.head.quantiles == (0.1, 0.5, 0.9)
    said = outputs(fitted, given)
    assert (np.diff(said, axis=1) >= 0).all()
    below = (given.val.target.values[:, None] <= said).mean(0)
    np.testing.assert_allclose(below, [0.1, 0.5, 0.9], atol=0.08)


def test_a_head_is_the_same_alone_and_in_a_stack():
    given = of_classes(3)
    grid = replace(
        SMALL, hidden=(16, 8), lr=(1e-3, 1e-2), dropout=(0.0, 0.3), seeds=(0, 7), mixup_alpha=0.4, patience=1
    )
    alone = fit(given, grid)
    stacked = fit(replace(given, device=torch.device("cpu")), grid, heads_at_once=8)
    assert [record["trial"] for record in stacked.history] == [record["trial"] for record in alone.history]
    for ours, theirs in zip((*alone.trials, *alone.history), (*stacked.trials, *stacked.history), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
    np.testing.assert_allclose(outputs(alone, given), outputs(stacked, given), atol=1e-4)
    three = fit(given, grid, heads_at_once=3)
    np.testing.assert_allclose(outputs(alone, given), outputs(three, given), atol=1e-4)


@pytest.mark.parametrize("mixup", [0.0, 0.4])
@pytest.mark.usefixtures("exact_products")
def test_products_in_bfloat16_give_about_the_same_head(mixup, monkeypatch):
    given, options = of_classes(), replace(SMALL, dropout=(0.0,), mixup_alpha=mixup)
    plain = fit(given, options)
    monkeypatch.setattr(mlp, "product_type", lambda dtype, device: torch.bfloat16)
    rounded = fit(given, options)
    assert 0 < np.abs(outputs(plain, given) - outputs(rounded, given)).max() < 0.05
    assert rounded.head.perceptron.weights[0].dtype == torch.float32


def test_the_same_seed_gives_the_same_head_and_another_seed_another():
    given = of_classes()
    first, again, other = (outputs(fit(replace(given, seed=seed), SMALL), given) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.usefixtures("exact_products")
def test_a_step_is_that_of_a_plain_torch_loop():
    """One epoch at a constant rate beside nn.Linear, BCEWithLogitsLoss and AdamW on the same batches."""
    given = of_classes()
    X, codes = features()
    options = replace(SMALL, epochs=1, batch_size=TRAIN, schedule="constant", warmup=0.0, dropout=(0.0,))
    options = replace(options, weight_decay=(0.0,))
    fitted = fit(given, options)
    Z = torch.from_numpy(X[:TRAIN].astype(np.float64))
    Z = ((Z - Z.mean(0)) / Z.std(0, correction=0)).float()
    start = fit(given, replace(options, lr=(1e-30,))).head.perceptron
    model = torch.nn.Sequential(torch.nn.Linear(DIM, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    with torch.no_grad():
        for place, layer in enumerate((model[0], model[2])):
            layer.weight.copy_(start.weights[place][0].T)
            layer.bias.copy_(start.biases[place][0, 0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    loss = torch.nn.BCEWithLogitsLoss()(model(Z)[:, 0], torch.from_numpy(codes[:TRAIN]).float())
    loss.backward()
    optimizer.step()
    for place, layer in enumerate((model[0], model[2])):
        torch.testing.assert_close(fitted.head.perceptron.weights[place][0].T, layer.weight, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(fitted.head.perceptron.biases[place][0, 0], layer.bias, atol=1e-5, rtol=1e-4)
    assert fitted.history[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_rows_read_at_every_batch_give_the_same_head_as_rows_in_memory():
    given = of_classes()
    kept, read = fit(given, SMALL), fit(replace(given, memory_bytes=0), SMALL)
    assert (outputs(kept, given) == outputs(read, given)).all()


def test_weights_samplers_and_focal_loss_raise_what_is_said_of_rare_positives():
    X, _ = features()
    codes = (X[:, 0] > np.quantile(X[:, 0], 0.95)).astype(np.int64)
    given = problem(X + np.random.default_rng(0).normal(0, 1, X.shape), Target("binary", ("no", "yes"), codes))
    plain = outputs(fit(given, SMALL), given)[:, 1].mean()
    for options in ({"class_weight": "balanced"}, {"class_weight": {"yes": 20.0}}, {"sampler": "class"}):
        assert outputs(fit(given, replace(SMALL, **options)), given)[:, 1].mean() > 2 * plain
    assert outputs(fit(given, replace(SMALL, focal_gamma=2.0)), given)[:, 1].mean() > plain


def test_rows_of_sample_weight_zero_do_not_matter():
    X, codes = features()
    weights = np.ones(ROWS)
    weights[:300] = 0
    spoiled = codes.copy()
    spoiled[:300] = 1 - codes[:300]
    heads = [
        fit(problem(X, Target("binary", ("a", "b"), values), weights=weights), SMALL) for values in (codes, spoiled)
    ]
    given = of_classes()
    # the validation rows weigh 1: only the training rows differ, and those weigh nothing
    assert (outputs(heads[0], given) == outputs(heads[1], given)).all()


def test_a_sampler_by_class_and_group_takes_the_groups_of_the_rows():
    groups = np.arange(ROWS) % 5
    assert learned(of_classes(groups=groups), replace(SMALL, sampler="class-group"), "auroc") > 0.7
    with pytest.raises(HeadError, match="--group"):
        fit(of_classes(), replace(SMALL, sampler="class-group"))


def test_features_that_are_not_finite_are_refused_by_their_row():
    X, codes = features()
    X[TRAIN + 5, 3] = np.nan
    target = Target("binary", ("a", "b"), codes)
    with pytest.raises(HeadError, match=f"features of row {TRAIN + 5} are not finite.* or --lr is too high"):
        fit(problem(X, target), SMALL)
    head = fit(of_classes(), replace(SMALL, epochs=1)).head
    with pytest.raises(HeadError, match=rf"features of row {TRAIN + 5} \(and 0 more\)"):
        head(ArrayRows(X), np.arange(ROWS))
    X[5, 3] = np.nan
    with pytest.raises(HeadError, match="feature 3 holds"):
        fit(problem(X, target), SMALL)


def test_a_class_that_training_rows_miss_and_a_value_that_never_varies_do_no_harm():
    X, codes = features(3)
    codes[codes == 2] = 1
    said = outputs(fit(problem(X, Target("multiclass", ("a", "b", "c"), codes)), SMALL), of_classes())
    assert said[:, 2].max() < 0.05
    given = problem(X, Target("regression", ("same",), np.full(ROWS, 7.0)), "rmse")
    np.testing.assert_allclose(outputs(fit(given, SMALL), given), 7, atol=0.5)


def test_one_training_row_is_enough_for_a_fit():
    X, codes = features()
    given = problem(X, Target("binary", ("a", "b"), codes), train=1)
    assert np.isfinite(outputs(fit(given, SMALL), given)).all()


def test_dropout_leaves_out_its_share_and_keeps_the_mean():
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    dropped = Dropout([0.0, 0.25], generators)(torch.ones(2, 400, 100))
    assert (dropped[0] == 1).all()
    assert float((dropped[1] == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(dropped[1].mean()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("rate", [1e-5, 0.5, 0.999999])
def test_dropout_has_a_rate_close_to_any_that_is_possible(rate):
    dropped = Dropout([rate], [torch.Generator().manual_seed(0)])(torch.ones(1, 1001, 999))
    assert float((dropped == 0).float().mean()) == pytest.approx(rate, abs=0.002)


def test_a_saved_head_says_the_same_and_keeps_its_form(tmp_path):
    for number, (given, options) in enumerate(
        [
            (of_classes(3), replace(SMALL, hidden=(16, 8))),
            (of_a_quantity("pinball"), replace(SMALL, quantiles=(0.1, 0.9))),
        ]
    ):
        head = fit(given, options).head
        folder = tmp_path / str(number)
        folder.mkdir()
        again = MLPModel.load(folder, head.save(folder))
        assert (again.dim, again.outputs, again.quantiles) == (head.dim, head.outputs, head.quantiles)
        assert (again(given.source, given.val.rows) == head(given.source, given.val.rows)).all()


def test_files_that_do_not_fit_their_settings_are_refused(tmp_path):
    head = fit(of_classes(), replace(SMALL, epochs=1)).head
    settings = dict(head.save(tmp_path))
    tensors = load_file(tmp_path / "head.safetensors")
    wrong_settings = [
        {"layers": 3},
        {"layers": 1},
        {"layers": 0},
        {"target": "regress"},
        {"quantiles": [0.1, 0.5]},
        {"quantiles": [0.5, 0.1]},
        {"scale": float("nan")},
        {"scale": "much"},
    ]
    for wrong in wrong_settings:
        with pytest.raises((KeyError, TypeError, ValueError)):
            MLPModel.load(tmp_path, settings | wrong)
    for name, wrong in [
        ("weight0", tensors["weight0"][:-1].clone()),
        ("weight1", tensors["weight1"].double()),
        ("bias0", tensors["bias0"][None]),
        ("centre", torch.full_like(tensors["centre"], torch.nan)),
        ("factor", tensors["factor"][:-1].clone()),
        ("more", torch.zeros(1)),
    ]:
        save_file(tensors | {name: wrong}, tmp_path / "head.safetensors")
        with pytest.raises((KeyError, TypeError, ValueError)):
            MLPModel.load(tmp_path, settings)
