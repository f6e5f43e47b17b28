"""Frozen encoders by name: `load_encoder` gives one from an alias, a hub id, a folder, ``kmer:K`` or ``onehot:L``.

`load_encoder` is imported when it is first used, so that the registry can be read without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedcache.encoders.loading import load_encoder

__all__ = ["load_encoder"]


def __getattr__(name: str) -> Any:
    if name == "load_encoder":
        from embedcache.encoders.loading import load_encoder

        return load_encoder
    raise AttributeError(f"module 'embedcache.encoders' has no attribute '{name}'")
