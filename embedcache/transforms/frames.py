"""Reading frames of many sequences at once, and the proteins between their stops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.transforms.codons import STOP, GeneticCode
from embedcache.transforms.nucleotides import CODES

FRAMES = ("F1", "F2", "F3", "R1", "R2", "R3")
"""Forward from the first, second and third letter, and the same of the reverse complement."""
NUMBERS = {"1": "F1", "2": "F2", "3": "F3", "-1": "R1", "-2": "R2", "-3": "R3"}
_METHIONINE = ord("M")

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Proteins:
    """Proteins (k,): the row and frame each was read in, its first and last letter of DNA (from 0, without the last)."""

    rows: Places
    frames: Places
    """Places in FRAMES."""
    starts: Places
    stops: Places
    letters: pa.Array
    """large_string (k,)."""

    def take(self, which: Places) -> Proteins:
        """Some of them."""
        letters = self.letters.take(pa.array(which))
        return Proteins(self.rows[which], self.frames[which], self.starts[which], self.stops[which], letters)

    @property
    def lengths(self) -> Places:
        """Amino acids of each."""
        return (self.stops - self.starts) // 3

    @classmethod
    def joined(cls, parts: list[Proteins]) -> Proteins:
        """Put the proteins of several frames in the order of row, frame and place in the frame."""
        rows, frames, starts, stops = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "frames", "starts", "stops")
        )
        along = np.where(frames < 3, starts, -stops)
        whole = cls(rows, frames, starts, stops, pa.concat_arrays([part.letters for part in parts]))
        return whole.take(np.lexsort((along, frames, rows)))


@dataclass(frozen=True)
class Rules:
    """What becomes of a frame: how stops are taken, where a protein begins, and how long it is at least."""

    stops: str
    """``split`` at each stop, ``cut`` off at the first, ``keep`` them as ``*``."""
    from_start: bool
    """Whether a protein begins with the first start codon of its stretch, and is written with M."""
    least: int


def proteins_of(offsets: Places, letters: Bytes, frames: tuple[str, ...], code: GeneticCode, rules: Rules) -> Proteins:
    """Read n sequences, end to end in `letters`, in some frames."""
    codes = CODES[letters]
    parts = []
    for forward in (True, False):
        wanted = [number for number, name in enumerate(FRAMES) if name in frames and (number < 3) == forward]
        if wanted:
            amino_acids, starts = code.translate(codes, forward=forward)
            parts += [_of_frame(offsets, amino_acids, starts, number, rules) for number in wanted]
    return Proteins.joined(parts)


def _of_frame(offsets: Places, at_each: Bytes, start_at_each: NDArray[np.bool_], frame: int, rules: Rules) -> Proteins:
    shift, forward = frame % 3, frame < 3
    counts = np.maximum((np.diff(offsets) - shift) // 3, 0)
    first = offsets[:-1] + shift if forward else offsets[1:] - 3 - shift
    places = _every_third(first, counts, 3 if forward else -3)
    protein = at_each[places]
    bounds = np.append(0, np.cumsum(counts))
    begin, end = _stretches(protein, bounds, rules.stops)
    if rules.from_start:
        begin = _first_within(np.flatnonzero(start_at_each[places]), begin, end)
        protein = protein.copy()
        protein[begin[begin < end]] = _METHIONINE
    enough = end - begin >= max(rules.least, 1)
    begin, end = begin[enough], end[enough]
    rows = np.searchsorted(bounds, begin, side="right") - 1
    before, after = 3 * (begin - bounds[rows]), 3 * (end - bounds[rows])
    length = np.diff(offsets)[rows]
    starts, stops = (shift + before, shift + after) if forward else (length - shift - after, length - shift - before)
    return Proteins(rows, np.full(len(rows), frame), starts, stops, _runs(protein, begin, end))


def _every_third(first: Places, counts: Places, step: int) -> Places | slice:
    """The places of the codons of each frame, one frame after the other."""
    if len(first) == 1:  # a long sequence comes alone: no number for each codon
        stop = int(first[0] + step * counts[0])
        return slice(int(first[0]), stop if stop >= 0 else None, step) if counts[0] else slice(0, 0)
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(first, counts) + step * within


def _stretches(protein: Bytes, bounds: Places, stops: str) -> tuple[Places, Places]:
    """Where proteins begin and end in frames that lie end to end; empty ones among them."""
    if stops == "keep":
        return bounds[:-1], bounds[1:]
    found = np.flatnonzero(protein == STOP)
    if stops == "cut":
        return bounds[:-1], _first_within(found, bounds[:-1], bounds[1:])
    # each frame begins one and each stop another; each stop ends one and each frame another: in order, they are pairs
    return np.sort(np.append(bounds[:-1], found + 1)), np.sort(np.append(found, bounds[1:]))


def _first_within(found: Places, begin: Places, end: Places) -> Places:
    """The first of `found` (rising) in each stretch, or its end."""
    following = np.append(found, np.iinfo(np.int64).max)[np.searchsorted(found, begin)]
    return np.asarray(np.minimum(following, end), np.int64)


def _runs(letters: Bytes, starts: Places, stops: Places) -> pa.Array:
    """Copy runs (k,) that follow each other into a large_string array."""
    bounds = np.zeros(2 * len(starts) + 1, np.int64)  # every other element is what lies between two runs
    bounds[:-1:2], bounds[1::2] = starts, stops
    bounds[-1] = stops[-1] if len(stops) else 0
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(np.ascontiguousarray(letters))]
    array = pa.Array.from_buffers(pa.large_string(), 2 * len(starts), buffers)
    return array.take(pa.array(np.arange(0, 2 * len(starts), 2)))
