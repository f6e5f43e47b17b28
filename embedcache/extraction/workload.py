"""What the encoder has to do for an input of which every length is known, but the tokens of a sample only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from embedcache.encoding import Encoding
from embedcache.extraction.survey import Survey
from embedcache.sequences.packing import cut_windows
from embedcache.sequences.tokens import Tokens

Arithmetic = Callable[[float, float], float]
"""From a number of tokens, and the length of their sequences, to operations."""


class Lengths:
    """How many rows there are of each length in letters, and how many tokens these have, from those of the sample.

    A length that the sample has takes the mean of its tokens there, any other a straight line through all of the sample.

    Parameters
    ----------
    sample_tokens : (k, V, S) tokens of each passage of each record of the sample.
    """

    def __init__(self, found: Survey, sample_tokens: NDArray[np.int64]) -> None:
        self._letters = found.letters
        self._values, self.rows = np.unique(found.letters, return_counts=True)
        letters = found.letters[found.sampled].astype(np.int64)
        sampled, which = np.unique(letters, return_inverse=True)
        passages = sample_tokens.reshape(len(letters), -1).T
        self.tokens = np.stack([_line(letters, tokens, self._values) for tokens in passages], axis=1)
        """Of each passage of a row of each length, (lengths, passages) float64."""
        for tokens, of_length in zip(passages, self.tokens.T, strict=True):
            of_length[np.searchsorted(self._values, sampled)] = np.bincount(which, tokens) / np.bincount(which)

    @property
    def total_tokens(self) -> int:
        """Tokens of all rows."""
        return round(float(self.tokens.sum(axis=1) @ self.rows))

    @property
    def longest(self) -> int:
        """Tokens of the longest passage."""
        return round(float(self.tokens.max()))

    def rows_over(self, limit: int | None) -> int:
        """How many rows have a passage of more tokens than `limit`."""
        return 0 if limit is None else int(self.rows[(np.rint(self.tokens) > limit).any(axis=1)].sum())

    def rows_of(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many of the chosen rows there are of each length."""
        values, rows = np.unique(self._letters[chosen], return_counts=True)
        counts = np.zeros(len(self._values), np.int64)
        counts[np.searchsorted(self._values, values)] = rows
        return counts


def _line(x: NDArray[np.int64], y: NDArray[np.int64], at: NDArray[np.int32]) -> NDArray[np.float64]:
    """Least squares of y over x, at other x; in proportion where all x are equal. At least 1."""
    away, middle = x - x.mean(), float(y.mean())
    if away.any():
        found = middle + float(away @ y / (away @ away)) * (at - x.mean())
    else:
        found = at * (middle / max(float(x.mean()), 1.0))
    clipped: NDArray[np.float64] = np.maximum(found, 1.0)
    return clipped


def work(
    encoding: Encoding, operations: Arithmetic, tokens: NDArray[np.float64], rows: NDArray[np.int64]
) -> tuple[float, float]:
    """Tokens that go through the encoder, and their operations, for so many rows of each number of tokens.

    Parameters
    ----------
    tokens : (lengths, passages) of a row of each length.
    rows : (lengths,).
    """
    limit = encoding.encoder.token_limit
    length = (tokens if limit is None else np.minimum(tokens, limit)).ravel()
    passed = (rows[:, None] * _windows(encoding, tokens)).ravel() * length
    done = (operations(float(n), float(each)) for n, each in zip(passed, length, strict=True) if n)
    return float(passed.sum()), sum(done)


def _windows(encoding: Encoding, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often a sequence goes through the encoder, as `packing.cut_windows` cuts it."""
    limit, special = encoding.encoder.token_limit, sum(encoding.encoder.special)
    if limit is None or encoding.overlong not in ("window", "skip"):
        return np.ones(tokens.shape)
    over, step = np.rint(tokens) - limit, max((limit - special) * 3 // 4, 1)
    return np.where(over <= 0, 1.0, np.ceil(over / step) + 1.0 if encoding.overlong == "window" else 0.0)


def as_encoded(tokens: Tokens, encoding: Encoding) -> Tokens:
    """Passages as they come to the encoder: those over the limit in windows, where they are not cut off or left out."""
    return cut_windows(tokens, encoding.encoder.token_limit, encoding.encoder.special).tokens
