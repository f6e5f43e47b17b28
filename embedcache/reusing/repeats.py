"""Records of one input whose sequence another shard has too: encoded once, and copied from then on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embedcache.reusing.keys import UNKNOWN, Keys, KeyTable, Rows


class Repeats:
    """Keys that occur in several shards, each with a row that has its values already, once there is one.

    Parameters
    ----------
    keys_N2 : of all records of the input.
    shard_rows : records of a shard.
    there_N : records whose values are in the store already.
    """

    def __init__(self, keys_N2: Keys, shard_rows: int, there_N: NDArray[np.bool_]) -> None:
        order = np.argsort(keys_N2[:, 0], kind="stable")  # equal keys side by side, each in the order of its rows
        differs = (keys_N2[order][1:] != keys_N2[order][:-1]).any(axis=1)
        starts = np.flatnonzero(np.append(True, differs))
        stops = np.append(starts[1:], len(order))
        in_several = order[starts] // shard_rows < order[stops - 1] // shard_rows
        repeated = np.repeat(in_several, stops - starts)
        records = np.sort(order[repeated])
        self._table = KeyTable.of(keys_N2[records], np.full(len(records), UNKNOWN, np.int64))
        self.add(keys_N2[records[there_N[records]]], records[there_N[records]])

    def __len__(self) -> int:
        return len(self._table)

    def find(self, keys_n2: Keys) -> Rows:
        """A row of the store that has the values of each key, `UNKNOWN` where there is none yet."""
        return self._table.find(keys_n2)

    def add(self, keys_n2: Keys, rows_n: Rows) -> None:
        """Remember rows whose values are there now; a key keeps the first of its rows."""
        at = self._table.places(keys_n2)
        rows_n, at = rows_n[at != UNKNOWN], at[at != UNKNOWN]
        new = self._table.rows_K[at] == UNKNOWN
        # backwards, so that of several rows of one key the first is written last
        self._table.rows_K[at[new][::-1]] = rows_n[new][::-1]
