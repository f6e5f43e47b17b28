"""Label, split, group and stratum columns of a store, as integer codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedcache.errors import HeadError
from heads.head import ClassName

Codes = npt.NDArray[np.int64]

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
            "classes; name the column of the classes with --label"
        )
    return labels if positive is None else _with_positive(labels, positive)


def as_classes(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Return a label column as text or integers, NaN as null; raises HeadError where it holds no classes."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_floating(kind):
        column = _whole_numbers(pc.if_else(pc.is_nan(column), None, column), name)
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise HeadError(f"label column '{name}' has type {kind}; classes must be text, integers or booleans")
    return column


def _whole_numbers(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    values = pc.unique(column.drop_null()).to_numpy()
    if np.isfinite(values).all() and (values == np.round(values)).all() and np.abs(values).max(initial=0) < 2**53:
        if len(values) <= MOST_FLOAT_VALUES:
            return column.cast(pa.int64())
    elif len(values) <= MOST_FLOAT_VALUES:
        return column.cast(pa.string())
    raise HeadError(
        f"label column '{name}' holds {len(values):,} distinct numbers, a measurement and not classes; regression heads "
        "are not there yet. Make classes of it first, or name another column with --label"
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
