"""Standardised features in any order, as a training that shuffles its rows needs them.

Axes: N rows, n rows of a batch, D features.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from heads.data.features import BLOCK_ROWS, MEMORY_BYTES, Rows, RowSource, Standardisation


class StandardisedRows:
    """Rows of a source on a device, kept as they are stored (float16 mostly) and standardised as they are drawn.

    Rows that do not fit `memory_bytes` are read from the source at each draw.
    """

    def __init__(
        self,
        source: RowSource,
        rows: Rows,
        standardisation: Standardisation,
        device: torch.device,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.source = source
        self.rows = rows
        self.device = device
        self._standardisation = standardisation.on(device)
        size = len(rows) * source.dim * source.dtype.itemsize
        self._kept_ND = self._read().to(device) if size <= memory_bytes else None
        self.kept_bytes = size if size <= memory_bytes else 0
        """Memory that they take."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions_n: Rows) -> torch.Tensor:
        """Return rows at the given positions as (n, D) float32."""
        if self._kept_ND is None:
            stored_nD = torch.from_numpy(self.source.take(self.rows[positions_n])).to(self.device)
        else:
            stored_nD = self._kept_ND.index_select(0, torch.from_numpy(positions_n).to(self.device))
        wide = torch.float64 if stored_nD.dtype == torch.float64 else torch.float32
        return self._standardisation.apply_(stored_nD.to(wide))

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[torch.Tensor]:
        """All rows in order, as (n, D) float32."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))

    def _read(self) -> torch.Tensor:
        kept_ND = np.empty((len(self), self.source.dim), self.source.dtype)
        for start in range(0, len(self), BLOCK_ROWS):
            rows_n = self.rows[start : start + BLOCK_ROWS]
            self.source.take(rows_n, out=kept_ND[start : start + len(rows_n)])
        return torch.from_numpy(kept_ND)
