"""Extraction beside what a user would run today, on the same sequences and the same weights in one run.

The encoder is the Nucleotide Transformer 500m at its real size with random weights, written once in the published
format, so that transformers and sentence-transformers load the very files that we load. Peers:

    plain loop              transformers' EsmModel, tokenizer padding, batches of 32 in input order, masked mean
    sentence-transformers   ``encode(batch_size=32)``: sorts by length; float32, and bfloat16 by its ``model_kwargs``;
                            its default torch backend (the ONNX and OpenVINO backends are not compared here)

Rates are real tokens a second, padding not counted. The matrix rate of each precision is the better of two
measurements, before and after.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.simulate import simulate_dna
from embedcache import load_encoder
from embedcache.encoders.encoder import Encoder
from embedcache.encoders.linear import matrix_rate
from embedcache.encoders.registry import REGISTRY
from embedcache.encoders.tokenizers import NT_V1_VOCABULARY

LENGTHS = (100, 430, 1024)
"""Shortest, mean and longest sequence in bases, as in a mix of reads and windows: 18 to 171 tokens, 72 on average."""


@dataclass(frozen=True)
class Size:
    """How much of the real thing a run does: the tests take two narrow layers."""

    sequences: int
    repeats: int
    layers: int = 24
    hidden: int = 1280
    heads: int = 20


FULL, QUICK = Size(sequences=96, repeats=2), Size(sequences=12, repeats=1, layers=2, hidden=64, heads=4)


@dataclass(frozen=True)
class Timing:
    """One way of encoding: seconds of each repeat and what it gave."""

    name: str
    seconds: list[float]
    vectors: NDArray[np.float32]

    @property
    def median(self) -> float:
        """Median of the repeats."""
        return statistics.median(self.seconds)


def write_published(directory: Path, size: Size) -> Path:
    """Write the encoder with random weights as transformers publishes it."""
    from transformers import EsmConfig, EsmModel

    config = dict(REGISTRY["nt500m"].config()) | {
        "num_hidden_layers": size.layers,
        "hidden_size": size.hidden,
        "intermediate_size": 4 * size.hidden,
        "num_attention_heads": size.heads,
    }
    config.pop("model_type")
    torch.manual_seed(0)
    EsmModel(EsmConfig(**config), add_pooling_layer=False).save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(NT_V1_VOCABULARY))
    tokenizer = {"eos_token": None, "model_max_length": 1000, "tokenizer_class": "EsmTokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return directory


def plain_loop(directory: Path) -> Callable[[list[str]], NDArray[np.float32]]:
    """The loop of the model cards: pad, run, mean over the mask."""
    from transformers import AutoTokenizer, EsmModel

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = EsmModel.from_pretrained(directory, add_pooling_layer=False).eval()

    def encode(sequences: list[str]) -> NDArray[np.float32]:
        out = []
        with torch.inference_mode():
            for start in range(0, len(sequences), 32):
                batch = tokenizer(sequences[start : start + 32], return_tensors="pt", padding=True)
                states = model(**batch).last_hidden_state
                mask = batch["attention_mask"][..., None]
                out.append((states * mask).sum(1) / mask.sum(1))
        return np.asarray(torch.cat(out).float().numpy(), np.float32)

    return encode


def sentence_transformers(directory: Path, dtype: torch.dtype) -> Callable[[list[str]], NDArray[np.float32]]:
    """sentence-transformers' own `encode`."""
    from sentence_transformers import SentenceTransformer, models

    transformer = models.Transformer(str(directory), model_kwargs={"dtype": dtype, "add_pooling_layer": False})
    model = SentenceTransformer(
        modules=[transformer, models.Pooling(transformer.get_embedding_dimension())], device="cpu"
    )

    def encode(sequences: list[str]) -> NDArray[np.float32]:
        vectors = model.encode(sequences, batch_size=32, show_progress_bar=False, convert_to_tensor=True)
        return np.asarray(vectors.float().cpu().numpy(), np.float32)

    return encode


def ours(directory: Path, precision: str) -> tuple[Encoder, Callable[[list[str]], NDArray[np.float32]]]:
    """This project's encoder, tokenizing and pooling included."""
    encoder = load_encoder(str(directory), device="cpu", precision=precision)
    return encoder, lambda sequences: encoder.encode(sequences)


def run(quick: bool = False) -> dict[str, object]:
    """Time all ways in turn, forth and back, and compare what they give.

    Returns
    -------
    Rows for the table and the JSON file: tokens a second, ratios, share of the matrix rate, cosine to the plain loop.
    """
    size = QUICK if quick else FULL
    sequences = simulate_dna(size.sequences, LENGTHS, np.random.default_rng(7))
    with tempfile.TemporaryDirectory() as folder:
        directory = write_published(Path(folder), size)
        encoder, float32 = ours(directory, "float32")
        _, bfloat16 = ours(directory, "bfloat16")
        ways = {
            "plain loop float32": plain_loop(directory),
            "sentence-transformers float32": sentence_transformers(directory, torch.float32),
            "embedcache float32": float32,
            "sentence-transformers bfloat16": sentence_transformers(directory, torch.bfloat16),
            "embedcache bfloat16": bfloat16,
        }
        before = _matrix_rates(size.hidden)
        timings = _in_turn(ways, sequences, size.repeats)
        rates = {name: max(rate, before[name]) for name, rate in _matrix_rates(size.hidden).items()}
    lengths = encoder.tokenize(sequences).lengths
    tokens = int(lengths.sum())
    flops = encoder.flops(1.0, 0.0) * tokens + sum(
        encoder.flops(n, n) - encoder.flops(n, 0.0) for n in lengths.tolist()
    )
    reference = timings["plain loop float32"].vectors
    rows = {
        name: {
            "seconds": timing.median,
            "tokens_per_second": tokens / timing.median,
            "matrix_share": flops / timing.median / rates[name.split()[-1]],
            "least_cosine": float(_cosine(timing.vectors, reference).min()),
            "times_plain_loop": timings["plain loop float32"].median / timing.median,
            "times_sentence_transformers": timings[f"sentence-transformers {name.split()[-1]}"].median / timing.median,
        }
        for name, timing in timings.items()
    }
    return {
        "model": f"nt500m, {size.layers} layers x {size.hidden}, random weights",
        "sequences": len(sequences),
        "tokens": tokens,
        "matrix_rate_gflops": {name: rate / 1e9 for name, rate in rates.items()},
        "ways": rows,
    }


def _matrix_rates(hidden: int) -> dict[str, float]:
    matrix_rate.cache_clear()
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return {name: matrix_rate(dtype, torch.device("cpu"), hidden) for name, dtype in types.items()}


def _in_turn(
    ways: dict[str, Callable[[list[str]], NDArray[np.float32]]], sequences: list[str], repeats: int
) -> dict[str, Timing]:
    warm = sequences[:2]
    timings = {name: Timing(name, [], way(warm)) for name, way in ways.items()}
    for repeat in range(repeats):
        for name in list(ways)[:: -1 if repeat % 2 else 1]:
            start = time.perf_counter()
            vectors = ways[name](sequences)
            timings[name].seconds.append(time.perf_counter() - start)
            timings[name] = Timing(name, timings[name].seconds, vectors)
    return timings


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
