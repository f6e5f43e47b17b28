"""What a head is trained on: the rows of a store that have a label and a split, and what is known of each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from embedcache.errors import HeadError
from embedcache.store import Store
from heads.features import Rows
from heads.head import ClassName
from heads.labels import MISSING, Codes, Column, encode, read_labels
from heads.splits import NAMES, TEST, TRAIN, VAL, Split, check_split, draw_split, read_split

LABEL, SPLIT, GROUP = "label", "split", "group"
"""Columns that are used where they are there and none is named."""
NONE = "none"
"""Named instead of a split or group column: use none, also where the usual one is there."""


@dataclass(frozen=True)
class Columns:
    """Columns to use; None takes the usual one if the store has it (`stratum` has no usual one), `NONE` takes none."""

    label: str | None = None
    split: str | None = None
    group: str | None = None
    stratum: str | None = None


@dataclass(frozen=True)
class Task:
    """The n rows of a store that take part, rising, with the codes of each of them, all (n,)."""

    rows: Rows
    labels: Codes
    parts: Codes
    groups: Codes | None
    strata: Codes | None
    classes: tuple[ClassName, ...]
    columns: Columns
    """The columns that were used."""
    origin: str
    """Where the split comes from, in words."""
    notes: tuple[str, ...]

    @property
    def binary(self) -> bool:
        """Two classes: one column of probabilities, and a threshold."""
        return len(self.classes) == 2

    @property
    def label(self) -> str:
        """The column of the classes."""
        return str(self.columns.label)

    def part(self, part: int) -> Codes:
        """Positions (into `rows`) of one part: TRAIN, VAL or TEST."""
        return np.flatnonzero(self.parts == part)


def find_column(store: Store, given: str | None, usual: str, option: str) -> str | None:
    """Return the column to use, None where none is wanted, or none was named and the usual one is not there."""
    if given == NONE and usual in (SPLIT, GROUP):
        return None
    if given is None:
        return usual if usual in store.column_names else None
    if given not in store.column_names:
        raise HeadError(f"{option} {given}: {store.path} has no such column; it has {', '.join(store.column_names)}")
    return given


def label_column(store: Store, given: str | None) -> str:
    """Return the label column; raises HeadError listing the columns where there is none."""
    name = find_column(store, given, LABEL, "--label")
    if name is None:
        raise HeadError(
            f"{store.path} has no column '{LABEL}'; name one with --label. It has {', '.join(store.column_names)}"
        )
    return name


def load_task(store: Store, columns: Columns, *, positive: str | None = None, seed: int = 0) -> Task:
    """Read labels, splits, groups and strata; raises HeadError where no head can be trained on them."""
    label = label_column(store, columns.label)
    labels = read_labels(store.column(label), label, positive)
    notes = [f"{labels.missing:,} rows without a label take no part"] if labels.missing else []
    codes = labels.codes
    if len(store.quarantined):
        notes.append(f"{len(store.quarantined):,} rows set aside at extraction take no part")
        codes = codes.copy()
        codes[store.quarantined] = MISSING

    group = find_column(store, columns.group, GROUP, "--group")
    groups = _read(store, group)
    split_column = find_column(store, columns.split, SPLIT, "--split")
    split = _split(store, split_column, codes, groups, group, seed)
    notes += [*split.notes, *check_split(split, codes, labels.values), *_repeats(store, split)]
    stratum = None if columns.stratum is None else find_column(store, columns.stratum, "", "--strata")
    strata = _read(store, stratum)

    rows = np.flatnonzero(split.codes != MISSING)
    return Task(
        rows=rows,
        labels=codes[rows],
        parts=split.codes[rows],
        groups=None if groups is None else groups.codes[rows],
        strata=None if strata is None else strata.codes[rows],
        classes=labels.values,
        columns=Columns(label, split_column or _off(columns.split), group or _off(columns.group), stratum),
        origin=split.origin,
        notes=tuple(notes),
    )


def _split(store: Store, name: str | None, labels: Codes, groups: Column | None, group: str | None, seed: int) -> Split:
    codes = None if groups is None else groups.codes
    if name is not None:
        return read_split(encode(store.column(name), name), labels, codes, seed)
    split = draw_split(labels, codes, seed)
    return split if group is None else Split(split.codes, f"{split.origin} (column '{group}')", split.notes)


def _off(given: str | None) -> str | None:
    return NONE if given == NONE else None


def _repeats(store: Store, split: Split) -> list[str]:
    """Count the val and test rows whose sequence is in train as well; for DNA either strand is the same sequence."""
    table = store.read_rows(["digest", "rc_digest"])
    keys = pc.coalesce(table["rc_digest"], table["digest"])
    strands = "" if table["rc_digest"].null_count == len(store) else " (or its reverse complement)"
    trained = keys.filter(split.codes == TRAIN)
    notes = []
    for part in (VAL, TEST):
        held = keys.filter(split.codes == part)
        repeated = pc.sum(pc.is_in(held, trained)).as_py()
        if repeated:
            notes.append(
                f"WARNING: {repeated:,} of {len(held):,} {NAMES[part]} rows have a sequence that is in train{strands}"
            )
    return notes


def _read(store: Store, name: str | None) -> Column | None:
    return None if name is None else encode(store.column(name), name)


def describe(task: Task) -> str:
    """One line per part: rows, and rows of each class."""
    lines = []
    for part, name in enumerate(NAMES):
        labels = task.labels[task.parts == part]
        counts = np.bincount(labels, minlength=len(task.classes))
        if task.binary:
            text = f"{counts[1]:,} {task.classes[1]!s} ({counts[1] / len(labels):.2%})"
        else:
            text = ", ".join(f"{value}: {count:,}" for value, count in zip(task.classes, counts, strict=True))
        lines.append(f"  {name:<6}{len(labels):>10,} rows  {text}")
    return "\n".join(lines)
