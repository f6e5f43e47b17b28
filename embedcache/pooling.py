"""Hidden states of tokens to one vector a sequence, and windows of one sequence back to one vector."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

POOLINGS = ("mean", "cls", "max")


def pool(states_TD: Tensor, lengths_B: Tensor, how: str, special: tuple[int, int]) -> Tensor:
    """Pool the tokens of each sequence, in float32.

    Parameters
    ----------
    states_TD : (T, D) float32 hidden states of B sequences end to end.
    lengths_B : (B,) tokens of each.
    how : ``mean``, ``max`` or ``cls`` (the first token).
    special : tokens at the start and at the end of each sequence that mean and max leave out.

    Returns
    -------
    (B, D) float32. A row depends on nothing but the tokens of its own sequence.
    """
    starts_B = torch.cumsum(lengths_B, 0) - lengths_B
    if how == "cls":
        return states_TD[starts_B]
    before, after = special
    if before or after:
        inner_B = torch.clamp(lengths_B - before - after, min=0)
        shift_B = starts_B + before - (torch.cumsum(inner_B, 0) - inner_B)
        total = int(inner_B.sum())
        index_T = torch.arange(total, device=states_TD.device) + torch.repeat_interleave(
            shift_B, inner_B, output_size=total
        )
        states_TD, lengths_B = states_TD[index_T], inner_B
    return torch.segment_reduce(states_TD, how, lengths=lengths_B, axis=0, unsafe=True)


def join_windows(
    pooled_WD: NDArray[np.float32], weights_W: NDArray[np.int64], counts_B: NDArray[np.int64], how: str
) -> NDArray[np.float32]:
    """Join the windows that an over-long sequence was cut into.

    Parameters
    ----------
    pooled_WD : (W, D) vectors of all windows, those of one sequence side by side.
    weights_W : (W,) tokens of each window, the weights of a mean.
    counts_B : (B,) windows of each sequence, at least 1.
    how : ``mean`` (weighted by tokens), ``max`` (the maximum), ``cls`` (the plain average).

    Returns
    -------
    (B, D) float32; a sequence of one window keeps its vector bit for bit.
    """
    starts_B = np.cumsum(counts_B) - counts_B
    joined_BD: NDArray[np.float32] = pooled_WD[starts_B]
    for b in np.flatnonzero(counts_B > 1):
        windows_wD = pooled_WD[starts_B[b] : starts_B[b] + counts_B[b]]
        if how == "max":
            joined_BD[b] = windows_wD.max(axis=0)
        else:
            weights_w = weights_W[starts_B[b] : starts_B[b] + counts_B[b]] if how == "mean" else None
            joined_BD[b] = np.average(windows_wD.astype(np.float64), axis=0, weights=weights_w)
    return joined_BD
