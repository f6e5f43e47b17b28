"""Which letters of a record an embedding looks at: stretches around a site, and which strand of them is read.

The site is a letter of the record, its centre c, counted from 0: ``upstream W`` are the letters [c-W, c), ``downstream W``
[c, c+W), which begins with the site itself, and ``both W`` [c-W, c+W).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedcache.errors import InputError
from embedcache.sequences.alphabet import CELL, DNA, PROTEIN, Letters, reverse_complement

SIDES = ("upstream", "downstream", "both")
ALL, MIDDLE, CENTER = "all", "middle", "center"
EDGES = ("pad", "drop", "shorten")
GIVEN, AVERAGE, CANONICAL = "given", "average", "canonical"
Places = NDArray[np.int64]
_Stretch = tuple[bytes, tuple[int, ...]]


@dataclass(frozen=True)
class View:
    """The letters on one side of a site, or on both."""

    side: str
    """``upstream``, ``downstream`` or ``both``."""
    context: int
    """Letters on each side, W."""

    @property
    def name(self) -> str:
        """As blocks are called after it: ``both_100``."""
        return f"{self.side}_{self.context}"

    @property
    def before(self) -> int:
        """Letters before the site."""
        return 0 if self.side == "downstream" else self.context

    @property
    def after(self) -> int:
        """Letters from the site on, itself included."""
        return 0 if self.side == "upstream" else self.context

    @classmethod
    def of(cls, name: str) -> View:
        """The view of that name; raises `InputError` if it is none."""
        side, _, context = name.rpartition("_")
        if side not in SIDES or not context.isdigit() or not int(context):
            raise InputError(f"there is no view '{name}': write it as both_100, of {', '.join(SIDES)}")
        return cls(side, int(context))


def views_of(contexts: str, side: str) -> tuple[View, ...]:
    """All contexts (numbers by comma) of a side, or, for ``all``, of every side; raises `InputError` for anything else."""
    if side not in (*SIDES, ALL):
        raise InputError(f"there is no side '{side}': take one of {', '.join(SIDES)}, or {ALL} for the three of them")
    numbers = [int(word) for word in contexts.split(",") if word.strip().isdigit()]
    if len({*numbers}) < len(contexts.split(",")) or not all(numbers):
        raise InputError(
            f"--context {contexts}: give numbers of letters from 1, each once, with commas between them, such as 50,100,200"
        )
    return tuple(View(which, context) for which, context in product(SIDES if side == ALL else (side,), numbers))


@dataclass(frozen=True)
class Scope:
    """What of a record is encoded: by default its whole sequence, as it is given."""

    views: tuple[View, ...] = ()
    """None: the whole sequence."""
    center: str | None = None
    """The column that names the centre of each record; None for the letter in the middle, length // 2."""
    edge: str = "pad"
    """Of views that reach over the ends of a sequence: ``pad`` with N (X in proteins), ``drop`` the record, which is set
    aside, or ``shorten`` the view."""
    strands: str = GIVEN
    """``given``, ``average`` (the mean of the vectors of both strands), or ``canonical`` (the lexicographically smaller of
    both strands, so that a sequence and its reverse complement are encoded once)."""

    @property
    def whole(self) -> bool:
        """Whether records are encoded as they are."""
        return not self.views and self.strands == GIVEN

    @property
    def passages(self) -> int:
        """Stretches of letters that each record is encoded as."""
        return max(len(self.views), 1) * (2 if self.strands == AVERAGE else 1)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; empty where records are encoded as they are."""
        if self.whole:
            return {}
        around = {"views": [view.name for view in self.views], "center": self.center, "edge": self.edge}
        return (around if self.views else {}) | {"strands": self.strands}

    @classmethod
    def from_dict(cls, recorded: Mapping[str, Any] | None) -> Scope:
        """What `to_dict` wrote, or None of a store that says nothing; raises `InputError` for what is no view."""
        given = dict(recorded or {})
        return cls(**given | {"views": tuple(View.of(name) for name in given.get("views", ()))})

    def check(self, alphabet: str, pooled: bool) -> None:
        """Raise `InputError` where this makes no sense for letters of an alphabet, or for stores without pooling."""
        if self.edge not in EDGES:
            raise InputError(f"there is no --edge {self.edge}: take one of {', '.join(EDGES)}")
        if self.strands != GIVEN and alphabet != DNA:
            raise InputError(f"--reverse-complement {self.strands} is for DNA, and the encoder reads {alphabet}")
        if self.views and alphabet == CELL:
            raise InputError("--context takes the letters around a site, and cells have no letters: leave it out")
        if not pooled and self.strands != GIVEN:
            raise InputError(
                f"--pool none keeps the tokens of the strand that is given: leave out --reverse-complement {self.strands}"
            )
        if not pooled and len(self.views) > 1:
            raise InputError(
                f"--pool none keeps the tokens of one view, and there are {len(self.views)}: make a store for each"
            )

    def reaching(self, lengths: Places, centers: Places) -> tuple[Places, Places]:
        """How many letters the widest views reach over the start and over the end of each record, (n,) each."""
        before = max((view.before for view in self.views), default=0)
        after = max((view.after for view in self.views), default=0)
        over_start: Places = np.maximum(before - centers, 0)
        return over_start, np.maximum(centers + after - lengths, 0)

    def letters(self, lengths: Places, centers: Places) -> Places:
        """Letters of all passages of each record (n,), those of padding included."""
        if not self.views:
            return lengths * self.passages
        first_nV, stop_nV = self._bounds(lengths, centers)
        letters: Places = (stop_nV - first_nV).sum(axis=1) * (self.passages // len(self.views))
        return letters

    def _bounds(self, lengths: Places, centers: Places) -> tuple[Places, Places]:
        """The first letter of each view in each record and the letter after the last, (n, V); outside where padded."""
        if not self.views:
            return np.zeros((len(lengths), 1), np.int64), lengths[:, None]
        first_nV = centers[:, None] - np.asarray([view.before for view in self.views])
        stop_nV = centers[:, None] + np.asarray([view.after for view in self.views])
        if self.edge == "shorten":
            return np.maximum(first_nV, 0), np.minimum(stop_nV, lengths[:, None])
        return first_nV, stop_nV

    def without(
        self, lengths: Places, centers: Places, positions: Mapping[str, Places]
    ) -> tuple[int, View, str | None] | None:
        """The first record with a view of no letters, or with a position outside a view, and that column; None if none.

        `positions` are the places that poolings look at, by column.
        """
        if not self.views:
            return None
        first_nV, stop_nV = self._bounds(lengths, centers)
        faults: list[tuple[int, int, str | None]] = [
            (int(row), int(view), None) for row, view in np.argwhere(first_nV >= stop_nV)[:1]
        ]
        for column, at in positions.items():
            outside = (at[:, None] < first_nV) | (at[:, None] >= stop_nV)
            faults += [(int(row), int(view), column) for row, view in np.argwhere(outside)[:1]]
        if not faults:
            return None
        first_row, first_view, missed = min(faults, key=lambda fault: fault[:2])
        return first_row, self.views[first_view], missed

    def stretches(self, letters: Letters, centers: Places, positions: Mapping[str, Places], alphabet: str) -> Stretches:
        """The distinct stretches of letters that n records are encoded as.

        Parameters
        ----------
        letters : of n records, normalised.
        centers : (n,) the centre of each record.
        positions : (n,) places in the records that poolings look at, by column.
        """
        n = len(letters)
        if self.whole:
            return Stretches(letters, np.arange(n).reshape(n, 1, 1), dict(positions))
        first_nV, stop_nV = self._bounds(letters.lengths, centers)
        over_start, over_end = self.reaching(letters.lengths, centers)
        dropped = (over_start + over_end > 0) & (self.edge == "drop")
        of_nVS = np.full((n, first_nV.shape[1], 2 if self.strands == AVERAGE else 1), -1, np.int64)
        pad = b"X" if alphabet == PROTEIN else b"N"
        numbers: dict[_Stretch, int] = {}
        data, borders = letters.bytes_.tobytes(), letters.offsets.tolist()
        for row in np.flatnonzero(~dropped).tolist():
            record, at = data[borders[row] : borders[row + 1]], [int(places[row]) for places in positions.values()]
            for view, (first, stop) in enumerate(zip(first_nV[row].tolist(), stop_nV[row].tolist(), strict=True)):
                stretch = _cut(record, first, stop, pad), tuple(place - first for place in at)
                of_nVS[row, view] = [numbers.setdefault(each, len(numbers)) for each in self._on_strands(stretch)]
        places_PC = np.asarray([places for _, places in numbers], np.int64).reshape(len(numbers), len(positions))
        distinct = Letters.joined([stretch for stretch, _ in numbers])
        return Stretches(distinct, of_nVS, {column: places_PC[:, at] for at, column in enumerate(positions)})

    def _on_strands(self, stretch: _Stretch) -> list[_Stretch]:
        """The one or two stretches that are encoded for one, with the places that are looked at in each."""
        if self.strands == GIVEN:
            return [stretch]
        letters, places = stretch
        turned = reverse_complement(letters), tuple(len(letters) - 1 - place for place in places)
        return [stretch, turned] if self.strands == AVERAGE else [min(stretch, turned)]


WHOLE = Scope()
"""Records are encoded as they are."""


@dataclass(frozen=True)
class Stretches:
    """Distinct stretches of letters, and which of them n records are encoded as."""

    letters: Letters
    """Of P stretches."""
    of_nVS: NDArray[np.int64]
    """The stretch of each view and strand of each record; -1 where the record is left out."""
    positions: dict[str, Places]
    """(P,) places in the stretches, by column."""


def _cut(record: bytes, first: int, stop: int, pad: bytes) -> bytes:
    """Letters [first, stop) of a record, with `pad` for those that it does not have."""
    inside = record[max(first, 0) : max(stop, 0)]
    return pad * -min(first, 0) + inside + pad * max(stop - len(record), 0)
