"""How a learning rate goes over the steps of a training."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["onecycle", "cosine", "linear", "constant"]

FIRST = 1 / 25
"""Where a cycle starts, relative to its peak; torch's OneCycleLR, as the end below."""
LAST = FIRST / 1e4


def rate(schedule: Schedule, step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step 0 ... steps - 1; the first `warmup` of all steps rise to the peak.

    ``onecycle`` is that of Smith and Topin (2018) as torch has it: along a cosine from 1/25 up to the peak, and down to
    almost nothing. The others rise along a line: ``cosine`` falls along a cosine to 0, ``linear`` along a line,
    ``constant`` stays.
    """
    if schedule == "onecycle":
        peak = warmup * steps - 1
        if step <= peak:
            return _cosine(FIRST, 1, step / peak if peak else 1)
        return _cosine(1, LAST, (step - peak) / (steps - 1 - peak))
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    passed = (step - rising) / (steps - rising)
    return 1 - passed if schedule == "linear" else _cosine(1, 0, passed)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
