"""Words become plans, and in the folds of a plan every row judges once and never trains what judges it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from embedcache.errors import HeadError
from heads.data.labels import MISSING, encode
from heads.data.target import Target
from heads.running.report import folds_line
from heads.splitting.folds import (
    ChromosomeSplit,
    ColumnSplit,
    KFold,
    LeaveOut,
    Nested,
    RandomSplit,
    check_folds,
    make_folds,
    make_split,
    parse_plan,
)
from heads.splitting.splits import TEST, TRAIN, VAL

COLUMNS = ("id", "label", "split", "donor", "chrom", "kfold")


def target(rows=600, share=0.2, seed=0):
    codes = (np.random.default_rng(seed).random(rows) < share).astype(np.int64)
    return Target("binary", ("no", "yes"), codes)


def column(values, name="donor"):
    return encode(pa.chunked_array([values]), name)


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("none", RandomSplit()),
        ("random", RandomSplit()),
        ("split", ColumnSplit("split")),
        ("kfold", ColumnSplit("kfold")),
        ("kfold:5", KFold(5)),
        ("nested:5x3", Nested(5, 3)),
        ("leave-out:donor", LeaveOut("donor")),
        ("chromosome:chrom", ChromosomeSplit("chrom")),
        (
            "chromosome:chrom:val=chr6,chr21:test=chr5, chr10",
            ChromosomeSplit("chrom", ("chr6", "chr21"), ("chr5", "chr10")),
        ),
        ("chromosome:chrom:test=HLA:01", ChromosomeSplit("chrom", (), ("HLA:01",))),
    ],
)
def test_words_become_plans(text, plan):
    assert parse_plan(text, COLUMNS) == plan


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kfold:", "does not say how many folds; write it like kfold:5"),
        ("kfold:five", "write it like kfold:5"),
        ("kfold:5x3", "write it like kfold:5"),
        ("kfold:1", "at least 2 folds"),
        ("kfold:-3", "write it like kfold:5"),
        ("nested:5", "write it like nested:5x3"),
        ("nested:5x1", "at least 2 folds"),
        ("leave-out:", "it names no column; the store has id, label"),
        ("leave-out:patient", "there is no column 'patient'; the store has id, label"),
        ("chromosome:chr", "there is no column 'chr'"),
        ("chromosome:chrom:val=chr1", "names val and no test"),
        ("chromosome:chrom:test=", "no value is named for test"),
        ("chromosome:chrom:test=a:test=b", "name val and test, each once"),
        ("chromosome:chrom:train=a:test=b", "all other values train"),
        ("donnor", "do you mean donor"),
        ("k-fold:5", "do you mean kfold:5"),
        ("", "no column of the store and no plan"),
    ],
)
def test_words_that_mean_nothing_are_refused_with_what_would(text, message):
    with pytest.raises(HeadError, match=message):
        parse_plan(text, COLUMNS)


@pytest.mark.parametrize("text", ["random", "kfold:5"])
def test_a_word_that_is_a_plan_and_a_column_is_refused(text):
    with pytest.raises(HeadError, match="a plan and a column of the store as well"):
        parse_plan(text, (*COLUMNS, text))


def test_one_split_plans_make_a_split():
    y = target()
    parts = column(np.repeat(["train", "val", "test"], 200).tolist(), "split")
    chrom = column(np.repeat([f"chr{i}" for i in range(6)], 100).tolist(), "chrom")
    assert [len(make_split(RandomSplit(), y, None, None, 0).rows(part)) for part in (TRAIN, VAL, TEST)] == [
        360,
        120,
        120,
    ]
    assert [len(make_split(ColumnSplit("split"), y, None, parts, 0).rows(part)) for part in (TRAIN, VAL, TEST)] == [
        200
    ] * 3
    split = make_split(ChromosomeSplit("chrom", ("chr1",), ("chr2",)), y, None, chrom, 0)
    assert [len(split.rows(part)) for part in (TRAIN, VAL, TEST)] == [400, 100, 100]


def judged_once(folds, rows):
    """Every fold divides the rows, and each row judges once."""
    for fold in folds:
        together = np.concatenate([fold.train, fold.val, fold.test])
        assert np.array_equal(np.sort(together), rows)
        assert np.array_equal(fold.train, np.sort(fold.train))
        assert np.array_equal(
            np.bincount(fold.parts(600)[rows], minlength=3), [len(fold.train), len(fold.val), len(fold.test)]
        )
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in folds])), rows)


def apart(groups, *parts):
    """No group lies in two parts."""
    for i, one in enumerate(parts):
        for other in parts[i + 1 :]:
            assert not set(groups[one]) & set(groups[other])


@pytest.mark.parametrize("grouped", [False, True])
def test_in_k_folds_every_row_judges_once_and_groups_stay_whole(grouped):
    y = target()
    groups = np.arange(600) // 12 if grouped else None
    folds = make_folds(KFold(5), y, groups, None, 0)
    judged_once(folds, np.arange(600))
    for fold in folds:
        assert len(fold.test) == pytest.approx(120, abs=12 if grouped else 1)
        assert len(fold.val) == pytest.approx(96, abs=12 if grouped else 1)
        for part in (fold.train, fold.val, fold.test):
            assert y.values[part].mean() == pytest.approx(y.values.mean(), abs=0.02)
        if grouped:
            apart(groups, fold.train, fold.val, fold.test)
    assert check_folds(folds, y) == []


def test_folds_are_seeded():
    first, again, other = (make_folds(KFold(3), target(), None, None, seed) for seed in (4, 4, 5))
    assert all(
        np.array_equal(a.test, b.test) and np.array_equal(a.val, b.val) for a, b in zip(first, again, strict=True)
    )
    assert any(not np.array_equal(a.test, b.test) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("grouped", [False, True])
def test_inner_folds_divide_what_the_outer_fold_does_not_judge(grouped):
    y = target()
    groups = np.arange(600) // 12 if grouped else None
    folds = make_folds(Nested(4, 3), y, groups, None, 0)
    judged_once(folds, np.arange(600))
    for fold in folds:
        others = np.union1d(fold.train, fold.val)
        assert len(fold.inner) == 3
        assert np.array_equal(np.sort(np.concatenate([val for _, val in fold.inner])), others)
        for train, val in fold.inner:
            assert np.array_equal(np.union1d(train, val), others)
            assert len(train) + len(val) == len(others)
            if grouped:
                apart(groups, train, val, fold.test)


def test_each_donor_judges_once_and_val_donors_do_not_train():
    y = target()
    donors = column(["D3"] * 200 + ["D1"] * 150 + ["D2"] * 150 + ["D4"] * 90 + [None] * 10)
    folds = make_folds(LeaveOut("donor"), y, None, donors, 0)
    assert [fold.name for fold in folds] == ["donor=D1", "donor=D2", "donor=D3", "donor=D4"]
    judged_once(folds, np.arange(590))
    for fold in folds:
        apart(donors.codes, fold.train, fold.val, fold.test)
    assert folds.notes == ("10 rows without a value in 'donor' take no part",)
    assert (folds.folds[0].parts(600)[590:] == MISSING).all()


def test_of_two_donors_val_is_drawn_row_by_row_and_says_so():
    folds = make_folds(LeaveOut("donor"), target(), None, column(["D1"] * 300 + ["D2"] * 300), 0)
    assert [len(fold.val) for fold in folds] == [60, 60]
    assert folds.notes[0] == "donor=D1: one group only is left to train: val is drawn from it row by row"


def test_where_donors_lack_classes_a_whole_donor_that_has_two_serves_as_val():
    """The donors of six tumours: three have no cell but malignant ones, and the even choice would be one of those."""
    counts = {"D36": (33, 8, 0), "D53": (34, 6, 17), "D54": (0, 5, 6), "D93": (40, 0, 0), "D97": (35, 0, 0)}
    codes = np.concatenate([np.repeat(np.arange(3), of_donor) for of_donor in counts.values()])
    donors = column([donor for donor, of_donor in counts.items() for _ in range(sum(of_donor))])
    y = Target("multiclass", ("tumor", "microglia", "oligo"), codes)
    folds = make_folds(LeaveOut("donor"), y, None, donors, 0)
    check_folds(folds, y)
    for fold in folds:
        apart(donors.codes, fold.train, fold.val, fold.test)
        assert set(codes[fold.train]) == {0, 1, 2}
        assert len(set(codes[fold.val])) > 1
    assert folds.notes[0] == (
        "donor=D36: val is one whole group: in the most even choice of groups a class was missing"
    )


def test_too_many_values_to_leave_out_are_refused_with_the_way_out():
    cells = column([f"cell{i // 10}" for i in range(600)], "cell")
    with pytest.raises(HeadError, match="would fit 60 heads.*--split kfold:5 --group cell"):
        make_folds(LeaveOut("cell"), target(), None, cells, 0)


def test_one_value_cannot_be_left_out():
    with pytest.raises(HeadError, match="hold 1 of its values, and two are needed"):
        make_folds(LeaveOut("donor"), target(), None, column(["D1"] * 600), 0)


@pytest.mark.parametrize(
    ("plan", "rows", "groups", "message"),
    [
        (KFold(5), 600, np.arange(600) // 200, "rows of 3 groups cannot be split into 5 parts.*or take fewer folds"),
        (KFold(700), 600, None, "600 rows cannot be split into 700 parts"),
        (KFold(2), 1, None, "1 row cannot be split into 2 parts"),
        (Nested(3, 3), 600, np.arange(600) // 200, "inner folds: rows of 2 groups cannot be split into 3 parts"),
    ],
)
def test_more_folds_than_groups_or_rows_are_refused(plan, rows, groups, message):
    with pytest.raises(HeadError, match=message):
        make_folds(plan, target(rows), groups, None, 0)


def test_a_fold_whose_train_lacks_a_class_is_refused_by_name():
    y = Target("binary", ("no", "yes"), np.repeat([0, 1], [599, 1]))
    with pytest.raises(HeadError, match=r"fold \d of 5 folds.* train lacks class yes"):
        check_folds(make_folds(KFold(5), y, None, None, 0), y)


def test_a_fold_that_judges_one_class_is_warned_of():
    donors = np.repeat(["D1", "D2", "D3", "D4"], 150)
    y = Target("binary", ("no", "yes"), np.where(donors == "D2", 0, np.arange(600) % 2))
    notes = check_folds(make_folds(LeaveOut("donor"), y, None, column(donors.tolist()), 1), y)
    assert "donor=D2: WARNING: test has one class only, it lacks yes: no ranking metric there" in notes


def test_folds_in_which_a_metric_has_no_value_are_left_out_of_its_mean():
    folds = [{"auroc": 0.5, "mcc": 0.1, "f1": np.nan}, {"auroc": np.nan, "mcc": 0.2, "f1": np.nan}]
    folds.append({"auroc": 0.7, "mcc": 0.3, "f1": np.nan})
    said = folds_line(folds, ("auroc", "mcc", "f1"))
    assert said.startswith("mean over 3 folds: AUROC 0.6000 ± 0.1414 (of 2), MCC 0.2000 ± 0.1000, F1 - (")
