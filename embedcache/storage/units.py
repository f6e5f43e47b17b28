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
"""Of a unit: gathering smaller ones takes longer than a second copy. Larger ones are halved down to this, since the C
library copies so few bytes without a loop: twice as fast as whole rows of 1 or 2 kB side by side."""


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
        base = min(one.address for one in stretches)
        end = max(one.address - one.first + one.array.nbytes for one in stretches)
        count = (end - base) // unit
        memory = (ctypes.c_char * (count * unit)).from_address(base)
        self._units_UB = np.frombuffer(memoryview(memory), np.uint8).reshape(count, unit)
        self._row_units = [one.row_bytes // unit for one in stretches]
        self._firsts = [(one.address - base) // unit + np.arange(one.width // unit) for one in stretches]
        self._borders = np.cumsum([0, *(len(first_k) for first_k in self._firsts)]).tolist()

    @classmethod
    def of(cls, stretches: Sequence[Stretch]) -> Self | None:
        """See arrays so; None where they are not plain arrays of whole rows, or have no unit that is large enough."""
        arrays = [one.array for one in stretches]
        if len(arrays) < 2 or not all(len(array) and array.flags.c_contiguous for array in arrays):
            return None
        base = min(one.address for one in stretches)
        unit = math.gcd(*(n for one in stretches for n in (one.row_bytes, one.width, one.address - base)))
        while unit % 2 == 0 and unit // 2 >= LEAST_BYTES:
            unit //= 2
        return cls(stretches, unit) if unit >= LEAST_BYTES else None

    def take(self, rows: Sequence[NDArray[np.int64]], out: NDArray[np.generic]) -> None:
        """Gather rows of each array, (n,) known to be inside, into `out` (n, D), which is contiguous."""
        wanted_nK = np.empty((len(out), self._borders[-1]), np.int64)
        for place, (rows_n, row_units, first_k) in enumerate(zip(rows, self._row_units, self._firsts, strict=True)):
            columns = wanted_nK[:, self._borders[place] : self._borders[place + 1]]
            np.add((rows_n * row_units)[:, None], first_k, out=columns)
        units_UB = out.reshape(-1).view(np.uint8).reshape(-1, self._unit)
        np.take(self._units_UB, wanted_nK.reshape(-1), axis=0, out=units_UB, mode="clip")
