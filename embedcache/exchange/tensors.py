"""``.safetensors``: one tensor (N, D), mapped; the ids lie in a text file beside it, one a line."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from embedcache.exchange.embeddings import Matrix, Reading, Values
from embedcache.exchange.npy import write_ids
from embedcache.exchange.npz import MATRICES
from embedcache.exchange.selection import Selection
from embedcache.sources.files import InputFile


class _Sliced:
    """A tensor that stays in its file."""

    def __init__(self, file: InputFile, key: str) -> None:
        opened: Any = safe_open(file.path, "pt")
        self._slice = opened.get_slice(key)
        self.shape = tuple(self._slice.get_shape())
        first: torch.Tensor = self._slice[:0] if len(self.shape) else torch.empty(0)
        self.half = first.dtype == torch.float16
        self.integer = not first.dtype.is_floating_point

    def __getitem__(self, part: slice) -> Values:
        tensor: torch.Tensor = self._slice[part]
        array: Values = (tensor if tensor.dtype == torch.float16 else tensor.float()).numpy()
        return array


def open_safetensors(file: InputFile, reading: Reading) -> Matrix:
    """Open a tensor; raises `InputError` where the file is damaged, or does not say which tensor is meant."""
    try:
        with safe_open(file.path, "pt") as opened:
            names = list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise file.error(f"the file is cut off, damaged, or no safetensors ({str(error)[:100]})") from None
    guesses = (reading.key,) if reading.key else (*MATRICES, *(names if len(names) == 1 else ()))
    key = next((name for name in guesses if name in names), None)
    if key is None:
        raise file.error(f"it has the tensors {', '.join(names[:20]) or 'none'}; name the one to take with --key")
    tensor = _Sliced(file, key)
    return Matrix(file, tensor, np.dtype(np.float16 if tensor.half else np.float32), None)


def write_safetensors(selection: Selection, file: Path, ids_file: Path) -> None:
    """Write the vectors as the tensor ``embeddings``, some at a time, and the ids beside it.

    The file is eight bytes with the length of the header, the header as JSON, and the values
    (https://github.com/huggingface/safetensors#format); the library itself writes only from memory.
    """
    size = len(selection) * selection.dim * selection.dtype.itemsize
    kind = {"float16": "F16", "float32": "F32"}[str(selection.dtype)]
    tensor = {"dtype": kind, "shape": [len(selection), selection.dim], "data_offsets": [0, size]}
    header = json.dumps({"embeddings": tensor}).encode()
    header += b" " * (-len(header) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        for block in selection.blocks():
            stream.write(block.data)
    write_ids(selection, ids_file)
