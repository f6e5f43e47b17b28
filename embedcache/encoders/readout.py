"""What is read out of an encoder in one pass: layers and poolings, as column blocks of one vector."""

from __future__ import annotations

from dataclasses import dataclass

from embedcache.sequences.pooling import NONE, column_of


@dataclass(frozen=True)
class ReadoutBlock:
    """One layer pooled one way: columns [start, stop) of the vectors."""

    name: str
    layer: int
    pooling: str
    start: int
    stop: int
    view: str | None = None
    """Which letters of the record it looks at (see `embedcache.sequences.views`); None: all."""


@dataclass(frozen=True)
class Readout:
    """What is read out of an encoder in one pass: column blocks of one vector."""

    blocks: tuple[ReadoutBlock, ...]

    @property
    def dim(self) -> int:
        """Width of the vector."""
        return self.blocks[-1].stop

    @property
    def pooled(self) -> bool:
        """Whether a sequence has one vector; otherwise it has one for each of its tokens."""
        return self.blocks[0].pooling != NONE

    @property
    def columns(self) -> tuple[str, ...]:
        """The input's columns that poolings read positions from."""
        found = (column_of(block.pooling) for block in self.blocks)
        return tuple(dict.fromkeys(column for column in found if column is not None))
