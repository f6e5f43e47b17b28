"""What the row of a record was encoded from, as 16 bytes: rows of equal keys and equal fingerprints have equal values.

The key is the digest of the sequence, and with it the places that are looked at. Where a sequence and its reverse complement
have the same values, it is the digest of both.

Axes: n records; K entries of a table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.sequences.positions import read_positions
from embedcache.sequences.views import GIVEN, Scope

Keys = NDArray[np.uint64]
"""(n, 2): the two halves of each key."""
Rows = NDArray[np.int64]
UNKNOWN = -1
_AT = "at:"


@dataclass(frozen=True)
class KeyForm:
    """What of a record its key is made of."""

    looked_at: tuple[str, ...]
    """Columns of the places that poolings look at."""
    scope: Scope
    one_based: bool

    @classmethod
    def of(cls, poolings: Iterable[str | None], scope: Scope, one_based: bool) -> KeyForm:
        """The form for an encoding with these poolings."""
        columns = [how.removeprefix(_AT) for how in poolings if how and how.startswith(_AT)]
        return cls(tuple(dict.fromkeys(columns)), scope, one_based)

    @classmethod
    def of_store(cls, attributes: Mapping[str, Any]) -> KeyForm:
        """The form for a store with these attributes."""
        poolings = [block.get("pooling") for block in attributes["blocks"]]
        return cls.of(poolings, Scope.from_dict(attributes.get("scope")), bool(attributes.get("one_based")))

    @property
    def digest(self) -> str:
        """The column of digests that counts: that of both strands where they have the same values.

        Views and places are taken on the strand that is given, so there the reverse complement is something else.
        """
        either = self.scope.strands != GIVEN and not self.scope.views and not self.looked_at
        return "rc_digest" if either else "digest"

    @property
    def columns(self) -> list[str]:
        """The columns of a rows part that `keys_of_part` reads."""
        center = [self.scope.center] if self.scope.views and self.scope.center is not None else []
        return [self.digest, "length", *dict.fromkeys((*self.looked_at, *center))]

    def keys(
        self,
        digests_n: Sequence[bytes | None],
        positions: Mapping[str, NDArray[np.int64]],
        lengths_n: NDArray[np.int64],
    ) -> Keys:
        """The keys of n records from their digests, of the strand or strands that `digest` says."""
        found = [digest or bytes(16) for digest in digests_n]
        places = [positions[column] for column in self.looked_at]
        if self.scope.views:
            center = self.scope.center
            places.append(lengths_n // 2 if center is None else positions[center])
        if places:
            each = np.ascontiguousarray(np.stack(places, axis=1).astype("<i8"))
            parts = zip(found, each, strict=True)
            found = [hashlib.blake2b(digest + at.tobytes(), digest_size=16).digest() for digest, at in parts]
        return np.frombuffer(b"".join(found), "<u8").reshape(-1, 2)

    def keys_of_part(self, part: pa.Table) -> Keys:
        """The keys of records of a store, from the columns above of their rows table."""
        lengths = np.asarray(part.column("length"), np.int64)
        positions = read_positions(part, self.looked_at, lengths, self.one_based)
        if self.scope.views and self.scope.center is not None:
            positions |= read_positions(part, (self.scope.center,), lengths + 1, self.one_based)
        return self.keys(part.column(self.digest).to_pylist(), positions, lengths)


@dataclass
class KeyTable:
    """Keys with a row each, sorted: 24 bytes an entry. Of keys that share their first half, the first one counts."""

    first_K: NDArray[np.uint64]
    rest_K: NDArray[np.uint64]
    rows_K: Rows

    @classmethod
    def of(cls, keys_n2: Keys, rows_n: Rows) -> KeyTable:
        """A table of n keys; of equal ones the first row is kept."""
        first_K, at = np.unique(keys_n2[:, 0], return_index=True)
        return cls(first_K, keys_n2[at, 1], rows_n[at])

    def __len__(self) -> int:
        return len(self.first_K)

    def places(self, keys_n2: Keys) -> Rows:
        """Where each key stands in the table, `UNKNOWN` where it does not."""
        if not len(self):
            return np.full(len(keys_n2), UNKNOWN, np.int64)
        at = np.minimum(np.searchsorted(self.first_K, keys_n2[:, 0]), len(self) - 1)
        return np.where((self.first_K[at] == keys_n2[:, 0]) & (self.rest_K[at] == keys_n2[:, 1]), at, UNKNOWN)

    def find(self, keys_n2: Keys) -> Rows:
        """The row of each key, `UNKNOWN` where there is none."""
        return np.append(self.rows_K, UNKNOWN)[self.places(keys_n2)]
