"""A published encoder of tokens: tokenizer, trunk, pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedcache.encoders.encoder import NUMERICS, Encoder, Origin
from embedcache.encoders.families import FrozenTrunk
from embedcache.encoders.packed import PackedBatch
from embedcache.encoders.readout import Readout
from embedcache.encoders.tokenizers import Tokenizer
from embedcache.encoders.transfer import from_device, to_device
from embedcache.encoders.weights import Weights
from embedcache.errors import InputError
from embedcache.fingerprint import fingerprint
from embedcache.sequences.alphabet import Letters
from embedcache.sequences.packing import pack
from embedcache.sequences.pooling import NONE, parts_of, pool
from embedcache.sequences.tokens import Tokens


class TransformerEncoder(Encoder):
    """A trunk with its tokenizer.

    Parameters
    ----------
    trunk, tokenizer : the loaded parts.
    weights_digest : hash of the weights, or of the seed of random ones.
    mean_includes_special : whether mean and max run over the special tokens, as the encoder's authors have it.
    authors_layer : the hidden state that they take.
    in_float32 : builds the same trunk in float32, read layer by layer, to say how close lower precision comes.
    weights : its parameters as they were published, where it is of a family of ours.
    """

    def __init__(
        self,
        origin: Origin,
        trunk: FrozenTrunk,
        tokenizer: Tokenizer,
        *,
        weights_digest: str,
        token_limit: int | None,
        mean_includes_special: bool,
        meaningless: bool,
        authors_layer: int = -1,
        in_float32: Callable[[], FrozenTrunk] | None = None,
        weights: Weights | None = None,
    ) -> None:
        self.in_float32, self.weights, self.weights_digest = in_float32, weights, weights_digest
        self.origin, self.trunk, self.tokenizer = origin, trunk, tokenizer
        self.alphabet, self.unit = tokenizer.alphabet, "tokens"
        self.layers, self.hidden = trunk.config.last_state, trunk.config.hidden
        self.token_limit, self.special, self.authors_layer = token_limit, tokenizer.special, authors_layer
        self.excluded = (0, 0) if mean_includes_special else tokenizer.special
        self.precision, self.device = str(trunk.dtype).removeprefix("torch."), trunk.device
        self.batch_tokens = 32768 if trunk.device.type != "cpu" else 512 if trunk.dtype == torch.float32 else 1024
        self.overlong = "window"
        self.meaningless = meaningless
        self.fingerprint = fingerprint(
            NUMERICS,
            weights_digest,
            tokenizer.fingerprint,
            asdict(trunk.config),
            self.precision,
            self.excluded,
            token_limit,
        )

    def tokenize(self, sequences: Sequence[str] | pa.Array | Letters) -> Tokens:
        letters = sequences if isinstance(sequences, Letters) else Letters.of(sequences)
        return self.tokenizer(letters)

    def spans(self, letters: Letters) -> NDArray[np.int64]:
        return self.tokenizer.spans(letters)

    def start(self, tokens: Tokens, readout: Readout, batch_tokens: int) -> Callable[[], NDArray[np.float32]]:
        with torch.inference_mode():
            batch = self._batch(tokens, batch_tokens)
            read = self._readings(tokens, readout)
            blocks: dict[int, Tensor] = {}
            last = max(block.layer for block in readout.blocks)
            for number, states_TD in enumerate(self.trunk.states(batch)):
                for i, block in enumerate(readout.blocks):
                    if block.layer == number:
                        blocks[i] = read[block.pooling](states_TD)
                if number == last:
                    break
            return from_device(torch.cat([blocks[i] for i in range(len(blocks))], dim=1))

    def _readings(self, tokens: Tokens, readout: Readout) -> dict[str, Callable[[Tensor], Tensor]]:
        """What each pooling takes of the hidden states (T, D) of a batch, laid out in one transfer to the device."""
        poolings = list(dict.fromkeys(block.pooling for block in readout.blocks))
        places = to_device([self._places(tokens, pooling) for pooling in poolings], self.device)
        return {pooling: partial(_read, pooling, place) for pooling, place in zip(poolings, places, strict=True)}

    def _places(self, tokens: Tokens, pooling: str) -> NDArray[np.int32]:
        if pooling == "cls":
            return tokens.offsets[:-1].astype(np.int32)
        if pooling == "last":
            return (tokens.offsets[1:] - 1).astype(np.int32)
        parts_3B = parts_of(self.ranges(tokens, pooling), tokens.lengths)
        if pooling == NONE:
            return np.flatnonzero(np.repeat(np.arange(len(parts_3B)) % 3 == 1, parts_3B)).astype(np.int32)
        return parts_3B.astype(np.int32)

    def hidden_states(self, sequences: Sequence[str]) -> list[NDArray[np.float32]]:
        tokens = self.tokenize(sequences)
        limit = self.trunk.config.position_limit
        too_long = np.flatnonzero(tokens.lengths > (limit or np.iinfo(np.int64).max))
        if len(too_long):
            length = int(tokens.lengths[too_long[0]])
            raise InputError(f"sequence {too_long[0]} has {length:,} tokens, {self.name} takes {limit:,}: cut it first")
        out: list[NDArray[np.float32] | None] = [None] * len(tokens)
        for rows in pack(tokens.lengths, self.batch_tokens):
            part = tokens.take(rows)
            states_STD = torch.stack(list(self.trunk.states(self._batch(part, len(part.ids))))).cpu().numpy()
            for row, start, stop in zip(rows, part.offsets, part.offsets[1:], strict=False):
                out[row] = states_STD[:, start:stop].copy()
        return [states for states in out if states is not None]

    def _batch(self, tokens: Tokens, rows: int) -> PackedBatch:
        highest = int(tokens.ids.max(initial=0))
        if highest >= self.trunk.config.vocabulary:
            word = self.tokenizer.name_of(highest)
            raise InputError(
                f"the token {word} (id {highest}) lies outside the embedding of {self.name}, which has "
                f"{self.trunk.config.vocabulary} rows: take it out of the sequence"
            )
        return self.trunk.pack(tokens.ids, tokens.lengths, rows)

    def flops(self, tokens: float, length: float) -> float:
        operations: float = self.trunk.config.flops(tokens, length)
        return operations


def _read(pooling: str, places: Tensor, states_TD: Tensor) -> Tensor:
    """Rows of the hidden states at places, or the pooled parts of that many tokens."""
    if pooling in ("cls", "last", NONE):
        return states_TD.index_select(0, places)
    return pool(states_TD, places, "max" if pooling == "max" else "mean")
