"""A linear map on standardised features: what a fitted ridge or quantile regression is.

Axes: N rows, D features, C columns of outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch.nn import functional

from embedcache.errors import HeadError
from heads.data.features import Design, Rows, RowSource, Standardisation
from heads.data.target import Doubles
from heads.linear.objective import COLUMNS


@dataclass(frozen=True)
class LinearMap:
    """z -> z W' + b of standardised features z: weights (C, D) in float32, intercepts (C,) in float64."""

    standardisation: Standardisation
    weights: torch.Tensor
    intercepts: torch.Tensor

    @property
    def dim(self) -> int:
        return self.weights.shape[1]

    @property
    def columns(self) -> int:
        return len(self.weights)

    def __call__(self, source: RowSource, rows: Rows, device: torch.device | str = "cpu") -> Doubles:
        """Return (n, C) for the given rows; raises `HeadError` where a feature is not finite."""
        design = Design(source, rows, self.standardisation, device=device, memory_bytes=0)
        return linear_outputs(design, self.weights, self.intercepts)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that is fitted, as it goes into the safetensors file."""
        return {
            "centre": self.standardisation.centre,
            "factor": self.standardisation.factor,
            "weights": self.weights,
            "intercepts": self.intercepts,
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Invert `tensors`; raises KeyError or ValueError where they do not belong together."""
        weights, intercepts = tensors["weights"], tensors["intercepts"]
        standardisation = Standardisation(tensors["centre"], tensors["factor"])
        columns, dim = weights.shape
        if {tensors["centre"].shape, tensors["factor"].shape} != {(dim,)} or intercepts.shape != (columns,):
            raise ValueError("the tensors of the head do not fit each other")
        return cls(standardisation, weights, intercepts)


def linear_outputs(design: Design, weights_CD: torch.Tensor, intercepts_C: torch.Tensor) -> Doubles:
    """Return Z W' + b (N, C) in one pass, with products in float32; raises `HeadError` where a feature is not finite."""
    columns = len(weights_CD)
    weights_DC = functional.pad(weights_CD, (0, 0, 0, -columns % COLUMNS)).T.contiguous().to(design.device)
    outputs_NC = torch.empty((len(design), columns), dtype=torch.float64)
    for block in design.blocks():
        outputs_NC[block.start : block.stop] = (block.values_nD @ weights_DC)[:, :columns]
    outputs_NC += intercepts_C.cpu()
    bad_N = ~torch.isfinite(outputs_NC).all(1)
    if bad_N.any():
        row = int(design.rows[int(bad_N.nonzero()[0])])
        raise HeadError(
            f"the features of row {row} (and {int(bad_N.sum()) - 1:,} more) are not finite numbers; see `embedcache verify`"
        )
    return outputs_NC.numpy()
