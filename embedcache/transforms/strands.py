"""``--reverse-complement add``: every DNA record a second time, as its other strand reads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedcache.counted import counted
from embedcache.records import ID, SEQUENCE
from embedcache.sources.batches import letters_of
from embedcache.transforms.nucleotides import check_nucleotides, reverse_complements
from embedcache.transforms.remade import Remade, Rows, Tally


class BothStrands(Remade):
    """Each record, and behind it its reverse complement as ``id/rc``; the column ``strand`` is ``+`` and ``-``.

    IUPAC letters become those of their complements, lower case stays; U is paired with A. ``group`` is the record's, or else
    its id, so that the two strands are never on two sides of a split.
    """

    written = ("strand", "group")
    option = "--reverse-complement add"

    @property
    def description(self) -> str:
        """For the store."""
        return "reverse complements added"

    @property
    def remark(self) -> str:
        """How many there are."""
        assert self.tally is not None
        one, several = "record and its reverse complement", "records and their reverse complements"
        return f"strands  {counted(self.tally.records, one, several)}, {self.tally.made:,} in all"

    def remake(self, portion: pa.RecordBatch, tally: Tally) -> Iterator[tuple[pa.RecordBatch, Rows]]:
        """Yield one batch of 2n records."""
        ids, sequences = portion.column(ID), portion.column(SEQUENCE)
        check_nucleotides(self, portion)
        n = len(portion)
        others = pc.binary_join_element_wise(ids, pa.repeat(pa.scalar("/rc"), n), "")
        turned = reverse_complements(*letters_of(sequences))
        both: Rows = np.arange(2 * n).reshape(2, n).T.ravel()
        pairs = pa.array(both)
        strand = pa.array(np.where(both < n, "+", "-"))
        made = self.batch(
            portion,
            both % n,
            pa.concat_arrays([_plain(ids), others]).take(pairs),
            pa.concat_arrays([_plain(sequences), turned]).take(pairs),
            strand,
        )
        yield made, both % n


def _plain(array: pa.Array) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
