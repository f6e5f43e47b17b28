"""Sequences in, embeddings on disk: frozen encoders run once into chunked Zarr stores.

Two calls open the whole package; both import what they need only when they are used::

    encoder = embedcache.load_encoder("kmer:4")      # or an alias, a hub id, a directory
    store = embedcache.open_store("reads.zarr")      # store[i], .take(), .read(), .embeddings; .ids, .rows, .blocks, .attrs
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedcache.encoders import load_encoder
    from embedcache.storage.store import open_store

__version__ = "0.1.0"
__all__ = ["__version__", "load_encoder", "open_store"]


def __getattr__(name: str) -> Any:
    if name == "load_encoder":
        from embedcache.encoders import load_encoder

        return load_encoder
    if name == "open_store":
        from embedcache.storage.store import open_store

        return open_store
    raise AttributeError(f"module 'embedcache' has no attribute '{name}'")
