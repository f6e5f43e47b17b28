"""The records of one shard on their way through the extraction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.encoding import Encoding
from embedcache.extraction.plan import Plan, unit_digest
from embedcache.records import ID, SEQUENCE
from embedcache.reusing.keys import Keys
from embedcache.sequences.alphabet import KNOWN, Letters, digests
from embedcache.sequences.passages import Passages
from embedcache.storage.commit import ShardLock
from embedcache.storage.shardvalues import Values
from embedcache.storage.store import Reused


@dataclass
class Copied:
    """What of a window is copied: values of distinct records, and where all of its rows come from."""

    pieces: list[tuple[NDArray[np.int64], Values]] = field(default_factory=list)
    """Distinct records (k,) and their values."""
    rest: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Distinct records that are to be encoded, in increasing order."""
    reused: list[Reused] = field(default_factory=list)
    """For the shard's record."""
    rows_of: dict[str, int] = field(default_factory=dict)
    """Rows from each other store."""
    encoded: int = 0
    kept: int = 0
    """Rows that the shard had before it grew."""
    identical: int = 0
    """Rows that have the sequence of another row of the store."""


@dataclass
class Window:
    """n records that are committed together."""

    shard: int
    records: pa.RecordBatch
    lock: ShardLock
    letters: Letters
    digests: list[bytes]
    rc_digests: list[bytes | None]
    keys: Keys
    """Of the records, (n, 2); records of equal keys have equal values."""
    positions: dict[str, NDArray[np.int64]]
    """The letters that ``at:COLUMN`` looks at, and the centre of views, by column."""
    passages: Passages | None = None
    """What the distinct records are encoded as; None where only the metadata has changed."""
    distinct_of: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Which distinct record each record is."""
    firsts: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """The first record that each distinct record is."""
    n_tokens: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    set_aside: list[int] = field(default_factory=list)
    """Records without an embedding."""
    counts: dict[str, int] = field(default_factory=dict)
    copied: Copied = field(default_factory=Copied)

    @classmethod
    def of(cls, shard: int, records: pa.RecordBatch, lock: ShardLock, encoding: Encoding) -> Window:
        """Look at the sequences of the records of a shard."""
        letters = encoding.letters(records.column(SEQUENCE))
        plain, canonical = digests(letters, encoding.encoder.alphabet)
        positions, form = encoding.positions(records, letters.lengths), encoding.key_form
        keys = form.keys(plain if form.digest == "digest" else canonical, positions, letters.lengths)
        return cls(shard, records, lock, letters, plain, canonical, keys, positions)

    def units(self, rows: int) -> list[bytes]:
        """The digest of each unit of so many records, as the plan has them."""
        return [
            unit_digest(self.records.slice(start, rows), [at[start : start + rows] for at in self.positions.values()])
            for start in range(0, len(self.records), rows)
        ]

    def tokenize(self, encoding: Encoding) -> None:
        """Tokenize the distinct records: those of different keys."""
        encoder = encoding.encoder
        number: dict[tuple[int, int], int] = {}
        keys = zip(*self.keys.T.tolist(), strict=True)
        self.distinct_of = np.asarray([number.setdefault(key, len(number)) for key in keys], np.int64)
        firsts = self.firsts = np.unique(self.distinct_of, return_index=True)[1]
        letters = self.letters.take(firsts) if len(firsts) < len(self.letters) else self.letters
        passages = Passages.of(encoding, letters, {column: at[firsts] for column, at in self.positions.items()})
        limit = encoder.token_limit or np.iinfo(np.int64).max
        unknown = ~np.isin(np.arange(256), list(KNOWN[encoder.alphabet]))
        self.n_tokens = passages.n_tokens[self.distinct_of]
        self.counts = {
            "tokens": int(self.n_tokens.sum()),
            "distinct_sequences": len(firsts),
            "overlong": int((passages.longest[self.distinct_of] > limit).sum()),
            "unknown_letters": int(unknown[self.letters.bytes_].sum()),
            "wordless": int((self.n_tokens <= sum(encoder.special)).sum()),
        }
        self.set_aside = np.flatnonzero(passages.left_out[self.distinct_of]).tolist()
        self.passages = passages

    def rows_part(self, start: int, plan: Plan, drop_sequence: bool) -> pa.Table:
        """The rows table of the records, of which the first is record `start` of the input."""
        n, records = len(self.records), self.records
        columns: dict[str, Any] = {
            "row": pa.array(np.arange(start, start + n)),
            ID: records.column(ID),
            "digest": pa.array(self.digests, pa.binary(16)),
            "rc_digest": pa.array(self.rc_digests, pa.binary(16)),
            SEQUENCE: records.column(SEQUENCE),
            "length": pa.array(self.letters.lengths),
            "n_tokens": pa.array(self.n_tokens),
        }
        if drop_sequence:
            del columns[SEQUENCE]
        for kind in plan.metadata:
            columns[kind.name] = records.column(kind.name).cast(kind.type)
        return pa.table(columns)
