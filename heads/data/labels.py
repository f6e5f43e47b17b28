"""Columns of a store as what heads learn from: targets, groups, strata, sample weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedcache.errors import HeadError
from embedcache.storage.positionstore import RECORD
from embedcache.storage.store import Store
from heads.data.target import ClassName, Codes, Doubles, Target

TaskKind = Literal["auto", "classes", "regression"]
"""How a label column is to be read; ``auto`` takes fractions of many values for a measured quantity."""

MISSING = -1
MOST_FLOAT_VALUES = 20
"""A column of fractions with more distinct values than this is a measurement, not a class."""


@dataclass(frozen=True)
class Column:
    """A column as codes (N,) into its distinct `values`; `MISSING` where it is null."""

    name: str
    codes: Codes
    values: tuple[ClassName, ...]

    @property
    def missing(self) -> int:
        """Number of null rows."""
        return int((self.codes == MISSING).sum())


def read_target(
    store: Store, names: tuple[str, ...], *, kind: TaskKind = "auto", positive: str | None = None
) -> tuple[Target, npt.NDArray[np.bool_]]:
    """Read what is to be learned of all N rows, and which of them say it (N,).

    One column holds classes or a measured quantity; several hold one label each, yes or no. In rows that do not say it the
    values mean nothing.

    Raises
    ------
    HeadError : a column is not of its kind, holds one class only or an infinite value, or has no class `positive`.
    """
    if len(names) > 1:
        return _read_multilabel(store, names, kind, positive)
    column = _plain(store.column(names[0]))
    if kind == "regression" or (kind == "auto" and _is_measured(column)):
        if positive is not None:
            raise HeadError(f"--positive {positive}: column '{names[0]}' is a measured quantity and has no classes")
        values = read_numbers(store, names[0], "label column")
        known = ~np.isnan(values)
        if not known.any():
            raise HeadError(f"label column '{names[0]}' holds no values")
        return Target("regression", names, values), known
    labels = read_labels(column, names[0], positive)
    return (
        Target("binary" if len(labels.values) == 2 else "multiclass", labels.values, labels.codes),
        labels.codes != MISSING,
    )


def _read_multilabel(
    store: Store, names: tuple[str, ...], kind: TaskKind, positive: str | None
) -> tuple[Target, npt.NDArray[np.bool_]]:
    if kind == "regression" or positive is not None:
        raise HeadError(
            f"--label {','.join(names)}: several columns are one label each, yes or no; --task regression and --positive "
            "take one column"
        )
    codes = []
    for name in names:
        column = encode(as_classes(_plain(store.column(name)), name), name)
        if not set(column.values) <= {0, 1} or len(column.values) < 2:
            held = ", ".join(repr(value) for value in column.values[:4]) or "no values"
            raise HeadError(
                f"label column '{name}' holds {held}: of several labels each must be 0 or 1, with both there"
            )
        codes.append(column.codes)
    values = np.stack(codes, axis=1)
    return Target("multilabel", names, np.maximum(values, 0)), np.asarray((values != MISSING).all(1), np.bool_)


def read_numbers(store: Store, name: str, what: str) -> Doubles:
    """A numeric column as float64 (N,), NaN where it is null; raises HeadError for text and infinite values."""
    column = _plain(_parsed(store.column(name)))
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        raise HeadError(f"{what} '{name}' has type {column.type}: it must be a column of numbers")
    values: Doubles = np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy(), np.float64)
    if np.isinf(values).any():
        row = int(np.isinf(values).argmax())
        raise HeadError(f"{what} '{name}' holds an infinite value in row {row:,}: correct it, or leave it empty")
    return values


def read_weights(store: Store, name: str) -> Doubles:
    """A column of sample weights (N,); raises HeadError where one is missing or negative, or all are zero."""
    values = read_numbers(store, name, "weight column")
    bad = np.isnan(values) | (values < 0)
    if bad.any():
        raise HeadError(
            f"weight column '{name}' is empty or negative in {int(bad.sum()):,} rows, the first is row {bad.argmax():,}"
        )
    if not values.any():
        raise HeadError(f"weight column '{name}' is zero in every row: nothing would be learned")
    return values


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without dictionary encoding, NaN as null."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return column


def _parsed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text that is nothing but numbers, infinite ones too, as numbers; every other column as it is."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    try:
        return column.cast(pa.float64())
    except pa.ArrowInvalid:
        return column


def _is_measured(column: pa.ChunkedArray) -> bool:
    parsed = _parsed(column)
    if not pa.types.is_floating(parsed.type):
        return False
    values = pc.unique(parsed.drop_null()).to_numpy()
    whole = parsed is not column and bool((values == np.round(values)).all() and np.isfinite(values).all())
    return len(values) > MOST_FLOAT_VALUES and not whole  # numbers as text may be the names of classes


def read_labels(column: pa.ChunkedArray, name: str, positive: str | None = None) -> Column:
    """Read class labels: text classes in sorted order, numbers and booleans as integers in rising order.

    `positive` names the class that comes last, where it counts as the positive one of two.

    Raises
    ------
    HeadError : the column is a measurement, has one class only, or has no class `positive`.
    """
    labels = encode(as_classes(column, name), name)
    if len(labels.values) < 2:
        held = f"only the class {labels.values[0]!r}" if labels.values else "no values"
        raise HeadError(f"label column '{name}' holds {held}: a head needs at least two classes")
    labelled = len(labels.codes) - labels.missing
    if 2 * len(labels.values) > labelled and len(labels.values) > MOST_FLOAT_VALUES:
        raise HeadError(
            f"label column '{name}' has {len(labels.values):,} distinct values in {labelled:,} rows: these are not "
            "classes; name the column of the classes with --label, or take --task regression for a measured quantity"
        )
    return labels if positive is None else _with_positive(labels, positive)


def as_classes(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return a label column as text or integers, NaN as null; raises HeadError where it holds no classes."""
    column = _plain(column)
    kind = column.type
    if pa.types.is_floating(kind):
        column = _whole_numbers(column, name)
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise HeadError(f"label column '{name}' has type {kind}; classes must be text, integers or booleans")
    return column


def _whole_numbers(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    values = pc.unique(column.drop_null()).to_numpy()
    if np.isinf(values).any():
        raise HeadError(f"label column '{name}' holds an infinite value: correct it, or leave it empty")
    if len(values) <= MOST_FLOAT_VALUES:
        whole = (values == np.round(values)).all() and np.abs(values).max(initial=0) < 2**53
        return column.cast(pa.int64() if whole else pa.string())
    raise HeadError(
        f"label column '{name}' holds {len(values):,} distinct numbers, a measurement and not classes: take --task "
        "regression, or name another column with --label"
    )


def _with_positive(labels: Column, positive: str) -> Column:
    names = [str(value) for value in labels.values]
    if positive not in names:
        raise HeadError(f"--positive {positive}: label column '{labels.name}' has the classes {', '.join(names)}")
    if len(names) > 2:
        raise HeadError(f"--positive is for two classes; label column '{labels.name}' has {len(names)}")
    if names[1] == positive:
        return labels
    codes = np.where(labels.codes == MISSING, MISSING, 1 - labels.codes)
    return Column(labels.name, codes, labels.values[::-1])


def read_groups(store: Store, name: str) -> Column:
    """Read a column of groups; positions of a record without one are a group."""
    column = store.column(name)
    if column.null_count and RECORD in store.row_names:
        column = pc.coalesce(column.cast(pa.string()), store.column(RECORD))
    return encode(column, name)


def encode(column: pa.ChunkedArray, name: str) -> Column:
    """Encode any column of text, integers or booleans; codes follow the sorted distinct values."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_integer(column.type)):
        column = column.cast(pa.string())
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    values = encoded.dictionary.to_pylist()
    order = sorted(range(len(values)), key=values.__getitem__)
    rank = np.empty(len(values) + 1, np.int64)
    rank[order] = np.arange(len(values))
    rank[-1] = MISSING
    codes = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    return Column(name, rank[codes], tuple(values[i] for i in order))
