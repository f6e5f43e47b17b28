"""Random windows: how many of which lengths, and the numbers that decide, drawn from a record's id and a seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from embedcache.errors import InputError

RANDOM = "random:"
FORM = (
    "random:LENGTHxCOUNT, as in random:150, random:150x1-3 or random:100-200x2; mixed lengths as in "
    "random:30%:100-200,40%:200-500,30%:500-3000x1-3"
)
_RULE = re.compile(r"random:(?P<lengths>[^x]+)(?:x(?P<least>\d+)(?:-(?P<most>\d+))?)?")
_LENGTHS = re.compile(r"(?:(?P<percent>\d+(?:\.\d+)?)%:)?(?P<least>\d+)(?:-(?P<most>\d+))?")
_GOLDEN = 0x9E3779B97F4A7C15

Ints = NDArray[np.int64]
Seeds = NDArray[np.uint64]


@dataclass(frozen=True)
class Lengths:
    """Lengths from `least` to `most`, all as likely, for a share of the windows."""

    share: float
    least: int
    most: int


@dataclass(frozen=True)
class Drawing:
    """Which windows are drawn from each record."""

    lengths: tuple[Lengths, ...]
    least: int
    """Windows of a record, from `least` to `most`, all as likely."""
    most: int
    counted: bool
    """Whether the user gave `least` and `most`."""

    @property
    def shortest(self) -> int:
        """Letters of the shortest window there may be."""
        return min(lengths.least for lengths in self.lengths)

    def counts(self, seeds: Seeds, expected: float | None) -> Ints:
        """Draw how many windows records get, (n,); with `expected` so many on average, for each record alike.

        More than the mean of `least` and `most` are reached by giving some records the most, fewer by giving some none.

        Raises
        ------
        InputError : `expected` is more than `most`.
        """
        between = self.least + np.floor(uniform(seeds, 1) * (self.most - self.least + 1)).astype(np.int64)
        if expected is None:
            return between
        if not self.counted:
            return np.floor(expected + uniform(seeds, 0)).astype(np.int64)
        mean = (self.least + self.most) / 2
        if expected > self.most:
            raise InputError(
                f"--about asks for {expected:,.1f} windows a record, and --windows allows {self.most} at most: raise the "
                "count behind the x, or leave it out"
            )
        if expected <= mean:
            return np.where(uniform(seeds, 0) < expected / mean, between, 0)
        return np.where(uniform(seeds, 0) < (expected - mean) / (self.most - mean), self.most, between)

    def sizes(self, seeds: Seeds, numbers: Ints) -> Ints:
        """Draw the lengths of windows (w,); `seeds` are those of their records, `numbers` count within a record."""
        shares = np.cumsum([lengths.share for lengths in self.lengths])
        which = np.minimum(np.searchsorted(shares, uniform(seeds, 2 + 3 * numbers), side="right"), len(shares) - 1)
        least = np.array([lengths.least for lengths in self.lengths])[which]
        most = np.array([lengths.most for lengths in self.lengths])[which]
        return np.asarray(least + np.floor(uniform(seeds, 3 + 3 * numbers) * (most - least + 1)), np.int64)

    def places(self, seeds: Seeds, numbers: Ints, room: Ints) -> Ints:
        """Draw where windows begin (w,), from 0 to `room` (w,), all as likely."""
        return np.asarray(np.floor(uniform(seeds, 4 + 3 * numbers) * (room + 1)), np.int64)


def parse_drawing(rule: str) -> Drawing:
    """Read ``random:LENGTHSxCOUNT``; raises `InputError` that shows the form."""
    match = _RULE.fullmatch(rule.replace(" ", ""))
    parts = [_LENGTHS.fullmatch(part) for part in match["lengths"].split(",")] if match else [None]
    if match is None or not all(parts):
        raise InputError(f"--windows {rule} cannot be read: write {FORM}")
    given = [part for part in parts if part]
    if len(given) > 1 and not all(part["percent"] for part in given):
        raise InputError(f"--windows {rule} mixes lengths without saying how much of each: write {FORM}")
    percents = [float(part["percent"] or 100) for part in given]
    if abs(sum(percents) - 100) > 0.01:
        raise InputError(f"--windows {rule}: the parts are {sum(percents):g} % together; make them 100 %")
    ranges = [(int(part["least"]), int(part["most"] or part["least"])) for part in given]
    least = int(match["least"] or 1)
    most = int(match["most"] or least)
    if any(low < 1 or high < low for low, high in ranges) or not 1 <= least <= most:
        raise InputError(f"--windows {rule}: lengths and counts begin with 1, and a range with its smaller end")
    lengths = tuple(Lengths(percent / 100, *ends) for percent, ends in zip(percents, ranges, strict=True))
    return Drawing(lengths, least, most, match["least"] is not None)


def seeds_of(ids: Sequence[str], seed: int) -> Seeds:
    """A number for each id (n,), the same wherever the record stands."""
    key = seed.to_bytes(8, "little", signed=True)
    hashes = b"".join(blake2b(name.encode(), digest_size=8, key=key).digest() for name in ids)
    return np.frombuffer(hashes, "<u8").astype(np.uint64)


def uniform(seeds: Seeds, number: int | Ints) -> NDArray[np.float64]:
    """Numbers in [0, 1) (n,): the `number`-th of each seed's sequence, by SplitMix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        state = seeds + np.uint64(_GOLDEN) * (np.asarray(number).astype(np.uint64) + np.uint64(1))
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return np.asarray((state >> np.uint64(11)) * 2.0**-53, np.float64)
