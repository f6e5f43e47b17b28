"""Rows of several arrays gathered side by side in one pass of numpy's take.

``np.take`` fills only whole rows, so columns gathered from two arrays would be copied once more. But the arrays lie in one
address space: seen as one run of memory in units that divide all their rows, a row of the whole is a list of units, and
these are gathered in their order. What lies between the arrays is part of no unit that is asked for, and is never touched.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

LEAST_BYTES = 256
"""Of a unit: gathering smaller ones takes longer than a second copy."""


@dataclass(frozen=True)
class Stretch:
    """Columns of an array, all of its rows: bytes [first, first + width) of each."""

    array: NDArray[np.generic]
    first: int
    width: int

    @property
    def row_bytes(self) -> int:
        return int(self.array.strides[0])

    @property
    def address(self) -> int:
        return int(self.array.__array_interface__["data"][0]) + self.first


class Units:
    """Stretches of arrays as one run of units; the arrays are kept for as long as this is."""

    def __init__(self, stretches: Sequence[Stretch], unit: int) -> None:
        self._stretches, self._unit = stretches, unit
        self._base = min(one.address for one in stretches)
        end = max(one.address - one.first + one.array.nbytes for one in stretches)
        count = (end - self._base) // unit
        memory = (ctypes.c_char * (count * unit)).from_address(self._base)
        self._units_UB = np.frombuffer(memoryview(memory), np.uint8).reshape(count, unit)

    @classmethod
    def of(cls, stretches: Sequence[Stretch]) -> Self | None:
        """See arrays so; None where they are not plain arrays of whole rows, or have no unit that is large enough."""
        arrays = [one.array for one in stretches]
        if len(arrays) < 2 or not all(len(array) and array.flags.c_contiguous for array in arrays):
            return None
        base = min(one.address for one in stretches)
        unit = math.gcd(*(n for one in stretches for n in (one.row_bytes, one.width, one.address - base)))
        return cls(stretches, unit) if unit >= LEAST_BYTES else None

    def take(self, rows: Sequence[NDArray[np.int64]], out: NDArray[np.generic]) -> None:
        """Gather rows of each array, (n,) known to be inside, into `out` (n, D), which is contiguous."""
        each = [one.width // self._unit for one in self._stretches]
        wanted_nK = np.empty((len(out), sum(each)), np.int64)
        column = 0
        for one, numbers, count in zip(self._stretches, rows, each, strict=True):
            first = (one.address - self._base) // self._unit + np.arange(count)
            np.add((numbers * (one.row_bytes // self._unit))[:, None], first, out=wanted_nK[:, column : column + count])
            column += count
        units_UB = out.reshape(-1).view(np.uint8).reshape(-1, self._unit)
        np.take(self._units_UB, wanted_nK.reshape(-1), axis=0, out=units_UB, mode="clip")
