"""Values of a JSON file, taken only where they have the type and the size that they must have.

Python's JSON reader also gives NaN and Infinity, and to Python True is a number: neither is one here.
"""

from __future__ import annotations

import math
from typing import Any


def number(value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number from `low` to `high`; raises TypeError or ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not (math.isfinite(found) and low <= found <= high):
        raise ValueError(f"a number is not from {low:g} to {high:g}")
    return found


def whole(value: Any, count: int) -> int:
    """A whole number from 0 to `count` - 1; raises TypeError or ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    number(value, 0, count - 1)
    return value


def numbers(values: Any, low: float = -math.inf, high: float = math.inf, count: int | None = None) -> tuple[float, ...]:
    """A list of finite numbers from `low` to `high`, `count` of them; raises TypeError or ValueError else."""
    found = tuple(number(value, low, high) for value in array(values))
    if count is not None and len(found) != count:
        raise ValueError(f"there are {len(found)} values, not {count}")
    return found


def array(values: Any) -> list[Any]:
    """A list; raises TypeError for anything else."""
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is not a list")
    return values


def mapping(values: Any, *keys: str) -> dict[str, Any]:
    """An object with exactly the given keys, or any where none are given; raises TypeError or KeyError else."""
    if not isinstance(values, dict):
        raise TypeError(f"{values!r} is not an object")
    if keys and set(values) != set(keys):
        raise KeyError(f"the fields are {', '.join(map(str, values))}, not {', '.join(keys)}")
    return values


def text(value: Any) -> str:
    """A text; raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value
