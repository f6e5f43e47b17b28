"""Which rows train, which choose, which judge: splits read from a column, or drawn with a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedcache.errors import HeadError
from heads.labels import MISSING, Codes, Column

TRAIN, VAL, TEST = 0, 1, 2
NAMES = ("train", "val", "test")
SYNONYMS = {"train": TRAIN, "training": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL, "test": TEST}
FOLDS = 5
"""Folds of a drawn split: one is the test split, one the validation split, three train."""
MANY_GROUPS = 2000
"""From here on groups are drawn as units of one stratum; StratifiedGroupKFold takes a Python step per group."""
MOST_NAMES = 8
"""An error lists so many names of a split column."""
THIN = 5
"""A class with fewer rows than this in a split makes its metrics a lottery."""


@dataclass(frozen=True)
class Split:
    """Split of every row (N,), `MISSING` for rows that take no part, and what the user should know of it."""

    codes: Codes
    origin: str
    """Where it comes from, in words."""
    notes: tuple[str, ...] = ()

    def rows(self, part: int) -> Codes:
        """Row numbers of one part, rising."""
        return np.flatnonzero(self.codes == part)


def read_split(column: Column, labels: Codes, groups: Codes | None, seed: int) -> Split:
    """Use a split column; where it has no validation rows, a seeded (grouped) fifth of train serves.

    `labels` is (N,) with `MISSING` for rows that take no part, which then take no part in the split either.
    """
    codes = np.where(labels == MISSING, MISSING, part_codes(column))
    notes = []
    for code, value in enumerate(column.values):
        if _part(value) == MISSING:
            rows = int((column.codes == code).sum())
            notes.append(f"{rows:,} rows with {column.name} = {str(value)!r} take no part")
    if column.missing:
        notes.append(f"{column.missing:,} rows without a value in '{column.name}' take no part")
    if not ((codes == TRAIN).any() and (codes == TEST).any()) and (unknown := unknown_names(column)):
        raise HeadError(f"the split column '{column.name}' cannot be used: {unknown}")
    origin = f"column '{column.name}'"
    if not (codes == VAL).any() and (codes == TRAIN).any():
        train = np.flatnonzero(codes == TRAIN)
        folds, drawn = _folds(labels[train], None if groups is None else groups[train], seed, least=2)
        codes[train[folds == 0]] = VAL
        origin += f", val drawn from train with seed {seed}"
        notes += [
            f"'{column.name}' has no val rows: a fifth of train ({int((folds == 0).sum()):,} rows) serves",
            *drawn,
        ]
    notes += _leaks(codes, groups)
    return Split(codes, origin, tuple(notes))


def part_codes(column: Column) -> Codes:
    """TRAIN, VAL or TEST for each row of a split column, `MISSING` for any other value."""
    parts = np.array([_part(value) for value in column.values] + [MISSING])
    return np.asarray(parts[column.codes], np.int64)


def unknown_names(column: Column) -> str | None:
    """Say which names of a split column are not known, and which would be; None where all are known."""
    if all(_part(value) != MISSING for value in column.values):
        return None
    found = ", ".join(repr(str(value)) for value in column.values[:MOST_NAMES])
    more = f" and {len(column.values) - MOST_NAMES:,} more" if len(column.values) > MOST_NAMES else ""
    return f"it holds {found}{more}; known are train (training), val (validation, valid, dev) and test"


def _part(value: object) -> int:
    return SYNONYMS.get(str(value).strip().lower(), MISSING)


def draw_split(labels: Codes, groups: Codes | None, seed: int) -> Split:
    """Draw train, val and test as 60, 20 and 20 % of the labelled rows, each class spread evenly, groups kept whole."""
    codes = np.full(len(labels), MISSING, np.int64)
    rows = np.flatnonzero(labels != MISSING)
    folds, notes = _folds(labels[rows], None if groups is None else groups[rows], seed)
    codes[rows] = TRAIN
    codes[rows[folds == 0]] = TEST
    codes[rows[folds == 1]] = VAL
    kind = "stratified 60/20/20" if groups is None else "stratified 60/20/20 with groups kept whole"
    return Split(codes, f"{kind}, drawn with seed {seed}", tuple(notes))


def _folds(labels: Codes, groups: Codes | None, seed: int, least: int = 3) -> tuple[Codes, list[str]]:
    """Assign each row to one of five folds; fewer where there are fewer groups, but at least `least`."""
    from sklearn.model_selection import StratifiedGroupKFold

    if groups is None:
        return _dealt(labels, FOLDS, seed), []
    # a row without a group is a group of its own
    lone = np.flatnonzero(groups == MISSING)
    groups = groups.copy()
    groups[lone] = groups.max(initial=0) + 1 + np.arange(len(lone))
    _, groups = np.unique(groups, return_inverse=True)
    count = int(groups.max(initial=-1)) + 1
    if count < least:
        raise HeadError(
            f"rows of {count} groups cannot be split into {least} parts with groups kept whole; use another --group "
            "column, or give a split column with train, val and test"
        )
    notes = [f"only {count} groups: the parts differ in size"] if count < FOLDS else []
    if count > MANY_GROUPS:
        # the stratum of a group is its rarest class, so that rare positives are dealt evenly
        rarity = np.argsort(np.argsort(-np.bincount(labels)))
        stratum = np.zeros(count, np.int64)
        np.maximum.at(stratum, groups, rarity[labels])
        return _dealt(stratum, FOLDS, seed)[groups], notes
    folds = np.empty(len(labels), np.int64)
    dealer = StratifiedGroupKFold(n_splits=min(FOLDS, count), shuffle=True, random_state=seed)
    for fold, (_, chosen) in enumerate(_quiet_split(dealer, labels, groups)):
        folds[chosen] = fold
    return folds, notes


def _quiet_split(dealer: object, labels: Codes, groups: Codes) -> list[tuple[Codes, Codes]]:
    """Run a splitter without its warning on small classes: `check_split` says it with the counts."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return list(dealer.split(labels, labels, groups))  # type: ignore[attr-defined]
        except ValueError as error:
            raise HeadError(f"the rows cannot be split ({error}); give a split column with --split") from None


def _dealt(strata: Codes, folds: int, seed: int) -> Codes:
    """Shuffle the units of each stratum and deal them to the folds in turn, going on where the last one ended."""
    shuffled = np.random.default_rng(seed).permutation(len(strata))
    by_stratum = shuffled[np.argsort(strata[shuffled], kind="stable")]
    fold = np.empty(len(strata), np.int64)
    fold[by_stratum] = np.arange(len(strata)) % folds
    return fold


def _leaks(codes: Codes, groups: Codes | None) -> list[str]:
    if groups is None:
        return []
    known = (codes != MISSING) & (groups != MISSING)
    pairs = np.unique(np.stack([groups[known], codes[known]]), axis=1)
    group, parts = np.unique(pairs[0], return_counts=True)
    leaking = group[parts > 1]
    if not len(leaking):
        return []
    rows = int(np.isin(groups[known], leaking).sum())
    return [
        f"WARNING: {len(leaking):,} of {len(group):,} groups ({rows:,} rows) lie in more than one split: test scores "
        "may be too good; with --split none the groups are kept whole"
    ]


def check_split(split: Split, labels: Codes, classes: tuple[str | int, ...]) -> list[str]:
    """Say which classes are thin; raises HeadError where a part has no rows or lacks a class (two classes: either one).

    With three classes and more only train must hold every class.
    """
    counts = {part: np.bincount(labels[split.codes == part], minlength=len(classes)) for part in (TRAIN, VAL, TEST)}
    table = "; ".join(
        f"{NAMES[part]} " + ", ".join(f"{name}: {n:,}" for name, n in zip(classes, count, strict=True))
        for part, count in counts.items()
    )
    notes = []
    for part, count in counts.items():
        needed = count if len(classes) == 2 or part == TRAIN else count[count.argsort()[-2:]]
        if (needed == 0).any():
            empty = f"{NAMES[part]} has no rows" if not count.any() else f"{NAMES[part]} lacks a class"
            raise HeadError(f"the split ({split.origin}) cannot be used, {empty}. Rows per class: {table}")
        thin = [f"{name} ({n})" for name, n in zip(classes, count, strict=True) if n < THIN]
        if thin:
            notes.append(f"{NAMES[part]} has very few rows of class {', '.join(thin)}: its metrics say little")
    return notes
