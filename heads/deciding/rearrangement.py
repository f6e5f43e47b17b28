"""Quantiles that do not cross."""

from __future__ import annotations

import numpy as np

from heads.data.target import Doubles


def rearrange(quantiles_nQ: Doubles) -> Doubles:
    """Return the estimated quantiles (n, Q) of each row in rising order, for levels that rise along the row.

    Quantiles that are fitted one by one may cross: the estimated 90 % quantile of a row lies below its estimated median.
    Sorting them is the rearrangement of Chernozhukov, Fernández-Val and Galichon (Econometrica, 2010), which is never
    farther from the true quantiles than what it sorts; rows that do not cross stay as they are.
    """
    return np.sort(quantiles_nQ, axis=1)
