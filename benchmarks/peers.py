"""The programs that extraction is compared with, each as a function from sequences and a batch size to vectors.

plain loop              transformers' model and tokenizer, padded batches in input order, masked mean
sentence-transformers   its own `encode` on its default torch backend; sorts by length
openvino                the same `encode` on its OpenVINO backend

The OpenVINO backend cannot live with our transformers, since optimum-intel wants one before 5.6: a process of its own
runs it (`openvino_peer`), with the packages of `PACKAGES` before all others and everything else, torch too, the same.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.published import Published
from benchmarks.ways import Encode

PACKAGES = Path(sys.prefix) / "openvino"
"""Where `make bench` puts the packages of `openvino.txt`."""


class SentenceTransformers:
    """sentence-transformers on a published folder, and the plain loop on the very model that it has loaded."""

    def __init__(self, encoder: Published, directory: Path, dtype: torch.dtype) -> None:
        from sentence_transformers import SentenceTransformer, models

        self.encoder = encoder
        transformer = models.Transformer(str(directory), model_kwargs={"dtype": dtype, "add_pooling_layer": False})
        pooling = models.Pooling(transformer.get_embedding_dimension())
        self.model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
        self.transformer, self.tokenizer = transformer.auto_model.eval(), transformer.tokenizer

    def encode(self, sequences: list[str], batch_size: int) -> NDArray[np.float32]:
        """`SentenceTransformer.encode`."""
        texts = [self.encoder.text(sequence) for sequence in sequences]
        vectors = self.model.encode(texts, batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True)
        return np.asarray(vectors.float().cpu().numpy(), np.float32)

    def plain_loop(self, sequences: list[str], batch_size: int) -> NDArray[np.float32]:
        """The loop of the model cards: pad, run, mean. (n, 2 D): the mean as the authors take it, and that of all tokens."""
        out = []
        with torch.inference_mode():
            for start in range(0, len(sequences), batch_size):
                texts = [self.encoder.text(sequence) for sequence in sequences[start : start + batch_size]]
                batch = self.tokenizer(texts, return_tensors="pt", padding=True, return_special_tokens_mask=True)
                special = batch.pop("special_tokens_mask")
                states = self.transformer(**batch).last_hidden_state
                everything = batch["attention_mask"]
                authors = everything if self.encoder.special_in_mean else everything * (1 - special)
                masks = [mask[..., None] for mask in (authors, everything)]
                out.append(torch.cat([(states * mask).sum(1) / mask.sum(1) for mask in masks], 1))
        return np.asarray(torch.cat(out).float().numpy(), np.float32)


class OpenVino:
    """The process in which sentence-transformers runs on OpenVINO; one model at a time.

    Raises
    ------
    ModuleNotFoundError : its packages are not there.
    """

    def __init__(self) -> None:
        if not (PACKAGES / "openvino").is_dir():
            raise ModuleNotFoundError("OpenVINO is not installed: `make bench` puts it into .venv/openvino")
        root = Path(__file__).resolve().parents[1]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.openvino_peer"],
            cwd=root,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGES), str(root)])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def export(self, directory: Path) -> None:
        """Write the published folder's model in OpenVINO's format beside it, as sentence-transformers advises."""
        self._ask("export", str(directory))

    def load(self, encoder: Published, directory: Path, precision: str) -> Encode:
        """Load the exported model; the one before is dropped."""
        self._ask("load", str(directory), {"float32": "f32", "bfloat16": "bf16"}[precision])

        def encode(sequences: list[str], batch_size: int) -> NDArray[np.float32]:
            texts = [encoder.text(sequence) for sequence in sequences]
            return self._ask("encode", texts, batch_size)

        return encode

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, verb: str, *arguments: object) -> NDArray[np.float32]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([verb, arguments]).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the OpenVINO process ended at '{verb}'")
        failure, shape = json.loads(answer)
        if failure:
            raise RuntimeError(f"the OpenVINO process failed at '{verb}': {failure}")
        values = self._process.stdout.read(4 * math.prod(shape))
        return np.frombuffer(values, np.float32).reshape(shape)
