"""A number and what it counts, as people write them."""

from __future__ import annotations


def counted(number: int, one: str, several: str | None = None) -> str:
    """``1 row``, ``2,500 rows``; of words that do not end in s for several, or go on with a verb, `several` are those."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def counted_of(part: int, whole: int, one: str) -> str:
    """``2 of 3 shards are``, ``1 of 3 shards is``, ``0 of 1 shard is``."""
    return f"{part:,} of {counted(whole, one)} {'is' if 1 in (part, whole) else 'are'}"
