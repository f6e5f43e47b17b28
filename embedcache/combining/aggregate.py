"""Several rows of one id made one: their mean or maximum, computed once and kept as a store of its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.combining.joining import Side
from embedcache.fingerprint import fingerprint
from embedcache.records import SEQUENCE
from embedcache.storage.copying import write_rows
from embedcache.storage.layout import Layout
from embedcache.storage.pieces import ABSENT
from embedcache.storage.store import FORMAT_VERSION, KIND, Store

_MEMBERS_AT_ONCE = 4096


def aggregated_attributes(store: Store, how: str) -> dict[str, object]:
    """Attributes of a store whose rows of one id were made one; its blocks are no longer those of single rows."""
    blocks = [
        asdict(block) | {"fingerprint": fingerprint("aggregated", how, block.fingerprint)} for block in store.blocks
    ]
    own = {
        key: value for key, value in store.attrs.items() if key not in (KIND, "parts", "pieces", "rows_crc32c", "asked")
    }
    whole = fingerprint("aggregated", how, store.fingerprint)
    return own | {"format_version": FORMAT_VERSION, "fingerprint": whole, "blocks": blocks, "aggregated": how}


def write_aggregated(store: Store, side: Side, how: str, path: Path, *, sequences: bool) -> None:
    """Write a store that has one row for each id which `store` has: the ``mean`` or the ``max`` of the id's rows.

    Its columns are those of the first row of each id, its sequences too where they are wanted.
    """
    there = side.rows[side.rows != ABSENT]
    members = side.members
    starts = np.unique(side.starts)  # ids without rows begin where the next one does

    def values(start: int, stop: int) -> NDArray[np.generic]:
        made = np.empty((stop - start, store.dim), store.dtype)
        row = start
        while row < stop:
            most = int(np.searchsorted(starts, starts[row] + _MEMBERS_AT_ONCE, side="right")) - 1
            end = min(max(row + 1, most), stop)
            held = store.take(members[starts[row] : starts[end]]).astype(np.float32)
            reduce = np.add if how == "mean" else np.maximum
            sums = reduce.reduceat(held, starts[row:end] - starts[row], axis=0)
            counts = np.diff(starts[row : end + 1])[:, None] if how == "mean" else 1
            made[row - start : end - start] = sums / counts
            row = end
        return made

    keeps = sequences and SEQUENCE in store.column_names
    write_rows(
        path,
        Layout(len(there), store.dim, str(store.dtype)),
        aggregated_attributes(store, how) | {"keeps_sequences": keeps},
        store.rows.take(pa.array(there)),
        values,
        store.sequences(there) if keeps else None,
    )
