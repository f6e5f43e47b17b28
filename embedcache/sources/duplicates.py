"""``--duplicate-ids suffix``: ids that come again get a number."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.records import ID, Source, Unmatched, provenance_of, remarks_of

Hashes = NDArray[np.int64]


class Numbered:
    """Records of `source`, of which the second ``x`` is called ``x.2``, the third ``x.3``; a `embedcache.records.Source`.

    A number whose id is there already is passed over. What is kept of the ids is a hash, 8 bytes a record; an id whose hash
    is by chance that of another (odds of one in 10^19 for each pair) would get a number too.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name, self.columns, self.text_columns = source.name, source.columns, source.text_columns
        self.unmatched: Unmatched | None = None
        self.renamed = 0
        self._example = ""
        self._hashes: Hashes | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """How many ids got a number in the last full pass."""
        mine = f"ids      {counted(self.renamed, 'id')} came again and got a number, such as {self._example}"
        return (*remarks_of(self.source), *([mine] if self.renamed else []))

    @property
    def provenance(self) -> Mapping[str, object]:
        """What the source wants to be kept."""
        return provenance_of(self.source)

    def locate(self, rows: Sequence[int]) -> list[str]:
        """Say where records stand."""
        return self.source.locate(rows)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all records; the first time, once more before that for the ids."""
        if self._hashes is None:
            self._hashes = self._read_hashes()
        again = self._hashes[1:] == self._hashes[:-1]
        several = np.unique(self._hashes[1:][again])
        last = np.ones(len(several), np.int64)
        seen = np.zeros(len(several), np.bool_)
        renamed, example = 0, ""
        for batch in self.source.batches():
            names = batch.column(ID).to_pylist()
            hashes = np.fromiter(map(hash, names), np.int64, len(names))
            changed = False
            for row in np.flatnonzero(_among(hashes, several)).tolist():
                which = int(np.searchsorted(several, hashes[row]))
                if not seen[which]:
                    seen[which] = True
                    continue
                name, last[which] = self._free(names[row], int(last[which]))
                renamed, example = renamed + 1, example or f"{names[row]} -> {name}"
                names[row], changed = name, True
            if changed:
                batch = batch.set_column(batch.schema.get_field_index(ID), ID, pa.array(names, pa.string()))
            yield batch
        self.renamed, self._example, self.unmatched = renamed, example, self.source.unmatched

    def _read_hashes(self) -> Hashes:
        hashes = array("q")
        for batch in self.source.batches():
            hashes.extend(map(hash, batch.column(ID).to_pylist()))
        return np.sort(np.frombuffer(hashes, np.int64))

    def _free(self, name: str, last: int) -> tuple[str, int]:
        """The name with the next number that is not the id of another record."""
        assert self._hashes is not None
        while True:
            last += 1
            numbered = f"{name}.{last}"
            if not _among(np.array([hash(numbered)]), self._hashes)[0]:
                return numbered, last


def _among(hashes: Hashes, ordered: Hashes) -> NDArray[np.bool_]:
    """Which of some hashes are among others, which rise."""
    if not len(ordered):
        return np.zeros(len(hashes), np.bool_)
    at = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    return np.equal(ordered[at], hashes)
