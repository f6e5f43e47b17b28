"""How rows are to be split, in words and as an object, and the many folds of those ways in which every row judges once.

Words of ``--split``:

none, random               60/20/20, classes spread evenly, groups kept whole
COLUMN                     a column that names train, val and test
chromosome:COLUMN          whole values of a column, 60/20/20 as evenly as they allow
chromosome:COLUMN:val=A,B:test=C,D     these values; all others train
kfold:K                    K folds, each the test part once
nested:KxJ                 K folds judge; in the rest of each, J folds choose
leave-out:COLUMN           each value of a column is the test part once
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from embedcache.errors import HeadError
from heads.data.labels import MISSING, Column
from heads.data.target import Codes, Target
from heads.splitting.splits import (
    MOST_NAMES,
    TEST,
    TRAIN,
    VAL,
    Split,
    check_split,
    chromosome_split,
    deal_parts,
    draw_split,
    draw_val,
    read_split,
    strata_of,
)

if TYPE_CHECKING:
    from heads.data.features import Rows

MOST_LEFT_OUT = 50
"""A head is fitted for each value that is left out; beyond so many values folds of several are what is wanted."""
WORDS = ("none", "random", "kfold:5", "nested:5x3", "leave-out:COLUMN", "chromosome:COLUMN")


@dataclass(frozen=True)
class RandomSplit:
    """60/20/20, classes spread evenly, groups kept whole."""


@dataclass(frozen=True)
class ColumnSplit:
    """A column that names train, val and test."""

    column: str


@dataclass(frozen=True)
class ChromosomeSplit:
    """Whole values of a column in one part each, drawn or named."""

    column: str
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


@dataclass(frozen=True)
class KFold:
    """Each of so many folds is the test part once."""

    folds: int


@dataclass(frozen=True)
class Nested:
    """Outer folds judge; in the rest of each, inner folds choose."""

    folds: int
    inner: int


@dataclass(frozen=True)
class LeaveOut:
    """Each value of a column is the test part once."""

    column: str


OneSplit = RandomSplit | ColumnSplit | ChromosomeSplit
ManyFolds = KFold | Nested | LeaveOut
Plan = OneSplit | ManyFolds


@dataclass(frozen=True)
class Fold:
    """Positions of rows, rising: fitted to `train`, chosen by `val`, judged by `test`."""

    name: str
    train: Rows
    val: Rows
    test: Rows
    inner: tuple[tuple[Rows, Rows], ...] = ()
    """Of a nested plan the pairs of training and validation rows that choose; each divides train and val together."""

    def parts(self, rows: int) -> Codes:
        """Part of each of so many rows, `MISSING` for those that take no part."""
        codes = np.full(rows, MISSING, np.int64)
        for part, positions in ((TRAIN, self.train), (VAL, self.val), (TEST, self.test)):
            codes[positions] = part
        return codes


@dataclass(frozen=True)
class Folds:
    """All folds of a plan, where they come from in words, and what the user should know of them."""

    folds: tuple[Fold, ...]
    origin: str
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Fold]:
        return iter(self.folds)

    def __len__(self) -> int:
        return len(self.folds)


def parse_plan(text: str, columns: Sequence[str]) -> Plan:
    """Return the plan that the words of ``--split`` mean; a word that is no plan is one of the store's columns.

    Raises HeadError for a word that is neither or both, a column that is not there, and numbers of folds below two.
    """
    word, _, rest = text.partition(":")
    if text in columns:
        if text == "random" or (rest and word in ("kfold", "nested", "leave-out", "chromosome")):
            raise HeadError(f"--split {text} is a plan and a column of the store as well: rename the column")
        if text != "none":
            return ColumnSplit(text)
    if text in ("none", "random"):
        return RandomSplit()
    if word == "kfold":
        return KFold(*_numbers(text, rest, r"(\d+)", "kfold:5"))
    if word == "nested":
        return Nested(*_numbers(text, rest, r"(\d+)x(\d+)", "nested:5x3"))
    if word == "leave-out":
        return LeaveOut(_known(text, rest, columns))
    if word == "chromosome":
        return _parse_chromosome(text, rest, columns)
    near = get_close_matches(text, (*columns, *WORDS), n=1)
    raise HeadError(
        f"--split {text} is no column of the store and no plan{f'; do you mean {near[0]}?' if near else ''} Plans are "
        f"{', '.join(WORDS)}; columns are {', '.join(columns)}"
    )


def _numbers(text: str, rest: str, pattern: str, example: str) -> tuple[int, ...]:
    found = re.fullmatch(pattern, rest)
    if found is None:
        raise HeadError(f"--split {text} does not say how many folds; write it like {example}")
    numbers = tuple(int(digits) for digits in found.groups())
    if min(numbers) < 2:
        raise HeadError(f"--split {text}: there must be at least 2 folds")
    return numbers


def _known(text: str, column: str, columns: Sequence[str]) -> str:
    if column not in columns:
        said = f"there is no column {column!r}" if column else "it names no column"
        raise HeadError(f"--split {text}: {said}; the store has {', '.join(columns)}")
    return column


def _parse_chromosome(text: str, rest: str, columns: Sequence[str]) -> ChromosomeSplit:
    column, *named = re.split(r":(?=(?:train|val|test)=)", rest)
    values: dict[str, tuple[str, ...]] = {}
    for name, _, listed in (part.partition("=") for part in named):
        if name == "train" or name in values:
            raise HeadError(f"--split {text}: name val and test, each once; all other values train")
        values[name] = tuple(value.strip() for value in listed.split(",") if value.strip())
        if not values[name]:
            raise HeadError(f"--split {text}: no value is named for {name}")
    if "val" in values and "test" not in values:
        raise HeadError(f"--split {text} names val and no test; add :test=VALUE,...")
    return ChromosomeSplit(_known(text, column, columns), values.get("val", ()), values.get("test", ()))


def make_split(
    plan: OneSplit,
    target: Target,
    groups: Codes | None,
    column: Column | None,
    seed: int,
    stop: str | None = None,
) -> Split:
    """Split the N rows of the target by a plan; `groups` (N,) and `column` are of the same rows.

    `column` is the one that the plan names, None where it names none; `stop` the value of it whose rows stop a fit.

    Raises HeadError where the rows cannot be split so; `splits.check_split` says whether heads can use the parts.
    """
    if isinstance(plan, RandomSplit):
        return draw_split(target, groups, seed)
    if column is None:
        raise TypeError(f"the split by {plan.column} needs the column")
    if isinstance(plan, ColumnSplit):
        return read_split(column, target, groups, seed, stop)
    return chromosome_split(column, target, seed, plan.val, plan.test)


def make_folds(plan: ManyFolds, target: Target, groups: Codes | None, column: Column | None, seed: int) -> Folds:
    """Make all folds of a plan for the N rows of the target; `groups` (N,) and `column` are of the same rows.

    In each fold a fifth of the rows that are not its test rows is drawn for val: classes spread evenly, whole values of the
    column that is left out, else whole groups. `column` is the one that the plan names, None where it names none.

    Raises HeadError where there are fewer rows or groups than folds, or too many values to leave out.
    """
    strata = strata_of(target)
    if isinstance(plan, LeaveOut):
        if column is None:
            raise TypeError(f"leaving out {plan.column} needs the column")
        return _leave_out(column, strata, groups, seed)
    parts = _fold_of(strata, groups, plan.folds, seed, "--split")
    folds, notes = [], []
    for number in range(plan.folds):
        name, others = f"fold {number + 1}", np.flatnonzero(parts != number)
        val, said = draw_val(others, strata, [groups], seed)
        notes += [f"{name}: {note}" for note in said]
        inner = _inner(others, strata, groups, plan.inner, seed) if isinstance(plan, Nested) else ()
        folds.append(Fold(name, np.setdiff1d(others, val), val, np.flatnonzero(parts == number), inner))
    words = "stratified" + (", groups kept whole" if groups is not None else "")
    inside = f", {plan.inner} inside each" if isinstance(plan, Nested) else ""
    return Folds(tuple(folds), f"{plan.folds} folds{inside}, {words}, drawn with seed {seed}", tuple(notes))


def _fold_of(strata: Codes, groups: Codes | None, folds: int, seed: int, where: str) -> Codes:
    try:
        return deal_parts(strata, groups, (1,) * folds, seed)
    except HeadError as error:
        raise HeadError(f"{where}: {error}; or take fewer folds") from None


def _inner(others: Rows, strata: Codes, groups: Codes | None, folds: int, seed: int) -> tuple[tuple[Rows, Rows], ...]:
    parts = _fold_of(strata[others], None if groups is None else groups[others], folds, seed, "inner folds")
    return tuple((others[parts != number], others[parts == number]) for number in range(folds))


def _leave_out(column: Column, strata: Codes, groups: Codes | None, seed: int) -> Folds:
    known = np.flatnonzero(column.codes != MISSING)
    held = np.unique(column.codes[known])
    if len(held) < 2:
        raise HeadError(f"--split leave-out:{column.name}: the rows hold {len(held)} of its values, and two are needed")
    if len(held) > MOST_LEFT_OUT:
        raise HeadError(
            f"--split leave-out:{column.name} would fit {len(held):,} heads, one for each value; take --split kfold:5 "
            f"--group {column.name}, which keeps its values whole"
        )
    notes = [f"{column.missing:,} rows without a value in '{column.name}' take no part"] if column.missing else []
    folds = []
    for code in held:
        name = f"{column.name}={column.values[code]}"
        others = known[column.codes[known] != code]
        val, said = draw_val(others, strata, [column.codes, groups], seed)
        notes += [f"{name}: {note}" for note in said]
        folds.append(Fold(name, np.setdiff1d(others, val), val, known[column.codes[known] == code]))
    return Folds(tuple(folds), f"each value of '{column.name}' left out once, val drawn with seed {seed}", tuple(notes))


def check_folds(folds: Folds, target: Target) -> list[str]:
    """Say which classes are thin in which fold, and warn of test parts of one class.

    Raises HeadError where a fold cannot be used (see `heads.splitting.splits.check_split`), also an inner one.
    """
    notes: list[str] = []
    for fold in folds:
        said = check_split(Split(fold.parts(len(target)), f"{fold.name} of {folds.origin}"), target)
        notes += [f"{fold.name}: {note}" for note in said]
        for number, (train, val) in enumerate(fold.inner):
            inner = Fold(f"{fold.name}, inner fold {number + 1}", train, val, fold.test)
            check_split(Split(inner.parts(len(target)), inner.name), target)
    notes.sort(key=lambda note: "WARNING" not in note)
    more = len(notes) - MOST_NAMES
    return notes[:MOST_NAMES] + ([f"and {more} more such remarks on other folds"] if more > 0 else [])
