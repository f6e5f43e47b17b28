"""Features binned for LightGBM: made once for a set of rows, kept as a file, and shared by every fit on these rows.

Finding the bins and sorting the values into them takes longer than a hundred trees (measured/heads.md, section 3: 8.3 s
for 45k x 2048, read again in 0.04 s). The file is found by what the features are: a digest of every value, so it serves
any label, weight, setting of the trees, run and process, and never another store, split or step.

One folder for each set of rows, which appears whole or not at all:

KEY/bins.bin    LightGBM's own binary format
KEY/bins.json   its checksum

LightGBM reads its format without much doubt, so a file is only handed to it that has its checksum and lies in a folder
that nobody else may write to; any other is made anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from heads.data.features import BLOCK_ROWS, Rows, RowSource, raw_blocks
from heads.fitting import Scalar

if TYPE_CHECKING:
    import lightgbm

DATA, CHECKSUM = "bins.bin", "bins.json"
SAMPLE_ROWS = 10_000
"""Rows that the borders of the bins are found from: with 63 bins each holds 160 of them. LightGBM holds them in float64."""
CACHE_BYTES = 20 << 30
"""Size of the cache; beyond it the sets that were not used for the longest time are removed."""


def cache_folder() -> Path:
    """Where binned features are kept: ``$XDG_CACHE_HOME/embedcache/binned``, by default under ``~/.cache``."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification has relative paths ignored
    return (Path(given) if Path(given).is_absolute() else Path.home() / ".cache") / "embedcache" / "binned"


@dataclass(frozen=True)
class Binned:
    """Rows as LightGBM sees them. Labels and weights are set on `dataset` for each fit."""

    dataset: lightgbm.Dataset
    key: str
    """Digest of the features, the rows, and how they are binned."""
    from_cache: bool
    notes: tuple[str, ...] = ()


def bin_rows(
    source: RowSource,
    rows: Rows,
    settings: Mapping[str, Scalar],
    *,
    cache: Path | None,
    like: Binned | None = None,
) -> Binned:
    """Bin the given rows, or read what was made of them before.

    Parameters
    ----------
    settings : LightGBM's parameters of a data set: `max_bin` and others
    cache : a folder, made where it is not there; None keeps nothing. One that cannot be written to gives a note.
    like : rows whose bins are taken, for validation rows
    """
    import lightgbm

    settings = {"bin_construct_sample_cnt": SAMPLE_ROWS, "feature_pre_filter": False, "verbosity": -1} | dict(settings)
    key = _key(source, rows, settings, like)
    reference = None if like is None else like.dataset
    parameters = settings | {"num_threads": torch.get_num_threads()}
    notes: list[str] = []
    folder = None if cache is None else cache / key
    if folder is not None and folder.exists():
        try:
            return Binned(_read(folder, parameters, reference, (len(rows), source.dim)), key, True)
        except (OSError, ValueError, KeyError, TypeError, lightgbm.basic.LightGBMError) as error:
            notes.append(f"the binned features in {folder} could not be used and were made anew ({error})")
    dataset = lightgbm.Dataset(
        _sequence(source, rows), np.zeros(len(rows), np.float32), reference=reference, params=parameters
    ).construct()
    if folder is not None:
        try:
            _write(folder, dataset)
            _remove_oldest(folder)
        except (OSError, lightgbm.basic.LightGBMError) as error:
            notes.append(
                f"the binned features could not be kept in {folder.parent} ({error}); the next run bins them again"
            )
    return Binned(dataset, key, False, tuple(notes))


def _key(source: RowSource, rows: Rows, settings: Mapping[str, Scalar], like: Binned | None) -> str:
    import lightgbm

    head = [lightgbm.__version__, dict(settings), len(rows), source.dim, str(source.dtype), like and like.key]
    digest = hashlib.blake2b(json.dumps(head, sort_keys=True).encode(), digest_size=16)
    for start in range(0, len(rows), BLOCK_ROWS):
        digest.update(np.ascontiguousarray(source.take(rows[start : start + BLOCK_ROWS])).data)
    return digest.hexdigest()


def _sequence(source: RowSource, rows: Rows) -> lightgbm.Sequence:
    """The rows as LightGBM reads them: single rows for the sample, in order, then blocks; never all at once."""
    import lightgbm

    class StoredRows(lightgbm.Sequence):  # type: ignore[misc]
        batch_size = BLOCK_ROWS

        def __init__(self) -> None:
            self._start = 0
            self._block_nD: npt.NDArray[np.floating] = np.empty((0, source.dim), np.float32)

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int | slice | list[int]) -> npt.NDArray[np.floating]:
            if isinstance(index, slice):
                return self._read(rows[index])
            if isinstance(index, list):
                return self._read(rows[index])
            if not self._start <= index < self._start + len(self._block_nD):
                self._start = index - index % BLOCK_ROWS
                self._block_nD = self._read(rows[self._start : self._start + BLOCK_ROWS])
            row_D: npt.NDArray[np.floating] = self._block_nD[index - self._start].astype(np.float64)
            return row_D

        def _read(self, some: Rows) -> npt.NDArray[np.floating]:
            block = next(raw_blocks(source, some, len(some)))
            return np.asarray(block.values_nD.numpy())

    return StoredRows()


def _read(
    folder: Path, parameters: Mapping[str, Scalar], reference: lightgbm.Dataset | None, shape: tuple[int, int]
) -> lightgbm.Dataset:
    import lightgbm

    for path in (folder, folder / DATA, folder / CHECKSUM):
        status = path.lstat()
        if (
            stat.S_ISLNK(status.st_mode)
            or status.st_uid != os.getuid()
            or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        ):
            raise ValueError(f"{path} may be written by others")
    if json.loads((folder / CHECKSUM).read_text())["blake2b"] != _checksum(folder / DATA):
        raise ValueError("it does not have its checksum")
    dataset = lightgbm.Dataset(str(folder / DATA), reference=reference, params=dict(parameters)).construct()
    if (dataset.num_data(), dataset.num_feature()) != shape:
        raise ValueError("it has other rows or features")
    os.utime(folder)  # used just now
    return dataset


def _write(folder: Path, dataset: lightgbm.Dataset) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))  # for its owner alone
    try:
        with redirect_stdout(io.StringIO()):  # where LightGBM says what it saves, however silent it was told to be
            dataset.save_binary(str(made / DATA))
        (made / CHECKSUM).write_text(json.dumps({"blake2b": _checksum(made / DATA)}) + "\n")
        for path in (made / DATA, made / CHECKSUM):
            path.chmod(0o600)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was first, with the same bytes
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _remove_oldest(folder: Path) -> None:
    """Remove the sets that were not used for the longest time, but the newest, until the cache has its size."""
    others = [other for other in folder.parent.iterdir() if (other / CHECKSUM).exists() and other != folder]
    used = (folder / DATA).stat().st_size
    for other in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        used += (other / DATA).stat().st_size
        if used > CACHE_BYTES:
            shutil.rmtree(other, ignore_errors=True)


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
