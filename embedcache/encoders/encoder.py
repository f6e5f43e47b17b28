"""A frozen encoder: sequences in, one vector a sequence out, the same whichever batch a sequence is in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from embedcache.encoders.linear import PRECISIONS, matrix_rate
from embedcache.encoders.readout import Readout, ReadoutBlock
from embedcache.errors import InputError, ModelError
from embedcache.sequences.alphabet import Letters, normalise
from embedcache.sequences.packing import Windows, cut_windows, pack, truncate
from embedcache.sequences.pooling import NONE, check_pooling, column_of, join_windows, looks_at_a_place, token_focus
from embedcache.sequences.tokens import Tokens

NUMERICS = 2
"""Raised whenever a change of ours alters any bit of any embedding; part of every fingerprint."""
_IN_FLIGHT = 2
"""Batches begun before the first of them is waited for, so that a GPU always has the next one."""


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
    excluded: tuple[int, int]
    """Tokens at the two ends that the authors' mean leaves out."""
    authors_layer: int = -1
    """The hidden state that the encoder's authors take."""
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
    remarks: tuple[str, ...] = ()
    """What the user should know of how this encoder runs."""

    @property
    def name(self) -> str:
        """The name that the user gave."""
        return self.origin.name

    @abstractmethod
    def tokenize(self, sequences: Sequence[str] | pa.Array | Letters) -> Tokens:
        """Token ids of sequences exactly as the published tokenizer gives them, special tokens included.

        Letters are taken as they are; `encode` upper-cases them (and reads U as T in DNA) first.
        """

    def spans(self, letters: Letters) -> NDArray[np.int64]:
        """First letter and letter after the last that each token of `tokenize` covers, (T, 2); -1 for special tokens."""
        raise InputError(f"{self.name} has one vector a sequence: it has no tokens to look at")

    @abstractmethod
    def start(self, tokens: Tokens, readout: Readout, batch_tokens: int) -> Callable[[], NDArray[np.float32]]:
        """Begin to encode one batch of n sequences, packed to `batch_tokens`; the function returned waits for its vectors.

        They are (n, readout.dim) float32, or, for a readout without pooling, one row for each token that is no special
        one, those of all n sequences end to end.
        """

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
        return matrix_rate(PRECISIONS[self.precision], self.device, self.hidden)

    def readout(self, poolings: Sequence[str] = ("mean",), layers: Sequence[str | int] | None = None) -> Readout:
        """Lay out the blocks for all poolings of all layers.

        Parameters
        ----------
        poolings : as in `embedcache.sequences.pooling`.
        layers : states counted from 0 (the embeddings), negative from the last, or ``mid`` (half, rounded up); by
            default the one that the encoder's authors take.

        Raises
        ------
        InputError : a pooling is not known or makes no sense for this encoder, a layer does not exist, or one is named
            twice.
        """
        numbers = [self._layer(layer) for layer in (layers or (self.authors_layer,))]
        for how in poolings:
            check_pooling(how)
            if how == "cls" and not self.special[0]:
                raise InputError(f"{self.name} puts no special token before a sequence: take --pool mean or last")
        if NONE in poolings and len(poolings) > 1:
            raise InputError("none keeps every token, so it cannot share a store with a pooling: make two stores")
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

    def ranges(self, tokens: Tokens, pooling: str) -> NDArray[np.int64]:
        """First token that a pooling takes of each sequence, and the one after the last, (n, 2)."""
        if looks_at_a_place(pooling):
            return tokens.focus[pooling]
        lengths = tokens.lengths
        before, after = {"mean:all": (0, 0), "mean:inner": self.special, NONE: self.special}.get(pooling, self.excluded)
        return np.stack((np.minimum(before, lengths), np.maximum(lengths - after, np.minimum(before, lengths))), axis=1)

    def with_focus(
        self,
        tokens: Tokens,
        letters: Letters,
        readout: Readout,
        positions: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> Tokens:
        """Add to the tokens of n sequences which of them each pooling of a readout looks at.

        Parameters
        ----------
        positions : for each column that an ``at:COLUMN`` names, the letter of every sequence, counted from 0.

        Raises
        ------
        InputError : positions are missing, or lie outside their sequence.
        """
        wanted = [block.pooling for block in readout.blocks if looks_at_a_place(block.pooling)]
        if not wanted:
            return tokens
        spans_T2 = self.spans(letters)
        focus = {}
        for pooling in dict.fromkeys(wanted):
            column = column_of(pooling)
            if column is None:
                width = int(pooling.removeprefix("center:"))
                first = np.maximum(letters.lengths // 2 - width // 2, 0)
                places_n2 = np.stack((first, np.minimum(letters.lengths // 2 - width // 2 + width, letters.lengths)), 1)
            else:
                places_n2 = _places(column, (positions or {}).get(column), letters.lengths)
            focus[pooling] = token_focus(spans_T2, tokens.offsets, places_n2)
        return replace(tokens, focus=focus)

    def encode(
        self, sequences: Sequence[str] | pa.Array, pool: str = "mean", layer: str | int | None = None
    ) -> NDArray[np.float32]:
        """Encode sequences of any length: upper-case them, cut over-long ones to windows, batch, pool.

        Returns
        -------
        (n, D) float32, row i for sequence i, independent of the other sequences.
        """
        return self.encode_readout(sequences, self.readout((pool,), None if layer is None else (layer,)), self.overlong)

    def encode_readout(
        self,
        sequences: Sequence[str] | pa.Array,
        readout: Readout,
        overlong: str,
        positions: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> NDArray[np.float32]:
        """Encode sequences into all blocks of a readout, (n, readout.dim) float32.

        `overlong` is the policy for sequences over the limit: ``window``, or ``truncate``; the others need a place to
        set a sequence aside, which the extraction has, and raise `InputError` here. `positions` as for `with_focus`.
        """
        if not readout.pooled:
            raise InputError("without pooling a sequence has many vectors: use encode_tokens")
        tokens = self._prepared(sequences, readout, overlong, positions)
        out_ND = np.empty((len(tokens), readout.dim), np.float32)
        for rows, vectors in self.vectors(tokens, readout, Budget(self.batch_tokens)):
            out_ND[rows] = vectors
        bad = np.flatnonzero(~np.isfinite(out_ND).all(axis=1))
        if len(bad):
            raise InputError(f"sequence {bad[0]} has no finite embedding: is it empty?")
        return out_ND

    def encode_tokens(
        self, sequences: Sequence[str] | pa.Array, layer: str | int | None = None
    ) -> list[NDArray[np.float32]]:
        """Encode sequences without pooling: for each one (tokens, D) float32, special tokens left out."""
        readout = self.readout((NONE,), None if layer is None else (layer,))
        return self.encode_token_readout(sequences, readout, self.overlong)

    def encode_token_readout(
        self, sequences: Sequence[str] | pa.Array, readout: Readout, overlong: str
    ) -> list[NDArray[np.float32]]:
        """Like `encode_readout` for a readout without pooling: for each sequence (tokens, readout.dim) float32."""
        tokens = self._prepared(sequences, readout, overlong, None)
        out: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(tokens)
        for rows, states in self.token_vectors(tokens, readout, Budget(self.batch_tokens)):
            for row, states_LD in zip(rows.tolist(), states, strict=True):
                out[row] = states_LD
        return out

    def _prepared(
        self,
        sequences: Sequence[str] | pa.Array,
        readout: Readout,
        overlong: str,
        positions: Mapping[str, NDArray[np.int64]] | None,
    ) -> Tokens:
        letters = normalise(Letters.of(sequences), self.alphabet)
        tokens = self.with_focus(self.tokenize(letters), letters, readout, positions)
        if overlong == "truncate":
            return truncate(tokens, self.token_limit, self.special)
        if overlong != "window" and self.token_limit and (tokens.lengths > self.token_limit).any():
            row = int(np.argmax(tokens.lengths))
            raise InputError(
                f"sequence {row} has {tokens.lengths[row]:,} tokens, {self.name} takes {self.token_limit:,}: cut it first"
            )
        return tokens

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
        windows = cut_windows(tokens, self.token_limit, self.special)
        row_of_window = np.repeat(np.arange(len(tokens)), windows.counts)
        whole = windows.counts[row_of_window] == 1
        cut_WD: dict[int, NDArray[np.float32]] = {}
        for batch, vectors in self._batches(windows.tokens, readout, budget, done):
            plain = whole[batch]
            yield row_of_window[batch[plain]], vectors[plain]
            cut_WD.update(zip(batch[~plain].tolist(), vectors[~plain], strict=True))
        if cut_WD:
            yield self._joined(windows, cut_WD, readout)

    def token_vectors(
        self, tokens: Tokens, readout: Readout, budget: Budget, done: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], list[NDArray[np.float32]]]]:
        """Like `vectors` for a readout without pooling: yields (rows, one (tokens, dim) array for each of them).

        A token that lies in several windows of an over-long sequence is taken from the one whose border is farthest.
        """
        windows = cut_windows(tokens, self.token_limit, self.special)
        row_of_window = np.repeat(np.arange(len(tokens)), windows.counts)
        kept = windows.tokens.lengths - sum(self.special)
        cut: dict[int, NDArray[np.float32]] = {}
        for batch, states_TD in self._batches(windows.tokens, readout, budget, done):
            parts = np.split(states_TD, np.cumsum(kept[batch])[:-1])
            plain = windows.counts[row_of_window[batch]] == 1
            yield row_of_window[batch[plain]], [part for part, own in zip(parts, plain, strict=True) if own]
            cut.update((int(w), part.copy()) for w, part, own in zip(batch, parts, plain, strict=True) if not own)
        rows = np.flatnonzero(windows.counts > 1)
        first_window = np.cumsum(windows.counts) - windows.counts
        if len(rows):
            yield rows, [self._stitched(windows, cut, range(first, first + windows.counts[row]))
                         for row, first in zip(rows, first_window[rows].tolist(), strict=True)]  # fmt: skip

    def _stitched(self, windows: Windows, cut: Mapping[int, NDArray[np.float32]], own: range) -> NDArray[np.float32]:
        starts = windows.starts[own]
        stops = starts + np.asarray([len(cut[window]) for window in own], np.int64)
        low, high = borders_of_windows(starts, stops, np.asarray([len(own)]))
        return np.concatenate([cut[w][low[i] - starts[i] : high[i] - starts[i]] for i, w in enumerate(own)])

    def _batches(
        self, tokens: Tokens, readout: Readout, budget: Budget, done: Callable[[int, int], None] | None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Encode sequences of at most the limit: yields (indices, what `start` gives), `_IN_FLIGHT` batches ahead."""
        waiting = list(pack(tokens.lengths, budget.tokens))[::-1]
        running: deque[tuple[NDArray[np.int64], Callable[[], NDArray[np.float32]]]] = deque()
        while waiting or running:
            while waiting and len(running) < _IN_FLIGHT:
                batch = waiting.pop()
                wait = self._begin(tokens.take(batch), readout, budget)
                if wait is None:
                    rest = np.concatenate([batch, *waiting[::-1]])
                    waiting = [rest[part] for part in pack(tokens.lengths[rest], budget.tokens)][::-1]
                    break
                running.append((batch, wait))
            if running:
                batch, wait = running.popleft()
                vectors = wait()
                if done is not None:
                    done(int(tokens.lengths[batch].sum()), len(batch))
                yield batch, vectors

    def _begin(self, batch: Tokens, readout: Readout, budget: Budget) -> Callable[[], NDArray[np.float32]] | None:
        """Start a batch; None, and half the budget, where memory ran out, which a single sequence turns into an error."""
        try:
            return self.start(batch, readout, budget.tokens)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
        if len(batch) == 1 and budget.tokens <= len(batch.ids):
            raise ModelError(f"one sequence of {len(batch.ids):,} tokens does not fit into the device's memory")
        if self.device.type == "cuda":  # outside the except block, so that the failed batch's memory is free again
            torch.cuda.empty_cache()
        budget.halve()
        return None

    def _joined(
        self, windows: Windows, cut_WD: dict[int, NDArray[np.float32]], readout: Readout
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows = np.flatnonzero(windows.counts > 1)
        order = np.asarray(sorted(cut_WD), np.int64)
        pooled_WD = np.stack([cut_WD[window] for window in order.tolist()])
        counts_B = windows.counts[rows]
        cut = windows.tokens.take(order)
        joined = []
        for block in readout.blocks:
            ranges_W2 = self.ranges(cut, block.pooling)
            weights_W = ranges_W2[:, 1] - ranges_W2[:, 0] if looks_at_a_place(block.pooling) else cut.lengths
            joined.append(join_windows(pooled_WD[:, block.start : block.stop], weights_W, counts_B, block.pooling))
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


def borders_of_windows(
    starts_W: NDArray[np.int64], stops_W: NDArray[np.int64], counts_n: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tokens [low, high) that each window of n sequences answers for: up to the middle of what two of them share.

    Parameters
    ----------
    starts_W, stops_W : the tokens of each window, counted in its sequence.
    counts_n : windows of each sequence.
    """
    middle_W = (starts_W[1:] + stops_W[:-1]) // 2
    low_W, high_W = np.append(0, middle_W), np.append(middle_W, 0)
    last_n = np.cumsum(counts_n) - 1
    low_W[last_n - counts_n + 1] = 0
    high_W[last_n] = stops_W[last_n]
    return low_W, high_W


def _places(column: str, positions: NDArray[np.int64] | None, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    if positions is None:
        raise InputError(f"at:{column} needs the position of each sequence: there is no column '{column}'")
    outside = np.flatnonzero((positions < 0) | (positions >= lengths))
    if len(outside):
        row = int(outside[0])
        raise InputError(
            f"position {positions[row]:,} in column '{column}' lies outside sequence {row}, which has {lengths[row]:,} "
            "letters (positions count from 0)"
        )
    return np.stack((positions, positions + 1), axis=1)


def _out_of_memory(error: BaseException) -> bool:
    return (
        not isinstance(error, RuntimeError)
        or isinstance(error, torch.OutOfMemoryError)
        or ("can't allocate memory" in str(error) or "out of memory" in str(error))
    )
