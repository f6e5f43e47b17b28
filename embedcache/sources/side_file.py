"""A file beside the input that decides what becomes of it, and that a store remembers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SideFile:
    """A file that was read: its path, and the sha256 of its bytes."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: str | Path) -> SideFile:
        """Take the digest of a file that is there."""
        return cls(str(path), hashlib.sha256(Path(path).read_bytes()).hexdigest())
