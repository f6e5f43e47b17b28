"""One step of fine-tuning on a GPU at real size: tokens a second and memory, of the whole encoder and of its last layers.

Part of `benchmarks.gpu`, and on its own:

    python -m benchmarks.gpu_finetune

The Nucleotide Transformer 500m with random weights, products in bfloat16, AdamW in float32, one batch of packed reads of 100
to 1,024 letters. ``full`` steps all layers; ``full, recomputed`` computes the values inside layers again in the backward
pass; ``top 4`` steps the last four layers, the lower ones computed by the frozen trunk at every step; ``top 4, cached`` has
their states at hand. On a CPU two layers and a few reads, in float32, show that it works.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.simulate import simulate_dna
from embedcache import load_encoder
from embedcache.encoders.encoder import Encoder
from embedcache.encoders.tokenizers.tokenizer import offsets_of
from embedcache.encoders.trainable import TrainableTrunk
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.encoding import Encoding
from embedcache.extraction.preflight import Options, encoding_of
from embedcache.sequences.alphabet import Letters
from embedcache.sequences.packing import cut_windows
from embedcache.sequences.passages import Passages
from embedcache.sequences.tokens import Tokens
from heads.data.features import Standardisation
from heads.finetune.batch import Batch, StateSource, TokenInputs
from heads.finetune.model import FinetuneModel, Products
from heads.finetune.states import ComputedStates
from heads.finetune.tokens import Selection, TokenRows
from heads.perceptron.losses import Loss
from heads.perceptron.perceptrons import Perceptrons

ENCODER, TOP, SPREAD = "nt500m", 4, (100, 430, 1024)


@dataclass(frozen=True)
class Step:
    """What one way of training takes a step."""

    way: str
    device: str
    tokens: int
    """Of a batch."""
    seconds: float
    tokens_per_second: float
    peak_gigabytes: float

    def __str__(self) -> str:
        return (
            f"{ENCODER} {self.way}: {self.tokens_per_second:,.0f} tokens/s, {1000 * self.seconds:,.0f} ms a step of "
            f"{self.tokens:,} tokens, peak {self.peak_gigabytes:.1f} GB"
        )


def measure(device: torch.device, *, reads: int, steps: int, layers: int | None = None) -> list[Step]:
    """Measure all ways on one batch of so many reads; the median of `steps` steps after two that warm up."""
    precision = "bfloat16" if device.type == "cuda" else "float32"
    encoder = load_encoder(ENCODER, random_weights=True, device=str(device), precision=precision, layers=layers)
    assert isinstance(encoder, TransformerEncoder)
    encoding = encoding_of(encoder, Options())
    rows = _token_rows(encoding, simulate_dna(reads, SPREAD, np.random.default_rng(0)))
    first = max(encoder.layers - TOP, 1)
    at_hand = ComputedStates(encoder, first)(rows.of(np.arange(reads)), rows.of(np.arange(reads)).tokens)
    ways: dict[str, tuple[dict[str, Any], StateSource | None]] = {
        "full": ({}, None),
        "full, recomputed": ({"recompute": True}, None),
        f"top {encoder.layers - first}": ({"first": first}, ComputedStates(encoder, first)),
        f"top {encoder.layers - first}, cached": ({"first": first}, _AtHand(at_hand)),
    }
    return [_measure(way, encoding, rows, options, states, steps, device) for way, (options, states) in ways.items()]


@dataclass(frozen=True)
class _AtHand:
    """States of the one batch."""

    states_TD: torch.Tensor

    def __call__(self, selection: Selection, tokens: Tokens) -> torch.Tensor:
        return self.states_TD


def _token_rows(encoding: Encoding, sequences: list[str]) -> TokenRows:
    found = Passages.of(encoding, encoding.letters(Letters.of(sequences)), {})
    encoder: Encoder = encoding.encoder
    windows = cut_windows(found.tokens, encoder.token_limit, encoder.special)
    first = offsets_of(windows.counts)
    return TokenRows(found.of_nVS, windows, first, np.add.reduceat(windows.tokens.lengths, first[:-1]))


def _measure(
    way: str, encoding: Encoding, rows: TokenRows, options: dict[str, Any], states: StateSource | None, steps: int,
    device: torch.device,
) -> Step:  # fmt: skip
    encoder = encoding.encoder
    assert isinstance(encoder, TransformerEncoder)
    assert encoder.weights is not None
    trunk = TrainableTrunk.of(encoder.weights, **options)
    head = Perceptrons.drawn((encoder.hidden, 512, 1), [torch.Generator().manual_seed(0)])
    plain = Standardisation(torch.zeros(encoder.hidden), torch.ones(encoder.hidden))
    loss, half = Loss("binary"), torch.bfloat16 if device.type == "cuda" else torch.float32
    model = FinetuneModel(trunk, encoding.readout, head, plain, loss, 0.1, Products(half, half)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    inputs = TokenInputs(rows, encoding, trunk, device, None, states)
    every = np.arange(len(rows))
    truth = loss.truth(torch.from_numpy(every % 2).to(device), torch.ones(len(every), device=device), 2)

    def step() -> None:
        model(Batch(every, inputs.inputs(every), truth)).backward()
        optimizer.step()
        optimizer.zero_grad()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = _median(step, steps, device)
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    tokens = int(rows.lengths.sum())
    return Step(way, name, tokens, seconds, tokens / seconds, peak)


def _median(work: Callable[[], None], repeats: int, device: torch.device) -> float:
    seconds = []
    for turn in range(repeats + 2):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn >= 2:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def steps_of(device: torch.device) -> list[Step]:
    """At real size on a GPU; on a CPU, two layers and a few reads."""
    return measure(device, reads=128, steps=5) if device.type == "cuda" else measure(device, reads=2, steps=1, layers=2)


if __name__ == "__main__":
    for found in steps_of(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        print(found)
