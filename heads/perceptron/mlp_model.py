"""A fitted multilayer perceptron: outputs for rows of features, and its files.

Axes: n rows of a selection, b rows of a block, D features, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self, get_args

import numpy as np
import torch

from embedcache.errors import HeadError
from heads.data.features import Rows, RowSource, Standardisation
from heads.data.standardised_rows import StandardisedRows
from heads.data.target import Doubles, Kind
from heads.head import Settings, load_tensors, save_tensors
from heads.perceptron.losses import predictions
from heads.perceptron.perceptrons import Perceptrons


@dataclass(frozen=True)
class MLPModel:
    """One fitted perceptron as it is saved; a stack of one."""

    standardisation: Standardisation
    perceptron: Perceptrons
    target: Kind
    quantiles: tuple[float, ...] = ()
    scale: float = 1.0
    """Scores of a measured quantity times `scale` plus `shift` are in its units."""
    shift: float = 0.0

    kind: ClassVar[str] = "mlp"

    @property
    def dim(self) -> int:
        return self.perceptron.sizes[0]

    @property
    def outputs(self) -> int:
        return 2 if self.target == "binary" else self.perceptron.sizes[-1]

    @torch.inference_mode()
    def __call__(self, source: RowSource, rows: Rows, device: torch.device | str = "cpu") -> Doubles:
        """Return the outputs (n, outputs) of the given rows, by float32 products.

        Raises HeadError for a row whose features are not finite.
        """
        features = StandardisedRows(source, rows, self.standardisation, torch.device(device), memory_bytes=0)
        perceptron = self.perceptron.head(0).to(device)
        outputs_nO = np.empty((len(rows), self.outputs))
        done = 0
        for values_bD in features.blocks():
            scores_bO = perceptron(values_bD[None])[0].double() * self.scale + self.shift
            outputs_nO[done : done + len(values_bD)] = predictions(self.target, scores_bO).cpu().numpy()
            done += len(values_bD)
        bad_n = ~np.isfinite(outputs_nO).all(1)
        if bad_n.any():
            row = int(rows[int(bad_n.argmax())])
            more = int(bad_n.sum()) - 1
            raise HeadError(
                f"the features of row {row} (and {more:,} more) are not finite numbers; see `embedcache verify`"
            )
        return outputs_nO

    def save(self, folder: Path) -> Settings:
        tensors = {"centre": self.standardisation.centre, "factor": self.standardisation.factor}
        for layer, (weight, bias) in enumerate(zip(self.perceptron.weights, self.perceptron.biases, strict=True)):
            tensors |= {f"weight{layer}": weight[0], f"bias{layer}": bias[0, 0]}
        save_tensors(folder, tensors)
        return {
            "layers": len(self.perceptron.weights),
            "target": self.target,
            "quantiles": list(self.quantiles),
            "scale": self.scale,
            "shift": self.shift,
        }

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        tensors = load_tensors(folder)
        layers = [(tensors.pop(f"weight{i}"), tensors.pop(f"bias{i}")) for i in range(int(settings["layers"]))]
        standardisation = Standardisation(tensors.pop("centre"), tensors.pop("factor"))
        target, quantiles = settings["target"], tuple(float(level) for level in settings["quantiles"])
        scale, shift = float(settings["scale"]), float(settings["shift"])
        if tensors or not layers or target not in get_args(Kind) or not np.isfinite([scale, shift]).all():
            raise ValueError("its tensors and settings do not fit each other")
        width = standardisation.centre.shape
        shapes_fit = standardisation.factor.shape == width
        for weight, bias in layers:
            shapes_fit &= weight.shape == (*width, *bias.shape) and weight.dtype == bias.dtype == torch.float32
            width = bias.shape
        if not shapes_fit or (quantiles and (len(quantiles) != width[0] or quantiles != tuple(sorted(set(quantiles))))):
            raise ValueError("its tensors and settings do not fit each other")
        weights = [weight[None] for weight, _ in layers]
        biases = [bias[None, None] for _, bias in layers]
        return cls(standardisation, Perceptrons(weights, biases), target, quantiles, scale, shift)
