"""Mean and deviation of the features of some rows, in one pass over a store.

Axes: D features, n rows of a block.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from embedcache.errors import HeadError
from embedcache.search.rows import Rows, RowSource, Standardisation, raw_blocks


def standardise(source: RowSource, rows: Rows, weights: npt.NDArray[np.float64] | None = None) -> Standardisation:
    """Mean and deviation (ddof 0, as scikit-learn's StandardScaler) of the given rows, in one pass.

    Rows count by their `weights` (n,), not all 0, or all alike.

    Sums run over x - shift, shift being the mean of the first block, in float64: a mean far above the deviation does
    not cancel (the shifted one-pass variance of Chan, Golub and LeVeque, 1983).

    Raises HeadError where a value is not finite.
    """
    if not len(rows):
        raise HeadError("there are no rows to standardise")
    shift = torch.empty(0)
    sums = torch.zeros(source.dim, dtype=torch.float64)
    squares = torch.zeros(source.dim, dtype=torch.float64)
    for block in raw_blocks(source, rows):
        if not block.start:
            shift = block.values_nD.mean(0, dtype=torch.float64).to(block.values_nD.dtype)
        shifted_nD = block.values_nD.sub_(shift)
        of_block = None if weights is None else torch.from_numpy(weights[block.start : block.stop])
        sums += _weighted_sum(shifted_nD, of_block)
        squares += _weighted_sum(shifted_nD.square_(), of_block)
    total = len(rows) if weights is None else float(weights.sum())
    offset = sums / total
    variance = squares / total - offset**2
    if not torch.isfinite(variance).all():
        column = int((~torch.isfinite(variance)).nonzero()[0])
        raise HeadError(
            f"feature {column} holds a value that is not a finite number; find the rows with `embedcache verify`"
        )
    mean = shift.double() + offset
    # below the rounding of the values themselves a feature is constant (StandardScaler's rule)
    rounding = torch.finfo(shift.dtype).eps * mean.abs()
    constant = variance <= rounding**2
    factor = torch.where(constant, 0.0, variance.clamp(min=torch.finfo(torch.float64).tiny).rsqrt())
    return Standardisation(mean.float() if shift.dtype == torch.float32 else mean, factor.float())


def _weighted_sum(values_nD: torch.Tensor, weights_n: torch.Tensor | None) -> torch.Tensor:
    """Sum over rows in float64, unweighted ones by 32 in their own precision first: several times faster."""
    if weights_n is not None:
        return weights_n @ values_nD.double()
    whole = len(values_nD) // 32 * 32
    by_32 = values_nD[:whole].view(-1, 32, values_nD.shape[1]).sum(1)
    return by_32.sum(0, dtype=torch.float64) + values_nD[whole:].sum(0, dtype=torch.float64)
