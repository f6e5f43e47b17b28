"""Hidden states of tokens to one vector a sequence, and windows of one sequence back to one vector.

A pooling is written as ``mean`` (as the encoder's authors do it), ``mean:all`` (special tokens too), ``mean:inner``
(without them), ``cls`` (the first token), ``last`` (the last one), ``max``, ``center:W`` (the mean of the tokens that
cover the W letters around the middle of the sequence), ``at:COLUMN`` (the mean of the tokens that cover the letter whose
position, counted from 0, stands in that column of the input) or ``none`` (no pooling: every letter's token is kept).
"""

from __future__ import annotations

import re

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedcache.errors import InputError

POOLINGS = ("mean", "mean:all", "mean:inner", "max", "cls", "last", "center:W", "at:COLUMN", "none")
NONE = "none"
_FORM = re.compile(r"mean(:all|:inner)?|max|cls|last|none|center:[1-9]\d{0,8}|at:.+")


def check_pooling(pooling: str) -> None:
    """Raise `InputError` if `pooling` is not written like one of `POOLINGS`."""
    if not _FORM.fullmatch(pooling):
        raise InputError(
            f"there is no pooling '{pooling}': take one of {', '.join(POOLINGS)} (W letters, such as center:100)"
        )


def looks_at_a_place(pooling: str) -> bool:
    """Whether a pooling takes the tokens around one place of the sequence."""
    return pooling.startswith(("center:", "at:"))


def column_of(pooling: str) -> str | None:
    """The column that ``at:COLUMN`` reads positions from; None for other poolings."""
    return pooling.removeprefix("at:") if pooling.startswith("at:") else None


def token_focus(
    spans_T2: NDArray[np.int64], offsets: NDArray[np.int64], places_n2: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find the tokens that cover a stretch of letters in each of n sequences.

    Parameters
    ----------
    spans_T2 : first letter and letter after the last that each token covers in its sequence; -1 for special tokens.
    offsets : (n+1,) tokens of the sequences end to end.
    places_n2 : first letter of the stretch and the letter after its last.

    Returns
    -------
    (n, 2) first token, counted in its sequence, and the one after the last; both 0 where no token covers the stretch.
    """
    sequence_T = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    first_T, stop_T = places_n2[sequence_T].T
    covers_T = (spans_T2[:, 0] >= 0) & (spans_T2[:, 0] < stop_T) & (spans_T2[:, 1] > first_T)
    tokens = np.flatnonzero(covers_T)
    focus_n2 = np.zeros((len(offsets) - 1, 2), np.int64)
    found, first = np.unique(sequence_T[tokens], return_index=True)
    last = np.append(first[1:], len(tokens)) - 1
    focus_n2[found, 0] = tokens[first] - offsets[found]
    focus_n2[found, 1] = tokens[last] + 1 - offsets[found]
    return focus_n2


def parts_of(ranges_B2: NDArray[np.int64], lengths_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut each sequence into the tokens before a range, in it and after it: lengths (3 B,), three a sequence."""
    first_B, stop_B = ranges_B2.T
    return np.stack((first_B, stop_B - first_B, lengths_B - stop_B), axis=1).ravel()


def pool(states_TD: Tensor, parts_3B: Tensor, how: str) -> Tensor:
    """Pool the tokens of each sequence's range, in float32.

    Parameters
    ----------
    states_TD : (T, D) float32 hidden states of B sequences end to end.
    parts_3B : of `parts_of`, on the same device.
    how : ``mean`` or ``max`` of the range.

    Returns
    -------
    (B, D) float32, NaN where a mean has no token. A row depends on nothing but the tokens of its own sequence.
    """
    return torch.segment_reduce(states_TD, how, lengths=parts_3B, axis=0, unsafe=True)[1::3]


def join_windows(
    pooled_WD: NDArray[np.float32], weights_W: NDArray[np.int64], counts_B: NDArray[np.int64], how: str
) -> NDArray[np.float32]:
    """Join the windows that an over-long sequence was cut into.

    Parameters
    ----------
    pooled_WD : (W, D) vectors of all windows, those of one sequence side by side.
    weights_W : (W,) tokens of each window that were pooled, the weights of a mean; windows of weight 0 are left out.
    counts_B : (B,) windows of each sequence, at least 1.
    how : ``max`` takes the maximum, ``cls`` the plain average, ``last`` the last window, anything else the weighted
        mean.

    Returns
    -------
    (B, D) float32; a sequence of one window keeps its vector bit for bit.
    """
    starts_B = np.cumsum(counts_B) - counts_B
    joined_BD: NDArray[np.float32] = pooled_WD[starts_B]
    for b in np.flatnonzero(counts_B > 1):
        windows = slice(starts_B[b], starts_B[b] + counts_B[b])
        windows_wD, weights_w = pooled_WD[windows], weights_W[windows]
        if how == "max":
            joined_BD[b] = windows_wD.max(axis=0)
        elif how == "last":
            joined_BD[b] = windows_wD[-1]
        elif how == "cls":
            joined_BD[b] = windows_wD.astype(np.float64).mean(axis=0)
        else:
            used = weights_w > 0
            joined_BD[b] = (
                np.average(windows_wD[used].astype(np.float64), axis=0, weights=weights_w[used])
                if used.any()
                else np.nan
            )
    return joined_BD
