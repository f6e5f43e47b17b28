"""Arrays as a problem: three rows of four train, the fourth validates."""

from __future__ import annotations

from typing import Any

import numpy as np

from heads.data.features import ArrayRows
from heads.data.target import Examples, Target
from heads.fitting import Problem


def split_problem(kind: Any, X: Any, values: Any, select: str, names: Any = None, weights: Any = None) -> Problem:
    """A problem of the given rows; classes and labels are named a, b, c ... where no names are given."""
    values = np.asarray(values)
    count = 1 if kind == "regression" else values.shape[1] if values.ndim == 2 else int(values.max()) + 1
    names = tuple("abcdefgh"[:count]) if names is None else names
    examples = Examples(np.arange(len(X)), Target(kind, names, values), weights)
    held = np.arange(len(X)) % 4 == 0
    return Problem(
        ArrayRows(np.asarray(X)), examples.take(np.flatnonzero(~held)), examples.take(np.flatnonzero(held)), select
    )
