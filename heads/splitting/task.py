"""What a head is trained on: the rows of a store that say what is to be learned, and what is known of each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from embedcache.counted import counted
from embedcache.errors import HeadError
from embedcache.storage.store import Store
from heads.data.labels import MISSING, Column, TaskKind, encode, read_groups, read_numbers, read_target, read_weights
from heads.data.strata import Strata, numeric_bins, parse_strata
from heads.data.target import ClassName, Codes, Doubles, Examples, Target
from heads.splitting.folds import Folds, ManyFolds, check_folds, make_folds, make_split, parse_plan
from heads.splitting.splits import NAMES, TRAIN, VAL, check_split, parts_in
from heads.splitting.stop_on import VALIDATION, StopOn

if TYPE_CHECKING:
    from heads.data.features import Rows

LABEL, SPLIT, GROUP = "label", "split", "group"
"""Columns that are used where they are there and none is named."""
NONE = "none"
"""Named instead of a split or group column: use none, also where the usual one is there."""


@dataclass(frozen=True)
class Columns:
    """Columns to use; None takes the usual one if the store has it (`stratum` and `weight` have none), `NONE` takes none."""

    label: str | None = None
    """One column, or several with commas between them."""
    split: str | None = None
    """A column, or a plan such as ``kfold:5`` (see `heads.splitting.folds`)."""
    group: str | None = None
    stratum: str | None = None
    """A column, or a numeric column and its borders: ``length:200,500``."""
    weight: str | None = None


@dataclass(frozen=True)
class Task:
    """The n rows of a store that take part, rising, and what is known of each of them."""

    rows: Rows
    target: Target
    parts: Codes
    """TRAIN, VAL, TEST or STOP; `MISSING` before the rows were split, and for rows that a fold leaves out."""
    groups: Codes | None
    strata: Strata | None
    weights: Doubles | None
    columns: Columns
    """The columns that were used."""
    notes: tuple[str, ...] = ()
    origin: str = ""
    """Where the split comes from, in words."""
    group_names: tuple[ClassName, ...] = ()
    """By their codes."""

    @property
    def label(self) -> tuple[str, ...]:
        """The columns of what is learned."""
        if self.target.kind == "multilabel":
            return tuple(map(str, self.target.names))
        return (str(self.columns.label),)

    def take(self, positions: Rows) -> Task:
        """Some of the rows."""
        return replace(
            self,
            rows=self.rows[positions],
            target=self.target.take(positions),
            parts=self.parts[positions],
            groups=None if self.groups is None else self.groups[positions],
            strata=None if self.strata is None else replace(self.strata, codes=self.strata.codes[positions]),
            weights=None if self.weights is None else self.weights[positions],
        )

    def part(self, part: int) -> Codes:
        """Positions (into `rows`) of one part: TRAIN, VAL, TEST or STOP."""
        return np.flatnonzero(self.parts == part)

    def examples(self, part: int) -> Examples:
        """The rows of one part, as a head is fitted to them."""
        return Examples(self.rows, self.target, self.weights, self.groups).take(self.part(part))

    def fitted_to(self, stop_on: StopOn) -> tuple[Examples, Examples, Examples | None]:
        """The rows that train, that validate, and that stop a fit, None where the validation rows do."""
        train, val = self.examples(TRAIN), self.examples(VAL)
        if stop_on.part in (TRAIN, VAL):
            return train, val, train if stop_on.part == TRAIN else None
        return train, val, self.examples(stop_on.part)

    @property
    def stratum_names(self) -> list[str] | None:
        """The name of each row's stratum."""
        return None if self.strata is None else names_of(self.strata)

    @property
    def train_shares(self) -> Doubles | None:
        """Shares of the classes in the training rows as they are, (classes,) or of labels (L, 2); None without classes.

        In nested folds every validation row trained another head of the fold.
        """
        trained = self.part(TRAIN)
        target = self.target.take(trained if len(trained) else self.part(VAL))
        if target.kind == "regression" or not len(target):
            return None
        if target.kind == "multilabel":
            yes_L = target.values.mean(0)
            return np.stack([1 - yes_L, yes_L], axis=1)
        counts = np.bincount(np.asarray(target.values, np.int64), minlength=len(target.names))
        return np.asarray(counts / counts.sum(), np.float64)


def find_column(store: Store, given: str | None, usual: str, option: str) -> str | None:
    """Return the column to use, None where none is wanted, or none was named and the usual one is not there."""
    if given == NONE and usual in (SPLIT, GROUP):
        return None
    if given is None:
        return usual if usual in store.column_names else None
    if given not in store.column_names:
        raise HeadError(f"{option} {given}: {store.path} has no such column; it has {', '.join(store.column_names)}")
    return given


def label_columns(store: Store, given: str | None) -> tuple[str, ...]:
    """Return the label columns; raises HeadError listing the columns where there is none."""
    if given is not None and "," in given and given not in store.column_names:
        names = tuple(dict.fromkeys(name.strip() for name in given.split(",")))
        for one in names:
            find_column(store, one, LABEL, "--label")
        return names
    name = find_column(store, given, LABEL, "--label")
    if name is None:
        raise HeadError(
            f"{store.path} has no column '{LABEL}'; name one with --label. It has {', '.join(store.column_names)}"
        )
    return (name,)


def check_columns(
    store: Store, columns: Columns, others: Mapping[str, str | None], stop_on: StopOn = VALIDATION
) -> None:
    """Raise HeadError where the store lacks a column that is asked for, or the words of the split are no plan.

    `others` are columns beside those, by their options.
    """
    label_columns(store, columns.label)
    split = _split_of(store, columns)
    stop_on.check(parse_plan(split, store.column_names), split)
    find_column(store, columns.group, GROUP, "--group")
    for option, given in (("--strata", columns.stratum), ("--weight", columns.weight), *others.items()):
        if given is not None and given not in store.column_names:
            find_column(store, parse_strata(given)[0] if option != "--weight" else given, "", option)


def load_task(store: Store, columns: Columns, *, kind: TaskKind = "auto", positive: str | None = None) -> Task:
    """Read labels, groups, strata and weights of the rows that can take part, not split yet.

    Raises HeadError where no head can be trained on them.
    """
    labels = label_columns(store, columns.label)
    target, known = read_target(store, labels, kind=kind, positive=positive)
    notes = [f"{int((~known).sum()):,} rows without a label take no part"] if not known.all() else []
    if len(store.quarantined):
        notes.append(f"{len(store.quarantined):,} rows {store.set_aside} take no part")
        known = known.copy()
        known[store.quarantined] = False
    rows = np.flatnonzero(known)
    if len(rows) < 2:
        raise HeadError(
            f"{store.path} has {counted(len(rows), 'row')} with a label in '{', '.join(labels)}': nothing can be learned"
        )
    group = find_column(store, columns.group, GROUP, "--group")
    grouping = None if group is None else read_groups(store, group)
    strata = None if columns.stratum is None else read_strata(store, columns.stratum)
    weights = None
    if columns.weight is not None:
        weights = read_weights(store, str(find_column(store, columns.weight, "", "--weight")))[rows]
    used = Columns(
        ",".join(labels), _split_of(store, columns), group or _off(columns.group), columns.stratum, columns.weight
    )
    return Task(
        rows,
        target.take(rows),
        np.full(len(rows), MISSING, np.int64),
        None if grouping is None else grouping.codes[rows],
        None if strata is None else replace(strata, codes=strata.codes[rows]),
        weights,
        used,
        tuple(notes),
        group_names=() if grouping is None else grouping.values,
    )


def _split_of(store: Store, columns: Columns) -> str:
    return columns.split or (SPLIT if SPLIT in store.column_names else NONE)


def _off(given: str | None) -> str | None:
    return NONE if given == NONE else None


def split_task(store: Store, task: Task, seed: int, stop_on: StopOn = VALIDATION) -> tuple[Task, Folds | None]:
    """Split a task by its split column or plan; of a plan of many folds the task comes back as it is, with the folds.

    Raises HeadError where the rows cannot be split so, or a part lacks what a head needs.
    """
    split = task.columns.split or NONE
    plan = parse_plan(split, store.column_names)
    stop_on.check(plan, split)
    name: str | None = getattr(plan, "column", None)
    column = None
    if name is not None:
        read = encode(store.column(name), name)
        column = Column(name, read.codes[task.rows], read.values)
    if isinstance(plan, ManyFolds):
        folds = make_folds(plan, task.target, task.groups, column, seed)
        notes = (*task.notes, *folds.notes, *check_folds(folds, task.target))
        return replace(task, notes=notes, origin=folds.origin), folds
    drawn = make_split(plan, task.target, task.groups, column, seed, stop_on.column_value)
    notes = (*task.notes, *drawn.notes, *check_split(drawn, task.target))
    kept = f" (column '{task.columns.group}')" if task.groups is not None and column is None else ""
    parted = replace(task, parts=drawn.codes, notes=notes, origin=drawn.origin + kept)
    taking_part = np.flatnonzero(drawn.codes != MISSING)
    return parted.take(taking_part), None


def names_of(strata: Strata) -> list[str]:
    """The name of each row's stratum; empty where it has none."""
    names = [*strata.names, ""]
    return [names[code] for code in strata.codes.tolist()]


def read_strata(store: Store, text: str, option: str = "--strata") -> Strata:
    """Strata of all rows: the values of a column, or the bins of a numeric one; raises HeadError where there is none."""
    name, edges = (text, ()) if text in store.column_names else parse_strata(text)
    column = str(find_column(store, name, "", option))
    if edges:
        codes, names = numeric_bins(read_numbers(store, column, f"{option} {text}: column"), edges, column)
        return Strata(text, codes, names)
    read = encode(store.column(column), column)
    return Strata(text, read.codes, tuple(str(value) for value in read.values))


def describe(task: Task) -> str:
    """One line per part: rows, and rows of each class or label, or the spread of the quantity."""
    lines = []
    for part in parts_in(task.parts):
        target = task.target.take(task.part(part))
        lines.append(f"  {NAMES[part]:<6}{len(target):>10,} rows  {contents(target)}")
    return "\n".join(lines)


def contents(target: Target) -> str:
    """What some rows hold, in a few words."""
    names, values = target.names, target.values
    if not len(target):
        return ""
    if target.kind == "regression":
        return f"mean {values.mean():.4g}, deviation {values.std():.4g}, {values.min():.4g} to {values.max():.4g}"
    if target.kind == "multilabel":
        return ", ".join(f"{name}: {n:,}" for name, n in zip(names, values.sum(0), strict=True))
    counts = np.bincount(np.asarray(values, np.int64), minlength=len(names))
    if target.kind == "binary":
        return f"{counts[1]:,} positive ({counts[1] / len(values):.2%})"
    return ", ".join(f"{name}: {n:,}" for name, n in zip(names, counts, strict=True))
