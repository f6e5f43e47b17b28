"""Rows of embeddings as float32 blocks on a device: read from a store, centred and scaled, never copied whole to float64.

Axes: N rows of the source, n rows of the block, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

BLOCK_ROWS = 2048
"""Rows per block: 2,048 x 768 float32 are 6 MB, so the product back (R'X) finds the block of the product there (XW)
still in the cache."""
MEMORY_BYTES = 4 << 30
"""A matrix is kept in memory as float32 up to this size; beyond it every pass reads the store again."""

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.generic]


class RowSource(Protocol):
    """What holds the features: an opened store, or `ArrayRows` around an array."""

    @property
    def dim(self) -> int: ...

    @property
    def dtype(self) -> np.dtype[np.generic]: ...

    def __len__(self) -> int: ...

    def take(self, indices: Rows, out: Values | None = None) -> Values:
        """Return rows `indices` as (n, D) in the stored type, in `out` if it is given."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """A plain (N, D) float16, float32 or float64 array as a `RowSource`."""

    array: npt.NDArray[np.floating]

    @property
    def dim(self) -> int:
        return int(self.array.shape[1])

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.array)

    def take(self, indices: Rows, out: Values | None = None) -> Values:
        # mode="clip" lets numpy write straight into `out`; the indices are known to be inside
        return np.take(self.array, indices, axis=0, out=out, mode="clip")


@dataclass(frozen=True)
class Block:
    """Rows `start` to `stop` of a selection; `values_nD` is valid until the next block is drawn."""

    start: int
    stop: int
    values_nD: torch.Tensor


def raw_blocks(source: RowSource, rows: Rows, size: int = BLOCK_ROWS) -> Iterator[Block]:
    """Read the given rows in order as blocks of float32 (float64 where the source is float64), on the CPU.

    Two reused buffers serve all blocks: torch widens float16 nine times faster than `astype`, which also allocates.
    """
    wide = torch.float64 if source.dtype == np.float64 else torch.float32
    most = min(size, len(rows))
    stored = np.empty((most, source.dim), source.dtype)
    widened_nD = torch.empty((most, source.dim), dtype=wide)
    for start in range(0, len(rows), size):
        n = min(size, len(rows) - start)
        read = source.take(rows[start : start + n], out=stored[:n])
        yield Block(start, start + n, widened_nD[:n].copy_(torch.from_numpy(read)))


@dataclass(frozen=True)
class Standardisation:
    """Per feature x -> (x - centre) * factor, both (D,) in float32; the factor of a constant feature is 0.

    Centring in float32 before any product keeps features whose mean is far above their deviation from cancelling; what
    the rounding of `centre` leaves is a constant, which the unpenalised intercept takes up.
    """

    centre: torch.Tensor
    factor: torch.Tensor

    @property
    def dim(self) -> int:
        return len(self.centre)

    def on(self, device: torch.device | str) -> Standardisation:
        return Standardisation(self.centre.to(device), self.factor.to(device))

    def apply_(self, values_nD: torch.Tensor) -> torch.Tensor:
        """Standardise in place and return float32."""
        return values_nD.sub_(self.centre).mul_(self.factor).float()
