"""The pre-flight: one reading of the input that decides what will be encoded, and finds out what cannot be.

It counts rows and letters, checks ids and positions, fixes one type for every metadata column, and takes a digest of
every unit of records (1,024, or 16 where nothing is pooled). Those digests and the fingerprint of what encodes them are
the plan; a store remembers it shard by shard.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embedcache.encoding import Encoding
from embedcache.errors import InputError
from embedcache.records import ID, SEQUENCE, Source
from embedcache.reusing.keys import Keys
from embedcache.sequences.alphabet import LetterCounts, Letters, digests
from embedcache.sequences.passages import Passages
from embedcache.storage.layout import CHUNK_ROWS

_SAMPLE, _SAMPLE_LETTERS = 2048, 2_000_000
_INTEGER = r"^-?(0|[1-9]\d{0,17})$"
_NUMBER = r"^-?(0|[1-9]\d{0,14})(\.\d*)?([eE][+-]?\d+)?$"


@dataclass
class Plan:
    """What the first reading of an input found."""

    rows: int = 0
    unit_rows: int = CHUNK_ROWS
    letters: LetterCounts = field(default_factory=LetterCounts.none)
    unit_letters: list[int] = field(default_factory=list)
    """Letters of each unit of `unit_rows` records."""
    passage_letters: int = 0
    """Letters of all that is encoded: of the views of the records, where there are any, and of their strands."""
    reaching: int = 0
    """Records that are shorter than the views of them."""
    missing_letters: int = 0
    """Letters that these lack for the widest views."""
    units: list[bytes] = field(default_factory=list)
    """Digest over the ids and sequences of each unit, and the positions that are looked at in them."""
    metadata_units: list[bytes] = field(default_factory=list)
    """Digest over the metadata of each unit."""
    metadata: pa.Schema = field(default_factory=lambda: pa.schema([]))
    """Names and types of the metadata columns."""
    offsets: NDArray[np.int64] | None = None
    """(N+1,) where the rows of each record begin; None where a record has one row."""
    keys: Keys = field(default_factory=lambda: np.empty((0, 2), np.uint64))
    """(N, 2) by which records with equal values are known."""
    weights: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    """(N,) letters that are encoded of each record."""
    sample: list[str] = field(default_factory=list)
    """The first passages that are encoded, to estimate tokens from."""

    def sample_from(self, encoding: Encoding, letters: Letters, positions: Mapping[str, NDArray[np.int64]]) -> None:
        """Keep the first passages, of long ones no more than two million letters together."""
        room = _SAMPLE_LETTERS - sum(map(len, self.sample))
        records = -(-(_SAMPLE - len(self.sample)) // encoding.scope.passages)
        if room <= 0 or records <= 0:
            return
        first = {column: at[:records] for column, at in positions.items()}
        stretches = encoding.stretches(encoding.letters(letters[:records]), first).letters
        for start, stop in pairwise(stretches.offsets.tolist()):
            if room <= 0:
                return
            self.sample.append(stretches.bytes_[start : min(stop, start + room)].tobytes().decode("latin-1"))
            room -= len(self.sample[-1])

    def count_views(
        self, encoding: Encoding, lengths: NDArray[np.int64], centers: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Add the letters of the views of n records, and those that these do not have; returns the former, (n,)."""
        letters = encoding.scope.letters(lengths, centers)
        self.passage_letters += int(letters.sum())
        missing = np.add(*encoding.scope.reaching(lengths, centers))
        self.reaching += int((missing > 0).sum())
        self.missing_letters += int(missing.sum())
        return letters

    def forget_records(self) -> None:
        """Let go of what is held for every record."""
        self.keys, self.weights = np.empty((0, 2), np.uint64), np.empty(0, np.float32)

    @property
    def total_letters(self) -> int:
        """Letters of all sequences."""
        return sum(self.unit_letters)

    def units_of(self, start: int, stop: int) -> slice:
        """The units that records [start, stop) are in."""
        return slice(start // self.unit_rows, -(-stop // self.unit_rows))

    def digest(self, start: int, stop: int) -> str:
        """Digest over the ids, sequences and positions of records [start, stop), whole units, and where their rows begin."""
        place = [] if self.offsets is None else [self.offsets[start].tobytes()]
        return _joined([*self.units[self.units_of(start, stop)], *place])

    def metadata_digest(self, start: int, stop: int) -> str:
        """Digest over the metadata of records [start, stop), whole units, and the types it is stored with."""
        return _joined([str(self.metadata).encode(), *self.metadata_units[self.units_of(start, stop)]])


def _joined(digests: list[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()[:32]


def slices(source: Source, rows: int) -> Iterator[pa.RecordBatch]:
    """Read a source in slices of exactly `rows` records, the last one shorter."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in source.batches():
        while len(batch):
            part = batch.slice(0, rows - count)
            waiting.append(part)
            count += len(part)
            batch = batch.slice(len(part))
            if count == rows:
                yield _one_batch(waiting)
                waiting, count = [], 0
    if waiting:
        yield _one_batch(waiting)


def _one_batch(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def make_plan(source: Source, encoding: Encoding) -> Plan:
    """Read the input once, and once more to count its tokens where nothing is pooled.

    Raises
    ------
    InputError : a record cannot be read or has no position where one is looked at, an id occurs twice (both places are
        named), or there are no records.
    """
    plan = Plan(unit_rows=encoding.unit_rows)
    hashes = array("q")
    keys: list[Keys] = []
    weights: list[NDArray[np.float32]] = []
    types = {name: NarrowestType(name in source.text_columns) for name in source.columns}
    for unit in slices(source, plan.unit_rows):
        ids, sequences = unit.column(ID), unit.column(SEQUENCE)
        letters = Letters.of(sequences)
        positions = encoding.checked_positions(source, unit, plan.rows, letters.lengths)
        plan.rows += len(unit)
        plan.letters.add(letters)
        plan.unit_letters.append(len(letters.bytes_))
        plan.units.append(unit_digest(unit, positions.values()))
        plan.metadata_units.append(digest_of(*(unit.column(name) for name in source.columns)))
        for name in source.columns:
            types[name].see(unit.column(name))
        encoded = plan.count_views(encoding, letters.lengths, encoding.centers(positions, letters.lengths))
        weights.append(encoded.astype(np.float32))
        keys.append(_keys(encoding, letters, positions))
        plan.sample_from(encoding, letters, positions)
        hashes.extend(map(hash, ids.to_pylist()))
    if not plan.rows:
        raise InputError(f"{source.name} holds no records")
    plan.keys, plan.weights = np.concatenate(keys), np.concatenate(weights)
    plan.metadata = pa.schema([(name, types[name].type) for name in source.columns])
    check_unique(source, np.frombuffer(hashes, np.int64))
    if not encoding.readout.pooled:
        plan.offsets = _token_offsets(source, encoding)
    return plan


def _keys(encoding: Encoding, letters: Letters, positions: Mapping[str, NDArray[np.int64]]) -> Keys:
    form = encoding.key_form
    either = form.digest != "digest"
    plain, canonical = digests(encoding.letters(letters), encoding.encoder.alphabet, strands=either)
    return form.keys(canonical if either else plain, positions, letters.lengths)


def _token_offsets(source: Source, encoding: Encoding) -> NDArray[np.int64]:
    """Tokenize the whole input to tell where the rows of each record begin, (N+1,)."""
    rows_of = array("q", [0])
    for records in slices(source, CHUNK_ROWS):
        letters = encoding.letters(records.column(SEQUENCE))
        passages = Passages.of(encoding, letters, encoding.positions(records, letters.lengths))
        rows_of.extend(encoding.rows_of(passages.n_tokens).tolist())
    return np.cumsum(np.frombuffer(rows_of, np.int64))


def unit_digest(records: pa.RecordBatch, positions: Iterable[NDArray[np.int64]]) -> bytes:
    """sha256 over all that decides the values of some records: ids, sequences, and the positions looked at in them."""
    return digest_of(records.column(ID), records.column(SEQUENCE), *map(pa.array, positions))


def digest_of(*columns: pa.Array) -> bytes:
    """sha256 over the values of string columns; other types by their written form."""
    total = hashlib.sha256()
    for column in columns:
        strings = column.cast(pa.large_string()) if _castable(column.type) else pa.array(map(str, column.to_pylist()))
        letters = Letters.of(strings.fill_null(""))
        total.update(letters.lengths.tobytes())
        total.update(np.packbits(strings.is_null().to_numpy(zero_copy_only=False)).tobytes())
        total.update(letters.bytes_.tobytes())
    return total.digest()


def _castable(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


class NarrowestType:
    """The narrowest type that all values of a column can be stored with: text that is always a number becomes one."""

    def __init__(self, text: bool) -> None:
        self._candidates = [(_INTEGER, pa.int64()), (_NUMBER, pa.float64())] if text else []
        self._seen: pa.DataType = pa.null()
        self._text = text

    def see(self, column: pa.Array) -> None:
        present = column.drop_null()
        if len(present):
            if self._text:
                distinct = pc.unique(present)
                self._candidates = [
                    (pattern, kind)
                    for pattern, kind in self._candidates
                    if pc.all(pc.match_substring_regex(distinct, pattern)).as_py()
                    # 1.1 and 1.10 are one number, but may be two versions: where words would merge, they stay words
                    and len(pc.unique(distinct.cast(kind))) == len(distinct)
                ]
            self._seen = column.type

    @property
    def type(self) -> pa.DataType:
        if pa.types.is_null(self._seen):
            return pa.string()
        return self._candidates[0][1] if self._candidates else self._seen


def check_unique(source: Source, hashes: NDArray[np.int64]) -> None:
    """Raise for the first id that occurs twice; equal hashes are looked up in the input before anything is said."""
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(twice):
        return
    suspects = set(np.flatnonzero(np.isin(hashes, twice)).tolist())
    first_row: dict[str, int] = {}
    row = 0
    for batch in source.batches():
        ids = batch.column(ID)
        for within in range(len(batch)):
            if row + within in suspects:
                name = ids[within].as_py()
                if name in first_row:
                    places = source.locate([first_row[name], row + within])
                    raise InputError(
                        f"the id '{name}' occurs twice, at {places[0]} and at {places[1]}: ids must be unique, rename one"
                    )
                first_row[name] = row + within
        row += len(batch)
