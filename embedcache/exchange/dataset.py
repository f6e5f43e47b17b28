"""A store as a dataset for torch's loaders.

Axes: B samples of a batch, L tokens, D values.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset, default_collate

from embedcache.exchange.embeddings import Values
from embedcache.exchange.selection import select
from embedcache.storage.store import Store, open_store

EMBEDDING = "embedding"
MASK = "mask"
Sample = dict[str, Any]


class StoreDataset(Dataset[Sample]):
    """Map-style: a sample is ``{"embedding": tensor, column: value, ...}``; a batch is fetched with one gathered reading.

    A process that got it from another, by fork or by pickle, opens the files anew.
    """

    def __init__(self, store: Store, columns: Sequence[str] = (), blocks: Sequence[str] = ()) -> None:
        selection = select(store, blocks=blocks, columns=columns)
        self.per_token = store.per_token
        self._path, self._features = store.path.absolute(), selection.features
        self._columns = {name: _values(store.column(name)) for name in columns}
        self._length = len(store)
        self._store, self._process = store, os.getpid()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> Sample:
        """One sample; raises IndexError for a row that is not there."""
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[Sample]:
        """Several samples; loaders call this with the rows of a batch."""
        store = self._opened()
        embeddings: Any
        if self.per_token:
            embeddings = [_tensor(store[row][:, self._features]) for row in rows]
        else:
            embeddings = _tensor(store.take(rows)[:, self._features])
        return [
            {EMBEDDING: embedding, **{name: _plain(column[row]) for name, column in self._columns.items()}}
            for row, embedding in zip(rows, embeddings, strict=True)
        ]

    def collate(self, samples: Sequence[Sample]) -> Sample:
        """Put samples into a batch: embeddings (B, D); or, where every token is kept, (B, L, D) filled up with zeros beside
        ``mask`` (B, L), true where there is a token."""
        if not self.per_token:
            batch: Sample = default_collate(list(samples))
            return batch
        tokens = [sample[EMBEDDING] for sample in samples]
        lengths = torch.tensor([len(one) for one in tokens])
        others = default_collate([{key: sample[key] for key in sample if key != EMBEDDING} for sample in samples])
        padded_BLD = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        mask_BL = torch.arange(padded_BLD.shape[1]) < lengths[:, None]
        return {EMBEDDING: padded_BLD, MASK: mask_BL, **others}

    def _opened(self) -> Store:
        if self._process != os.getpid():
            self._store, self._process = open_store(self._path), os.getpid()
        return self._store

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_store": None, "_process": None}


def _tensor(values: Values) -> torch.Tensor:
    return torch.from_numpy(np.array(values))  # a copy: what is mapped cannot be written to


def _values(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """A column as numbers, or as numpy's strings, which forked workers share without copying them."""
    kind = column.type
    if pa.types.is_boolean(kind) and not column.null_count:
        return np.asarray(column.to_numpy(), np.bool_)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return np.asarray(column.cast(pa.float64()).to_numpy() if column.null_count else column.to_numpy())
    return np.array(["" if value is None else str(value) for value in column.to_pylist()], np.dtypes.StringDType())


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
