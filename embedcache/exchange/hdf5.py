"""HDF5 as bio_embeddings, biotrainer and UniProt write it: one dataset a sequence, (D,), or (L, D) by residue.

A dataset is called by a running number (bio_embeddings), a hash of its sequence (biotrainer) or the id itself (UniProt);
the attribute ``original_id`` has the id where it is called otherwise. One dataset (N, D) beside one of ids is read as well.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from embedcache.exchange.embeddings import Matrix, OneArrayEach, Reading, Values, id_table
from embedcache.exchange.npz import IDS, MATRICES
from embedcache.exchange.selection import Selection
from embedcache.records import SEQUENCE
from embedcache.sources.files import InputFile

ORIGINAL_ID = "original_id"


def open_hdf5(file: InputFile, reading: Reading) -> Matrix | OneArrayEach:
    """Open an HDF5 file; vectors are read when they are asked for.

    Raises
    ------
    InputError : the file is damaged, has datasets inside groups or links to other files, or shapes that do not go
        together.
    """
    opened = open_file(file)
    names = sorted(opened, key=lambda name: (0, int(name), "") if name.isdigit() else (1, 0, name))
    if not names:
        raise file.error("the file holds no datasets")
    datasets = [_dataset(file, opened, name) for name in names]
    key = reading.key or next((name for name in MATRICES if name in names and opened[name].ndim == 2), None)
    if key is not None and (reading.key or any(name in names for name in IDS) or len(names) == 1):
        return _matrix(file, opened, key)
    ids = [_text(one.attrs.get(ORIGINAL_ID, name)) for name, one in zip(names, datasets, strict=True)]
    return OneArrayEach(
        file,
        id_table(file, ids),
        [one.shape for one in datasets],
        [one.dtype for one in datasets],
        lambda start, stop: [_read(file, one, ()) for one in datasets[start:stop]],
    )


def open_file(file: InputFile) -> h5py.File:
    """Open an HDF5 file for reading; raises `InputError` where it is damaged or none."""
    try:
        return h5py.File(file.path, "r")
    except OSError as error:
        what = "the file was cut off" if "truncated" in str(error) else "this is no HDF5 file, or it is damaged"
        raise file.error(f"{what}; copy or download it again") from None


def _dataset(file: InputFile, opened: h5py.File, name: str) -> h5py.Dataset:
    if isinstance(opened.get(name, getlink=True), h5py.ExternalLink):
        raise file.error(f"{name!r} is a link to another file, which is not followed: name that file itself")
    try:
        found = opened[name]
    except (KeyError, OSError, RuntimeError):
        raise file.error(f"{name!r} is damaged; copy or download the file again") from None
    if not isinstance(found, h5py.Dataset):
        raise file.error(f"{name!r} is a group: one dataset for each sequence is read, at the top of the file")
    if found.external or found.is_virtual:
        raise file.error(f"{name!r} keeps its values in another file, which is not read: name that file itself")
    return found


def _matrix(file: InputFile, opened: h5py.File, key: str) -> Matrix:
    if key not in opened:
        raise file.error(f"there is no dataset {key!r}, given with --key; it has {', '.join(list(opened)[:20])}")
    data = _dataset(file, opened, key)
    ids_of = next((name for name in IDS if name in opened and opened[name].shape == data.shape[:1]), None)
    columns: pa.Table | None = None
    if ids_of is not None:
        columns = id_table(file, [_text(name) for name in _read(file, opened[ids_of], ()).tolist()])
    return Matrix(file, data, data.dtype, columns, lambda whole, start, stop: _read(file, whole, slice(start, stop)))


def _read(file: InputFile, dataset: h5py.Dataset, part: Any) -> Values:
    try:
        return np.asarray(dataset[part])
    except (OSError, RuntimeError):
        raise file.error(f"the values of {dataset.name!r} are damaged; copy or download the file again") from None


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def write_hdf5(selection: Selection, file: Path) -> str:
    """Write one dataset a record as biotrainer does, (D,) or (L, D) each; returns what the datasets are called.

    They are called by biotrainer's hash of the sequence (sha256 of ``SEQUENCE_LENGTH``, `biotrainer.utilities.hashing`), or
    by the id where the store keeps no sequences or one of them twice; ``original_id`` always has the id.
    """
    names, called = _names(selection)
    with h5py.File(file, "w", libver="latest", track_order=False) as written:
        for name, (original, values) in zip(names, selection.records(), strict=True):
            written.create_dataset(name, data=values).attrs[ORIGINAL_ID] = original
    return called


def _names(selection: Selection) -> tuple[list[str], str]:
    if SEQUENCE in selection.store.column_names:
        sequences = selection.store.column(SEQUENCE).to_pylist()
        hashes = [hashlib.sha256(f"{sequence}_{len(sequence)}".encode()).hexdigest() for sequence in sequences]
        if len(set(hashes)) == len(hashes):
            return hashes, "by biotrainer's hash of the sequence"
        why = "sequences that occur twice have one hash"
    else:
        why = "the store keeps no sequences to hash"
    # a slash would begin a group, and a name of dots means a group as well
    names = [name.replace("/", "_") for name in selection.ids()]
    counts = Counter(names)
    if any(count > 1 for count in counts.values()) or any(not name.strip(".") for name in names):
        return [str(row) for row in range(len(names))], f"by number, because {why} and ids hold '/' or '.'"
    return names, f"by id, because {why}"
