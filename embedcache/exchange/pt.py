"""``.pt`` files: the layouts of the scripts that people have, and the merged one written again.

    {'ids': [id], 'data': Tensor (N, D), 'labels': [one value for the file, or N]}
    {'nucleotide': [id], 'data': [{'label': id, 'mean_representation': [D values]}]}
    {'proteins': [id], 'data': [Tensor (D,) or (L, D)]}
    Tensor (N, D), with --ids

They are unpickled by torch with ``weights_only=True``, which admits tensors and plain values and nothing else.
"""

from __future__ import annotations

import pickle
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from embedcache.counted import counted
from embedcache.exchange.embeddings import LABEL, Matrix, OneArrayEach, Reading, Values, id_table, with_columns
from embedcache.exchange.selection import Selection
from embedcache.records import ID
from embedcache.sources.files import InputFile

_LAYOUTS = "{'ids', 'data': Tensor}, {'nucleotide', 'data'}, {'proteins', 'data'}, or one Tensor"


def open_pt(file: InputFile, reading: Reading) -> Matrix | OneArrayEach:
    """Open a ``.pt`` file of one of the layouts above; tensors are mapped, not read.

    Raises
    ------
    InputError : the file holds anything but tensors and plain values, is damaged, or has another layout.
    """
    held = _load(file)
    if isinstance(held, torch.Tensor):
        return _tensor(file, held, None)
    if not isinstance(held, dict):
        raise file.error(f"it holds a {type(held).__name__}; read are {_LAYOUTS}")
    if reading.key is not None:
        if not isinstance(held.get(reading.key), torch.Tensor):
            raise file.error(f"--key {reading.key} names no tensor in it; its keys are {_keys(held)}")
        ids = _ids(file, held["ids"]) if "ids" in held else None
        return _tensor(file, held[reading.key], ids)
    if "data" in held and "ids" in held:
        rows = _ids(file, held["ids"])
        return _tensor(file, held["data"], _with_labels(file, rows, held.get("labels")))
    if "data" in held and "nucleotide" in held:
        return _dictionaries(file, _ids(file, held["nucleotide"]), held["data"])
    if "data" in held and "proteins" in held:
        return _listed(file, _with_labels(file, _ids(file, held["proteins"]), held.get("labels")), held["data"])
    raise file.error(f"it is a dictionary of {_keys(held)}; read are {_LAYOUTS}")


def _load(file: InputFile) -> Any:
    zipped = zipfile.is_zipfile(file.path)
    try:
        return torch.load(file.path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:
        what = "it holds" if zipped else "it is no .pt file, or holds"
        raise file.error(
            f"{what} Python objects beside tensors, lists, text and numbers. Such a file can run code while it is read, so "
            f"it is refused: save {_LAYOUTS}"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise file.error(f"the file is cut off or damaged ({what[:100]})") from None


def _keys(held: dict[Any, Any]) -> str:
    return ", ".join(map(repr, list(held)[:8])) or "nothing"


def _ids(file: InputFile, ids: Any) -> pa.Table:
    if not isinstance(ids, list | tuple) or not ids:
        raise file.error("its ids are no list, or an empty one: each vector needs one id")
    return id_table(file, ids)


def _with_labels(file: InputFile, rows: pa.Table, labels: Any) -> pa.Table:
    """Add the labels: one for each record, or one value for the whole file."""
    if labels is None:
        return rows
    values = labels.tolist() if isinstance(labels, torch.Tensor) else labels
    values = list(values) if isinstance(values, list | tuple) else [values]
    if len(values) == 1:
        values = values * len(rows)
    if len(values) != len(rows):
        raise file.error(
            f"it has {counted(len(values), 'label')} for {counted(len(rows), 'id')}: one for each is expected, or "
            "one for all"
        )
    if not all(isinstance(value, str | int | float | None) for value in values):
        raise file.error("its labels are neither numbers nor text")
    try:
        column = pa.array(values)
    except (pa.ArrowException, OverflowError):
        column = pa.array([None if value is None else str(value) for value in values])
    return with_columns(rows, {LABEL: column})


def _tensor(file: InputFile, data: Any, rows: pa.Table | None) -> Matrix:
    if not isinstance(data, torch.Tensor) or data.layout != torch.strided:
        raise file.error(f"'data' is a {type(data).__name__}, not a dense Tensor (N, D); read are {_LAYOUTS}")
    return Matrix(file, data, _dtype(data), rows, lambda whole, start, stop: _array(whole[start:stop]))


def _dictionaries(file: InputFile, rows: pa.Table, data: Any) -> OneArrayEach:
    """The DNA part: its labels repeat the ids, so a shifted row shows."""
    _check_count(file, rows, data)
    ids = rows.column(ID).to_pylist()
    vectors = []
    for row, (name, entry) in enumerate(zip(ids, data, strict=True)):
        if not isinstance(entry, dict) or "mean_representation" not in entry:
            raise file.error(f"record {row + 1:,} of 'data' has no 'mean_representation'")
        if str(entry.get("label", name)) != name:
            raise file.error(
                f"record {row + 1:,} of 'data' is labelled {entry['label']!r}, the id there is {name!r}: the rows are "
                "shifted against the ids, make the file anew"
            )
        vectors.append(entry["mean_representation"])
    return _listed(file, rows, vectors)


def _listed(file: InputFile, rows: pa.Table, data: Any) -> OneArrayEach:
    _check_count(file, rows, data)
    tensors = [_as_tensor(file, name, one) for name, one in zip(rows.column(ID).to_pylist(), data, strict=True)]
    shapes, dtypes = [tuple(one.shape) for one in tensors], [_dtype(one) for one in tensors]
    return OneArrayEach(file, rows, shapes, dtypes, lambda start, stop: [_array(one) for one in tensors[start:stop]])


def _as_tensor(file: InputFile, name: str, one: Any) -> torch.Tensor:
    if isinstance(one, torch.Tensor):
        return one
    try:
        return torch.tensor(one, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise file.error(f"the vector of {name!r} is neither a tensor nor a list of numbers") from None


def _check_count(file: InputFile, rows: pa.Table, data: Any) -> None:
    if not isinstance(data, Sequence):
        raise file.error(f"'data' is a {type(data).__name__}, not a list with one entry for each id")
    if len(data) != len(rows):
        raise file.error(
            f"it has {counted(len(rows), 'id')} for {counted(len(data), 'vector')}; each vector needs one id"
        )


def _dtype(tensor: torch.Tensor) -> np.dtype[np.generic]:
    if tensor.dtype == torch.bfloat16:  # numpy has none
        return np.dtype(np.float32)
    return torch.empty(0, dtype=tensor.dtype).numpy().dtype


def _array(tensor: torch.Tensor) -> Values:
    tensor = tensor.detach()
    array: Values = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def write_pt(selection: Selection, file: Path) -> None:
    """Write the merged layout; 'labels' is the column label, one value where all are the same, and absent without one.

    The tensor is put together in a temporary file, mapped, and written from there, so that it needs no memory.
    """
    ids = selection.ids()
    held: dict[str, Any] = {"ids": ids}
    with tempfile.TemporaryFile(dir=file.parent) as spooled:
        for block in selection.blocks():
            spooled.write(block.data)
        spooled.flush()
        held["data"] = torch.from_numpy(np.memmap(spooled, selection.dtype, "r+", shape=(len(ids), selection.dim)))
        if LABEL in selection.store.column_names:
            labels = selection.store.column(LABEL).to_pylist()
            held["labels"] = labels[:1] if len(set(labels)) == 1 else labels
        torch.save(held, file)
