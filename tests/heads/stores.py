"""Small finished stores with made-up features, for the tests of heads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedcache.storage.commit import StoreWriter, create_store
from embedcache.storage.store import Commit, Layout

SHARD_ROWS = 1024
ROWS = 1500
"""Rows of `planted`."""


def write_store(
    path: Path,
    values_ND: npt.NDArray[np.floating],
    columns: Mapping[str, Any],
    *,
    encoder: str = "made-up",
    alphabet: str = "dna",
    meaningless: bool = False,
    quarantined: tuple[int, ...] = (),
) -> Path:
    """Write features and their metadata columns as a finished store; by default each row of features is a sequence."""
    rows, dim = values_ND.shape
    layout = Layout(rows, dim, str(values_ND.dtype), SHARD_ROWS)
    attributes = {
        "format": "embedcache",
        "format_version": 1,
        "fingerprint": f"fingerprint-of-{encoder}",
        "encoder": {"name": encoder, "alphabet": alphabet, "meaningless": meaningless, "token_limit": 512},
        "blocks": [{"name": "layer0.mean", "start": 0, "stop": dim}],
        "overlong": "window",
    }
    create_store(path, layout, attributes)
    digests = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in values_ND]
    usual = {
        "row": np.arange(rows),
        "id": [f"r{i}" for i in range(rows)],
        "digest": pa.array(digests, pa.binary(16)),
        "rc_digest": pa.nulls(rows, pa.binary(16)),
    }
    table = pa.table(usual | dict(columns))
    writer = StoreWriter(path)
    for shard in range(layout.shards):
        start, stop = layout.bounds(shard)
        aside = [row for row in quarantined if start <= row < stop]
        commit = Commit(shard, stop - start, "", "", 0, "", 0, "", quarantined=aside)
        with writer.locked(shard):
            writer.write_shard(values_ND[start:stop], table.slice(start, stop - start), commit)
    return path


def planted(rows: int = ROWS, dim: int = 24, classes: int = 2, seed: int = 0) -> tuple[Any, Any]:
    """Return float16 features (N, D) with means far from zero, and class codes (N,) that depend on them."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((dim, dim)) * np.arange(1, dim + 1) ** -0.7
    values = rng.standard_normal((rows, dim)) @ mixing
    scores = values @ rng.standard_normal((dim, classes))
    scores = scores / scores.std(0) + rng.gumbel(size=(rows, classes)) - np.arange(classes)
    return (values + rng.normal(0, 5, dim)).astype(np.float16), scores.argmax(1)
