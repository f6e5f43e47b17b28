"""Strata: which part of the rows each row belongs to, by a column or by the bins of a numeric one.

Axes: N rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from embedcache.errors import HeadError
from heads.data.target import Codes


@dataclass(frozen=True)
class Strata:
    """The stratum of each row: codes (N,) into `names`, -1 for a row without one."""

    column: str
    codes: Codes
    names: tuple[str, ...]


def parse_strata(text: str) -> tuple[str, tuple[float, ...]]:
    """Split ``length:200,500`` into a column and the edges of its bins; a column alone has none.

    Raises HeadError where the edges are not rising numbers.
    """
    column, colon, listed = text.rpartition(":")
    if not colon:
        return text, ()
    way_out = "name a column, or a numeric column and rising edges, such as length:200,500"
    try:
        edges = tuple(float(edge) for edge in listed.split(","))
    except ValueError:
        raise HeadError(f"--strata {text}: '{listed}' is no list of numbers; {way_out}") from None
    if not column:
        raise HeadError(f"--strata {text} names no column; {way_out}")
    if not all(map(math.isfinite, edges)) or any(low >= high for low, high in pairwise(edges)):
        raise HeadError(f"--strata {text}: the edges do not rise from number to number; {way_out}")
    return column, edges


def numeric_bins(values: npt.NDArray[np.generic], edges: Sequence[float], name: str) -> tuple[Codes, tuple[str, ...]]:
    """Codes (N,) of the bins of numbers (N,), -1 for NaN, and the names of the bins: ``length < 200``, ``200 <= length <
    500``, ``length >= 500``.

    Raises HeadError where the values are not numbers.
    """
    if not edges:
        raise HeadError(f"the bins of column '{name}' need one edge or more, such as {name}:200,500")
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == np.bool_):
        raise HeadError(
            f"column '{name}' holds no numbers and cannot be cut into bins; take it as it is: --strata {name}"
        )
    numbers = values.astype(np.float64)
    codes = np.searchsorted(np.asarray(edges, np.float64), numbers, side="right").astype(np.int64)
    codes[np.isnan(numbers)] = -1
    shown = [f"{edge:.15g}" for edge in edges]
    inner = [f"{low} <= {name} < {high}" for low, high in pairwise(shown)]
    return codes, (f"{name} < {shown[0]}", *inner, f"{name} >= {shown[-1]}")
