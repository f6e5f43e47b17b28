"""What a result must beat: the class shares alone, the stratum alone, and logistic regression on k-mers.

Each baseline gives probabilities (n, classes) for the n rows of a task, fitted on its training rows only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

import embedcache
from embedcache.store import Store
from heads.features import ArrayRows
from heads.labels import Codes
from heads.logistic import Doubles
from heads.selection import Grid, Labelled, SelectMetric, fit_and_select
from heads.splits import TRAIN, VAL
from heads.task import Task

KMER_ENCODERS = {"dna": "kmer:4", "protein": "kmer:2:protein"}
_ENCODED_AT_ONCE = 4096


@dataclass(frozen=True)
class Baseline:
    """Probabilities (n, classes) of the rows of a task under a name for the table."""

    name: str
    probabilities: Doubles


def prior(task: Task) -> Baseline:
    """Every row gets the class shares of train."""
    shares = _shares(task.labels[task.part(TRAIN)], len(task.classes))
    return Baseline("prior only", np.tile(shares, (len(task.rows), 1)))


def stratum(task: Task, strata: Codes) -> Baseline:
    """Every row gets the class shares of its stratum in train; a stratum unseen there the shares of train.

    One row's worth of the overall shares is added to each stratum, so that no share is exactly 0 or 1.
    """
    classes = len(task.classes)
    train = task.part(TRAIN)
    shares = _shares(task.labels[train], classes)
    numbers = strata - strata.min()  # rows without a stratum (-1) form one of their own
    count = int(numbers.max()) + 1
    counts = np.bincount(numbers[train] * classes + task.labels[train], minlength=count * classes)
    table = counts.reshape(count, classes) + shares
    return Baseline("stratum only", (table / table.sum(1, keepdims=True))[numbers])


def _shares(labels: Codes, classes: int) -> Doubles:
    return np.asarray(np.bincount(labels, minlength=classes) / len(labels), np.float64)


def why_no_kmers(store: Store, rows: int, memory_bytes: int) -> str | None:
    """Return why the k-mer baseline cannot stand beside a head on this store, None where it can."""
    encoder = store.attrs["encoder"]
    kmers = KMER_ENCODERS.get(encoder.get("alphabet", ""))
    if kmers is None:
        return "the records of this store are not DNA or protein"
    if encoder["name"] == kmers:
        return f"the features are {kmers} themselves"
    if "sequence" not in store.column_names:
        return "the store keeps no sequences (extracted with --drop-sequence)"
    if 4 * rows * embedcache.load_encoder(kmers).hidden > memory_bytes:
        return f"the k-mers of {rows:,} rows do not fit --memory"
    return None


def kmers(
    store: Store,
    task: Task,
    select: SelectMetric,
    *,
    device: torch.device | str,
    memory_bytes: int,
    progress: Callable[[int], None] | None = None,
) -> Baseline:
    """Logistic regression on the k-mer frequencies of the sequences, by the default grid; `progress` is told rows done."""
    name = KMER_ENCODERS[store.attrs["encoder"]["alphabet"]]
    encoder = embedcache.load_encoder(name)
    sequences = store.column("sequence").take(pa.array(task.rows))
    features = np.empty((len(task.rows), encoder.hidden), np.float32)
    for start in range(0, len(task.rows), _ENCODED_AT_ONCE):
        texts = sequences.slice(start, _ENCODED_AT_ONCE).combine_chunks()
        features[start : start + len(texts)] = encoder.encode(texts)
        if progress is not None:
            progress(len(texts))
    source = ArrayRows(features)
    train, val = (Labelled(task.part(part), task.labels[task.part(part)]) for part in (TRAIN, VAL))
    selection = fit_and_select(
        source, train, val, len(task.classes), Grid(select=select), device=device, memory_bytes=memory_bytes
    )
    return Baseline(f"{name} lr", selection.model.probabilities(source, np.arange(len(task.rows)), device))
