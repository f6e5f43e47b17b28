"""Rows of a run that need no encoding: copied from other stores, or from rows of its own that have the same sequence.

Other stores come first, in their order, so that what a shard's record says of them does not depend on where a run was
stopped. Copied values are, bit for bit, what encoding gives in the environment that computed them.

Axes: n records of a window, m distinct ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedcache.extraction.preflight import Preflight
from embedcache.extraction.window import Copied, Window
from embedcache.reusing.keys import UNKNOWN, Rows
from embedcache.reusing.known import KnownStore
from embedcache.reusing.repeats import Repeats
from embedcache.storage.shardvalues import ShardValues, Values
from embedcache.storage.store import Commit, Reused, environments, read_commit

OWN = ""
"""What the store that is written is called in records."""


class OwnRows:
    """Rows of the store that is written: of shards before this one, and of this one before it grew."""

    def __init__(self, preflight: Preflight, environment: dict[str, str]) -> None:
        self._layout, self._todo, self._environment = preflight.layout, preflight.todo, environment
        root = preflight.writer.paths.root
        self._values = ShardValues(root, preflight.layout, self._commit_of)
        self._repeats: Repeats = preflight.repeats
        self._root = root
        self._last: tuple[int, NDArray[np.generic]] | None = None
        """The window before, which may not be on the disk yet."""

    def _commit_of(self, shard: int) -> Commit | None:
        return read_commit(self._root, shard)

    def find(self, window: Window, numbers: NDArray[np.int64]) -> Rows:
        """A row that has the values of distinct records already, `UNKNOWN` where there is none."""
        firsts = window.firsts[numbers]
        start = self._layout.bounds(window.shard)[0]
        rows = self._repeats.find(window.keys[firsts])
        return np.where(firsts < self._todo[window.shard].kept, start + firsts, rows)

    def take(self, rows: Rows, dtype: str) -> tuple[Values, NDArray[np.bool_]]:
        """Copy the values of rows; see `ShardValues.take`."""
        if self._last is None:
            return self._values.take(rows, dtype)
        shard, held = self._last
        recent = rows // self._layout.shard_rows == shard
        if not recent.any():
            return self._values.take(rows, dtype)
        values, there = self._values.take(np.where(recent, UNKNOWN, rows), dtype)  # these only from the files
        within = rows[recent] - self._layout.bounds(shard)[0]
        there[recent] = True
        if isinstance(values, np.ndarray):
            values[recent] = held[within]
            return values, there
        starts = self._layout.starts(shard)
        for place, row in zip(np.flatnonzero(recent).tolist(), within.tolist(), strict=True):
            values[place] = held[starts[row] : starts[row + 1]]
        return values, there

    def environments(self, rows: Rows) -> list[dict[str, str]]:
        """What computed these rows, where it is not the environment of this run alone."""
        shards = np.unique(rows // self._layout.shard_rows).tolist()
        commits = (self._commit_of(shard) for shard in shards if self._last is None or shard != self._last[0])
        found = environments(commits)
        return [] if found in ([], [self._environment]) else found

    def remember(self, window: Window, values: NDArray[np.generic], bad: Sequence[int]) -> None:
        """Add the rows of a window that is done, and about to be written."""
        good = np.setdiff1d(np.arange(len(window.firsts)), [*bad, *window.distinct_of[window.set_aside]])
        firsts = window.firsts[good]
        self._repeats.add(window.keys[firsts], self._layout.bounds(window.shard)[0] + firsts)
        self._last = (window.shard, values) if len(self._repeats) else None
        self._values.forget(window.shard)


class Reuse:
    """Where the rows of a run come from without being encoded."""

    def __init__(self, preflight: Preflight, environment: dict[str, str]) -> None:
        self._known: Sequence[KnownStore] = preflight.known
        self._dtype = preflight.layout.dtype
        self.own = OwnRows(preflight, environment)
        self._kept = {shard: task.kept for shard, task in preflight.todo.items()}

    def copy(self, window: Window) -> Copied:
        """Copy the values of all distinct records that are known."""
        assert window.passages is not None
        left_out = window.passages.left_out
        copied, rows_of_m = Copied(), np.bincount(window.distinct_of, minlength=len(window.firsts))
        left = np.flatnonzero(~left_out)
        for store in self._known:
            rows = store.find(window.keys[window.firsts[left]])
            taken = self._taken(copied, left, rows, *store.take(rows[rows != UNKNOWN], self._dtype))
            if len(taken):
                count = int(rows_of_m[left[taken]].sum())
                copied.rows_of[str(store.path)] = count
                name = str(store.path.resolve())
                copied.reused.append(Reused(name, count, store.environments(rows[taken])))
                left = np.delete(left, taken)
        rows = self.own.find(window, left)
        taken = self._taken(copied, left, rows, *self.own.take(rows[rows != UNKNOWN], self._dtype))
        own = left[taken]
        if len(own) and (computed := self.own.environments(rows[taken])):
            copied.reused.append(Reused(OWN, int(rows_of_m[own].sum()), computed))
        left = np.delete(left, taken)
        copied.rest = np.union1d(left, np.flatnonzero(left_out))
        copied.encoded = len(left)
        copied.kept = int(np.isin(window.distinct_of[: self._kept[window.shard]], own).sum())
        copied.identical = int(rows_of_m[own].sum()) - copied.kept + int(rows_of_m[left].sum()) - len(left)
        return copied

    def _taken(
        self, copied: Copied, left: NDArray[np.int64], rows: Rows, values: Values, there: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Add what was found and is there; returns its places in `left`."""
        places = np.flatnonzero(rows != UNKNOWN)
        if not there.all():
            kept = np.flatnonzero(there)
            values = values[kept] if isinstance(values, np.ndarray) else [values[place] for place in kept.tolist()]
            places = places[kept]
        if len(places):
            copied.pieces.append((left[places], values))
        return places
