"""How close an encoder in bfloat16 or float16 comes to itself in float32, on a few sequences of the run.

How much low precision costs depends on the weights by orders of magnitude, so it is measured on the very weights and
sequences that were encoded. The float32 weights are read layer by layer, each used once: one layer is in memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedcache.encoders.encoder import Encoder
from embedcache.encoders.families import FrozenTrunk
from embedcache.encoders.linear import PRECISIONS, product_type
from embedcache.encoders.packed import PackedBatch
from embedcache.encoders.readout import Readout
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.errors import EmbedcacheError
from embedcache.memory import free_memory
from embedcache.progress import duration, size
from embedcache.sequences.packing import truncate
from embedcache.sequences.tokens import Tokens

SEQUENCES = 8
_SHARE, _ALWAYS_SECONDS = 0.02, 5.0
"""Of the run's wall time, and what may be spent however short the run was."""
_BYTES_A_SECOND = 5e8
"""Of weights, from a disk."""
_REMEMBERED, _LONGEST = 64, 16384
"""Sequences to choose from at the end, and their longest in tokens; longer ones are compared up to there."""


@dataclass(frozen=True)
class Fidelity:
    """The cosine between what was stored and float32; without figures where `note` says why there are none."""

    precision: str
    sequences: int = 0
    lowest: float | None = None
    median: float | None = None
    seconds: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        if self.lowest is None or self.median is None:
            return f"cosine of {self.precision} to float32 not computed: {self.note}"
        figures = f"{self.lowest:.6f} lowest, {self.median:.6f} median of {self.sequences} sequences"
        figures = figures if self.sequences > 1 else f"{self.median:.6f} of one sequence"
        return f"cosine of {self.precision} to float32: {figures}" + (f"; {self.note}" if self.note else "")


class Witnesses:
    """A few short sequences out of all that a run encodes, spread over it."""

    def __init__(self, encoder: Encoder) -> None:
        self._limit, self._special = min(encoder.token_limit or _LONGEST, _LONGEST), encoder.special
        self._seen: list[Tokens] = []

    def see(self, tokens: Tokens) -> None:
        """Remember up to eight of a shard's distinct sequences, out of the shorter half, spread over its rows."""
        lengths = tokens.lengths
        short = np.flatnonzero(lengths <= np.median(lengths))
        for place in _spread(len(short), SEQUENCES):
            self._seen.append(truncate(tokens.take(short[[place]]), self._limit, self._special))
        while len(self._seen) > _REMEMBERED:
            del self._seen[1::2]

    def tokens(self) -> Tokens | None:
        """Up to eight distinct sequences, in the order of the run; None where nothing was encoded."""
        distinct = list({one.ids.tobytes(): one for one in self._seen}.values())
        return _join([distinct[place] for place in _spread(len(distinct), SEQUENCES)]) if distinct else None


def _join(parts: list[Tokens]) -> Tokens:
    offsets = np.concatenate(([0], np.cumsum([len(part.ids) for part in parts])))
    focus = {pooling: np.concatenate([part.focus[pooling] for part in parts]) for pooling in parts[0].focus}
    return Tokens(np.concatenate([part.ids for part in parts]), offsets, focus)


def _spread(size: int, count: int) -> list[int]:
    """At most `count` of the numbers below `size`, evenly spread."""
    return np.linspace(0, size - 1, min(count, size)).round().astype(int).tolist() if size else []


def no_faster_here(encoder: Encoder) -> str | None:
    """A remark where an encoder's precision brings no speed on its device, or None."""
    dtype = PRECISIONS.get(encoder.precision, torch.float32)
    if dtype == product_type(dtype, encoder.device):
        return None
    return f"this processor has no fast {encoder.precision}: values are rounded to it but multiplied at float32's speed"


def fidelity(encoder: Encoder, readout: Readout, witnesses: Witnesses, wall_seconds: float) -> Fidelity | None:
    """Encode a run's witnesses again, as it did and in float32; None for a run in float32, or one without sequences.

    It takes at most about 2 % of the run's wall time (or five seconds): where eight sequences would take longer, only the
    shortest of them are taken; where one alone would too, the note says so.
    """
    tokens = witnesses.tokens()
    if encoder.precision == "float32" or tokens is None:
        return None
    if not isinstance(encoder, TransformerEncoder) or encoder.in_float32 is None:
        return Fidelity(encoder.precision, note=f"{encoder.name} cannot be built in float32")
    began, allowed = time.perf_counter(), max(_SHARE * wall_seconds, _ALWAYS_SECONDS)
    whole = 4 * getattr(encoder.trunk.config, "parameters", 0)  # bytes that an hf: encoder reads at once
    if whole > min(allowed * _BYTES_A_SECOND, (free_memory(encoder.device) or np.inf) / 2):
        return Fidelity(
            encoder.precision, note=f"its {size(whole)} of float32 weights would take too long, or too much room"
        )
    tokens = tokens.take(np.argsort(tokens.lengths, kind="stable"))
    try:
        lowest, median, count = _within(allowed, encoder, readout, tokens)
    except _TooSlowError:
        return Fidelity(encoder.precision, note=f"one sequence alone would take longer than {duration(allowed)}")
    except (EmbedcacheError, OSError, RuntimeError, KeyboardInterrupt) as error:
        return Fidelity(encoder.precision, note=" ".join(str(error).split()) or type(error).__name__)
    note = "random weights, which cannot certify a checkpoint" if encoder.meaningless else ""
    return Fidelity(encoder.precision, count, lowest, median, round(time.perf_counter() - began, 3), note)


def _within(seconds: float, encoder: TransformerEncoder, readout: Readout, tokens: Tokens) -> tuple[float, float, int]:
    """Cosines of all sequences, or of as many of the first, shortest ones as go into the time; and how many these are."""
    try:
        return *_cosines(encoder, readout, tokens, seconds), len(tokens)
    except _TooSlowError as slow:
        if len(tokens) == 1:
            raise
        fewer = tokens.take(np.arange(max(int(len(tokens) * seconds / slow.needed), 1)))
    return *_cosines(encoder, readout, fewer, seconds), len(fewer)


def _cosines(encoder: TransformerEncoder, readout: Readout, tokens: Tokens, seconds: float) -> tuple[float, float]:
    """Lowest and median cosine of the rows; of several blocks the worst one counts. Raises `_TooSlowError`."""
    assert encoder.in_float32 is not None
    full, last = copy(encoder), max(block.layer for block in readout.blocks)
    full.trunk = _InTime(encoder.in_float32(), last, seconds)
    # Compiling kernels for a single batch would take longer than the batch.
    eager = torch.compiler.set_stance("force_eager") if encoder.device.type == "cuda" else nullcontext()
    with eager:
        expected = full.start(tokens, readout, len(tokens.ids))()
    found = encoder.start(tokens, readout, encoder.batch_tokens)()
    cosines = _cosine(found, expected, len(readout.blocks)).min(axis=1)
    cosines = cosines[np.isfinite(cosines)]
    if not len(cosines):
        raise EmbedcacheError("no finite vector to compare")
    return float(cosines.min()), float(np.median(cosines))


def _cosine(first_ND: NDArray[np.float32], second_ND: NDArray[np.float32], blocks: int) -> NDArray[np.float64]:
    """Cosines of the rows, block by block, (n, blocks)."""
    a, b = (vectors.astype(np.float64).reshape(len(vectors), blocks, -1) for vectors in (first_ND, second_ND))
    with np.errstate(invalid="ignore", over="ignore"):
        cosines: NDArray[np.float64] = (a * b).sum(axis=2) / np.sqrt((a * a).sum(axis=2) * (b * b).sum(axis=2))
    return cosines


class _TooSlowError(Exception):
    def __init__(self, needed: float) -> None:
        super().__init__(needed)
        self.needed = needed


class _InTime:
    """A trunk that gives up when, at the pace of the layers behind it, it would take longer than it may."""

    def __init__(self, trunk: FrozenTrunk, last: int, seconds: float) -> None:
        self._trunk, self._last, self._seconds = trunk, last, seconds
        self.config, self.device, self.dtype, self.pack = trunk.config, trunk.device, trunk.dtype, trunk.pack

    def states(self, batch: PackedBatch) -> Iterator[Tensor]:
        began = time.perf_counter()
        for number, states_TD in enumerate(self._trunk.states(batch)):
            needed = (time.perf_counter() - began) * self._last / max(number, 1)
            if number and needed > self._seconds:
                raise _TooSlowError(needed)
            yield states_TD
