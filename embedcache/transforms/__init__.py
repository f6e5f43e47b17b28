"""What is done to records before they are encoded: windows, the other strand, translation. Each is a source around one."""

from __future__ import annotations

from embedcache.transforms.applying import transformed

__all__ = ["transformed"]
