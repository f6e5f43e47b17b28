"""Special tokens that are written out in a sequence, such as ``<mask>``, which published tokenizers recognise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedcache.sequences.alphabet import Letters


def pattern_of(words: Iterable[str]) -> re.Pattern[bytes]:
    """A pattern that finds these words."""
    return re.compile(b"|".join(re.escape(word.encode()) for word in words))


@dataclass(frozen=True)
class WrittenOut:
    """s special tokens in some sequences: the letter each begins with, the letter after its last, and its id, (s,)."""

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    ids: NDArray[np.int64]

    @classmethod
    def find(cls, letters: Letters, pattern: re.Pattern[bytes], id_of: Mapping[str, int]) -> WrittenOut:
        """All that a pattern finds within a sequence; what lies half in one and half in the next is none."""
        text = letters.bytes_.tobytes()
        found = [(match.start(), match.end(), id_of[match.group().decode()]) for match in pattern.finditer(text)]
        table = np.asarray(found, np.int64).reshape(-1, 3)
        owner = np.searchsorted(letters.offsets, table[:, :2] - [0, 1], "right")
        return cls(*table[owner[:, 0] == owner[:, 1]].T)

    def tails(self, letters: int) -> NDArray[np.bool_]:
        """Which letters belong to one of them without being its first, (letters,)."""
        depth = np.zeros(letters + 1, np.int8)
        depth[self.starts + 1] += 1
        depth[self.stops] -= 1
        return np.cumsum(depth[:-1], dtype=np.int8) > 0
