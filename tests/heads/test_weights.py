"""A class weight means the same for every head: the loss of a row times the weight of its class."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from embedcache.errors import HeadError
from heads.data.target import Target
from heads.data.weights import class_weights, row_weights, weights_of

CODES = np.array([0, 0, 0, 1, 2, 2])
CLASSES = Target("multiclass", ("calm", "rare", 7), CODES)
LABELS = Target("multilabel", ("a", "b"), np.array([[0, 1], [1, 1], [0, 1], [0, 0]]))
QUANTITY = Target("regression", ("height",), np.array([1.0, 2.0, 3.0]))


def test_balanced_is_that_of_scikit_learn():
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=CODES)
    np.testing.assert_array_equal(class_weights(CLASSES, "balanced"), theirs)


def test_balanced_weighs_the_zeros_and_ones_of_each_label_by_themselves():
    theirs = [compute_class_weight("balanced", classes=np.arange(2), y=label) for label in LABELS.values.T]
    np.testing.assert_array_equal(class_weights(LABELS, "balanced"), theirs)


def test_without_weights_every_row_counts_one():
    assert (class_weights(CLASSES, "none") == 1).all()
    assert (row_weights(CLASSES, "none") == np.ones(6)).all()
    assert (row_weights(LABELS, "none") == np.ones((4, 2))).all()
    assert (row_weights(QUANTITY, "none") == np.ones(3)).all()
    assert class_weights(QUANTITY, "none").shape == (0,)


def test_named_classes_have_their_weight_and_the_others_one():
    assert class_weights(CLASSES, {"7": 2.5, "rare": 0.5}).tolist() == [1, 0.5, 2.5]
    assert class_weights(LABELS, {"b": 3.0}).tolist() == [[1, 1], [1, 3]]


def test_the_weight_of_a_row_is_that_of_its_class_times_its_own():
    own = np.array([1.0, 0, 2, 3, 4, 1])
    assert row_weights(CLASSES, {"7": 2.0, "rare": 5.0}, own).tolist() == [1, 0, 2, 15, 8, 2]
    assert row_weights(LABELS, {"b": 3.0}, np.array([1.0, 2, 0, 1])).tolist() == [[1, 3], [2, 6], [0, 0], [1, 1]]
    assert row_weights(QUANTITY, "none", np.array([1.0, 2, 0])).tolist() == [1, 2, 0]


def test_a_class_without_rows_weighs_nothing_and_spoils_nothing():
    target = Target("multiclass", ("a", "b", "c"), np.array([0, 0, 2]))
    assert class_weights(target, "balanced").tolist() == [0.5, 0, 1]


def test_weights_of_the_training_rows_serve_other_rows():
    table = class_weights(CLASSES, {"rare": 4.0})
    assert weights_of(CLASSES.take(np.array([3, 0])), table).tolist() == [4, 1]


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        (CLASSES, {"wild": 2.0}, "'wild' is none of the classes calm, rare, 7"),
        (CLASSES, {"rare": 0.0}, "the weight of rare must be a number above 0"),
        (CLASSES, {"rare": float("nan")}, "the weight of rare"),
        (CLASSES, "even", "give none, balanced, or a weight"),
        (QUANTITY, "balanced", "height is a measured quantity"),
        (QUANTITY, {"1": 2.0}, "height is a measured quantity"),
    ],
)
def test_weights_that_mean_nothing_are_refused(target, given, message):
    with pytest.raises(HeadError, match=message):
        class_weights(target, given)


@pytest.mark.parametrize("weights", [[1, -1, 1], [1, np.nan, 1], [np.inf, 1, 1], [0, 0, 0]])
def test_sample_weights_that_are_none_are_refused(weights):
    with pytest.raises(HeadError, match="sample weights must be finite"):
        row_weights(QUANTITY, "none", np.array(weights, np.float64))
