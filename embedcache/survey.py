"""One reading of an input for its estimate: the plan, the length of every sequence, which are alike, and a sample."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.encoding import Encoding
from embedcache.plan import Plan, make_plan
from embedcache.records import SEQUENCE, Source, Unmatched

SAMPLE, _SAMPLE_LETTERS, _AT_LEAST = 2048, 16_000_000, 8
"""Records of the sample; fewer, but at least eight, where they would have more than 16 million letters."""


@dataclass(frozen=True)
class Survey:
    """What one reading found about N records."""

    plan: Plan
    letters: NDArray[np.int32]
    """(N,) letters of each."""
    hashes: NDArray[np.int64]
    """(N,) equal for equal sequences, and different for others but for odds of 2^-64."""
    sample: pa.Table
    """Records drawn at random from the whole input, every one with the same odds."""
    sampled: NDArray[np.int64]
    """Their rows."""
    seconds: float
    """What the reading took."""

    def first_of_its_kind(self, shard_rows: int) -> NDArray[np.bool_]:
        """Which records are the first of their shard with their sequence, (N,)."""
        first = np.zeros(len(self.hashes), bool)
        for start in range(0, len(self.hashes), shard_rows):
            first[start + np.unique(self.hashes[start : start + shard_rows], return_index=True)[1]] = True
        return first


def survey(source: Source, encoding: Encoding, seed: int) -> Survey:
    """Read the input once; raises `InputError` as `make_plan` does."""
    began = time.perf_counter()
    watched = _Watched(source, encoding, seed)
    plan = make_plan(watched, encoding)
    sample, rows = watched.sample()
    letters, hashes = np.frombuffer(watched.letters, np.int32), np.frombuffer(watched.hashes, np.int64)
    return Survey(plan, letters, hashes, sample, rows, time.perf_counter() - began)


class _Watched:
    """A source that remembers what passed in the first full reading."""

    def __init__(self, source: Source, encoding: Encoding, seed: int) -> None:
        self.name, self.columns, self.text_columns = source.name, source.columns, source.text_columns
        self.letters, self.hashes = array("i"), array("q")
        self._source, self._encoding, self._random = source, encoding, np.random.default_rng(seed)
        self._keys, self._rows = np.empty(0), np.empty(0, np.int64)
        self._records: pa.Table | None = None
        self._seen_all = False
        self.unmatched: Unmatched | None = None

    def locate(self, rows: Sequence[int]) -> list[str]:
        return self._source.locate(rows)

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._source.batches():
            if not self._seen_all:
                self._see(batch)
            yield batch
        self._seen_all, self.unmatched = True, self._source.unmatched

    def sample(self) -> tuple[pa.Table, NDArray[np.int64]]:
        """The sample's records and their rows, in input order."""
        assert self._records is not None
        order = np.argsort(self._rows)
        return self._records.take(order), self._rows[order]

    def _see(self, batch: pa.RecordBatch) -> None:
        letters = self._encoding.letters(batch.column(SEQUENCE))
        first, view = len(self.letters), memoryview(letters.bytes_.data)
        bounds = letters.offsets.tolist()
        self.hashes.extend(hash(bytes(view[start:stop])) for start, stop in pairwise(bounds))
        self.letters.extend(letters.lengths.tolist())
        self._draw(batch, first)

    def _draw(self, batch: pa.RecordBatch, first: int) -> None:
        """Give every record a random key and keep those with the smallest ones."""
        keys = self._random.random(len(batch))
        highest = self._keys[-1] if len(self._keys) >= SAMPLE else np.inf
        chosen = np.flatnonzero(keys < highest)
        if not len(chosen):
            return
        keys, rows = np.append(self._keys, keys[chosen]), np.append(self._rows, first + chosen)
        records = pa.Table.from_batches([batch.take(chosen)])
        if self._records is not None:
            records = pa.concat_tables([self._records, records])
        order = np.argsort(keys)[:SAMPLE]
        letters = np.cumsum([self.letters[row] for row in rows[order]])
        order = order[: max(int(np.searchsorted(letters, _SAMPLE_LETTERS)), _AT_LEAST)]
        self._keys, self._rows, self._records = keys[order], rows[order], records.take(order)
