"""Standardised features in any order, as a training that shuffles its rows needs them.

Axes: N rows, n rows of a batch, D features.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from heads.data.features import BLOCK_ROWS, MEMORY_BYTES, Rows, RowSource, Standardisation


class StandardisedRows:
    """Rows of a source on a device, standardised.

    They are kept in memory where they fit `memory_bytes`, in whichever is smaller: as they are stored, to be standardised
    as they are drawn, or as they are drawn. Rows that do not fit are read from the source at each draw.

    Parameters
    ----------
    dtype : in which they are drawn: float32, or what the products that they go into are computed in.
    """

    def __init__(
        self,
        source: RowSource,
        rows: Rows,
        standardisation: Standardisation,
        device: torch.device,
        memory_bytes: int = MEMORY_BYTES,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.source = source
        self.rows = rows
        self.device = device
        self.dtype = dtype
        self._standardisation = standardisation.on(device)
        self._finished = dtype.itemsize <= source.dtype.itemsize
        size = len(rows) * source.dim * min(dtype.itemsize, source.dtype.itemsize)
        self._kept_ND = self._read() if size <= memory_bytes else None
        self.kept_bytes = size if size <= memory_bytes else 0
        """Memory that they take."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions_n: Rows) -> torch.Tensor:
        """Return rows at the given positions as (n, D)."""
        if self._kept_ND is None:
            return self._standardised(self._stored(self.rows[positions_n]))
        kept_nD = self._kept_ND.index_select(0, torch.from_numpy(positions_n).to(self.device))
        return kept_nD if self._finished else self._standardised(kept_nD)

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[torch.Tensor]:
        """All rows in order, as (n, D)."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))

    def _stored(self, rows_n: Rows) -> torch.Tensor:
        return torch.from_numpy(self.source.take(rows_n)).to(self.device)

    def _standardised(self, stored_nD: torch.Tensor) -> torch.Tensor:
        wide = torch.float64 if stored_nD.dtype == torch.float64 else torch.float32
        return self._standardisation.apply_(stored_nD.to(wide)).to(self.dtype)

    def _read(self) -> torch.Tensor:
        stored = torch.from_numpy(np.empty(0, self.source.dtype)).dtype
        shape, dtype = (len(self), self.source.dim), self.dtype if self._finished else stored
        kept_ND = torch.empty(shape, dtype=dtype, device=self.device)
        for start in range(0, len(self), BLOCK_ROWS):
            stored_nD = self._stored(self.rows[start : start + BLOCK_ROWS])
            kept_ND[start : start + len(stored_nD)] = self._standardised(stored_nD) if self._finished else stored_nD
        return kept_ND
