"""What an array of rows offers that is not one array in memory: the reads of numpy, answered by `take` and `read`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import DTypeLike, NDArray


class RowArray(ABC):
    """A read-only array-like (N, D): slices, masks, indices and ``np.asarray`` work as they do with numpy."""

    shape: tuple[int, int]
    dtype: np.dtype[np.generic]

    @abstractmethod
    def take(self, indices: NDArray[np.integer], out: NDArray[np.generic] | None = None) -> NDArray[np.generic]:
        """Gather rows by index, 0 <= index < N, into `out` (n, D) if it is given."""

    @abstractmethod
    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return rows [start, stop), 0 <= start <= stop <= N; a view where that can be had."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: object) -> NDArray[np.generic]:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self.read(start, max(start, stop))
            return self.take(np.arange(start, stop, step))
        if isinstance(key, tuple):
            rows, *rest = key
            return self[rows][(slice(None), *rest) if not isinstance(rows, int | np.integer) else tuple(rest)]
        indices = np.asarray(key)
        if indices.dtype == bool:
            indices = np.flatnonzero(indices)
        indices = np.where(indices < 0, indices + len(self), indices)
        if indices.ndim == 0:
            one: NDArray[np.generic] = self.take(indices.reshape(1))[0]
            return one
        return self.take(indices)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.generic]:
        return np.asarray(self.read(0, len(self)), dtype)


Matrix = NDArray[np.generic] | RowArray
"""Rows as one array in memory, or as something that reads like one."""
