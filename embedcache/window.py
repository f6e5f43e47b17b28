"""The records of one shard on their way through the extraction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.alphabet import KNOWN, Letters, digests
from embedcache.commit import ShardLock
from embedcache.encoding import Encoding
from embedcache.packing import truncate
from embedcache.plan import Plan, unit_digest
from embedcache.records import ID, SEQUENCE
from embedcache.tokens import Tokens


@dataclass
class Window:
    """n records that are committed together."""

    shard: int
    records: pa.RecordBatch
    lock: ShardLock
    letters: Letters
    digests: list[bytes]
    rc_digests: list[bytes | None]
    positions: dict[str, NDArray[np.int64]]
    """The letters that ``at:COLUMN`` looks at, by column."""
    tokens: Tokens | None = None
    """Of the distinct sequences; None where only the metadata has changed."""
    distinct_of: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Which distinct sequence each record has, -1 for those that are not encoded (``--overlong skip``)."""
    n_tokens: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    set_aside: list[int] = field(default_factory=list)
    """Records without an embedding."""
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, shard: int, records: pa.RecordBatch, lock: ShardLock, encoding: Encoding) -> Window:
        """Look at the sequences of the records of a shard."""
        letters = encoding.letters(records.column(SEQUENCE))
        plain, canonical = digests(letters, encoding.encoder.alphabet)
        return cls(shard, records, lock, letters, plain, canonical, encoding.positions(records, letters.lengths))

    def units(self, rows: int) -> list[bytes]:
        """The digest of each unit of so many records, as the plan has them."""
        return [
            unit_digest(self.records.slice(start, rows), [at[start : start + rows] for at in self.positions.values()])
            for start in range(0, len(self.records), rows)
        ]

    def tokenize(self, encoding: Encoding) -> None:
        """Tokenize the distinct sequences: those that differ in their letters, or in the places that are looked at."""
        encoder = encoding.encoder
        number: dict[tuple[object, ...], int] = {}
        keys = zip(self.digests, *(at.tolist() for at in self.positions.values()), strict=True)
        self.distinct_of = np.asarray([number.setdefault(key, len(number)) for key in keys], np.int64)
        firsts = np.unique(self.distinct_of, return_index=True)[1]
        letters = self.letters.take(firsts) if len(firsts) < len(self.letters) else self.letters
        tokens = encoder.tokenize(letters)
        tokens = encoder.with_focus(
            tokens, letters, encoding.readout, {c: at[firsts] for c, at in self.positions.items()}
        )
        limit = encoder.token_limit or np.iinfo(np.int64).max
        unknown = ~np.isin(np.arange(256), list(KNOWN[encoder.alphabet]))
        self.n_tokens = tokens.lengths[self.distinct_of]
        self.counts = {
            "tokens": int(self.n_tokens.sum()),
            "distinct_sequences": len(firsts),
            "overlong": int((self.n_tokens > limit).sum()),
            "unknown_letters": int(unknown[self.letters.bytes_].sum()),
        }
        if encoding.overlong == "skip" and (tokens.lengths > limit).any():
            kept = tokens.lengths <= limit
            self.distinct_of = np.where(kept, np.cumsum(kept) - 1, -1)[self.distinct_of]
            self.set_aside = np.flatnonzero(self.distinct_of < 0).tolist()
            tokens = tokens.take(np.flatnonzero(kept))
        elif encoding.overlong == "truncate":
            tokens = truncate(tokens, encoder.token_limit, encoder.special)
        self.tokens = tokens

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
