"""Baselines of several trainings, such as the runs of a sweep: fitted once for the same rows, labels and split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from embedcache.sequences.alphabet import Letters
from embedcache.storage.store import Store
from heads.baselines.fit_baselines import Baseline, Task, baselines
from heads.data.features import MEMORY_BYTES
from heads.fitting import Progress, say_nothing
from heads.splitting.splits import TRAIN, VAL

COMPOSITIONS = ("kmer:", "onehot:")
"""How the encoders begin whose features a baseline may be fitted on; beside a regression on them it is left out."""


class FitBaselines(Protocol):
    """Fits baselines as `heads.baselines.fit_baselines.baselines` does."""

    def __call__(
        self,
        store: Store,
        task: Task,
        *,
        kind: str = "lr",
        device: torch.device | str = "cpu",
        memory_bytes: int = MEMORY_BYTES,
        progress: Progress = say_nothing,
    ) -> tuple[list[Baseline], list[str]]: ...


class SharedBaselines:
    """Fits baselines, and gives them again where all that they depend on is the same.

    Of those whose outputs take more than the memory of a fit, the oldest are let go.
    """

    def __init__(self) -> None:
        self._fitted: dict[bytes, tuple[list[Baseline], list[str]]] = {}

    def __call__(
        self,
        store: Store,
        task: Task,
        *,
        kind: str = "lr",
        device: torch.device | str = "cpu",
        memory_bytes: int = MEMORY_BYTES,
        progress: Progress = say_nothing,
    ) -> tuple[list[Baseline], list[str]]:
        key = _digest(store, task, kind, device, memory_bytes)
        if key not in self._fitted:
            found = baselines(store, task, kind=kind, device=device, memory_bytes=memory_bytes, progress=progress)
            self._fitted[key] = found
            while len(self._fitted) > 1 and self._bytes > memory_bytes:
                del self._fitted[next(iter(self._fitted))]
        return self._fitted[key]

    @property
    def _bytes(self) -> int:
        return sum(baseline.outputs.nbytes for found, _ in self._fitted.values() for baseline in found)


def _digest(store: Store, task: Task, kind: str, device: torch.device | str, memory_bytes: int) -> bytes:
    """Hash of all that fitted baselines depend on; the sequences are read once for it, which costs little beside a fit."""
    encoder, strata = store.attrs["encoder"], task.strata
    beside_itself = kind in ("lr", "ridge") and str(encoder["name"]).startswith(COMPOSITIONS)
    words = {
        "alphabet": encoder.get("alphabet"),
        "left out": encoder["name"] if beside_itself else None,
        "device": str(device),
        "memory": memory_bytes,
        "target": [task.target.kind, *map(str, task.target.names)],
        "strata": None if strata is None else [strata.column, *strata.names],
    }
    total = hashlib.blake2b(json.dumps(words).encode())
    for array in _arrays(store, task):
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).reshape(-1).data)
    return total.digest()


def _arrays(store: Store, task: Task) -> Iterator[npt.NDArray[np.generic]]:
    none = np.empty(0)
    yield task.rows
    yield none if task.strata is None else task.strata.codes
    for part in (TRAIN, VAL):
        examples = task.examples(part)
        yield task.part(part)
        yield examples.target.values
        yield none if examples.weights is None else examples.weights
        yield none if examples.groups is None else examples.groups
    if "sequence" in store.column_names:
        for sequences in store.sequences(task.rows):
            letters = Letters.of(sequences)
            yield letters.lengths
            yield letters.bytes_
