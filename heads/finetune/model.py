"""Encoder and head as one model: a batch in, its loss out.

Axes: n rows of a batch, T tokens, D values of the features, O scores.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from embedcache.encoders.readout import Readout
from embedcache.encoders.trainable import TrainableTrunk
from heads.data.features import Standardisation
from heads.finetune.batch import Batch, Inputs
from heads.perceptron.losses import Loss
from heads.perceptron.perceptrons import Dropout, Perceptrons


@dataclass(frozen=True)
class Products:
    """The types that encoder and head multiply in; float32 is no autocast."""

    encoder: torch.dtype
    head: torch.dtype

    def within(self, dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
        """Where products run in a type."""
        return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


class FinetuneModel(nn.Module):
    """The layers that are trained, what is read out of them, and the head on the standardised features.

    Parameters
    ----------
    trunk : None where the encoder is frozen and batches hold features.
    head : a stack of one.
    standardisation : of the features as the encoder gave them before; it stays.
    dropout : share of the head's hidden values that training drops.
    """

    def __init__(
        self,
        trunk: TrainableTrunk | None,
        readout: Readout,
        head: Perceptrons,
        standardisation: Standardisation,
        loss: Loss,
        dropout: float,
        products: Products,
    ) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        self.readout, self.loss, self.dropout, self.products = readout, loss, dropout, products
        self.centre: Tensor
        self.factor: Tensor
        self.register_buffer("centre", standardisation.centre.clone(), persistent=False)
        self.register_buffer("factor", standardisation.factor.clone(), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of a batch."""
        values_nD, truth = self.features(batch.inputs), batch.truth
        if batch.mixture is not None:
            values_nD, truth = batch.mixture(values_nD)
        loss_1: Tensor = self.loss(self._scores(values_nD)[None], truth[None])
        return loss_1.sum() * batch.weight

    def scores(self, inputs: Inputs) -> Tensor:
        """Scores (n, O) in float32."""
        return self._scores(self.features(inputs))

    def features(self, inputs: Inputs) -> Tensor:
        """Standardised features (n, D) in float32."""
        if inputs.features_nD is not None:
            return inputs.features_nD
        assert self.trunk is not None
        assert inputs.layout is not None
        assert inputs.reading is not None
        last = max(block.layer for block in self.readout.blocks)
        blocks: dict[int, Tensor] = {}
        with self.products.within(self.products.encoder, self.centre.device):
            for layer, states_TD in self.trunk.states(inputs.layout, inputs.states_TD):
                blocks |= inputs.reading(layer, states_TD.float())
                if layer == last:
                    break
        values_nD = inputs.reading.rows(torch.cat([blocks[number] for number in range(len(blocks))], dim=1).float())
        return (values_nD - self.centre) * self.factor

    def _scores(self, values_nD: Tensor) -> Tensor:
        dropout = None
        if self.training and self.dropout:
            # the generator that everything else draws from: its state is in every checkpoint
            dropout = Dropout([self.dropout], [_generator(values_nD.device)])
        with self.products.within(self.products.head, values_nD.device):
            scores_1nO: Tensor = self.head(values_nD[None], dropout)
        return scores_1nO[0].float()


def _generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator
