"""How fast this machine encodes: real batches of an encoder, or of some of its layers, timed for a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from embedcache.encoders.encoder import Budget, Encoder
from embedcache.encoders.readout import Readout, ReadoutBlock
from embedcache.encoders.sketch import Sketch
from embedcache.extraction.workload import Arithmetic
from embedcache.memory import peak_memory
from embedcache.sequences.packing import pack
from embedcache.sequences.pooling import looks_at_a_place
from embedcache.sequences.tokens import Tokens

_MOST_WEIGHTS = {True: 10**9, False: 3 * 10**8}
"""Weights that are read (True) or drawn at random (False) to be measured, in a few seconds. Of bigger encoders some of
the layers are measured: they are all alike."""
_MEMORY_SHARE = 0.7
_BATCHES = {"cpu": 1, "cuda": 8}
"""Batches timed together: on a GPU several, since each is begun before the one before it has ended."""
_ROUNDS = 20


@dataclass(frozen=True)
class Probe:
    """An encoder to be measured; it may have only the first layers of the one that is meant."""

    encoder: Encoder
    """It speaks as the whole does, of its hidden states too."""
    layers: int
    """Layers that it has; 0 for encoders without."""
    last_state: int
    """Number of the last hidden state that it gives."""
    whole_layers: int
    whole: Arithmetic
    """Of the whole encoder."""

    def work(self, readout: Readout) -> Arithmetic:
        """The arithmetic of the whole encoder up to the last hidden state that is wanted."""
        return _up_to(_last(readout), self.whole_layers, self.whole)


@dataclass(frozen=True)
class Pace:
    """Operations a second, measured."""

    slow: float
    """Of the slowest tenth of the batches."""
    typical: float
    fast: float
    batches: int
    seconds: float
    batch_bytes: int | None
    """Memory of a batch; None where the system does not say."""


def load_probe(
    load: Callable[..., Encoder], model: str, plan: Sketch | None, dtype: torch.dtype, free: int | None
) -> Probe:
    """Load an encoder, with random weights where its own are not here.

    Parameters
    ----------
    load : `load_encoder` with device, precision and seed set.
    plan : what `sketch` says of the model.
    free : bytes of memory. If the encoder takes more, or many seconds to load, only some of its layers are made.
    """
    if plan is None:
        encoder = load(model)
        return Probe(encoder, encoder.layers, encoder.layers, encoder.layers, encoder.flops)
    layers = _layers_to_measure(plan, dtype, free)
    if layers < plan.layers:
        encoder = load(str(plan.directory or model), random_weights=True, layers=layers)
        encoder.origin = replace(encoder.origin, name=model)
    else:
        encoder = load(model, random_weights=not plan.here)
    probe = Probe(encoder, layers, encoder.layers, plan.layers, plan.config.flops)
    encoder.layers = plan.config.last_state
    return probe


def _layers_to_measure(plan: Sketch, dtype: torch.dtype, free: int | None) -> int:
    share = _MOST_WEIGHTS[plan.here] / plan.parameters
    if free is not None:
        share = min(share, _MEMORY_SHARE * free / plan.memory(dtype))
    return plan.layers if share >= 1 else min(max(int(share * plan.layers), 2), plan.layers)


def measure(probe: Probe, tokens: Tokens, readout: Readout, budget: Budget, seconds: float) -> Pace:
    """Encode batches of all lengths for so many seconds, after one to warm up.

    On a CPU a batch that takes as long as that by itself is the only one, and was not warmed up for.

    Parameters
    ----------
    tokens : sequences, each of at most the encoder's limit.
    readout : the wanted one.
    budget : tokens of a batch.
    """
    encoder = probe.encoder
    blocks = tuple(_within_reach(block, probe.last_state) for block in readout.blocks)
    operations = _up_to(_last(Readout(blocks)), probe.layers, encoder.flops)
    run = encoder.vectors if readout.pooled else encoder.token_vectors
    packed = list(pack(tokens.lengths, budget.tokens * _BATCHES[encoder.device.type]))
    work: list[float] = []
    times: list[float] = []
    with peak_memory(encoder.device) as peak:
        for turn, place in enumerate(_spread(len(packed)) * (1 + _ROUNDS)):
            own = tokens.take(packed[place])
            began = time.perf_counter()
            for _ in run(own, Readout(blocks), budget):
                pass
            took = time.perf_counter() - began
            if turn or (took >= seconds and encoder.device.type == "cpu"):
                work.append(sum(operations(float(n), float(n)) for n in own.lengths.tolist()))
                times.append(took)
            if sum(times) >= seconds:
                break
    if not times:
        return Pace(np.inf, np.inf, np.inf, 0, 0.0, None)
    slow, fast = np.quantile(np.divide(work, times), (0.1, 0.9)).tolist()
    return Pace(slow, sum(work) / sum(times), fast, len(work), sum(times), peak.bytes_)


def _within_reach(block: ReadoutBlock, last_state: int) -> ReadoutBlock:
    """A block as costly as a wanted one, of a layer that there is, and without a place to look at."""
    pooling = "mean" if looks_at_a_place(block.pooling) else block.pooling
    return replace(block, layer=min(block.layer, last_state), pooling=pooling)


def _last(readout: Readout) -> int:
    return max(block.layer for block in readout.blocks)


def _up_to(state: int, layers: int, flops: Arithmetic) -> Arithmetic:
    """Operations up to a hidden state; for an encoder without any its tokens, which then tell its work."""
    share = min(max(state, 1) / max(layers, 1), 1.0)
    return lambda tokens, length: share * flops(tokens, length) or tokens


def _spread(count: int) -> list[int]:
    """The numbers below `count` in an order of which every beginning is spread evenly (by the golden ratio)."""
    golden = (0.5 + np.arange(count) * (5**0.5 - 1) / 2) % 1
    order: list[int] = np.argsort(np.argsort(golden)).tolist()
    return order
