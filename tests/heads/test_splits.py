"""Labels become classes, one split is read or drawn as promised, and what cannot be used is refused by name."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from embedcache.errors import HeadError
from heads.data.labels import MISSING, encode, read_labels
from heads.data.target import Target
from heads.splitting.dealing import deal, unevenness
from heads.splitting.splits import (
    TEST,
    TRAIN,
    VAL,
    Split,
    check_split,
    chromosome_split,
    draw_split,
    read_split,
    strata_of,
)


def column(values, kind=None):
    return pa.chunked_array([pa.array(values[:2], kind), pa.array(values[2:], kind)])


def classes(codes, names=("no", "yes")):
    return Target("binary" if len(names) == 2 else "multiclass", tuple(names), np.asarray(codes, np.int64))


def quantity(values):
    return Target("regression", ("score",), np.asarray(values, np.float64))


def several(values):
    values = np.asarray(values, np.int64)
    return Target("multilabel", tuple(f"label{i}" for i in range(values.shape[1])), values)


@pytest.mark.parametrize(
    ("values", "names", "codes"),
    [
        (["b", "a", None, "b"], ("a", "b"), [1, 0, -1, 1]),
        ([1, 0, 1, None], (0, 1), [1, 0, 1, -1]),
        ([True, False, True], (0, 1), [1, 0, 1]),
        ([1.0, 0.0, float("nan"), 1.0], (0, 1), [1, 0, -1, 1]),
        ([10, 9, 100, 9], (9, 10, 100), [1, 0, 2, 0]),
        ([0.5, 1.0, 0.5], ("0.5", "1"), [0, 1, 0]),
    ],
)
def test_labels_become_codes_of_sorted_classes(values, names, codes):
    labels = read_labels(column(values), "label")
    assert labels.values == names
    assert labels.codes.tolist() == codes


def test_the_positive_class_comes_last():
    labels = read_labels(column(["viral", "host", "host", None]), "label", positive="host")
    assert labels.values == ("viral", "host")
    assert labels.codes.tolist() == [0, 1, 1, MISSING]


@pytest.mark.parametrize(
    ("values", "positive", "message"),
    [
        (list(np.linspace(0, 1, 50)), None, "a measurement and not classes"),
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
    read = read_split(split, classes([0, 1, 0, 1, 0, 1]), None, 0)
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
        read = read_split(split, classes(labels), grouping, 1)
        assert (read.codes == VAL).sum() == 80
        assert (labels[read.codes == VAL]).sum() == 16
        assert (read.codes[400:] == TEST).all()
        if grouping is not None:
            assert all(len(set(read.codes[groups == group])) == 1 for group in range(50))


def test_val_is_drawn_row_by_row_where_train_is_one_group_and_says_so():
    split = encode(pa.chunked_array([["train"] * 40 + ["test"] * 10]), "split")
    read = read_split(split, classes(np.arange(50) % 2), np.repeat([0, 1], [40, 10]), 0)
    assert (read.codes == VAL).sum() == 8
    assert any("one group only is left to train" in note for note in read.notes)


def test_drawn_splits_are_stratified_and_seeded():
    labels = np.where(np.arange(1000) % 50 == 0, 1, 0)
    first, again, other = (draw_split(classes(labels), None, seed).codes for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    for part, rows, positives in ((TRAIN, 600, 12), (VAL, 200, 4), (TEST, 200, 4)):
        assert (first == part).sum() == rows
        assert (labels[first == part] == 1).sum() == positives


def test_no_class_is_off_by_more_than_two_rows_without_groups():
    labels = np.random.default_rng(0).choice(7, 3001, p=[0.6, 0.2, 0.1, 0.05, 0.03, 0.015, 0.005])
    parts = deal(labels, None, (3, 1, 1), 0)
    for code in range(7):
        counts = np.bincount(parts[labels == code], minlength=3)
        assert np.abs(counts - counts.sum() * np.array([0.6, 0.2, 0.2])).max() <= 2
    assert np.abs(np.bincount(parts) - 3001 * np.array([0.6, 0.2, 0.2])).max() < 1


def test_every_class_trains_and_any_of_two_rows_is_held_out_as_well():
    labels = np.repeat(np.arange(40), np.arange(1, 41) // 2 + 1)
    for seed in range(5):
        parts = deal(labels, None, (3, 1, 1), seed)
        for code in range(40):
            held = np.unique(parts[labels == code])
            assert TRAIN in held
            assert len(held) >= min(2, (labels == code).sum())


@pytest.mark.parametrize("group_rows", [20, 1])
def test_grouped_splits_keep_groups_whole_and_classes_spread(group_rows):
    rng = np.random.default_rng(0)
    groups = np.arange(6000) // group_rows
    labels = (rng.random(6000) < 0.1).astype(np.int64)
    split = draw_split(classes(labels), groups, 0)
    parts = np.unique(np.stack([groups, split.codes]), axis=1)
    assert parts.shape[1] == groups.max() + 1
    for part, share in ((TRAIN, 0.6), (VAL, 0.2), (TEST, 0.2)):
        assert (split.codes == part).mean() == pytest.approx(share, abs=0.004)
        assert labels[split.codes == part].mean() == pytest.approx(labels.mean(), abs=0.001)


def awkward(case):
    """Groups of very unequal size and content: (classes, groups, folds)."""
    rng = np.random.default_rng(case)
    folds = int(rng.integers(2, 8))
    count = int(rng.integers(folds, (12, 60, 200)[case % 3]))
    sizes = (
        rng.integers(1, 20, count),
        np.ceil(rng.lognormal(1, 1.5, count)),
        np.full(count, 10),
        np.ceil(rng.pareto(1, count) + 1).clip(1, 500),
    )[case % 4].astype(np.int64)
    groups = np.repeat(np.arange(count), sizes)
    shares = rng.dirichlet(np.full(int(rng.integers(2, 6)), (0.2, 1, 5)[case % 3]), count)
    labels = (rng.random((len(groups), 1)) > shares[groups].cumsum(1)[:, :-1]).sum(1)
    return np.unique(labels, return_inverse=True)[1], groups, folds


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_groups_are_dealt_at_least_as_evenly_as_by_scikit_learn_in_every_case():
    tried = 0
    for case in range(24):
        labels, groups, folds = awkward(case)
        peer = np.empty(len(labels), np.int64)
        try:
            splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=case)
            for fold, (_, chosen) in enumerate(splitter.split(labels, labels, groups)):
                peer[chosen] = fold
        except ValueError:  # every class has fewer rows than there are folds
            continue
        ours = deal(labels, groups, (1,) * folds, case)
        assert np.unique(np.stack([groups, ours]), axis=1).shape[1] == groups.max() + 1
        assert len(np.unique(ours)) == folds
        assert unevenness(labels, ours, (1,) * folds) <= unevenness(labels, peer, (1,) * folds) + 1e-9
        tried += 1
    assert tried > 20


def test_a_few_groups_are_dealt_as_evenly_as_any_way_of_dealing_them():
    rng = np.random.default_rng(0)
    for case in range(5):
        groups = np.repeat(np.arange(7), rng.integers(1, 30, 7))
        labels = (rng.random(len(groups)) < rng.random(7)[groups]).astype(np.int64)
        ways = np.stack(np.meshgrid(*[range(3)] * 7), -1).reshape(-1, 7)
        ways = ways[[len(set(way)) == 3 for way in ways.tolist()]]
        best = min(unevenness(labels, way[groups], (3, 1, 1)) for way in ways)
        assert unevenness(labels, deal(labels, groups, (3, 1, 1), case), (3, 1, 1)) <= 1.1 * best + 1e-9


def test_one_giant_group_leaves_no_part_empty():
    groups = np.repeat([0, 1, 2, 3], [1000, 1000, 1, 1])
    parts = deal(np.arange(2002) % 2, groups, (3, 1, 1), 0)
    assert set(parts) == {TRAIN, VAL, TEST}


def test_a_row_without_a_group_is_a_group_of_its_own():
    groups = np.repeat([0, 1, MISSING], [50, 50, 400])
    codes = draw_split(classes(np.arange(500) % 2), groups, 0).codes
    assert len(set(codes[:50])) == len(set(codes[50:100])) == 1
    assert set(codes[100:]) == {TRAIN, VAL, TEST}


def test_a_quantity_is_spread_by_its_quantiles():
    values = np.random.default_rng(0).lognormal(0, 2, 1000)
    codes = draw_split(quantity(values), None, 0).codes
    for part in (TRAIN, VAL, TEST):
        for low, high in ((0, 10), (40, 50), (90, 100)):
            edges = np.percentile(values, [low, high])
            inside = (values >= edges[0]) & (values <= edges[1])
            assert inside[codes == part].mean() == pytest.approx(0.1, abs=0.01)
    assert len(np.unique(strata_of(quantity([1, 1, 1, 1])))) == 1
    assert np.bincount(draw_split(quantity(range(12)), None, 0).codes) == pytest.approx([7, 2.5, 2.5], abs=0.6)


def test_labels_are_spread_by_their_combinations_and_rare_combinations_by_their_rarest_label():
    rng = np.random.default_rng(0)
    values = (rng.random((2000, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.01]).astype(np.int64)
    codes = draw_split(several(values), None, 0).codes
    share_PL = np.stack([values[codes == part].sum(0) / values.sum(0) for part in (TRAIN, VAL, TEST)])
    assert np.abs(share_PL[:, :5] - [[0.6], [0.2], [0.2]]).max() < 0.05
    assert (share_PL[:, 5] > 0).all()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.arange(20) // 10, "2 groups cannot be split into 3 parts"),
        (np.zeros(20, np.int64), "1 group cannot be split"),
    ],
)
def test_too_few_groups_are_refused(groups, message):
    with pytest.raises(HeadError, match=message):
        draw_split(classes([0, 1] * 10), groups, 0)


def test_one_row_is_refused():
    with pytest.raises(HeadError, match="1 row cannot be split into 3 parts"):
        draw_split(classes([0]), None, 0)


CHROMOSOMES = [f"chr{i}" for i in (1, 2, 3, 4, 5, 6)]


def genome(missing=0):
    """400, 300, 200, 150, 100 and 50 rows of six chromosomes, and some without."""
    values = np.repeat(CHROMOSOMES, [400, 300, 200, 150, 100, 50]).tolist() + [None] * missing
    return encode(pa.chunked_array([values]), "chrom"), classes(np.arange(len(values)) % 2)


def test_whole_chromosomes_go_to_one_part_and_sizes_are_balanced():
    chrom, target = genome(missing=7)
    split = chromosome_split(chrom, target, 0)
    assert np.unique(np.stack([chrom.codes, split.codes]), axis=1).shape[1] == 7
    assert (split.codes[1200:] == MISSING).all()
    assert [(split.codes == part).sum() for part in (TRAIN, VAL, TEST)] == pytest.approx([720, 240, 240], abs=60)
    assert "7 rows without a value in 'chrom' take no part" in split.notes


def test_named_chromosomes_choose_and_judge_and_the_others_train():
    chrom, target = genome()
    split = chromosome_split(chrom, target, 0, val=("chr5",), test=("chr6", "chr4"))
    assert np.bincount(split.codes).tolist() == [900, 100, 200]
    assert split.notes == ("'chrom': val chr5; test chr4, chr6; train all others",)
    drawn = chromosome_split(chrom, target, 0, test=("chr6",))
    assert np.unique(np.stack([chrom.codes, drawn.codes]), axis=1).shape[1] == 6
    assert (drawn.codes == VAL).any()


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (("chr5",), ("chr99",), r"holds no 'chr99'; it holds 'chr1', 'chr2'"),
        (("chr5",), ("chr5",), "named for val and for test"),
        (("chr5",), (), "names val and no test"),
        (tuple(CHROMOSOMES[:3]), tuple(CHROMOSOMES[3:]), "none is left to train"),
    ],
)
def test_chromosomes_that_cannot_be_are_refused(val, test, message):
    with pytest.raises(HeadError, match=message):
        chromosome_split(*genome(), 0, val=val, test=test)


def test_two_chromosomes_make_no_three_parts():
    chrom = encode(column(["chr1", "chr2", "chr1", "chr2"]), "chrom")
    with pytest.raises(HeadError, match="holds 2 values, 'chr1', 'chr2'"):
        chromosome_split(chrom, classes([0, 1, 0, 1]), 0)


def parts(train, val, test):
    return Split(np.repeat([TRAIN, VAL, TEST], [train, val, test]), "column 'split'")


@pytest.mark.parametrize(
    ("split", "target", "message"),
    [
        (parts(2, 2, 0), classes([0, 1, 0, 1]), "test has no rows: train 2, val 2, test 0"),
        (
            parts(2, 2, 2),
            classes([0, 0, 0, 1, 0, 1]),
            r"train lacks class yes. Rows per class: train no: 2, yes: 0; val no: 1, yes: 1; test no: 1, yes: 1",
        ),
        (parts(2, 2, 2), classes([0, 1, 0, 0, 0, 1]), "val lacks class yes"),
        (parts(2, 2, 2), classes([0, 1, 0, 2, 0, 1], "abc"), "train lacks class c"),
        (parts(2, 2, 2), quantity([3, 3, 1, 2, 1, 2]), "all 2 train rows hold 3"),
        (
            parts(2, 2, 2),
            several([[0, 1], [1, 1], [0, 1], [1, 0], [1, 0], [0, 1]]),
            "train has the same value in every row for label1",
        ),
    ],
)
def test_parts_that_cannot_train_or_choose_are_refused_with_their_counts(split, target, message):
    with pytest.raises(HeadError, match=message):
        check_split(split, target)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (classes([0, 1, 0, 1, 0, 0]), "WARNING: test has one class only, it lacks yes"),
        (quantity([1, 2, 1, 2, 5, 5]), "WARNING: test holds the value 5 only"),
        (several([[0, 1], [1, 0], [0, 1], [1, 0], [1, 0], [1, 1]]), "WARNING: test has one class only for label0"),
    ],
)
def test_a_test_part_of_one_class_is_warned_of(target, message):
    assert any(message in note for note in check_split(parts(2, 2, 2), target))


def test_thin_classes_are_named():
    target = classes(np.tile([0, 0, 0, 0, 1], 10))
    assert check_split(draw_split(target, None, 0), target) == [
        "val has very few rows of class yes (2): its metrics say little",
        "test has very few rows of class yes (2): its metrics say little",
    ]


def test_a_split_column_without_known_names_is_refused_with_its_names_and_the_known_ones():
    split = encode(column(["a", "b", "a", "c"]), "fold")
    with pytest.raises(
        HeadError, match=r"'fold' .*holds 'a', 'b', 'c'; known are train .*validation, valid, dev.* test"
    ):
        read_split(split, classes([0, 1, 0, 1]), None, 0)
