"""An epoch draws the rows as often as its sampler claims, and mixes and stops as it claims."""

from __future__ import annotations

import numpy as np
import pytest

from embedcache.errors import HeadError
from heads.data.sampling import EpochSampler, sampled_shares
from heads.data.target import Examples, Target
from heads.perceptron.early_stopping import EarlyStopping
from heads.perceptron.mixup import Mixup

CODES = np.repeat([0, 1, 2], [70, 20, 10])
GROUPS = np.concatenate([np.tile([0, 0, 0, 0, 1, 1, -1], 10), np.repeat([0, 3], [18, 2]), np.full(10, 1)])
NAMES = ("a", "b", "c")
ROWS = len(CODES)


def examples(**fields) -> Examples:
    return Examples(np.arange(ROWS), Target("multiclass", NAMES, CODES), **fields)


def counted(sampler: EpochSampler, epochs: int = 1, seed: int = 0) -> np.ndarray:
    """How often each row is drawn."""
    rng = np.random.default_rng(seed)
    draws = [sampler.draw(rng) for _ in range(epochs)]
    assert all(len(draw) == ROWS for draw in draws)
    return np.bincount(np.concatenate(draws), minlength=ROWS)


def test_without_a_sampler_an_epoch_takes_every_row_once_in_another_order():
    sampler = EpochSampler(examples(), "none")
    assert (counted(sampler) == 1).all()
    first, second = (sampler.draw(np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, sampler.draw(np.random.default_rng(0)))


def test_a_sampler_by_class_draws_classes_equally_often_and_the_rows_of_each_evenly():
    for seed in range(5):
        often = counted(EpochSampler(examples(), "class"), seed=seed)
        for code in range(3):
            of_class = often[code == CODES]
            assert of_class.sum() in (33, 34)
            assert np.ptp(of_class) <= 1


def test_a_sampler_by_class_and_group_draws_the_groups_of_a_class_equally_often():
    often = counted(EpochSampler(examples(groups=GROUPS), "class-group"), epochs=300) / 300
    for code in range(3):
        own = code == CODES
        present = np.unique(GROUPS[own])
        for group in present:
            assert often[own & (group == GROUPS)].sum() == pytest.approx(ROWS / 3 / len(present), abs=0.2)


@pytest.mark.parametrize("sampler", ["none", "class", "class-group"])
def test_rows_are_drawn_as_often_as_said(sampler):
    made = EpochSampler(examples(groups=GROUPS), sampler)
    assert made.frequencies().sum() == pytest.approx(ROWS)
    np.testing.assert_allclose(counted(made, 2000) / 2000, made.frequencies(), atol=0.06)


def test_a_class_without_rows_is_never_drawn_and_takes_no_share():
    without = Examples(np.arange(50), Target("multiclass", ("a", "b", "none", "c"), np.repeat([0, 1, 3], [40, 8, 2])))
    draws = EpochSampler(without, "class").draw(np.random.default_rng(0))
    assert set(np.bincount(without.target.values[draws], minlength=4)[[0, 1, 3]]) <= {16, 17}
    np.testing.assert_allclose(sampled_shares(without, "none", "class"), [1 / 3, 1 / 3, 0, 1 / 3])


def test_shares_are_those_of_the_classes_as_training_sees_them():
    rare = examples()
    np.testing.assert_allclose(sampled_shares(rare, "none"), [0.7, 0.2, 0.1])
    np.testing.assert_allclose(sampled_shares(rare, "balanced"), [1 / 3] * 3)
    np.testing.assert_allclose(sampled_shares(rare, "none", "class"), [1 / 3] * 3)
    np.testing.assert_allclose(sampled_shares(rare, {"c": 4.0}), np.array([7, 2, 4]) / 13)
    np.testing.assert_allclose(sampled_shares(rare, {"c": 4.0}, "class"), np.array([1, 1, 4]) / 6)
    own = np.where(CODES == 1, 3.0, 1.0)
    np.testing.assert_allclose(sampled_shares(examples(weights=own), "none"), np.array([7, 6, 1]) / 14)


def test_what_cannot_be_balanced_is_refused():
    quantity = Examples(np.arange(3), Target("regression", ("height",), np.arange(3.0)))
    labels = Examples(np.arange(3), Target("multilabel", ("p", "q"), np.ones((3, 2), np.int64)))
    for of in (quantity, labels):
        with pytest.raises(HeadError, match="--sampler class draws classes equally often"):
            EpochSampler(of, "class")
        with pytest.raises(HeadError, match="is no class"):
            sampled_shares(of, "none")
    with pytest.raises(HeadError, match="name their column with --group"):
        EpochSampler(examples(), "class-group")
    with pytest.raises(HeadError, match="--sampler even: choose from none, class, class-group"):
        EpochSampler(examples(), "even")


def test_mixup_mixes_the_share_of_batches_that_was_asked_for_by_a_beta_distribution():
    rng = np.random.default_rng(0)
    mixes = [Mixup(0.4, 0.3).draw(8, rng) for _ in range(3000)]
    mixed = [mix.share for mix in mixes if mix.share < 1]
    assert len(mixed) / 3000 == pytest.approx(0.3, abs=0.03)
    assert np.mean(mixed) == pytest.approx(0.5, abs=0.04)
    assert np.var(mixed) == pytest.approx(0.25 / 1.8, abs=0.01)  # of Beta(a, a): 1 / (4 (2 a + 1))
    assert sorted(mixes[0].partners) == list(range(8))
    assert not Mixup(0.0).active
    assert not Mixup(0.4, 0.0).active


@pytest.mark.parametrize("options", [(-0.1,), (float("inf"),), (0.3, 1.5), (0.3, -0.1)])
def test_mixtures_that_cannot_be_are_refused(options):
    with pytest.raises(HeadError, match="--mixup-"):
        Mixup(*options)


def test_early_stopping_keeps_the_first_of_the_best_epochs_and_stops_after_its_patience():
    stop = EarlyStopping("auprc", 2)
    assert [stop.update(epoch, value) for epoch, value in enumerate([0.1, 0.5, 0.5])] == [True, True, False]
    assert not stop.stopped
    stop.update(3, 0.4)
    assert stop.stopped
    assert (stop.epoch, stop.value) == (1, 0.5)


def test_early_stopping_knows_errors_from_scores_and_never_stops_for_what_is_no_number():
    stop = EarlyStopping("rmse", 1)
    for epoch in range(5):
        assert not stop.update(epoch, float("nan"))
    assert not stop.stopped
    assert stop.update(5, 3.0)
    assert stop.update(6, 2.0)
    assert not stop.update(7, 2.5)
    assert stop.stopped
    forever = EarlyStopping("rmse", 0)
    for epoch in range(50):
        forever.update(epoch, float(epoch))
    assert not forever.stopped
