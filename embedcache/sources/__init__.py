"""Where records come from: FASTA and tables now, read as a stream of Arrow batches."""

from __future__ import annotations

from embedcache.sources.inputs import Records, open_source

__all__ = ["Records", "open_source"]
