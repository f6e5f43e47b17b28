"""What one step sees: the inputs of some rows, what is true of them, and how they are mixed.

Axes: n rows of a batch, T tokens, D values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedcache.encoders.packed import PackedBatch
from embedcache.encoders.tokenizers.tokenizer import offsets_of
from embedcache.encoders.trainable import TrainableTrunk
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.encoding import Encoding
from embedcache.errors import HeadError
from embedcache.sequences.alphabet import take_runs
from embedcache.sequences.packing import pack
from embedcache.sequences.tokens import Tokens
from heads.data.features import Rows
from heads.data.standardised_rows import StandardisedRows
from heads.finetune.processes import over_processes
from heads.finetune.tokens import Selection, TokenRows
from heads.finetune.vectors import Reading
from heads.perceptron.mixup import Mix

JUDGED_TOKENS = 16_384
"""Tokens, or rows of features, that are judged together."""


class StateReading(Protocol):
    """Takes the vectors of rows out of the hidden states of a batch."""

    def __call__(self, layer: int, states_TD: Tensor) -> dict[int, Tensor]:
        """The blocks that are read from a layer, by their number in the readout."""
        ...

    def rows(self, vectors: Tensor) -> Tensor:
        """All blocks side by side -> one vector of each row, (n, D)."""
        ...


@dataclass(frozen=True)
class Inputs:
    """What goes into the model for n rows: tokens, or the states below the trained layers, or the features themselves."""

    layout: PackedBatch | None = None
    reading: StateReading | None = None
    states_TD: Tensor | None = None
    features_nD: Tensor | None = None
    """Standardised."""


@dataclass(frozen=True)
class Batch:
    """Inputs of n rows with their truth (`heads.perceptron.losses`)."""

    positions: Rows
    """Among the training rows."""
    inputs: Inputs
    truth: Tensor
    mixture: Mixture | None = None
    weight: float = 1.0
    """Of its loss: of a batch that several processes share, a process's rows times the processes over all its rows."""


@dataclass(frozen=True)
class Mixture:
    """How n rows are mixed with any of the N rows of a batch, those of other processes too."""

    mix: Mix
    """Of all N."""
    own: Rows
    """(n,) places of the n rows among them."""
    truth: Tensor
    """Of all N."""
    counts: bool
    """Whether these rows are nobody else's."""

    def __call__(self, values_nD: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, D) -> those of the mixed rows, and their truth."""
        share, device = self.mix.share, values_nD.device
        own_n, partners_n = (torch.from_numpy(places).to(device) for places in (self.own, self.mix.partners[self.own]))
        truth = share * self.truth[own_n] + (1 - share) * self.truth[partners_n]
        if share == 1:
            return values_nD, truth
        all_ND = values_nD.new_zeros(len(self.truth), values_nD.shape[1])
        all_ND = over_processes(all_ND.index_copy(0, own_n, values_nD if self.counts else values_nD * 0))
        return share * values_nD + (1 - share) * all_ND[partners_n], truth


class InputSource(Protocol):
    """Gives the inputs of rows that are counted among all rows of a task."""

    def parts(self, positions: Rows) -> Iterator[NDArray[np.int64]]:
        """Cut rows into parts that are judged together: yields places in `positions`."""
        ...

    def units(self, positions: Rows) -> Units:
        """What the batches of these rows are drawn from."""
        ...

    def inputs(self, positions: Rows, hide: np.random.Generator | None = None) -> Inputs:
        """Lay out some rows; `hide` draws the tokens that are hidden, where some are to be."""
        ...


@dataclass(frozen=True)
class Units:
    """What batches are drawn from: rows, or records with all of their rows."""

    lengths: NDArray[np.int64]
    """(U,) tokens of each, 1 where there are none."""
    rows: NDArray[np.int64] | None = None
    """Places (n,) of the rows of all units, one unit after the other; None where a unit is a row."""
    sizes: NDArray[np.int64] | None = None
    """(U,) rows of each."""

    def rows_of(self, units: Rows) -> Rows:
        """The places of the rows of some units."""
        if self.rows is None or self.sizes is None:
            return units
        return take_runs(self.rows, offsets_of(self.sizes), units)[0]

    def places_of(self, some: Rows, units: Rows) -> Rows:
        """Where the rows of some of these units are in `rows_of(units)`; `some` counts in `units`."""
        if self.sizes is None:
            return some
        offsets = offsets_of(self.sizes[units])
        return take_runs(np.arange(offsets[-1]), offsets, some)[0]


@dataclass(frozen=True)
class FeatureInputs:
    """Features that stay as they are: the encoder is frozen."""

    rows: StandardisedRows

    def parts(self, positions: Rows) -> Iterator[NDArray[np.int64]]:
        return pack(np.ones(len(positions), np.int64), JUDGED_TOKENS)

    def units(self, positions: Rows) -> Units:
        return Units(np.ones(len(positions), np.int64))

    def inputs(self, positions: Rows, hide: np.random.Generator | None = None) -> Inputs:
        return Inputs(features_nD=self.rows.take(positions))


class StateSource(Protocol):
    """Gives the hidden states that the trained layers start from."""

    def __call__(self, selection: Selection, tokens: Tokens) -> Tensor:
        """States (T, D) of a selection whose token ids are `tokens`."""
        ...


@dataclass(frozen=True)
class TokenInputs:
    """Tokens, and where the trunk starts from states, these."""

    rows: TokenRows
    encoding: Encoding
    trunk: TrainableTrunk
    device: torch.device
    mask: Mask | None = None
    states: StateSource | None = None

    def parts(self, positions: Rows) -> Iterator[NDArray[np.int64]]:
        return pack(self.rows.lengths[positions], JUDGED_TOKENS)

    def units(self, positions: Rows) -> Units:
        return Units(self.rows.lengths[positions])

    def read(self, positions: Rows) -> tuple[Selection, StateReading]:
        """The windows of some rows, and what takes these out of their states."""
        selection = self.rows.of(positions)
        return selection, Reading.of(self.encoding.encoder, self.encoding.readout, selection, self.device)

    def inputs(self, positions: Rows, hide: np.random.Generator | None = None) -> Inputs:
        selection, reading = self.read(positions)
        tokens = selection.tokens
        if hide is not None and self.mask is not None:
            tokens = self.mask.hidden(tokens, hide)
        layout = self.trunk.pack(tokens.ids, tokens.lengths, self.device, self.states is None)
        if self.states is None:
            return Inputs(layout, reading)
        states_TD = self.states(selection, tokens)
        padding = len(layout.ids_T) - layout.tokens
        return Inputs(layout, reading, torch.nn.functional.pad(states_TD, (0, 0, 0, padding)))


@dataclass(frozen=True)
class Mask:
    """Hides tokens behind the mask token."""

    share: float
    token: int
    special: tuple[int, int]

    @classmethod
    def of(cls, encoder: TransformerEncoder, share: float) -> Mask | None:
        """None for a share of 0; raises HeadError for an encoder that knows no mask token."""
        if not share:
            return None
        token = mask_token(encoder)
        if token is None:
            raise HeadError(
                f"--mask: {encoder.name} was trained without a mask token, so nothing can be hidden: leave it out"
            )
        return cls(share, token, encoder.special)

    def hidden(self, tokens: Tokens, random: np.random.Generator) -> Tokens:
        """The tokens with that share of them hidden; special tokens stay."""
        place_T = np.arange(len(tokens.ids)) - np.repeat(tokens.offsets[:-1], tokens.lengths)
        left_T = np.repeat(tokens.lengths, tokens.lengths) - place_T
        inner_T = (place_T >= self.special[0]) & (left_T > self.special[1])
        hidden_T = inner_T & (random.random(len(tokens.ids)) < self.share)
        return Tokens(np.where(hidden_T, self.token, tokens.ids).astype(np.int32), tokens.offsets, tokens.focus)


def mask_token(encoder: TransformerEncoder) -> int | None:
    """The id that stands for a hidden token; None where there is none."""
    assert encoder.weights is not None
    published = encoder.weights.published
    if published.get("mask_token_id") is not None:
        return int(published["mask_token_id"])
    if encoder.alphabet == "cell":
        return 1  # of Geneformer's dictionaries: <pad> 0, <mask> 1
    known = getattr(encoder.tokenizer, "id_of", {})
    return next((int(known[word]) for word in ("[MASK]", "<mask>") if word in known), None)
