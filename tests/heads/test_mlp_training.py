"""Trainings stop, start and go on as they claim, and say what became of each epoch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from embedcache.errors import HeadError
from heads.data.features import ArrayRows
from heads.data.target import Target
from heads.judging.metrics import score
from heads.perceptron.adamw import StackedAdamW
from heads.perceptron.mlp import fit
from heads.perceptron.schedule import rate
from tests.heads.problems import ROWS, SMALL, TRAIN, features, of_a_quantity, of_classes, outputs, problem


def test_rare_positives_start_from_their_share():
    X, _ = features()
    codes = np.zeros(ROWS, np.int64)
    codes[::50] = 1
    given = problem(X, Target("binary", ("no", "yes"), codes))
    still = replace(SMALL, epochs=1, lr=(1e-30,))
    for options, share in ((still, 0.02), (replace(still, class_weight="balanced"), 0.5)):
        assert float(fit(given, options).head.perceptron.biases[-1].sigmoid()) == pytest.approx(share)
    assert float(fit(given, replace(still, sampler="class")).head.perceptron.biases[-1]) == pytest.approx(0, abs=1e-6)


@pytest.mark.usefixtures("exact_products")
def test_the_best_epoch_is_kept_and_a_fit_stops_after_its_patience():
    given = of_classes(select="auroc")
    options = replace(SMALL, hidden=(64,), lr=(3e-2,), schedule="constant", epochs=40, patience=3, seeds=(0, 1))
    fitted = fit(given, options)
    for trial, record in enumerate(fitted.trials):
        values = [line["val_auroc"] for line in fitted.history if line["trial"] == trial]
        best = int(np.argmax(values))
        assert (record["best_epoch"], record["epochs"]) == (best + 1, len(values))
        assert len(values) == best + 1 + 3 < 40
        assert record["val_auroc"] == max(values)
    reached = score(given.val.target, outputs(fitted, given), "auroc")
    assert reached == pytest.approx(fitted.chosen["val_auroc"], abs=1e-6)
    assert fitted.chosen["val_auroc"] == max(record["val_auroc"] for record in fitted.trials)


def test_without_validation_rows_the_last_epoch_is_kept():
    X, codes = features()
    given = problem(X, Target("binary", ("a", "b"), codes), train=ROWS)
    fitted = fit(given, replace(SMALL, patience=1))
    assert (fitted.best, fitted.chosen["best_epoch"], fitted.chosen["epochs"]) == (0, 4, 4)
    assert np.isnan(fitted.chosen["val_auprc"])


def test_a_metric_that_the_validation_rows_do_not_have_is_said():
    X, codes = features()
    codes[TRAIN:] = 0
    fitted = fit(problem(X, Target("binary", ("a", "b"), codes), "auroc"), replace(SMALL, patience=1))
    assert fitted.chosen["best_epoch"] == 4
    assert "auroc is not defined" in fitted.notes[0]


def test_the_history_says_all_of_each_epoch_and_progress_is_told_of_it():
    told: list[tuple[int, int, str]] = []
    given = of_classes(progress=lambda *said: told.append(said))
    fitted = fit(given, replace(SMALL, seeds=(0, 1), patience=0))
    assert [(line["trial"], line["epoch"]) for line in fitted.history] == [(t, e) for t in (0, 1) for e in (1, 2, 3, 4)]
    assert list(fitted.history[0]) == ["trial", "epoch", "train_loss", "val_loss", "val_auprc", "lr"]
    assert [done for done, _, _ in told] == list(range(1, 9))
    assert all(total == 8 for _, total, _ in told)
    assert "head 2 of 2, epoch 4, val AUPRC 0." in told[-1][2]


def test_an_ensemble_of_seeds_is_the_mean_of_its_members_at_the_best_setting():
    given = of_classes()
    fitted = fit(given, replace(SMALL, lr=(1e-5, 1e-2), seeds=(0, 1, 2), ensemble=True))
    assert len(fitted.trials) == 6 + 2
    assert (fitted.chosen["seed"], fitted.chosen["lr"]) == ("all", 1e-2)
    assert len({tuple(record) for record in fitted.trials}) == 1
    members = [member(given.source, given.val.rows) for member in fitted.head.members]
    np.testing.assert_allclose(outputs(fitted, given), np.mean(members, axis=0))
    reached = score(given.val.target, outputs(fitted, given), "auprc")
    assert reached == pytest.approx(fitted.chosen["val_auprc"])


def test_a_start_goes_on_from_the_saved_head():
    given = of_classes()
    first = fit(given, SMALL)
    still = fit(given, replace(SMALL, epochs=1, lr=(1e-30,)), first.head)
    np.testing.assert_allclose(outputs(still, given), outputs(first, given), atol=1e-6)
    shifted = replace(given, source=ArrayRows(given.source.array * 3 + 1))
    assert fit(shifted, replace(SMALL, epochs=1), first.head).head.standardisation is not None
    assert torch.equal(fit(shifted, SMALL, first.head).head.standardisation.centre, first.head.standardisation.centre)


def test_frozen_hidden_layers_stay_as_they_are_and_the_output_layer_learns():
    given = of_classes()
    first = fit(given, SMALL)
    further = fit(given, replace(SMALL, freeze="hidden", weight_decay=(0.5,)), first.head).head.perceptron
    assert torch.equal(further.weights[0], first.head.perceptron.weights[0])
    assert torch.equal(further.biases[0], first.head.perceptron.biases[0])
    assert not torch.equal(further.weights[1], first.head.perceptron.weights[1])


def test_lower_layers_learn_at_lower_rates():
    given = of_classes()
    options = replace(SMALL, hidden=(16, 16), epochs=1, batch_size=TRAIN, schedule="constant", warmup=0.0)
    options = replace(options, layer_lr_decay=0.1, weight_decay=(0.0,))
    start = fit(given, replace(options, lr=(1e-30,))).head
    after = fit(given, options, start).head
    steps = [
        float((new - old).abs().max())
        for new, old in zip(after.perceptron.weights, start.perceptron.weights, strict=True)
    ]
    # Adam's first step is the learning rate itself
    np.testing.assert_allclose(steps, [1e-4, 1e-3, 1e-2], rtol=1e-2)


def test_a_start_of_another_shape_is_refused_naming_both():
    given, first = of_classes(), fit(of_classes(), replace(SMALL, epochs=1)).head
    with pytest.raises(HeadError, match=r"is 12 x 16 x 1 .* and this one is 12 x 32 x 1"):
        fit(given, replace(SMALL, hidden=(32,)), first)
    with pytest.raises(HeadError, match=r"12 x 16 x 1 .* 12 x 16 x 3"):
        fit(of_classes(3), SMALL, first)
    with pytest.raises(HeadError, match=r"another target \(binary\) than this one \(regression\)"):
        fit(of_a_quantity(), SMALL, first)
    with pytest.raises(HeadError, match="name its run with --init"):
        fit(given, replace(SMALL, freeze="hidden"))


def test_a_loss_that_is_no_number_stops_naming_epoch_and_rate():
    with pytest.raises(HeadError, match=r"in epoch 1 at --lr 1e\+30: give a lower --lr"):
        fit(of_a_quantity(), replace(SMALL, lr=(1e-3, 1e30)))


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
def test_a_schedule_rises_to_its_peak_and_ends_where_it_claims(schedule):
    rates = [rate(schedule, step, 200, 0.1) for step in range(200)]
    assert max(rates) == pytest.approx(1, abs=1e-3)
    assert (np.diff(rates[:19]) > 0).all()
    assert (np.diff(rates[21:]) <= 0).all()
    assert rates[-1] == pytest.approx(1 if schedule == "constant" else 0, abs=1e-3)
    for warmup in (0.0, 0.005, 0.99):
        assert all(0 <= rate(schedule, step, steps, warmup) <= 1 for steps in (1, 2, 7) for step in range(steps))


def test_the_cycle_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=50, pct_start=0.3)
    for step in range(50):
        assert rate("onecycle", step, 50, 0.3) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        if step < 49:
            theirs.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, "--hidden : give the widths"),
        ({"hidden": (64, 0)}, "--hidden 64,0"),
        ({"lr": (0.0,)}, "--lr 0: give learning rates above 0"),
        ({"lr": (float("nan"),)}, "--lr nan"),
        ({"weight_decay": (-1.0,)}, "--weight-decay -1"),
        ({"dropout": (0.1, 1.0)}, "--dropout 0.1,1"),
        ({"seeds": ()}, "--seeds"),
        ({"epochs": 0}, "--epochs 0: give at least 1"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"warmup": 1.0}, "--warmup 1"),
        ({"patience": -1}, "--patience -1"),
        ({"layer_lr_decay": 0.0}, "--layer-lr-decay 0"),
        ({"schedule": "steps"}, "--schedule steps: choose from onecycle, cosine, linear, constant"),
        ({"freeze": "all"}, "--freeze all: choose from none, hidden"),
        ({"sampler": "even"}, "--sampler even"),
        ({"class_weight": {"z": 2.0}}, "'z' is none of the classes a, b"),
        ({"focal_gamma": -1.0}, "--focal-gamma"),
        ({"mixup_alpha": -1.0}, "--mixup-alpha"),
    ],
)
def test_options_that_cannot_be_are_refused_by_their_name(options, message):
    with pytest.raises(HeadError, match=message):
        fit(of_classes(), replace(SMALL, **options))


def test_every_head_of_a_stack_steps_as_torch_lets_one_step_with_its_own_rate_and_decay():
    start = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    stacked, ours = torch.nn.Parameter(start.clone()), StackedAdamW()
    ours.add(stacked, [0.1, 0.01], [0.5, 0.0])
    alone = [torch.nn.Parameter(part.clone()) for part in start]
    theirs = [
        torch.optim.AdamW([part], lr=lr, weight_decay=decay)
        for part, lr, decay in zip(alone, (0.1, 0.01), (0.5, 0.0), strict=True)
    ]
    for step in range(5):
        for parameter in (stacked, *alone):
            parameter.square().sum().backward()
        ours.step(1 / (step + 1))
        for optimizer, lr in zip(theirs, (0.1, 0.01), strict=True):
            optimizer.param_groups[0]["lr"] = lr / (step + 1)
            optimizer.step()
            optimizer.zero_grad()
        torch.testing.assert_close(stacked.detach(), torch.stack([part.detach() for part in alone]))
