"""Where records come from: each input is read as a stream of Arrow batches."""

from __future__ import annotations

from embedcache.sources.inputs import Records, open_source
from embedcache.sources.opening import open_records

__all__ = ["Records", "open_records", "open_source"]
