"""Labels become classes, splits are read or drawn as promised, and what cannot be used is refused by name."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from embedcache.errors import HeadError
from heads.labels import MISSING, encode, read_labels
from heads.splits import TEST, TRAIN, VAL, check_split, draw_split, read_split


def column(values, kind=None):
    return pa.chunked_array([pa.array(values[:2], kind), pa.array(values[2:], kind)])


@pytest.mark.parametrize(
    ("values", "classes", "codes"),
    [
        (["b", "a", None, "b"], ("a", "b"), [1, 0, -1, 1]),
        ([1, 0, 1, None], (0, 1), [1, 0, 1, -1]),
        ([True, False, True], (0, 1), [1, 0, 1]),
        ([1.0, 0.0, float("nan"), 1.0], (0, 1), [1, 0, -1, 1]),
        ([10, 9, 100, 9], (9, 10, 100), [1, 0, 2, 0]),
        ([0.5, 1.0, 0.5], ("0.5", "1"), [0, 1, 0]),
    ],
)
def test_labels_become_codes_of_sorted_classes(values, classes, codes):
    labels = read_labels(column(values), "label")
    assert labels.values == classes
    assert labels.codes.tolist() == codes


def test_the_positive_class_comes_last():
    labels = read_labels(column(["viral", "host", "host", None]), "label", positive="host")
    assert labels.values == ("viral", "host")
    assert labels.codes.tolist() == [0, 1, 1, MISSING]


@pytest.mark.parametrize(
    ("values", "positive", "message"),
    [
        (list(np.linspace(0, 1, 50)), None, "regression heads are not there yet"),
        ([float(i) for i in range(30)], None, "regression heads are not there yet"),
        (["a", "a", "a"], None, "only the class 'a'"),
        ([None, None, None], None, "no values"),
        ([f"id{i}" for i in range(60)], None, "these are not classes"),
        ([[1], [2], [3]], None, "has type list"),
        (["a", "b", "a"], "c", "has the classes a, b"),
        (["a", "b", "c"], "c", "for two classes"),
    ],
)
def test_columns_that_hold_no_classes_are_refused(values, positive, message):
    kind = pa.string() if values[0] is None else None
    with pytest.raises(HeadError, match=message):
        read_labels(column(values, kind), "label", positive)


def test_split_names_are_normalised_and_others_counted():
    split = encode(column(["Train", "DEV", "test", "valid", "holdout", None]), "split")
    read = read_split(split, np.zeros(6, np.int64), None, 0)
    assert read.codes.tolist() == [TRAIN, VAL, TEST, VAL, MISSING, MISSING]
    assert read.notes == (
        "1 rows with split = 'holdout' take no part",
        "1 rows without a value in 'split' take no part",
    )


def test_a_fifth_of_train_serves_where_there_is_no_val():
    labels = np.tile([0, 0, 0, 0, 1], 100)
    groups = np.arange(500) // 10
    split = encode(pa.chunked_array([["train"] * 400 + ["test"] * 100]), "split")
    for grouping in (None, groups):
        read = read_split(split, labels, grouping, 1)
        assert (read.codes == VAL).sum() == 80
        assert (labels[read.codes == VAL]).sum() == 16
        assert (read.codes[400:] == TEST).all()
        if grouping is not None:
            assert all(len(set(read.codes[groups == group])) == 1 for group in range(50))


def test_drawn_splits_are_stratified_seeded_and_leave_out_missing_labels():
    labels = np.where(np.arange(1000) % 50 == 0, 1, 0)
    labels[5] = MISSING
    first, again, other = (draw_split(labels, None, seed).codes for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    assert first[5] == MISSING
    for part, rows, positives in ((TRAIN, 599.4, 12), (VAL, 199.8, 4), (TEST, 199.8, 4)):
        assert abs((first == part).sum() - rows) <= 1
        assert (labels[first == part] == 1).sum() == positives


@pytest.mark.parametrize("group_rows", [20, 1])
def test_grouped_splits_keep_groups_whole_and_classes_spread(group_rows):
    rng = np.random.default_rng(0)
    groups = np.arange(6000) // group_rows
    labels = (rng.random(6000) < 0.1).astype(np.int64)
    split = draw_split(labels, groups, 0)
    parts = np.unique(np.stack([groups, split.codes]), axis=1)
    assert parts.shape[1] == groups.max() + 1
    for part, share in ((TRAIN, 0.6), (VAL, 0.2), (TEST, 0.2)):
        assert (split.codes == part).mean() == pytest.approx(share, abs=0.03)
        assert labels[split.codes == part].mean() == pytest.approx(0.1, abs=0.03)


def test_too_few_groups_are_refused():
    with pytest.raises(HeadError, match="2 groups cannot be split into 3 parts"):
        draw_split(np.array([0, 1] * 10), np.arange(20) // 10, 0)


def test_leaking_groups_are_counted_and_not_refused():
    split = encode(column(["train", "test", "val", "train", "test", "val", "train"]), "split")
    read = read_split(split, np.array([0, 1, 0, 1, 0, 1, MISSING]), np.array([0, 0, 1, 2, 3, 4, 0]), 0)
    assert "1 of 5 groups (2 rows) lie in more than one split" in read.notes[0]
    assert "with --split none the groups are kept whole" in read.notes[0]


def test_a_split_without_positives_is_refused_with_its_counts():
    split = encode(column(["train", "train", "val", "val", "test", "test"]), "split")
    labels = np.array([0, 1, 0, 1, 0, 0])
    with pytest.raises(
        HeadError, match=r"test lacks a class.*train no: 1, yes: 1; val no: 1, yes: 1; test no: 2, yes: 0"
    ):
        check_split(read_split(split, labels, None, 0), labels, ("no", "yes"))
    split = read_split(encode(column(["train", "train", "val", "val"]), "split"), labels[:4], None, 0)
    with pytest.raises(HeadError, match="test has no rows"):
        check_split(split, labels[:4], ("no", "yes"))


def test_thin_classes_are_named():
    labels = np.tile([0, 0, 0, 0, 1], 10)
    notes = check_split(draw_split(labels, None, 0), labels, ("no", "yes"))
    assert notes == [
        "val has very few rows of class yes (2): its metrics say little",
        "test has very few rows of class yes (2): its metrics say little",
    ]


def test_a_split_column_without_known_names_is_refused_with_its_names_and_the_known_ones():
    split = encode(column(["a", "b", "a", "c"]), "fold")
    with pytest.raises(
        HeadError, match=r"'fold' .*holds 'a', 'b', 'c'; known are train .*validation, valid, dev.* test"
    ):
        read_split(split, np.array([0, 1, 0, 1]), None, 0)
