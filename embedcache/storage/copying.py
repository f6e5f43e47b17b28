"""Ordinary stores made of rows that are computed or read elsewhere, written a shard at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.progress import Progress
from embedcache.records import SEQUENCE
from embedcache.storage.commit import StoreWriter, create_store
from embedcache.storage.layout import Layout
from embedcache.storage.store import FORMAT_VERSION, KIND, Commit, Store

_OF_VIRTUAL = (KIND, "parts", "pieces", "rows_crc32c", "dtype")


def write_rows(
    path: Path,
    layout: Layout,
    attributes: dict[str, Any],
    table: pa.Table,
    values: Callable[[int, int], NDArray[np.generic]],
    sequences: Iterator[pa.Array] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a store.

    Parameters
    ----------
    table : the rows table (N rows) without sequences; its column ``row`` is made anew.
    values : returns the values of rows [start, stop).
    sequences : of all rows in their order, in arrays of any size; None writes none.
    """
    create_store(path, layout, attributes)
    writer, waiting = StoreWriter(path), _Waiting(sequences)
    table = table.set_column(table.schema.get_field_index("row"), "row", pa.array(np.arange(layout.rows)))
    for shard in range(layout.shards):
        start, stop = layout.bounds(shard)
        part, rows_nD = table.slice(start, stop - start), values(start, stop)
        if sequences is not None:
            part = part.append_column(SEQUENCE, waiting.next(stop - start))
        aside = (start + np.flatnonzero(~np.isfinite(rows_nD).all(axis=1))).tolist()
        with writer.locked(shard):
            writer.write_shard(rows_nD, part, Commit(shard, stop - start, "", "", 0, "", 0, "", quarantined=aside))
        if progress is not None:
            progress.advance(stop - start, stop - start)


class _Waiting:
    """Sequences that come in arrays of any size, handed on in numbers as they are wanted."""

    def __init__(self, arrays: Iterator[pa.Array] | None) -> None:
        self._arrays = iter(()) if arrays is None else arrays
        self._held = pa.chunked_array([], pa.large_string())

    def next(self, count: int) -> pa.ChunkedArray:
        while len(self._held) < count:
            self._held = pa.chunked_array([*self._held.chunks, next(self._arrays)], pa.large_string())
        taken, self._held = self._held.slice(0, count), self._held.slice(count)
        return taken


def materialize(store: Store, path: Path, progress: Progress) -> None:
    """Copy a store, virtual or not, into an ordinary one at `path`, with its sequences where it has them."""
    layout = Layout(len(store), store.dim, str(store.dtype))
    attributes = {key: value for key, value in store.attrs.items() if key not in _OF_VIRTUAL}
    keeps = SEQUENCE in store.column_names
    progress.start(len(store), "rows")
    write_rows(
        path,
        layout,
        attributes | {"format_version": FORMAT_VERSION},
        store.rows,
        store.read,
        store.sequences(np.arange(len(store))) if keeps else None,
        progress,
    )
    progress.stop()
