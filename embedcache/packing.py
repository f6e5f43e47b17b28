"""Which sequences share a batch: neighbours in length, up to a budget of tokens; and windows of over-long ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from embedcache.tokens import Tokens


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


def cut_windows(tokens: Tokens, limit: int | None, special: tuple[int, int]) -> tuple[Tokens, NDArray[np.int64]]:
    """Cut over-long sequences into windows of the full limit, each a quarter into the one before it.

    Parameters
    ----------
    tokens : n sequences with their special tokens, which every window gets too.
    limit : longest window in tokens, None for no limit.
    special : special tokens at the start and the end of a sequence.

    Returns
    -------
    windows : in the order of their sequences; the last window of a sequence ends with it.
    counts : (n,) windows of each sequence.
    """
    lengths = tokens.lengths
    counts = np.ones(len(tokens), np.int64)
    if limit is None or not (lengths > limit).any():
        return tokens, counts
    before, after = special
    room = limit - before - after
    step = max(room * 3 // 4, 1)
    pieces: list[NDArray[np.integer]] = []
    for row in range(len(tokens)):
        ids = tokens[row]
        if len(ids) <= limit:
            pieces.append(ids)
            continue
        inner = ids[before : len(ids) - after]
        starts = [*range(0, len(inner) - room, step), len(inner) - room]
        counts[row] = len(starts)
        pieces += [np.concatenate((ids[:before], inner[s : s + room], ids[len(ids) - after :])) for s in starts]
    offsets = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return Tokens(np.concatenate(pieces), offsets), counts


def truncate(tokens: Tokens, limit: int | None, special: tuple[int, int], keep: int | None = None) -> Tokens:
    """Cut every sequence over `limit` tokens to `keep` (by default `limit`), keeping the special tokens at its end."""
    if limit is None or not (tokens.lengths > limit).any():
        return tokens
    end, keep = special[1], keep or limit
    pieces = [
        ids if len(ids) <= limit else np.concatenate((ids[: keep - end], ids[len(ids) - end :]))
        for ids in (tokens[row] for row in range(len(tokens)))
    ]
    offsets = np.zeros(len(pieces) + 1, np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return Tokens(np.concatenate(pieces), offsets)
