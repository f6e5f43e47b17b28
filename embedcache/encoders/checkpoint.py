"""The tensors of a published checkpoint, read one at a time: safetensors, or a plain state dict in a ``.bin``.

Nothing that is read can run code: safetensors is data, and ``.bin`` goes through ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedcache.errors import ModelError

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"


class Checkpoint:
    """The weights in a model's folder: key names first, then each tensor when it is asked for.

    A sharded checkpoint (``*.index.json``) reads like a single file. `digest` covers every tensor read so far, so that
    after loading it is a fingerprint of all that the encoder uses.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._bins: dict[Path, dict[str, Tensor]] = {}
        self._file_of = self._locate()
        self._hash = hashlib.sha256()

    def _locate(self) -> dict[str, Path]:
        for name in (SAFETENSORS, BIN):
            file, index = self.directory / name, self.directory / f"{name}.index.json"
            if file.exists():
                return dict.fromkeys(self._keys_in(file), file)
            if index.exists():
                try:
                    weight_map = json.loads(index.read_text())["weight_map"]
                except (ValueError, KeyError, TypeError):
                    raise ModelError(f"{index} is damaged: download the model again") from None
                parts = {key: self.directory / Path(part).name for key, part in weight_map.items()}
                absent = sorted({str(part) for part in parts.values() if not part.exists()})
                if absent:
                    raise ModelError(f"{absent[0]} is missing, although {index.name} names it: copy it into the folder")
                return parts
        raise ModelError(
            f"{self.directory} has a config.json but no weights ({SAFETENSORS} or {BIN}): copy them there, or use "
            "--random-weights for benchmarks and capacity planning"
        )

    def _keys_in(self, file: Path) -> list[str]:
        if file.suffix != ".safetensors":
            return list(self._load_bin(file))
        with self._open(file) as tensors:
            return list(tensors.keys())

    def _open(self, file: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} is damaged or no safetensors file ({error}): download the model again") from None

    def _load_bin(self, file: Path) -> dict[str, Tensor]:
        if file not in self._bins:
            try:
                state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except Exception as error:  # torch raises many kinds for files it refuses
                raise ModelError(
                    f"{file} is not a plain PyTorch state dict ({type(error).__name__}), so it is not loaded: convert it "
                    "to safetensors on a machine you trust"
                ) from None
            if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
                inside = f": {', '.join(map(str, list(state)[:3]))}" if isinstance(state, dict) else ""
                raise ModelError(
                    f"{file} is not a plain PyTorch state dict: it holds other things than tensors{inside}. Save the state "
                    "dict alone with torch.save, or better as model.safetensors"
                )
            self._bins[file] = state
        return self._bins[file]

    @property
    def keys(self) -> frozenset[str]:
        """All key names."""
        return frozenset(self._file_of)

    @property
    def files(self) -> list[Path]:
        """The files that the weights are in."""
        return sorted(set(self._file_of.values()))

    def read(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """Read one tensor as float32; raises `ModelError` if its shape is not `shape`.

        The file is opened anew for each tensor, so that its mapped pages are given back and loading needs the memory of
        the model once.
        """
        file = self._file_of[key]
        if file.suffix == ".safetensors":
            with self._open(file) as tensors:
                return self._checked(key, tensors.get_tensor(key), shape)
        return self._checked(key, self._load_bin(file)[key], shape)

    def _checked(self, key: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"{key} in {self._file_of[key]} has shape {tuple(tensor.shape)}, config.json says {shape}: the two files "
                "are not of the same model"
            )
        self._hash.update(f"{key} {tensor.dtype} {shape}".encode())
        self._hash.update(memoryview(tensor.contiguous().view(torch.uint8).numpy()))  # type: ignore[arg-type]
        return tensor.to(torch.float32, copy=True)

    @property
    def digest(self) -> str:
        """sha256 over the names, types, shapes and bytes of the tensors read so far."""
        return self._hash.hexdigest()
