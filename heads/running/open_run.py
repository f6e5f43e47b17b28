"""A finished run, read back: its heads, the columns they were trained on, and which rows trained, tuned and judged them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from embedcache.errors import HeadError
from heads.data.features import Rows, RowSource
from heads.data.target import Doubles
from heads.deciding.rearrangement import rearrange
from heads.running.runs import ENCODER, MANIFEST, MODEL, PREDICTIONS
from heads.saving import saved
from heads.saving.saved import HeadCard, SavedHead
from heads.splitting.task import GROUP, NONE, SPLIT, Columns

_ROWS = pa.schema({"row": pa.int64(), "id": pa.string(), "split": pa.string(), "digest": pa.binary(16)})


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    heads: tuple[SavedHead, ...]
    """One, or one of each fold, whose outputs are averaged."""
    columns: Columns
    """The columns of the training."""
    rows_digest: str
    """Of the store of the training (see `heads.running.runs.rows_digest`)."""
    folders: tuple[str, ...] = ("",)
    """Of each fold of a fine-tuning within `path`: a run of its own."""

    @property
    def card(self) -> HeadCard:
        """What the heads expect and give, the same for all but for the features, where each has its own encoder."""
        return self.heads[0].card

    @property
    def first(self) -> SavedHead:
        """The head, or that of the first fold; decisions and profile are the same for all."""
        return self.heads[0]

    @property
    def one_encoder(self) -> bool:
        """Whether all heads read the same features: those of folds of a fine-tuning have an encoder each."""
        return all(head.card.fingerprint == self.card.fingerprint for head in self.heads)

    def outputs(self, source: RowSource, rows: Rows, device: torch.device | str) -> Doubles:
        """Outputs (n, outputs) of rows of features as they are stored, the mean of all heads, which have one encoder."""
        return self.outputs_of([source] * len(self.heads), rows, device)

    def outputs_of(self, sources: Sequence[RowSource], rows: Rows, device: torch.device | str) -> Doubles:
        """The same where each head has a source of its own."""
        found = [head.outputs(own, rows, device) for head, own in zip(self.heads, sources, strict=True)]
        mean = np.mean(found, axis=0)
        return rearrange(mean) if len(self.first.head.quantiles) > 1 else mean

    def encoder_of(self, head: int) -> Path | None:
        """The folder of the encoder that was trained with a head; None for runs that left it as it was."""
        folder = self.path / self.folders[head] / ENCODER
        return folder if (folder / "config.json").exists() else None

    @property
    def of_one_fold(self) -> str:
        """What names the run of one fold, in the words of a message; empty where folds have none."""
        folder = self.path / self.folders[0]
        return f", such as {folder}" if folder != self.path and (folder / MANIFEST).exists() else ""

    def check_one_encoder(self, instead: str) -> None:
        """Raise HeadError, with a way out, where each fold has an encoder of its own."""
        if not self.one_encoder:
            raise HeadError(
                f"{self.path} has an encoder for each of its {len(self.heads)} folds, and no store has the features of all: "
                f"{instead}, or name the run of one fold{self.of_one_fold}"
            )

    @property
    def split_column(self) -> str:
        """Column that names the split of each row of a store; a plan names none."""
        split = self.columns.split
        return SPLIT if split in (None, NONE) or ":" in str(split) else str(split)

    @property
    def group_column(self) -> str | None:
        """Column of the groups that the bootstrap draws; None where the training was told to use none."""
        return None if self.columns.group == NONE else self.columns.group or GROUP

    @cached_property
    def rows(self) -> pa.Table:
        """Row, id, split and sequence digest of all rows that took part; raises HeadError where the run does not say."""
        file = self.path / PREDICTIONS
        try:
            return pq.read_table(file, columns=_ROWS.names).select(_ROWS.names).cast(_ROWS)
        except FileNotFoundError:
            raise HeadError(f"{file} is missing: it says which rows trained the head") from None
        except (OSError, pa.ArrowException, KeyError, ValueError):
            raise HeadError(f"{file} is damaged: it does not say which rows trained the head") from None

    def rows_of(self, split: str, store_rows: int) -> Rows:
        """Rows of one split of the training, in its own store of `store_rows` rows."""
        rows = self.rows["row"].filter(pc.equal(self.rows["split"], split)).to_numpy()
        if len(rows) and not (rows.min() >= 0 and rows.max() < store_rows):
            raise HeadError(f"{self.path / PREDICTIONS} is damaged: it names rows that the store does not have")
        return np.asarray(rows, np.int64)

    def seen(self, ids: pa.ChunkedArray, digests: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which records, given by id and sequence digest, trained or tuned the head; of folds all that took part."""
        used = self.rows.filter(pc.not_equal(self.rows["split"], "test"))
        known = pc.is_in(_keys(ids, digests), _keys(used["id"], used["digest"]))
        return np.asarray(known.to_numpy(), np.bool_)


def _keys(ids: pa.ChunkedArray, digests: pa.ChunkedArray) -> pa.ChunkedArray:
    # the digest has a fixed width, so the two run together without doubt where one ends; without one the id decides
    known = pc.fill_null(digests.cast(pa.binary()), bytes(16))
    return pc.binary_join_element_wise(known, ids.cast(pa.binary()), b"")


def open_run(path: Path) -> Run:
    """Read a run directory; raises HeadError where it is not one or is damaged."""
    if not path.is_dir():
        raise HeadError(f"there is no run directory {path}; `heads train` makes one")
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        columns, digest = Columns(**manifest["args"]["columns"]), manifest["store_rows_digest"]
        if not isinstance(digest, str) or not all(isinstance(name, str | None) for name in vars(columns).values()):
            raise TypeError("a field of the manifest has the wrong type")
    except (OSError, ValueError, KeyError, TypeError):
        raise HeadError(f"{path} is not a run directory: {MANIFEST} is missing or damaged") from None
    folders = sorted(file.parent for file in (path / MODEL).glob(f"*/{saved.CARD}")) or [path / MODEL]
    if (path / MODEL / saved.CARD).exists():
        folders = [path / MODEL]
    heads = tuple(saved.load(folder) for folder in folders)
    names = tuple("" if folder == path / MODEL else folder.name for folder in folders)
    run = Run(path, heads, columns, digest, names)
    if any(_without_encoder(head.card) != _without_encoder(run.card) for head in heads):
        raise HeadError(f"{path / MODEL} is damaged: the heads of its folds do not fit each other")
    if not run.one_encoder and any(run.encoder_of(head) is None for head in range(len(heads))):
        raise HeadError(f"{path} is damaged: the heads of its folds have an encoder each, and not all are there")
    return run


def _without_encoder(card: HeadCard) -> HeadCard:
    return replace(card, fingerprint="", encoder={})
