"""Values of records out of committed shards, each shard checked against its record before the first value is taken."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from embedcache.storage.commit import crc32c
from embedcache.storage.layout import Layout, StorePaths
from embedcache.storage.shardfile import bytes_of, payload
from embedcache.storage.store import Commit

_OPEN = 4
"""Shards that are held open; a compressed one takes the room of its values."""
Values = NDArray[np.generic] | list[NDArray[np.generic]]
"""Of n records: (n, D), or, where nothing is pooled, one array (tokens, D) each."""


class ShardValues:
    """The values of a store's committed records."""

    def __init__(self, path: Path, layout: Layout, commit_of: Callable[[int], Commit | None]) -> None:
        self.layout, self._paths, self._commit_of = layout, StorePaths(path), commit_of
        self._open: OrderedDict[int, NDArray[np.generic] | None] = OrderedDict()
        self._sound: set[int] = set()
        self.damaged: list[str] = []
        """What was found to be damaged, one sentence a shard."""

    def take(self, records_n: NDArray[np.int64], dtype: DTypeLike) -> tuple[Values, NDArray[np.bool_]]:
        """Copy the values of records (-1 for none), cast to `dtype`.

        Returns
        -------
        The values; and (n,) whether they are there: not those of damaged shards, nor any that is not finite.
        """
        layout, n = self.layout, len(records_n)
        there_n = np.zeros(n, bool)
        values_nD = np.empty((n if layout.offsets is None else 0, layout.dim), dtype)
        tokens: list[NDArray[np.generic]] = [values_nD] * (0 if layout.offsets is None else n)
        for shard in np.unique(records_n[records_n >= 0] // layout.shard_rows).tolist():
            held = self._shard(shard)
            if held is None:
                continue
            here = np.flatnonzero(records_n // layout.shard_rows == shard)
            within = records_n[here] - layout.bounds(shard)[0]
            with np.errstate(over="ignore"):
                if layout.offsets is None:
                    values_nD[here] = held[within]
                    there_n[here] = np.isfinite(values_nD[here]).all(axis=1)
                    continue
                starts = layout.starts(shard)
                for place, record in zip(here.tolist(), within.tolist(), strict=True):
                    tokens[place] = held[starts[record] : starts[record + 1]].astype(dtype)
                    there_n[place] = bool(np.isfinite(tokens[place]).all())
        return (values_nD if layout.offsets is None else tokens), there_n

    def forget(self, shard: int) -> None:
        """Let go of a shard whose files are about to be replaced."""
        self._open.pop(shard, None)
        self._sound.discard(shard)

    def _shard(self, shard: int) -> NDArray[np.generic] | None:
        """All values of a shard, None if it is not there or damaged."""
        if shard in self._open:
            self._open.move_to_end(shard)
        else:
            self._open[shard] = self._read(shard)
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return self._open[shard]

    def _read(self, shard: int) -> NDArray[np.generic] | None:
        commit = self._commit_of(shard)
        if commit is None:
            return None
        try:
            pieces = payload(self._paths, self.layout, shard, commit.payload_bytes // self.layout.row_bytes)
            if shard not in self._sound and crc32c(map(bytes_of, pieces)) != commit.payload_crc32c:
                self.damaged.append(f"shard {shard} of {self._paths.root} is damaged or being replaced")
                return None
        except OSError as error:
            self.damaged.append(f"shard {shard} of {self._paths.root} cannot be read ({error.strerror})")
            return None
        self._sound.add(shard)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else None
