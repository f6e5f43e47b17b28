"""Rows of several stores brought together by what they are called; nothing that has no partner shifts another row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.combining.joinkeys import Keys
from embedcache.counted import counted
from embedcache.errors import StoreError
from embedcache.storage.commit import write_durably
from embedcache.storage.pieces import ABSENT, Rows
from embedcache.storage.store import Store

AGGREGATIONS = ("error", "mean", "max", "longest", "first")
JOINS = ("inner", "left")
SHOWN = 5


@dataclass(frozen=True)
class Side:
    """The rows of one store in a join.

    Axes: M ids of the join, n rows of the store that take part.
    """

    members: Rows
    """(n,) rows of the store, those of one id together, in the order of the ids."""
    starts: Rows
    """(M+1,) where the rows of each id begin in `members`."""
    rows: Rows
    """(M,) the row that stands for each id: its only one, or the first or longest; `ABSENT` where there is none."""

    @property
    def several(self) -> bool:
        """Whether an id has more than one row."""
        return bool((np.diff(self.starts) > 1).any())


@dataclass(frozen=True)
class Missing:
    """Ids of one store that another one does not have."""

    ids: pa.Array
    found_in: str
    missing_in: str

    def __str__(self) -> str:
        shown = ", ".join(self.ids.slice(0, SHOWN).to_pylist()) + ("..." if len(self.ids) > SHOWN else "")
        ids = counted(len(self.ids), f"id of {self.found_in} is", f"ids of {self.found_in} are")
        return f"{ids} not in {self.missing_in} ({shown})"


@dataclass(frozen=True)
class Join:
    """Ids that come together, and the rows of each store for them."""

    ids: pa.Array
    sides: Mapping[str, Side]
    missing: tuple[Missing, ...]


def join(stores: Mapping[str, Store], keys: Mapping[str, Keys], how: str, aggregate: str) -> Join:
    """Bring rows together, in the order of the first store.

    Parameters
    ----------
    keys : what the rows of each store are called.
    how : ``inner`` keeps ids that all stores have, ``left`` all of the first store.
    aggregate : what to do with several rows of one id, one of `AGGREGATIONS`.

    Raises
    ------
    StoreError : no id is in all stores, or an id has several rows and `aggregate` is ``error``.
    """
    coded = pa.concat_arrays([key.names for key in keys.values()]).dictionary_encode()
    every = np.asarray(coded.indices.fill_null(ABSENT), np.int64)
    borders = np.cumsum([len(key.names) for key in keys.values()])[:-1]
    codes = dict(zip(keys, np.split(every, borders), strict=True))
    names, ids = list(stores), coded.dictionary
    there = {name: np.bincount(code[code >= 0], minlength=len(ids)) for name, code in codes.items()}
    if aggregate == "error":
        for name in names:
            _refuse_several(name, stores[name], ids, codes[name], there[name])
    firsts = np.unique(codes[names[0]], return_index=True)
    order = firsts[0][np.argsort(firsts[1])]
    order = order[order >= 0]
    missing = []
    for name in names[1:]:
        for one, other in ((names[0], name), (name, names[0])):
            lacking = np.flatnonzero((there[one] > 0) & (there[other] == 0))
            if len(lacking):
                missing.append(Missing(ids.take(pa.array(lacking)), one, other))
    common = order[np.all([there[name][order] > 0 for name in names], axis=0)]
    if not len(common):
        examples = [f"{name} has {ids[int(there[name].argmax())].as_py()!r}" for name in names if there[name].any()]
        raise StoreError(
            f"no id is in all of {', '.join(names)} ({'; '.join(examples)}): say with --id-map how one becomes the other, "
            "or join --on another column"
        )
    kept = common if how == "inner" else order
    sides = {name: _side(stores[name], codes[name], kept, len(ids), aggregate) for name in names}
    return Join(ids.take(pa.array(kept)), sides, tuple(missing))


def _refuse_several(name: str, store: Store, ids: pa.Array, codes: Rows, counts: NDArray[np.int64]) -> None:
    if counts.max(initial=0) > 1:
        code = int(next(code for code in codes if code >= 0 and counts[code] > 1))
        rows = np.flatnonzero(codes == code)
        own = ", ".join(store.ids[rows[:SHOWN]]) + ("..." if len(rows) > SHOWN else "")
        several = counted(int((counts > 1).sum()), f"id of {name} has", f"ids of {name} have")
        raise StoreError(
            f"{store.path} has {len(rows)} rows of the id '{ids[code]}' ({own}), and {several} several: say with "
            "--aggregate mean, max, longest or first what becomes of them"
        )


def _side(store: Store, codes: Rows, kept: Rows, ids: int, aggregate: str) -> Side:
    place = np.full(ids + 1, ABSENT)
    place[kept] = np.arange(len(kept))
    places = place[codes]  # code -1 finds the last, which is absent
    members = np.flatnonzero(places >= 0)
    members = members[np.argsort(places[members], kind="stable")]
    members = _sound_first(store, members, places)
    starts = np.searchsorted(places[members], np.arange(len(kept) + 1))
    rows = np.full(len(kept), ABSENT)
    filled = np.flatnonzero(np.diff(starts))
    rows[filled] = members[starts[filled]]
    if aggregate == "longest" and len(members) > len(filled):
        lengths = np.asarray(store.column("length"), np.int64)[members]
        longest = np.lexsort((np.arange(len(members)), -lengths, places[members]))
        rows[filled] = members[longest[starts[filled]]]
    return Side(members, starts, rows)


def _sound_first(store: Store, members: Rows, places: Rows) -> Rows:
    """Leave rows that were set aside at extraction out, where their id has others."""
    aside = np.isin(members, store.quarantined)
    if not aside.any():
        return members
    sound = np.isin(places[members], places[members[~aside]])
    return members[~(aside & sound)]


def write_missing(file: Path, missing: Sequence[Missing]) -> None:
    """Write every id without a partner as TSV: the id, the store that has it, the one that lacks it."""
    lines = ["id\tfound_in\tmissing_in"]
    for one in missing:
        lines += [f"{name}\t{one.found_in}\t{one.missing_in}" for name in one.ids.to_pylist()]
    write_durably(file, [memoryview(("\n".join(lines) + "\n").encode())])
