"""A small encoder whose every value can be foretold, for the tests of windows, poolings and stores without pooling.

Tokens are `k` letters each, the rest of a sequence letter by letter, with one special token before and one after. Values
of a token at layer L: its id, its place in the window that was encoded, the tokens of that window, L, and noise of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from embedcache.encoders.encoder import Encoder, Origin
from embedcache.encoders.readout import Readout
from embedcache.sequences.alphabet import DNA, Letters
from embedcache.sequences.pooling import NONE, parts_of, pool
from embedcache.sequences.tokens import Tokens

FIRST, LAST = 1, 2
"""Ids of the special tokens; every other token has the sum of its letters' codes."""
ID, PLACE, WINDOW, LAYER = range(4)


class LetterEncoder(Encoder):
    """Tokens of `k` letters, at most `limit` of them in a window."""

    def __init__(self, k: int = 1, limit: int | None = None, hidden: int = 32) -> None:
        self.origin, self.alphabet, self.unit = Origin(name="letters"), DNA, "tokens"
        self.k, self.token_limit, self.hidden, self.layers = k, limit, hidden, 2
        self.special = self.excluded = (1, 1)
        self.batch_tokens, self.overlong, self.precision = 512, "window", "float32"
        self.device, self.meaningless = torch.device("cpu"), True
        self.fingerprint = f"letters of {k}, {limit}, {hidden}"

    def tokenize(self, sequences: Sequence[str] | pa.Array | Letters) -> Tokens:
        letters = sequences if isinstance(sequences, Letters) else Letters.of(sequences)
        ids: list[int] = []
        ends = [0]
        for row in range(len(letters)):
            own = letters.bytes_[letters.offsets[row] : letters.offsets[row + 1]].tolist()
            ids += [FIRST, *(sum(own[first:stop]) for first, stop in self._cut(len(own))), LAST]
            ends.append(len(ids))
        return Tokens(np.asarray(ids, np.int64), np.asarray(ends, np.int64))

    def spans(self, letters: Letters) -> NDArray[np.int64]:
        spans = [[(-1, -1), *self._cut(int(length)), (-1, -1)] for length in letters.lengths]
        return np.asarray([span for own in spans for span in own], np.int64).reshape(-1, 2)

    def _cut(self, length: int) -> list[tuple[int, int]]:
        whole = length // self.k * self.k
        return [(i, i + self.k) for i in range(0, whole, self.k)] + [(i, i + 1) for i in range(whole, length)]

    def states(self, tokens: Tokens, layer: int) -> NDArray[np.float32]:
        """(T, D) states of sequences that are windows of their own."""
        lengths = np.repeat(tokens.lengths, tokens.lengths)
        place = np.arange(len(tokens.ids)) - np.repeat(tokens.offsets[:-1], tokens.lengths)
        known = np.stack((tokens.ids, place, lengths, np.full(len(place), layer)), axis=1)
        noise = np.sin(known @ np.random.default_rng(0).normal(size=(4, self.hidden - 4)))
        return np.concatenate((known, noise), axis=1).astype(np.float32)

    def start(self, tokens: Tokens, readout: Readout, batch_tokens: int) -> Callable[[], NDArray[np.float32]]:
        blocks = [self._read(tokens, block.pooling, block.layer) for block in readout.blocks]
        vectors = np.concatenate(blocks, axis=1)
        return lambda: vectors

    def _read(self, tokens: Tokens, pooling: str, layer: int) -> NDArray[np.float32]:
        states_TD = self.states(tokens, layer)
        parts_3B = parts_of(self.ranges(tokens, pooling), tokens.lengths)
        if pooling == NONE:
            return states_TD[np.repeat(np.arange(len(parts_3B)) % 3 == 1, parts_3B)]
        if pooling in ("cls", "last"):
            return states_TD[tokens.offsets[:-1] if pooling == "cls" else tokens.offsets[1:] - 1]
        how = "max" if pooling == "max" else "mean"
        pooled: NDArray[np.float32] = pool(torch.from_numpy(states_TD), torch.from_numpy(parts_3B), how).numpy()
        return pooled

    def hidden_states(self, sequences: Sequence[str]) -> list[NDArray[np.float32]]:
        tokens = self.tokenize(sequences)
        states = [np.split(self.states(tokens, layer), tokens.offsets[1:-1]) for layer in range(self.layers + 1)]
        return [np.stack(own) for own in zip(*states, strict=True)]

    def flops(self, tokens: float, length: float) -> float:
        return 0.0

    def environment(self) -> dict[str, str]:
        return {"device": "cpu"}
