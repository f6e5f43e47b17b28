"""A published transformer as an encoder: tokenizer, trunk, pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from embedcache.alphabet import Letters
from embedcache.encoders.encoder import NUMERICS, Encoder, Origin, Readout, fingerprint
from embedcache.encoders.tokenizers import VocabularyTokenizer
from embedcache.encoders.trunk import PackedBatch, Trunk
from embedcache.errors import InputError
from embedcache.packing import pack
from embedcache.pooling import pool
from embedcache.tokens import Tokens


class TransformerEncoder(Encoder):
    """A trunk with its tokenizer.

    Parameters
    ----------
    trunk, tokenizer : the loaded parts.
    weights_digest : hash of the weights, or of the seed of random ones.
    mean_includes_special : whether mean and max run over the special tokens, as the encoder's authors have it.
    """

    layers: int

    def __init__(
        self,
        origin: Origin,
        trunk: Trunk,
        tokenizer: VocabularyTokenizer,
        *,
        weights_digest: str,
        token_limit: int,
        mean_includes_special: bool,
        meaningless: bool,
    ) -> None:
        self.origin, self.trunk, self.tokenizer = origin, trunk, tokenizer
        self.alphabet, self.unit = tokenizer.alphabet, "tokens"
        self.layers, self.hidden = trunk.config.layers, trunk.config.hidden
        self.token_limit, self.special = token_limit, tokenizer.special
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

    def embed(self, tokens: Tokens, readout: Readout) -> NDArray[np.float32]:
        batch = self._batch(tokens)
        lengths_B = batch.lengths_B[: len(tokens)]
        pooled: list[torch.Tensor | None] = [None] * len(readout.blocks)
        last = max(block.layer for block in readout.blocks)
        with torch.inference_mode():
            for number, states_TD in enumerate(self.trunk.states(batch)):
                for i, block in enumerate(readout.blocks):
                    if block.layer == number:
                        pooled[i] = pool(states_TD, lengths_B, block.pooling, self.excluded)
                if number == last:
                    break
            vectors = torch.cat([part for part in pooled if part is not None], dim=1)
        result: NDArray[np.float32] = vectors.cpu().numpy()
        return result

    def hidden_states(self, sequences: Sequence[str]) -> list[NDArray[np.float32]]:
        tokens = self.tokenize(sequences)
        too_long = np.flatnonzero(tokens.lengths > self._position_limit())
        if len(too_long):
            length = int(tokens.lengths[too_long[0]])
            raise InputError(
                f"sequence {too_long[0]} has {length:,} tokens, {self.name} takes {self._position_limit():,}"
            )
        out: list[NDArray[np.float32] | None] = [None] * len(tokens)
        for rows in pack(tokens.lengths, self.batch_tokens):
            part = tokens.take(rows)
            states_STD = torch.stack(list(self.trunk.states(self._batch(part)))).cpu().numpy()
            for row, start, stop in zip(rows, part.offsets, part.offsets[1:], strict=False):
                out[row] = states_STD[:, start:stop].copy()
        return [states for states in out if states is not None]

    def _position_limit(self) -> int:
        """Tokens that the architecture can take at all: rotary positions have no end."""
        config = self.trunk.config
        return config.max_positions - config.position_offset if config.positions == "learned" else 1 << 20

    def _batch(self, tokens: Tokens) -> PackedBatch:
        highest = int(tokens.ids.max(initial=0))
        if highest >= self.trunk.config.vocabulary:
            word = self.tokenizer.vocabulary[highest]
            raise InputError(
                f"the token {word} (id {highest}) lies outside the embedding of {self.name}, which has "
                f"{self.trunk.config.vocabulary} rows: take it out of the sequence"
            )
        return PackedBatch.of(tokens.ids, tokens.lengths, self.device)

    def flops(self, tokens: float, length: float) -> float:
        return self.trunk.config.flops(tokens, length)
