"""Rows put together from the rows and columns of other arrays, read as one array and never copied whole.

Axes: N rows and D columns of the whole, n rows of a read, d columns of a piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embedcache.storage.rowarray import Matrix, RowArray
from embedcache.storage.units import Stretch, Units

Rows = NDArray[np.int64]
ABSENT = -1
"""In an index: the part has no row here, and its columns read as zeros."""
_BUFFER_BYTES = 160 << 10
"""Rows are gathered into a buffer of this size and copied to their columns from there: it stays in a core's second cache.

numpy's take fills only whole rows; a buffer is faster than gathering all rows and copying them once more."""


@dataclass(frozen=True)
class Piece:
    """Rows [start, stop) and columns [left, right) of the whole, which lie in one part."""

    part: int
    start: int
    stop: int
    left: int
    right: int
    first_column: int = 0
    """Column of the part that is column `left`."""
    first_row: int = 0
    """Row of the part that is row `start`, where there is no index."""
    index: Rows | None = None
    """(stop - start,) row of the part for each row, or `ABSENT`; None where the rows follow each other."""

    def of(self, rows: Rows) -> Rows:
        """The part's rows for rows of the whole."""
        return rows - (self.start - self.first_row) if self.index is None else self.index[rows - self.start]


class PiecedRows(RowArray):
    """An array-like (N, D) over pieces, which cover it; `parts` are what they are pieces of."""

    def __init__(
        self, parts: Sequence[Matrix], pieces: Sequence[Piece], shape: tuple[int, int], dtype: np.dtype[np.generic]
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._pieces = [_without_detour(parts[piece.part], piece) for piece in pieces]

    @cached_property
    def _units(self) -> Units | None:
        """All pieces as units of memory, where they are columns of plain arrays in the type of the whole."""
        size = self.dtype.itemsize
        found = [
            Stretch(part, piece.first_column * size, (piece.right - piece.left) * size)
            for part, piece in sorted(self._pieces, key=lambda one: one[1].left)
            if isinstance(part, np.ndarray) and part.dtype == self.dtype and self._is_whole(piece)
        ]
        return Units.of(found) if len(found) == len(self._pieces) else None

    @cached_property
    def _side_by_side(self) -> list[Piece]:
        """The pieces from left to right."""
        return sorted((piece for _, piece in self._pieces), key=lambda piece: piece.left)

    def _is_whole(self, piece: Piece) -> bool:
        return (piece.start, piece.stop) == (0, len(self))

    def take(self, indices: NDArray[np.integer], out: NDArray[np.generic] | None = None) -> NDArray[np.generic]:
        """Gather rows by index, 0 <= index < N, into `out` (n, D) if it is given."""
        rows = np.asarray(indices, np.int64)
        out = np.empty((len(rows), self.shape[1]), self.dtype) if out is None else out
        units = self._units
        if units is not None and len(rows) and out.flags.c_contiguous:
            self._take_units(units, rows, out)
            return out
        for part, piece in self._pieces:
            columns_nd = out[:, piece.left : piece.right]
            if self._is_whole(piece):
                _fill(part, piece, piece.of(rows), columns_nd)
                continue
            here = np.flatnonzero((rows >= piece.start) & (rows < piece.stop))
            if len(here) == len(rows):
                _fill(part, piece, piece.of(rows), columns_nd)
            elif len(here):
                found_nd = np.empty((len(here), columns_nd.shape[1]), self.dtype)
                _fill(part, piece, piece.of(rows[here]), found_nd)
                columns_nd[here] = found_nd
        return out

    def _take_units(self, units: Units, rows: Rows, out: NDArray[np.generic]) -> None:
        theirs = [piece.of(rows) for piece in self._side_by_side]
        units.take([np.maximum(found, 0) for found in theirs], out)
        for piece, found in zip(self._side_by_side, theirs, strict=True):
            if piece.index is not None and (absent := found == ABSENT).any():
                out[absent, piece.left : piece.right] = 0

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return rows [start, stop): a view where they follow each other in one part."""
        for part, piece in self._pieces:
            whole = (piece.left, piece.right) == (0, self.shape[1]) and part.dtype == self.dtype
            if whole and piece.index is None and piece.start <= start <= stop <= piece.stop:
                first, last = start - piece.start + piece.first_row, stop - piece.start + piece.first_row
                return part[first:last, piece.first_column : piece.first_column + self.shape[1]]
        return self.take(np.arange(start, stop))

    def narrowed(self, left: int, right: int) -> PiecedRows:
        """The columns [left, right) alone: what lies outside is not read."""
        narrow = PiecedRows([], [], (len(self), right - left), self.dtype)
        for part, piece in self._pieces:
            first, last = max(piece.left, left), min(piece.right, right)
            if first < last:
                column = piece.first_column + first - piece.left
                narrow._pieces.append((part, replace(piece, left=first - left, right=last - left, first_column=column)))
        return narrow


def _without_detour(part: Matrix, piece: Piece) -> tuple[Matrix, Piece]:
    """A part that is pieced together itself, with no more columns than the piece has."""
    if isinstance(part, PiecedRows) and piece.right - piece.left < part.shape[1]:
        part = part.narrowed(piece.first_column, piece.first_column + piece.right - piece.left)
        piece = replace(piece, first_column=0)
    return part, piece


def _fill(part: Matrix, piece: Piece, rows: Rows, out_nd: NDArray[np.generic]) -> None:
    """Write rows of a part, some of which may be absent, into the columns of a piece."""
    if piece.index is not None and len(rows) and rows.min() == ABSENT:
        absent = rows == ABSENT
        rows = np.where(absent, 0, rows)
        if not len(part):
            out_nd[...] = 0
            return
        _gather(part, rows, piece.first_column, out_nd)
        out_nd[absent] = 0
    else:
        _gather(part, rows, piece.first_column, out_nd)


def _follow(rows: Rows) -> bool:
    """Whether rows are several that follow each other."""
    n = len(rows)
    return n > 1 and rows[-1] - rows[0] == n - 1 and bool((np.diff(rows) == 1).all())


def _gather(part: Matrix, rows: Rows, first_column: int, out_nd: NDArray[np.generic]) -> None:
    n, d = out_nd.shape
    columns = slice(first_column, first_column + d)
    if _follow(rows):
        out_nd[...] = part[int(rows[0]) : int(rows[0]) + n, columns]
    elif d < part.shape[1]:
        out_nd[...] = part[:, columns][rows] if isinstance(part, np.ndarray) else part.take(rows)[:, columns]
    elif out_nd.flags.c_contiguous and out_nd.dtype == part.dtype:
        _take(part, rows, out_nd)
    else:
        size = max(1, _BUFFER_BYTES // (d * part.dtype.itemsize))
        buffer = np.empty((min(size, n), d), part.dtype)
        for first in range(0, n, size):
            some = rows[first : first + size]
            out_nd[first : first + size] = _take(part, some, buffer[: len(some)])


def _take(part: Matrix, rows: Rows, out_nd: NDArray[np.generic]) -> NDArray[np.generic]:
    # the rows are known to be inside; mode="clip" spares the copy that mode="raise" makes into `out`
    return (
        np.take(part, rows, axis=0, out=out_nd, mode="clip")
        if isinstance(part, np.ndarray)
        else part.take(rows, out_nd)
    )
