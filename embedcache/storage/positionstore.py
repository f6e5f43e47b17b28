"""A store that keeps every token, seen as a store of positions: one row for each letter of each sequence.

Row ``RECORD:POSITION`` is a letter of a record, counted from 0 as ``at:COLUMN`` counts it, in the order of records and
letters. Its embedding is that of the token that covers it (`embedcache.storage.covering`), its sequence the `WINDOW` letters
around it. Columns of lists, and those that are named, hold a value for each letter; every other column is repeated for all
letters of its record. Nothing is copied, and columns are made as they are read.

Axes: N records, P positions, n positions of a read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embedcache.errors import StoreError
from embedcache.fingerprint import fingerprint
from embedcache.records import ID, SEQUENCE
from embedcache.sequences.alphabet import CELL, PROTEIN, Letters
from embedcache.storage.covering import Covering, letters_of
from embedcache.storage.positionvalues import type_by_letter, values_by_letter
from embedcache.storage.rowarray import Matrix
from embedcache.storage.store import Store

if TYPE_CHECKING:
    from embedcache.encoding import Encoding

RECORD, POSITION, GROUP = "record", "position", "group"
WINDOW = 41
"""Letters of the sequence of a position, which stands in their middle."""
_AT_ONCE = 1 << 18
"""Positions whose columns are made together."""


class PositionStore(Store):
    """The positions of a store that keeps every token.

    Parameters
    ----------
    by_letter : columns beside those of lists that hold a value for each letter; see `embedcache.storage.positionvalues`.
    encoding : what made the tokens, where it is at hand; else it is found by the store's record when it is needed.

    Raises
    ------
    StoreError : the store keeps one vector of a record, or its tokens are not those of the letters of whole sequences.
    """

    row_names = (ID, RECORD, POSITION)
    set_aside = "that no token covers"

    def __init__(self, tokens: Store, by_letter: Collection[str] = (), encoding: Encoding | None = None) -> None:
        self.tokens, self.path, self.attrs = tokens, tokens.path, tokens.attrs
        self._named, self._encoding = tuple(by_letter), encoding
        _check(tokens)
        self._starts = np.concatenate([[0], np.cumsum(letters_of(tokens))])
        names = [name for name in tokens.column_names if name not in ("row", ID, SEQUENCE)]
        taken = {name: f"{name}_of_record" if name in (RECORD, POSITION) else name for name in names}
        self._source = {ours: theirs for theirs, ours in taken.items()}
        self._by_letter = {ours for ours, theirs in self._source.items()
                           if theirs in by_letter or type_by_letter(tokens.schema.field(theirs).type)}  # fmt: skip
        self._has_groups = GROUP in self._source

    def over(self, tokens: Store, encoding: Encoding) -> PositionStore:
        """The positions of another store that an encoding made of the same records."""
        return PositionStore(tokens, self._named, encoding)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def dim(self) -> int:
        """Number of columns D."""
        return self.tokens.dim

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the stored values."""
        return self.tokens.dtype

    @property
    def compress(self) -> str | None:
        """What the embeddings are compressed with; see `Store.compress`."""
        return self.tokens.compress

    @property
    def origin(self) -> str:
        """Where the store lies."""
        return self.tokens.origin

    @cached_property
    def identity(self) -> str:
        """Hash of what is stored; see `Store.identity`."""
        return fingerprint("positions", self.tokens.identity, sorted(self._by_letter))

    @property
    def per_token(self) -> bool:
        """Never: a position is a row of its own."""
        return False

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where the rows of each row begin, (P+1,): each has one."""
        return np.arange(len(self) + 1)

    @cached_property
    def covering(self) -> Covering | None:
        """Which tokens cover each position; None where tokens are letters."""
        return Covering.of_store(self.tokens, self._encoding)

    def tokens_at(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first token of each of some rows, counted in its record without special ones, and how many it has, (n,)."""
        records_n, positions_n = self.places(rows)
        if self.covering is None:
            return positions_n, np.ones_like(positions_n)
        return self.covering.first[rows] - self.tokens.offsets[records_n], self.covering.counts[rows].astype(np.int64)

    @cached_property
    def embeddings(self) -> Matrix:
        """All rows (P, D) as one read-only array-like; see `Store.embeddings`."""
        tokens_TD = self.tokens.embeddings
        return tokens_TD if self.covering is None else self.covering.rows(tokens_TD)

    @cached_property
    def quarantined(self) -> NDArray[np.int64]:
        """Positions without a token, and those of records that were set aside at extraction."""
        bare_P = np.zeros(len(self), bool) if self.covering is None else self.covering.counts == 0
        for record in self.tokens.quarantined.tolist():
            bare_P[self._starts[record] : self._starts[record + 1]] = True
        return np.flatnonzero(bare_P)

    # rows

    @property
    def column_names(self) -> list[str]:
        """All columns of the rows table."""
        names = ["row", ID, RECORD, POSITION, *([] if self._has_groups else [GROUP]), *self._source]
        return [*names, SEQUENCE] if SEQUENCE in self.tokens.column_names else names

    @cached_property
    def schema(self) -> pa.Schema:
        """Schema of the rows table."""
        return pa.schema([(name, self._type_of(name)) for name in self.column_names])

    def _type_of(self, name: str) -> pa.DataType:
        if name in ("row", POSITION):
            return pa.int64()
        if name == SEQUENCE:
            return pa.large_string()
        if name not in self._source:
            return pa.string()
        theirs = self.tokens.schema.field(self._source[name]).type
        return type_by_letter(theirs) or (self._values_of(name).type if name in self._by_letter else theirs)

    def _values_of(self, name: str) -> pa.Array | pa.ChunkedArray:
        source = self._source[name]
        return values_by_letter(self.tokens.column(source), np.diff(self._starts), self.tokens.column(ID), source)

    def places(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The record and the letter in it of some rows, (n,) each."""
        records_n = np.searchsorted(self._starts, rows, side="right") - 1
        return records_n, rows - self._starts[records_n]

    def read_parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read columns some positions at a time; see `Store.read_parts`."""
        by_letter = {name: self._values_of(name) for name in columns if name in self._by_letter}
        repeated = {name: self._source[name] for name in columns if name in self._source and name not in by_letter}
        held = self.tokens.read_rows(list(dict.fromkeys([ID, *repeated.values()])))
        for start in range(0, len(self), _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, len(self)))
            records_n, positions_n = self.places(rows)
            made: dict[str, Any] = {"row": rows, **named(held[ID], records_n, positions_n, columns)}
            places = pa.array(records_n)
            made |= {ours: held[theirs].take(places) for ours, theirs in repeated.items()}
            made |= {name: values.slice(start, len(rows)) for name, values in by_letter.items()}
            if SEQUENCE in columns:
                made[SEQUENCE] = pa.chunked_array(self.sequences(rows), pa.large_string())
            yield pa.table({name: made[name] for name in columns})

    def sequences(self, rows: NDArray[np.int64]) -> Iterator[pa.Array]:
        """Yield the letters around some positions, in their order; see `Store.sequences`."""
        alphabet = str(self.attrs["encoder"].get("alphabet"))
        for start in range(0, len(rows), _AT_ONCE):
            records_n, positions_n = self.places(rows[start : start + _AT_ONCE])
            distinct, number_n = np.unique(records_n, return_inverse=True)
            found = pa.chunked_array(self.tokens.sequences(distinct), pa.large_string())
            yield windows_around(Letters.of(found), number_n, positions_n, alphabet)


def _check(tokens: Store) -> None:
    way_out = "extract the sequences with --pool none"
    if not tokens.per_token:
        raise StoreError(f"{tokens.path} keeps one vector of a sequence, and a position has its own: {way_out}")
    if tokens.attrs["encoder"].get("alphabet") == CELL:
        raise StoreError(f"{tokens.path} holds cells, which have genes in the order of their ranks and no positions")
    if (tokens.attrs.get("scope") or {}).get("views"):
        raise StoreError(
            f"{tokens.path} keeps the tokens around a site, not those of whole sequences: {way_out}, without --context"
        )


def named(
    ids: pa.ChunkedArray, records_n: NDArray[np.int64], positions_n: NDArray[np.int64], wanted: Collection[str]
) -> dict[str, Any]:
    """What positions of records are called: the columns id, record, position, and the record as their group."""
    made: dict[str, Any] = {POSITION: pa.array(positions_n)}
    if {ID, RECORD, GROUP} & {*wanted}:
        made[RECORD] = made[GROUP] = ids.take(pa.array(records_n)).cast(pa.string())
    if ID in wanted:
        made[ID] = pc.binary_join_element_wise(made[RECORD], made[POSITION].cast(pa.string()), ":")
    return {name: column for name, column in made.items() if name in wanted}


def windows_around(
    letters: Letters, records_n: NDArray[np.int64], positions_n: NDArray[np.int64], alphabet: str
) -> pa.Array:
    """The `WINDOW` letters around places in sequences, (n,) texts; N (X in proteins) stands beyond the ends."""
    half = WINDOW // 2
    before_N = half * (np.arange(len(letters)) + 1)
    padded = np.full(
        len(letters.bytes_) + half * (len(letters) + 1), ord("X" if alphabet == PROTEIN else "N"), np.uint8
    )
    padded[np.arange(len(letters.bytes_)) + np.repeat(before_N, letters.lengths)] = letters.bytes_
    first_n = letters.offsets[records_n] + before_N[records_n] + positions_n - half
    windows_nW = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[first_n]
    offsets = np.arange(len(first_n) + 1, dtype=np.int64) * WINDOW
    return pa.LargeStringArray.from_buffers(
        len(first_n), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(windows_nW))
    )
