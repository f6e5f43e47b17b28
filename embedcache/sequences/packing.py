"""Which sequences share a batch: neighbours in length, up to a budget of tokens; and windows of over-long ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedcache.sequences.tokens import Tokens


def pack(lengths: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Cut sequences, taken by increasing length, into batches of at most `budget` tokens.

    Parameters
    ----------
    lengths : (n,) tokens of each sequence; the longest come first, so that a batch too large for memory fails at once.
    budget : tokens of a batch. A sequence longer than that makes a batch of its own.

    Yields
    ------
    (b,) indices of the sequences of one batch, equal lengths side by side.
    """
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + budget, side="right")), start + 1)
        yield order[start:stop]
        start = stop


@dataclass(frozen=True)
class Windows:
    """Sequences cut to the encoder's limit: `tokens` of all windows, in the order of their sequences."""

    tokens: Tokens
    counts: NDArray[np.int64]
    """(n,) windows of each sequence."""
    starts: NDArray[np.int64]
    """(W,) where each window begins in its sequence, in tokens without the special ones before it."""


def cut_windows(tokens: Tokens, limit: int | None, special: tuple[int, int]) -> Windows:
    """Cut over-long sequences into windows of the full limit, each a quarter into the one before it.

    The tokens that a pooling looks at (`Tokens.focus`) are given to the one window that has them all and lies best
    around them, and to each window that has some of them where none has them all.

    Parameters
    ----------
    tokens : n sequences with their special tokens, which every window gets too.
    limit : longest window in tokens, None for no limit.
    special : special tokens at the start and the end of a sequence.

    Returns
    -------
    Windows : the last window of a sequence ends with it.
    """
    lengths = tokens.lengths
    counts = np.ones(len(tokens), np.int64)
    if limit is None or not (lengths > limit).any():
        return Windows(tokens, counts, np.zeros(len(tokens), np.int64))
    before, after = special
    room = limit - before - after
    step = max(room * 3 // 4, 1)
    pieces: list[NDArray[np.integer]] = []
    starts: list[int] = []
    focus: dict[str, list[NDArray[np.int64]]] = {pooling: [] for pooling in tokens.focus}
    for row in range(len(tokens)):
        ids = tokens[row]
        own = [0]
        if len(ids) > limit:
            inner = ids[before : len(ids) - after]
            own = [*range(0, len(inner) - room, step), len(inner) - room]
            counts[row] = len(own)
            pieces += [np.concatenate((ids[:before], inner[s : s + room], ids[len(ids) - after :])) for s in own]
            for pooling, ranges_n2 in tokens.focus.items():
                focus[pooling].append(_focus_of_windows(ranges_n2[row] - before, np.asarray(own), room) + before)
        else:
            pieces.append(ids)
            for pooling, ranges_n2 in tokens.focus.items():
                focus[pooling].append(ranges_n2[row : row + 1])
        starts += own
    offsets = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    cut = Tokens(np.concatenate(pieces), offsets, {pooling: np.concatenate(parts) for pooling, parts in focus.items()})
    return Windows(cut, counts, np.asarray(starts, np.int64))


def _focus_of_windows(wanted_2: NDArray[np.int64], starts_w: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    """The part of a token range that each window of `room` tokens answers for, (w, 2) counted in the window."""
    first, stop = wanted_2
    parts_w2: NDArray[np.int64] = np.clip(np.stack((first - starts_w, stop - starts_w), axis=1), 0, room)
    whole = np.flatnonzero((starts_w <= first) & (stop <= starts_w + room))
    if len(whole):
        best = whole[np.argmin(np.abs(2 * starts_w[whole] + room - first - stop))]
        parts_w2[np.arange(len(starts_w)) != best] = 0
    return parts_w2


def truncate(tokens: Tokens, limit: int | None, special: tuple[int, int]) -> Tokens:
    """Cut every sequence over `limit` tokens to it, keeping the special tokens at its end.

    A pooling that looks at a place (`Tokens.focus`) finds no token in a sequence where any of its tokens was cut off.
    """
    if limit is None or not (tokens.lengths > limit).any():
        return tokens
    end = special[1]
    pieces = [
        ids if len(ids) <= limit else np.concatenate((ids[: limit - end], ids[len(ids) - end :]))
        for ids in (tokens[row] for row in range(len(tokens)))
    ]
    offsets = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    kept = np.where(tokens.lengths > limit, limit - end, tokens.lengths)
    focus = {name: np.where(r_n2[:, 1:] <= kept[:, None], r_n2, 0) for name, r_n2 in tokens.focus.items()}
    return Tokens(np.concatenate(pieces), offsets, focus)
