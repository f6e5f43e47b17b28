"""What heads learn from: the rows of a store, standardised, for as many passes as a fit takes.

Axes: N rows of the source, n rows of the block, D features.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from embedcache.errors import HeadError
from embedcache.search.rows import (
    BLOCK_ROWS,
    MEMORY_BYTES,
    ArrayRows,
    Block,
    Rows,
    RowSource,
    Standardisation,
    Values,
    raw_blocks,
)

__all__ = [
    "BLOCK_ROWS", "MEMORY_BYTES", "ArrayRows", "Block", "Design", "RowSource", "Rows", "Standardisation", "Values",
    "pick_device", "raw_blocks",
]  # fmt: skip


class Design:
    """The standardised rows of one fit, for as many passes as the fit takes.

    Products by torch take them as float32 blocks on a device (`blocks`); the compiled kernel, which standardises by
    itself, as they are stored (`stored`). Either way they are kept in memory where they fit `memory_bytes`, and read
    again from the source at each pass where they do not; the values, and with them every result, are the same.
    """

    def __init__(
        self,
        source: RowSource,
        rows: Rows,
        standardisation: Standardisation,
        *,
        device: torch.device | str = "cpu",
        memory_bytes: int = MEMORY_BYTES,
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        self.source = source
        self.rows = rows
        self.standardisation = standardisation.on(device)
        self.device = torch.device(device)
        self.memory_bytes = memory_bytes
        self.block_rows = block_rows
        self._kept_ND: torch.Tensor | None = None
        self._stored_ND: Values | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        return self.source.dim

    def blocks(self) -> Iterator[Block]:
        """One pass over the rows in order."""
        if not self._fits(4):
            yield from self._read()
            return
        if self._kept_ND is None:
            kept_ND = torch.empty((len(self), self.dim), device=self.device)
            for block in self._read():
                kept_ND[block.start : block.stop] = block.values_nD
            self._kept_ND = kept_ND
        for start in range(0, len(self), self.block_rows):
            stop = min(start + self.block_rows, len(self))
            yield Block(start, stop, self._kept_ND[start:stop])

    def _fits(self, value_bytes: int) -> bool:
        return value_bytes * len(self) * self.dim <= self.memory_bytes

    def _read(self) -> Iterator[Block]:
        for block in raw_blocks(self.source, self.rows, self.block_rows):
            values_nD = self.standardisation.apply_(block.values_nD.to(self.device))
            yield Block(block.start, block.stop, values_nD)

    def keep_stored(self) -> None:
        """Read the rows as they are stored into memory, where they fit and are not there yet."""
        if self._stored_ND is None and self._fits(self.source.dtype.itemsize):
            self._stored_ND = self.source.take(self.rows, np.empty((len(self), self.dim), self.source.dtype))

    def stored(self, start: int, stop: int, buffer: Values) -> Values:
        """Rows [start, stop) as they are stored, (n, D) in one piece; `buffer` (n or more, D) serves where they are read."""
        if self._stored_ND is not None:
            return self._stored_ND[start:stop]
        return self.source.take(self.rows[start:stop], buffer[: stop - start])

    def sample(self, most: int) -> torch.Tensor:
        """Return at most `most` standardised rows, evenly spaced, as one (n, D) tensor."""
        step = -(-len(self) // most)
        if self._kept_ND is not None:
            return self._kept_ND[::step]
        part = Design(self.source, self.rows[::step], self.standardisation, device=self.device)
        return torch.cat([block.values_nD.clone() for block in part._read()])


def pick_device(name: str) -> torch.device:
    """Return the torch device of ``auto``, ``cpu`` or ``cuda``; raises HeadError where there is no GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise HeadError("--device cuda: torch sees no GPU here; use --device auto or cpu")
    return torch.device(name)
