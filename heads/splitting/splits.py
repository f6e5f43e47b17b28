"""Which rows train, which choose, which judge: one split, read from a column or drawn with a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.errors import HeadError
from heads.data.labels import MISSING, Column
from heads.data.target import ClassName, Codes, Doubles, Target
from heads.splitting.dealing import deal, unevenness

if TYPE_CHECKING:
    from heads.data.features import Rows

TRAIN, VAL, TEST, STOP = 0, 1, 2, 3
"""STOP are rows of their own that stop a fit early (`heads.splitting.stop_on`): few splits have any."""
NAMES = ("train", "val", "test", "stop")
SYNONYMS = {"train": TRAIN, "training": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL, "test": TEST}
SHARES = (3, 1, 1)
"""Train, val and test of a drawn split: 60, 20 and 20 %."""
VAL_SHARES = (4, 1)
"""What stays in train, and what becomes val, where only val is drawn."""
BINS = 10
"""A measured quantity is spread evenly by its deciles; of few rows by fewer quantiles, so that each has `BIN_ROWS`."""
BIN_ROWS = 10
COMMON = 10
"""A combination of labels with fewer rows than this is spread together with others."""
MOST_COMBINATIONS = 50
MOST_NAMES = 8
"""An error lists so many names."""
THIN = 5
"""A class with fewer rows than this in a part makes its metrics a lottery."""


def parts_in(codes: Codes) -> tuple[int, ...]:
    """TRAIN, VAL, TEST, and STOP where it has rows."""
    return (TRAIN, VAL, TEST, STOP) if (codes == STOP).any() else (TRAIN, VAL, TEST)


@dataclass(frozen=True)
class Split:
    """Part of every row (N,), `MISSING` for rows that take no part, and what the user should know of it."""

    codes: Codes
    origin: str
    """Where it comes from, in words."""
    notes: tuple[str, ...] = ()

    def rows(self, part: int) -> Codes:
        """Positions of the rows of one part, rising."""
        return np.flatnonzero(self.codes == part)

    @property
    def parts(self) -> tuple[int, ...]:
        """The parts that there are: TRAIN, VAL, TEST, and STOP where it has rows."""
        return parts_in(self.codes)


def strata_of(target: Target) -> Codes:
    """What a split spreads evenly (N,), as codes from 0: classes; deciles of a quantity; combinations of labels.

    Rare combinations of labels go together by the rarest label that they hold.
    """
    values = target.values
    if target.kind == "regression":
        numbers: Doubles = np.asarray(values, np.float64)
        bins = min(BINS, max(1, len(numbers) // BIN_ROWS))
        edges = np.quantile(numbers, np.linspace(0, 1, bins + 1)[1:-1])
        return np.unique(np.searchsorted(edges, numbers), return_inverse=True)[1]
    if target.kind == "multilabel":
        return _combinations(np.asarray(values, np.int64))
    return np.asarray(values, np.int64)


def _combinations(labels_NL: Codes) -> Codes:
    _, combined, rows = np.unique(labels_NL, axis=0, return_inverse=True, return_counts=True)
    common = np.zeros(len(rows), np.bool_)
    common[np.argsort(-rows, kind="stable")[:MOST_COMBINATIONS]] = True
    common &= rows >= COMMON
    rarest = np.where(labels_NL > 0, labels_NL.sum(0), len(labels_NL) + 1).argmin(1)
    return np.unique(np.where(common[combined], combined, len(rows) + rarest), return_inverse=True)[1]


def whole_groups(groups: Codes) -> Codes:
    """Return the group codes (N,) with each row that has no group (`MISSING`) as a group of its own."""
    lone = np.flatnonzero(groups == MISSING)
    groups = groups.copy()
    groups[lone] = groups.max(initial=0) + 1 + np.arange(len(lone))
    return groups


def deal_parts(strata: Codes, groups: Codes | None, shares: Sequence[int], seed: int) -> Codes:
    """Deal rows (N,) to parts (see `dealing.deal`); raises HeadError for fewer groups, or rows, than parts."""
    if groups is not None:
        groups = whole_groups(groups)
    units = len(strata) if groups is None else len(np.unique(groups))
    if units < len(shares):
        if groups is None:
            raise HeadError(f"{counted(units, 'row')} cannot be split into {len(shares)} parts: a head needs more rows")
        raise HeadError(
            f"rows of {counted(units, 'group')} cannot be split into {len(shares)} parts with groups kept whole; use "
            "another --group column, or give a split column with train, val and test"
        )
    return deal(strata, groups, shares, seed)


def draw_split(target: Target, groups: Codes | None, seed: int) -> Split:
    """Draw train, val and test as 60, 20 and 20 % of the rows, each class spread evenly, groups kept whole.

    Raises HeadError where there are fewer than three groups, or rows.
    """
    kind = "stratified 60/20/20" if groups is None else "stratified 60/20/20 with groups kept whole"
    codes = deal_parts(strata_of(target), groups, SHARES, seed)
    return Split(codes, f"{kind}, drawn with seed {seed}", _uneven(groups))


def _uneven(groups: Codes | None) -> tuple[str, ...]:
    count = sum(SHARES) if groups is None else len(np.unique(whole_groups(groups)))
    return (f"only {count} groups: the parts differ in size",) if count < sum(SHARES) else ()


def read_split(column: Column, target: Target, groups: Codes | None, seed: int, stop: str | None = None) -> Split:
    """Use a split column of the N rows of the target; where it has no val rows, a seeded (grouped) fifth of train serves.

    `stop` is a further value of the column, whose rows become STOP.

    Raises HeadError where the column does not name train and test, or has no rows with that value.
    """
    codes = part_codes(column)
    notes = []
    for code, value in enumerate(column.values):
        rows = int((column.codes == code).sum())
        if stop is not None and _plain(value) == _plain(stop):
            codes[column.codes == code] = STOP
        elif part_named(value) == MISSING and rows:
            notes.append(f"{rows:,} rows with {column.name} = {str(value)!r} take no part")
    if column.missing:
        notes.append(f"{column.missing:,} rows without a value in '{column.name}' take no part")
    if stop is not None and not (codes == STOP).any():
        raise HeadError(
            f"--stop-on {stop}: no row with a label has this value in the split column '{column.name}'; it holds "
            f"{_listed(column)}"
        )
    if not ((codes == TRAIN).any() and (codes == TEST).any()) and (unknown := unknown_names(column)):
        raise HeadError(f"the split column '{column.name}' cannot be used: {unknown}")
    split = Split(codes, f"column '{column.name}'", tuple(notes))
    if (codes == VAL).any() or not (codes == TRAIN).any():
        return split
    return _with_val(split, target, groups, seed)


def part_codes(column: Column) -> Codes:
    """TRAIN, VAL or TEST for each row of a split column, `MISSING` for any other value."""
    parts = np.array([part_named(value) for value in column.values] + [MISSING])
    return np.asarray(parts[column.codes], np.int64)


def unknown_names(column: Column) -> str | None:
    """Say which names of a split column are not known, and which would be; None where all are known."""
    if all(part_named(value) != MISSING for value in column.values):
        return None
    return f"it holds {_listed(column)}; known are train (training), val (validation, valid, dev) and test"


def _listed(column: Column) -> str:
    return _some([repr(str(value)) for value in column.values])


def part_named(value: object) -> int:
    """TRAIN, VAL or TEST as a value of a split column names them, `MISSING` for any other value."""
    return SYNONYMS.get(_plain(value), MISSING)


def _plain(value: object) -> str:
    return str(value).strip().lower()


def draw_val(train: Rows, strata: Codes, groupings: Sequence[Codes | None], seed: int) -> tuple[Rows, tuple[str, ...]]:
    """Choose a fifth of the training positions (n,) for val, strata (N,) spread evenly; return it, and what should be known.

    Of several groupings (N,) the first that has two groups in train keeps its groups whole. Where groups lack classes, so
    that the most even val leaves train without one or has one only, another group serves as a whole, if one can.

    Raises HeadError where there is one row to train on.
    """
    given = [whole_groups(groups[train]) for groups in groupings if groups is not None]
    able = [groups for groups in given if len(np.unique(groups)) > 1]
    notes = ("one group only is left to train: val is drawn from it row by row",) if given and not able else ()
    parts = deal_parts(strata[train], able[0] if able else None, VAL_SHARES, seed)
    if able and not _keeps_classes(strata[train], parts == 1):
        other = _group_that_keeps_classes(strata[train], able[0])
        if other is not None:
            return train[other], (
                *notes,
                "val is one whole group: in the most even choice of groups a class was missing",
            )
    return train[parts == 1], notes


def _keeps_classes(strata: Codes, val: NDArray[np.bool_]) -> bool:
    """Whether val (n,) holds two classes or more, and what is left all that there are."""
    return len(np.unique(strata[val])) > 1 and len(np.unique(strata[~val])) == len(np.unique(strata))


def _group_that_keeps_classes(strata: Codes, groups: Codes) -> NDArray[np.bool_] | None:
    """The rows (n,) of the group that serves as val the most evenly, with all classes left to train; None without one."""
    candidates = [groups == group for group in np.unique(groups)]
    able = [val for val in candidates if _keeps_classes(strata, val)]
    return min(able, key=lambda val: unevenness(strata, val.astype(np.int64), VAL_SHARES), default=None)


def _with_val(split: Split, target: Target, groups: Codes | None, seed: int) -> Split:
    val, notes = draw_val(split.rows(TRAIN), strata_of(target), [groups], seed)
    codes = split.codes.copy()
    codes[val] = VAL
    note = f"{split.origin} has no val rows: a fifth of train ({len(val):,} rows) serves"
    return Split(codes, f"{split.origin}, val drawn from train with seed {seed}", (*split.notes, note, *notes))


def chromosome_split(
    column: Column, target: Target, seed: int, val: tuple[str, ...] = (), test: tuple[str, ...] = ()
) -> Split:
    """Put whole values of a column, such as chromosomes, into one part each; rows without a value take no part.

    Without `val` and `test` they are drawn as evenly as the values allow. With `test` alone, val is drawn from the others.

    Raises HeadError for values that the column does not hold or that are named twice, and where too few are left.
    """
    known = np.flatnonzero(column.codes != MISSING)
    notes = [f"{column.missing:,} rows without a value in '{column.name}' take no part"] if column.missing else []
    codes = np.full(len(column.codes), MISSING, np.int64)
    if not test:
        if val:
            raise HeadError(f"the split by '{column.name}' names val and no test; add :test=VALUE,...")
        held = len(np.unique(column.codes[known]))
        if held < len(SHARES):
            raise HeadError(
                f"column '{column.name}' holds {held} values, {_listed(column)}: whole values cannot make train, val and "
                "test; use another column, or --split none"
            )
        codes[known] = deal(strata_of(target)[known], column.codes[known], SHARES, seed)
        return Split(codes, f"whole values of '{column.name}', drawn with seed {seed}", (*notes, _named(column, codes)))
    names = {str(value): code for code, value in enumerate(column.values)}
    for value in (*val, *test):
        if value not in names:
            raise HeadError(f"column '{column.name}' holds no {value!r}; it holds {_listed(column)}")
    if twice := [value for value in val if value in test]:
        raise HeadError(f"{column.name} = {twice[0]!r} is named for val and for test; each value goes to one part")
    codes[known] = TRAIN
    for part, values in ((VAL, val), (TEST, test)):
        codes[np.isin(column.codes, [names[value] for value in values])] = part
    split = Split(codes, f"values of '{column.name}'", tuple(notes))
    if not (codes == TRAIN).any():
        raise HeadError(f"every value of column '{column.name}' is named for val or test: none is left to train")
    if not val:
        split = _with_val(split, target, column.codes, seed)
    return Split(split.codes, split.origin, (*split.notes, _named(column, split.codes)))


def _named(column: Column, codes: Codes) -> str:
    """Which values went where."""
    held = []
    for part in (VAL, TEST):
        values = [column.values[code] for code in np.unique(column.codes[codes == part])]
        held.append(f"{NAMES[part]} {_some(values)}")
    return f"'{column.name}': {'; '.join(held)}; train all others"


def check_split(split: Split, target: Target) -> list[str]:
    """Say which classes are thin, and warn of a test part on which some metrics mean nothing.

    Raises HeadError where a part has no rows, train lacks a class or holds one value only, or val (or stop, where it is
    there) cannot choose, since it has one class only.
    """
    for part in (TRAIN, VAL, TEST):
        if not (split.codes == part).any():
            rows = ", ".join(f"{NAMES[each]} {(split.codes == each).sum():,}" for each in (TRAIN, VAL, TEST))
            raise HeadError(f"the split ({split.origin}) cannot be used, {NAMES[part]} has no rows: {rows}")
    if target.kind == "regression":
        return _check_quantity(split, target)
    if target.kind == "multilabel":
        return _check_labels(split, target)
    return _check_classes(split, target)


def _check_quantity(split: Split, target: Target) -> list[str]:
    notes = []
    for part in split.parts:
        values = target.values[split.rows(part)]
        if (values == values[0]).all():
            if part == TRAIN:
                raise HeadError(
                    f"the split ({split.origin}) cannot be used, all {len(values):,} train rows hold {values[0]:g}"
                )
            notes.append(f"WARNING: {NAMES[part]} holds the value {values[0]:g} only: correlations mean nothing there")
    return notes


def _check_labels(split: Split, target: Target) -> list[str]:
    notes = []
    for part in split.parts:
        share_L = target.values[split.rows(part)].mean(0)
        single = [name for name, share in zip(target.names, share_L, strict=True) if share in (0, 1)]
        if single and (part == TRAIN or (part in (VAL, STOP) and len(single) == len(target.names))):
            raise HeadError(
                f"the split ({split.origin}) cannot be used, {NAMES[part]} has the same value in every row for "
                f"{_some(single)}; leave such labels out, or use another split"
            )
        if single:
            notes.append(f"WARNING: {NAMES[part]} has one class only for {_some(single)}: no ranking metric there")
    return notes


def _check_classes(split: Split, target: Target) -> list[str]:
    classes = target.names
    counts = {
        part: np.bincount(np.asarray(target.values[split.rows(part)], np.int64), minlength=len(classes))
        for part in split.parts
    }
    table = "; ".join(f"{NAMES[part]} {_counted(classes, count)}" for part, count in counts.items())
    notes = []
    for part, count in counts.items():
        lacks = _some([name for name, n in zip(classes, count, strict=True) if not n])
        single = (count > 0).sum() < 2
        if part != TEST and (single or (part == TRAIN and lacks)):
            raise HeadError(
                f"the split ({split.origin}) cannot be used, {NAMES[part]} lacks class {lacks}. Rows per class: {table}"
            )
        if single:
            notes.append(f"WARNING: {NAMES[part]} has one class only, it lacks {lacks}: no ranking metric there")
        thin = [f"{name} ({n})" for name, n in zip(classes, count, strict=True) if n < THIN]
        if thin and not single:
            notes.append(f"{NAMES[part]} has very few rows of class {_some(thin)}: its metrics say little")
    return notes


def _counted(classes: Sequence[ClassName], count: Codes) -> str:
    return _some([f"{name}: {n:,}" for name, n in zip(classes, count, strict=True)])


def _some(names: Sequence[ClassName]) -> str:
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(str(name) for name in names[:MOST_NAMES]) + more
