"""A column as colours or shapes: classes by frequency, the rarest together, or a scale of numbers; missing values grey."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.storage.store import Store

MISSING = "#cccccc"
OTHER = "#8f8f8f"
# Okabe and Ito (2008), told apart by the colour-blind, for few classes; matplotlib's tab20 without its greys for more
FEW = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
MANY = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#aec7e8",
    "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#dbdb8d", "#9edae5",
)  # fmt: skip
MARKERS = ("o", "^", "s", "D", "v", "P")
_FEW_NUMBERS = 8
"""A column of whole numbers with up to so many values is one of classes."""


@dataclass(frozen=True)
class Classes:
    """A column whose values are names."""

    title: str
    names: tuple[str, ...]
    """Of the codes 0 to n-1, the most frequent first; the last may stand for many."""
    codes: NDArray[np.int64]
    """(n,) -1 where the value is missing."""
    colours: tuple[str, ...]


@dataclass(frozen=True)
class Numbers:
    """A column whose values are on a scale."""

    title: str
    values: NDArray[np.float64]
    """(n,) NaN where the value is missing."""


def colouring_of(store: Store, column: str | None, rows: NDArray[np.int64]) -> Classes | Numbers | None:
    """Colours of the drawn rows; None without a column; raises `InputError` for an unknown one."""
    if column is None:
        return None
    values = _values(store, column, rows)
    kind = values.type
    if pa.types.is_floating(kind) or (pa.types.is_integer(kind) and len(values.drop_null().unique()) > _FEW_NUMBERS):
        return Numbers(column, np.asarray(values.cast(pa.float64()).to_numpy(), np.float64))
    return _classes(column, values, len(MANY))


def shapes_of(store: Store, column: str | None, rows: NDArray[np.int64]) -> Classes | None:
    """Markers of the drawn rows, the rarest values together."""
    return None if column is None else _classes(column, _values(store, column, rows), len(MARKERS))


def _values(store: Store, column: str, rows: NDArray[np.int64]) -> pa.ChunkedArray:
    if column not in store.column_names:
        raise InputError(f"{store.path} has no column '{column}'; it has: {', '.join(store.column_names)}")
    return store.column(column).take(pa.array(rows))


def _classes(title: str, values: pa.ChunkedArray, most: int) -> Classes:
    texts = ["" if value is None else str(value) for value in values.to_pylist()]
    given, counts = np.unique([text for text in texts if text], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    names = given[order].tolist()
    rest = len(names) - (most - 1) if len(names) > most else 0
    shown = names[: most - 1] if rest else names
    code = {name: at for at, name in enumerate(shown)} | {name: len(shown) for name in names[len(shown) :]}
    palette = FEW if len(shown) <= len(FEW) else MANY
    colours = (*palette[: len(shown)], *([OTHER] if rest else []))
    codes = np.array([code.get(text, -1) for text in texts], np.int64)
    return Classes(title, (*shown, *([counted(rest, "other value")] if rest else [])), codes, tuple(colours))
