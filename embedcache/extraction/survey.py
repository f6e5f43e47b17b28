"""One reading of an input for its estimate: the plan, the length of every sequence, which are alike, and a sample."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.encoding import Encoding
from embedcache.extraction.plan import Plan, make_plan
from embedcache.records import SEQUENCE, Source, Unmatched
from embedcache.sequences.alphabet import Letters

SAMPLE, _SAMPLE_LETTERS, _AT_LEAST = 2048, 16_000_000, 8
"""Records of the sample; fewer, but at least eight, where they would have more than 16 million letters."""


@dataclass(frozen=True)
class Survey:
    """What one reading found about N records."""

    plan: Plan
    letters: NDArray[np.int32]
    """(N,) letters of each."""
    sample: pa.Table
    """Records drawn at random from the whole input, every one with the same odds."""
    sampled: NDArray[np.int64]
    """Their rows."""
    seconds: float
    """What the reading took."""


def survey(source: Source, encoding: Encoding, seed: int) -> Survey:
    """Read the input once; raises `InputError` as `make_plan` does."""
    began = time.perf_counter()
    watched = _Watched(source, seed)
    plan = make_plan(watched, encoding)
    sample, rows = watched.sample()
    return Survey(plan, np.frombuffer(watched.letters, np.int32), sample, rows, time.perf_counter() - began)


class _Watched:
    """A source that remembers what passed in the first full reading."""

    def __init__(self, source: Source, seed: int) -> None:
        self.name, self.columns, self.text_columns = source.name, source.columns, source.text_columns
        self.letters = array("i")
        self._source, self._random = source, np.random.default_rng(seed)
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
        first = len(self.letters)
        self.letters.extend(Letters.of(batch.column(SEQUENCE)).lengths.tolist())
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
