"""A frozen encoder: sequences in, one vector a sequence out, the same whichever batch a sequence is in."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from embedcache.alphabet import Letters, normalise
from embedcache.encoders.linear import matrix_rate
from embedcache.errors import InputError, ModelError
from embedcache.packing import cut_windows, pack, truncate
from embedcache.pooling import POOLINGS, join_windows
from embedcache.tokens import Tokens

NUMERICS = 1
"""Raised whenever a change of ours alters any bit of any embedding; part of every fingerprint."""


_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ReadoutBlock:
    """One layer pooled one way: columns [start, stop) of the vectors."""

    name: str
    layer: int
    pooling: str
    start: int
    stop: int


@dataclass(frozen=True)
class Readout:
    """What is read out of an encoder in one pass: column blocks of one vector."""

    blocks: tuple[ReadoutBlock, ...]

    @property
    def dim(self) -> int:
        """Width of the vector."""
        return self.blocks[-1].stop


@dataclass
class Budget:
    """Tokens of a batch; halved when memory runs out, and kept halved."""

    tokens: int
    halvings: int = 0

    def halve(self) -> None:
        """Take half as many tokens from now on."""
        self.tokens = max(self.tokens // 2, 1)
        self.halvings += 1


@dataclass(frozen=True)
class Origin:
    """Where an encoder comes from: as the user named it, and the hub commit if it was downloaded."""

    name: str
    repo_id: str | None = None
    revision: str | None = None
    directory: str | None = None
    licence: str | None = None
    seed: int | None = None
    """Of random weights."""


class Encoder(ABC):
    """What the extraction asks of an encoder; the kinds are in `transformer` and `kmer`."""

    origin: Origin
    alphabet: str
    unit: str
    """What its lengths are counted in: ``tokens``, or ``letters``."""
    layers: int
    """Number of the last hidden state; 0 for encoders without layers."""
    hidden: int
    """Values of one block."""
    token_limit: int | None
    special: tuple[int, int]
    """Special tokens before and after the letters of a sequence."""
    batch_tokens: int
    """Default token budget of a batch."""
    overlong: str
    """Default policy for sequences over the limit."""
    precision: str
    device: torch.device
    meaningless: bool
    """True for random weights: the numbers say nothing about biology."""
    fingerprint: str
    """Hash of weights, tokenizer, architecture, precision and the version of our own numerics."""

    @property
    def name(self) -> str:
        """The name that the user gave."""
        return self.origin.name

    @abstractmethod
    def tokenize(self, sequences: Sequence[str] | pa.Array | Letters) -> Tokens:
        """Token ids of sequences exactly as the published tokenizer gives them, special tokens included.

        Letters are taken as they are; `encode` upper-cases them (and reads U as T in DNA) first.
        """

    @abstractmethod
    def embed(self, tokens: Tokens, readout: Readout) -> NDArray[np.float32]:
        """Encode one batch of n sequences: (n, readout.dim) float32."""

    @abstractmethod
    def hidden_states(self, sequences: Sequence[str]) -> list[NDArray[np.float32]]:
        """Hidden states of each sequence, (states, tokens, D) float32, the embeddings first and the last layer last.

        States are counted as transformers does: state 0 the embeddings, the last one after the final norm. Letters are
        taken as they are, and specials are included, so this is what the published code returns for the sequence alone.
        """

    @abstractmethod
    def flops(self, tokens: float, length: float) -> float:
        """Floating-point operations for `tokens` tokens in sequences of `length` tokens on average."""

    def matrix_rate(self) -> float:
        """This machine's matrix products at the encoder's precision and width, in operations a second (measured once)."""
        return matrix_rate(_TYPES[self.precision], self.device, self.hidden)

    def readout(self, poolings: Sequence[str] = ("mean",), layers: Sequence[str | int] = (-1,)) -> Readout:
        """Lay out the blocks for all poolings of all layers.

        Parameters
        ----------
        poolings : of ``mean``, ``cls``, ``max``.
        layers : states counted from 0 (the embeddings), negative from the last, or ``mid`` (half, rounded up).

        Raises
        ------
        InputError : a pooling is not known, a layer does not exist, or one is named twice.
        """
        numbers = [self._layer(layer) for layer in layers]
        for how in poolings:
            if how not in POOLINGS:
                raise InputError(f"there is no pooling '{how}': take one of {', '.join(POOLINGS)}")
        wanted = [(layer, how) for layer in numbers for how in poolings]
        if len(set(wanted)) < len(wanted):
            raise InputError(f"a layer and pooling is asked for twice: layers {numbers}, poolings {list(poolings)}")
        blocks = [
            ReadoutBlock(f"layer{layer}.{how}", layer, how, i * self.hidden, (i + 1) * self.hidden)
            for i, (layer, how) in enumerate(wanted)
        ]
        return Readout(tuple(blocks))

    def _layer(self, layer: str | int) -> int:
        try:
            number = -(-self.layers // 2) if layer == "mid" else int(str(layer))
        except ValueError:
            raise InputError(f"'{layer}' is no layer: give a number, a negative one from the end, or mid") from None
        if not -self.layers - 1 <= number <= self.layers:
            raise InputError(f"{self.name} has layers 0 (the embeddings) to {self.layers}; there is no layer {number}")
        return number if number >= 0 else number + self.layers + 1

    def encode(
        self, sequences: Sequence[str] | pa.Array, pool: str = "mean", layer: str | int = -1
    ) -> NDArray[np.float32]:
        """Encode sequences of any length: upper-case them, cut over-long ones to windows, batch, pool.

        Returns
        -------
        (n, D) float32, row i for sequence i, independent of the other sequences.
        """
        return self.encode_readout(sequences, self.readout((pool,), (layer,)), self.overlong)

    def encode_readout(
        self, sequences: Sequence[str] | pa.Array, readout: Readout, overlong: str
    ) -> NDArray[np.float32]:
        """Encode sequences into all blocks of a readout, (n, readout.dim) float32.

        `overlong` is the policy for sequences over the limit: ``window``, or ``truncate``; the others need a place to
        set a sequence aside, which the extraction has, and raise `InputError` here.
        """
        tokens = self.tokenize(normalise(Letters.of(sequences), self.alphabet))
        if overlong == "truncate":
            tokens = truncate(tokens, self.token_limit, self.special)
        elif overlong != "window" and self.token_limit and (tokens.lengths > self.token_limit).any():
            row = int(np.argmax(tokens.lengths))
            raise InputError(
                f"sequence {row} has {tokens.lengths[row]:,} tokens, {self.name} takes {self.token_limit:,}: cut it first"
            )
        out_ND = np.empty((len(tokens), readout.dim), np.float32)
        for rows, vectors in self.vectors(tokens, readout, Budget(self.batch_tokens)):
            out_ND[rows] = vectors
        bad = np.flatnonzero(~np.isfinite(out_ND).all(axis=1))
        if len(bad):
            raise InputError(f"sequence {bad[0]} has no finite embedding: is it empty?")
        return out_ND

    def vectors(
        self, tokens: Tokens, readout: Readout, budget: Budget, done: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Encode n sequences batch by batch, by length; yields (rows, vectors) until every row was there once.

        Parameters
        ----------
        tokens : n sequences; those over `token_limit` are encoded in windows of the full limit, a quarter overlapping.
        budget : tokens of a batch, halved when memory runs out.
        done : called after each batch with the tokens and the sequences it had.

        Raises
        ------
        ModelError : a single sequence does not fit into memory.
        """
        windows, count_of_row = cut_windows(tokens, self.token_limit, self.special)
        row_of_window = np.repeat(np.arange(len(tokens)), count_of_row)
        whole = count_of_row[row_of_window] == 1
        cut_WD: dict[int, NDArray[np.float32]] = {}
        batches = list(pack(windows.lengths, budget.tokens))[::-1]
        while batches:
            batch = batches.pop()
            try:
                vectors = self.embed(windows.take(batch), readout)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if len(batch) == 1:
                    length = int(windows.lengths[batch[0]])
                    raise ModelError(
                        f"one sequence of {length:,} tokens does not fit into the device's memory"
                    ) from None
                vectors = None
            if vectors is None:  # outside the except block, so that the failed batch's memory is free again
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                budget.halve()
                rest = np.concatenate([batch, *batches[::-1]])
                batches = [rest[part] for part in pack(windows.lengths[rest], budget.tokens)][::-1]
                continue
            if done is not None:
                done(int(windows.lengths[batch].sum()), len(batch))
            plain = whole[batch]
            yield row_of_window[batch[plain]], vectors[plain]
            cut_WD.update(zip(batch[~plain].tolist(), vectors[~plain], strict=True))
        if cut_WD:
            yield self._joined(windows, count_of_row, cut_WD, readout)

    def _joined(
        self,
        windows: Tokens,
        count_of_row: NDArray[np.int64],
        cut_WD: dict[int, NDArray[np.float32]],
        readout: Readout,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows = np.flatnonzero(count_of_row > 1)
        order = sorted(cut_WD)
        pooled_WD = np.stack([cut_WD[window] for window in order])
        weights_W, counts_B = windows.lengths[order], count_of_row[rows]
        joined = [
            join_windows(pooled_WD[:, block.start : block.stop], weights_W, counts_B, block.pooling)
            for block in readout.blocks
        ]
        return rows, np.concatenate(joined, axis=1)

    def environment(self) -> dict[str, str]:
        """What besides the fingerprint may move the last bits: torch version, instruction set, device."""
        device = "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)
        return {"torch": torch.__version__, "isa": torch.backends.cpu.get_cpu_capability(), "device": device}

    def description(self) -> dict[str, Any]:
        """All of the above that a store records about its encoder."""
        return {
            **{key: value for key, value in asdict(self.origin).items() if value is not None},
            "alphabet": self.alphabet,
            "layers": self.layers,
            "hidden": self.hidden,
            "token_limit": self.token_limit,
            "precision": self.precision,
            "fingerprint": self.fingerprint,
            "meaningless": self.meaningless,
        }


def _out_of_memory(error: BaseException) -> bool:
    return (
        not isinstance(error, RuntimeError)
        or isinstance(error, torch.OutOfMemoryError)
        or ("can't allocate memory" in str(error) or "out of memory" in str(error))
    )


def fingerprint(*parts: Any) -> str:
    """sha256 over the canonical JSON of `parts`, as 32 hex digits."""
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]
