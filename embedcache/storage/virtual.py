"""A store that holds no values: its rows and columns lie in other stores, its parts, and are read from there.

What makes it - a merge, a concatenation, a selection - decides its pieces and its rows table; reading is the same for all.
How it lies on disk is said in `embedcache.storage.virtualfiles`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedcache.errors import StoreError
from embedcache.records import SEQUENCE
from embedcache.storage.layout import StorePaths
from embedcache.storage.pieces import Piece, PiecedRows, Rows
from embedcache.storage.rowarray import Matrix
from embedcache.storage.store import KIND, Store

_SEQUENCES_AT_ONCE = 16384
PLACES = ("path", "absolute")
"""What of a part's record says where it lies, and not what it is."""


class VirtualStore(Store):
    """A store made of pieces of its parts.

    Parameters
    ----------
    path : where it lies, or what it is called while it lies nowhere.
    attributes : those of any store, and ``dtype`` and ``kind``.
    parts : opened stores.
    pieces : of the parts, covering all rows and columns. The sequences are those of the pieces that have column 0.
    table : the rows table without sequences, or its file.
    """

    def __init__(
        self,
        path: str | Path,
        attributes: dict[str, Any],
        parts: Sequence[Store],
        pieces: Sequence[Piece],
        table: pa.Table | Path,
    ) -> None:
        self.path = Path(path)
        self.attrs = attributes
        self.parts, self.pieces = tuple(parts), tuple(pieces)
        self._table = table
        self._rows = max((piece.stop for piece in pieces), default=0)
        self._first = sorted((piece for piece in pieces if piece.left == 0), key=lambda piece: piece.start)

    def __len__(self) -> int:
        return self._rows

    @property
    def origin(self) -> str:
        """Where the store lies, or its parts where it was put together for one program alone."""
        if StorePaths(self.path).group.exists():
            return super().origin
        return ", ".join(dict.fromkeys(part.origin for part in self.parts))

    @property
    def kind(self) -> str:
        """``merged``, ``concatenated`` or ``selected``."""
        return str(self.attrs[KIND])

    @property
    def dim(self) -> int:
        """Number of columns D."""
        return max(piece.right for piece in self.pieces)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the values as they are read: the widest of the parts'."""
        return np.dtype(str(self.attrs["dtype"]))

    @property
    def compress(self) -> str | None:
        """What the embeddings of a part are compressed with, None where all are plain."""
        return next((part.compress for part in self.parts if part.compress), None)

    @cached_property
    def identity(self) -> str:
        """Hash of what is stored in the parts and which of it is taken; see `Store.identity`."""
        said = dict(self.attrs)
        said["parts"] = [{k: v for k, v in part.items() if k not in PLACES} for part in said.get("parts", [])]
        total = hashlib.blake2b(json.dumps(said, sort_keys=True, default=str).encode(), digest_size=16)
        for part in self.parts:
            total.update(part.identity.encode())
        return total.hexdigest()

    @property
    def per_token(self) -> bool:
        """Whether a record has one row for each of its tokens, not one vector."""
        return any(part.per_token for part in self.parts)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where the rows of each record begin in `embeddings`, (N+1,)."""
        if not self.per_token:
            return np.arange(len(self) + 1)
        lengths = [np.diff(self.parts[piece.part].offsets)[_rows_of(piece)] for piece in self._first]
        return np.concatenate([[0], np.cumsum(np.concatenate(lengths))])

    @cached_property
    def quarantined(self) -> NDArray[np.int64]:
        """Rows of which a part was set aside at extraction; their values there are NaN."""
        found = [np.empty(0, np.int64)]
        for piece in self.pieces:
            aside = self.parts[piece.part].quarantined
            if len(aside):
                found.append(piece.start + np.flatnonzero(np.isin(_rows_of(piece), aside)))
        return np.unique(np.concatenate(found))

    # rows

    @cached_property
    def schema(self) -> pa.Schema:
        """Schema of the rows table, the sequence column included if the parts keep it."""
        schema = pq.read_schema(self._table) if isinstance(self._table, Path) else self._table.schema
        schema = schema.remove_metadata()
        if all(SEQUENCE in self.parts[piece.part].column_names for piece in self._first):
            schema = schema.append(pa.field(SEQUENCE, pa.large_string()))
        return schema

    def read_parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read columns some rows at a time; see `Store.read_parts`."""
        own = self._read_rows([name for name in columns if name != SEQUENCE] or ["row"])
        for start in range(0, len(self), _SEQUENCES_AT_ONCE):
            part = own.slice(start, _SEQUENCES_AT_ONCE)
            if SEQUENCE in columns:
                rows = np.arange(start, start + len(part))
                part = part.append_column(SEQUENCE, pa.chunked_array(self.sequences(rows), pa.large_string()))
            yield part.select(list(columns))

    def _read_rows(self, columns: Sequence[str]) -> pa.Table:
        own = [name for name in columns if name != SEQUENCE]
        try:
            read = pq.read_table(self._table, columns=own) if isinstance(self._table, Path) else self._table.select(own)
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(f"{self._table} cannot be read ({error}); see `embedcache verify`") from None
        if SEQUENCE in columns:
            found = pa.chunked_array(self.sequences(np.arange(len(self))), pa.large_string())
            read = read.append_column(SEQUENCE, found) if own else pa.table({SEQUENCE: found})
        return read.select(list(columns)).replace_schema_metadata()

    def sequences(self, rows: NDArray[np.int64]) -> Iterator[pa.Array]:
        """Yield the sequences of some rows, in their order; see `Store.sequences`."""
        if SEQUENCE not in self.schema.names:
            raise StoreError(f"{self.path} keeps no sequences: a part was extracted with --drop-sequence")
        starts = np.array([piece.start for piece in self._first])
        piece_of = np.searchsorted(starts, rows, side="right") - 1
        borders = np.flatnonzero(np.diff(piece_of)) + 1
        for some in np.split(rows, borders) if len(rows) else []:
            piece = self._first[int(np.searchsorted(starts, some[0], side="right")) - 1]
            yield from _sequences(self.parts[piece.part], piece.of(some))

    # embeddings

    @cached_property
    def embeddings(self) -> Matrix:
        """All rows as one read-only array-like over the parts; see `Store.embeddings`."""
        parts = [part.embeddings for part in self.parts]
        first = self.pieces[0]
        if len(self.pieces) == 1 and first.index is None and self.dim == parts[0].shape[1] and not self.per_token:
            return parts[0][first.first_row : first.first_row + len(self)]
        pieces = [self._of_tokens(piece) for piece in self.pieces] if self.per_token else self.pieces
        return PiecedRows(parts, pieces, (self.length, self.dim), self.dtype)

    def _of_tokens(self, piece: Piece) -> Piece:
        """A piece of records as a piece of their tokens."""
        theirs, start, stop = self.parts[piece.part].offsets, self.offsets[piece.start], self.offsets[piece.stop]
        piece = replace(piece, start=int(start), stop=int(stop), first_row=int(theirs[piece.first_row]))
        if piece.index is None:
            return piece
        first, lengths = theirs[piece.index], np.diff(theirs)[piece.index]
        begins = np.repeat(first - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
        return replace(piece, index=begins + np.arange(int(lengths.sum())))


def _rows_of(piece: Piece) -> Rows:
    return piece.of(np.arange(piece.start, piece.stop))


def _sequences(store: Store, rows: Rows) -> Iterator[pa.Array]:
    """Sequences in the order of the rows; where these do not rise, some at a time in the order of the store."""
    if bool((np.diff(rows) >= 0).all()):
        yield from store.sequences(rows)
        return
    for first in range(0, len(rows), _SEQUENCES_AT_ONCE):
        distinct, place = np.unique(rows[first : first + _SEQUENCES_AT_ONCE], return_inverse=True)
        yield pa.chunked_array(store.sequences(distinct), pa.large_string()).combine_chunks().take(pa.array(place))
