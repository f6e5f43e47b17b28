"""sentence-transformers on OpenVINO, in a process of its own: answers `peers.OpenVino` over its standard streams.

OpenVINO's settings are those of optimum-intel (latency, one stream on all cores, dynamic shapes) with the precision
set: by itself OpenVINO would take bfloat16 wherever the processor has it.

A request is a line of JSON, [verb, arguments]; an answer is a line of JSON, [failure or nothing, shape], and float32 values
of this shape.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np


class Peer:
    """What can be asked for."""

    def __init__(self) -> None:
        self.model: Any = None

    def export(self, directory: str) -> None:
        """Convert once and save, so that both precisions load the same file."""
        from sentence_transformers import models

        made = models.Transformer(directory, backend="openvino", model_kwargs={"export": True, "compile": False})
        made.auto_model.save_pretrained(directory)

    def load(self, directory: str, precision: str) -> None:
        """Load what `export` saved."""
        from sentence_transformers import SentenceTransformer, models

        self.model = None
        gc.collect()
        settings = {"ov_config": {"INFERENCE_PRECISION_HINT": precision}}
        transformer = models.Transformer(directory, backend="openvino", model_kwargs=settings)
        pooling = models.Pooling(transformer.get_embedding_dimension())
        self.model = SentenceTransformer(modules=[transformer, pooling], device="cpu")

    def encode(self, texts: list[str], batch_size: int) -> Any:
        """`SentenceTransformer.encode`."""
        return self.model.encode(texts, batch_size=batch_size, show_progress_bar=False)


def main() -> None:
    """Answer until the other side closes; everything that libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    peer = Peer()
    verbs: dict[str, Callable[..., Any]] = {"export": peer.export, "load": peer.load, "encode": peer.encode}
    for request in sys.stdin:
        verb, arguments = json.loads(request)
        failure, vectors = "", None
        try:
            vectors = verbs[verb](*arguments)
        except Exception:  # whatever it is, the other side says it and ends the benchmark
            failure = traceback.format_exc().strip().splitlines()[-1]
        values = np.ascontiguousarray(np.empty(0) if vectors is None else vectors, np.float32)
        answers.write(json.dumps([failure, values.shape]).encode() + b"\n" + values.tobytes())
        answers.flush()


if __name__ == "__main__":
    main()
