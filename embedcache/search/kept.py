"""An index of a store that is kept for the next search: beside the store, or in a cache where that is read-only.

    S.zarr/embeddings/index-ivf-cosine.faiss     the index as faiss writes it
    S.zarr/embeddings/index-ivf-cosine.json      what it was made of, and its size and checksum; written last

An index counts only if its record names the store as it is now, and its bytes have the recorded checksum: only then faiss
reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import google_crc32c

from embedcache.errors import StoreError
from embedcache.search.approximate import Approximate, ApproximateSearch
from embedcache.search.nearest import Metric
from embedcache.storage.commit import to_json, write_durably
from embedcache.storage.store import Store

FORMAT = 1
_BLOCK = 1 << 22


class KeptIndex:
    """The place and the record of one kind of index of a store."""

    def __init__(self, store: Store, kind: Approximate, metric: Metric) -> None:
        self.metric = metric
        self._name = f"index-{kind}-{metric}"
        self._made_of = {
            "format": FORMAT, "kind": kind, "metric": metric, "fingerprint": store.fingerprint, "store": store.identity,
            "faiss": faiss.__version__,
        }  # fmt: skip
        beside = store.path / "embeddings"
        place = hashlib.blake2b(store.origin.encode(), digest_size=16).hexdigest()
        self._folders = [beside if beside.is_dir() else store.path, cache_folder() / "indices" / place]

    def load(self) -> ApproximateSearch | None:
        """The index if one is kept that was made of the store as it is now, and is whole."""
        for folder in self._folders:
            file, record = folder / f"{self._name}.faiss", folder / f"{self._name}.json"
            try:
                said = json.loads(record.read_bytes())
                if said == self._made_of | checksum(file):
                    return ApproximateSearch.read(file, self.metric)
            except (OSError, ValueError, RuntimeError):
                continue
        return None

    def save(self, search: ApproximateSearch) -> Path:
        """Keep an index at the first place that can be written; raises `StoreError` where none can."""
        for folder in self._folders:
            try:
                return self._write(search, folder)
            except (OSError, RuntimeError, StoreError):
                continue
        places = " nor in ".join(map(str, self._folders))
        raise StoreError(
            f"the index can be kept neither in {places}: make room or permission there, or take --index exact"
        )

    def _write(self, search: ApproximateSearch, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        file, record = folder / f"{self._name}.faiss", folder / f"{self._name}.json"
        partial = file.with_name(f"{file.name}.partial-{os.getpid()}")
        try:
            partial.touch()  # faiss raises nothing that says what is wrong
            search.write(partial)
            record.unlink(missing_ok=True)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
        write_durably(record, [to_json(self._made_of | checksum(file))])
        return file


def checksum(file: Path) -> dict[str, Any]:
    """Size and crc32c of a file."""
    value, size = 0, 0
    for block in _blocks(file):
        value, size = google_crc32c.extend(value, block), size + len(block)
    return {"bytes": size, "crc32c": f"{value:08x}"}


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block


def cache_folder() -> Path:
    """Where this user's caches lie, after the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embedcache"
