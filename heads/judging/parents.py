"""The sequences that windows were cut from: which window is of which parent, and what all windows of one agree on.

Axes: n windows, P parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedcache.errors import HeadError
from heads.data.labels import MISSING
from heads.data.target import Codes, Target

PARENT = "parent"
"""The column that names the parent of a window, where none is named."""


def parent_column(given: str | None, group: str | None, columns: Sequence[str], where: str) -> str:
    """Return the column of the parents: the one that is given, else `PARENT`, else that of the groups of the training.

    Raises HeadError where the columns of `where` hold none of them.
    """
    usual = [name for name in (PARENT, group) if name is not None]
    found = next((name for name in ([given] if given else usual) if name in columns), None)
    if found is None:
        raise HeadError(
            f"--aggregate: {where} has no column '{given or usual[0]}' that names the parent of a row; name one with --by. "
            f"It has {', '.join(columns) or 'no columns but id and sequence'}"
        )
    return found


@dataclass
class Parents:
    """Numbers parents in the order in which their first windows come."""

    column: str
    numbers: dict[str, int] = field(default_factory=dict)
    """By name."""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def names(self) -> list[str]:
        """By number."""
        return list(self.numbers)

    def codes(self, column: pa.Array | pa.ChunkedArray) -> Codes:
        """Return the parent's number of each window (n,), `MISSING` where the column is empty."""
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        texts = pa.chunked_array(column).cast(pa.string()).combine_chunks()
        encoded = texts.dictionary_encode() if isinstance(texts, pa.Array) else texts.combine_chunks()
        table = [self.numbers.setdefault(name, len(self.numbers)) for name in encoded.dictionary.to_pylist()]
        places = pc.fill_null(encoded.indices, len(table)).to_numpy(zero_copy_only=False)
        return np.asarray(np.array([*table, MISSING])[places], np.int64)


def first_windows(codes: Codes, parents: int) -> Codes:
    """Return the position of the first window of each of so many parents, all of which have one."""
    first = np.full(parents, -1, np.int64)
    held = np.flatnonzero(codes != MISSING)[::-1]
    first[codes[held]] = held
    return first


def mixed(codes: Codes, values: npt.NDArray[Any], first: Codes) -> Codes:
    """Return the positions of the windows (of n) whose value (n,) or (n, L) is not that of the first of their parent."""
    held = np.flatnonzero(codes != MISSING)
    differs = values[held] != values[first[codes[held]]]
    return np.asarray(held[differs if differs.ndim == 1 else differs.any(1)], np.int64)


def agreed_target(target: Target, codes: Codes, parents: Parents) -> Target:
    """Return what is true of each parent (P,); raises HeadError naming a parent whose windows do not agree."""
    first = first_windows(codes, len(parents))
    other = mixed(codes, target.values, first)
    if len(other):
        parent = int(codes[other[0]])
        one, two = (_said(target, int(row)) for row in (first[parent], other[0]))
        count = len(np.unique(codes[other]))
        raise HeadError(
            f"--aggregate: the windows of {count:,} of {len(parents):,} parents do not agree on the label: those of "
            f"'{parents.names[parent]}' have {one} and {two}; name the column of what they were cut from with --by"
        )
    return target.take(first)


def _said(target: Target, row: int) -> str:
    value = target.values[row]
    if target.has_classes:
        return repr(target.names[int(value)])
    return str(value.tolist())


def agreed_codes(values: Codes, codes: Codes, parents: int) -> tuple[Codes, int]:
    """Return the value (codes from 0) that all windows of each parent share, and how many parents share none.

    Those have `MISSING`, and so have parents of windows without a value.
    """
    first = first_windows(codes, parents)
    shared = values[first]
    several = np.unique(codes[mixed(codes, values, first)])
    shared[several] = MISSING
    return shared, len(several)
