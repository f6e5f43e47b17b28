"""One fit of a head: steps and head on the training rows, choices on the validation rows, outputs for every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from heads.data.features import Rows, RowSource
from heads.data.sampling import sampled_shares
from heads.data.target import Doubles, Examples, Kind
from heads.data.weights import ClassWeight, row_weights, weight_text
from heads.fitting import Fitted, Problem, Progress, say_nothing
from heads.perceptron.mlp import MLPModel
from heads.perceptron.mlp import fit as fit_perceptrons
from heads.saving.kinds import DEFAULT_METRICS, HEAD_KINDS
from heads.saving.saved import SavedHead
from heads.splitting.stop_on import VALIDATION, StopOn
from heads.steps import SteppedRows, Steps, StepsOptions, fit_steps


@dataclass(frozen=True)
class Recipe:
    """How a head is made, whatever the rows are."""

    kind: str
    options: Any
    """Of the kind (`heads.saving.kinds`)."""
    steps: StepsOptions | None
    select: str
    """Metric on the validation rows."""
    seed: int
    memory_bytes: int
    start: SavedHead | None = None
    """A head to go on from, with its steps."""
    stop_on: StopOn = VALIDATION


@dataclass(frozen=True)
class Fit:
    """A fitted head behind its steps."""

    fitted: Fitted
    steps: Steps | None
    select: str
    stop_on: StopOn = VALIDATION

    def outputs(self, source: RowSource, rows: Rows, device: torch.device | str) -> Doubles:
        """Outputs (n, outputs) of rows of the features as they are stored."""
        return self.fitted.head(source if self.steps is None else SteppedRows(source, self.steps), rows, device)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the steps and of the fit."""
        return (*(() if self.steps is None else self.steps.notes), *self.fitted.notes)

    @property
    def score(self) -> str:
        """What the head was chosen by, and its epoch, in words."""
        value = self.fitted.chosen.get(f"val_{self.select}")
        said = f"val {self.select.upper()} {value:.4f}" if isinstance(value, float) else f"val {self.select.upper()}"
        return said if self.stopped_on is None else f"{said}, stopped by {self.stopped_on.words}"

    @property
    def stopped_on(self) -> StopOn | None:
        """The rows that chose its epoch or round; None where there was one at most."""
        return self.stop_on if len({record["epoch"] for record in self.fitted.history}) > 1 else None

    @property
    def settings(self) -> str:
        """The settings of the chosen trial in words: those that lead its record, before its scores."""
        words = []
        for name, value in self.fitted.chosen.items():
            if name.startswith("val_"):
                break
            if value is None:
                continue
            words.append(f"{name.replace('_', ' ')} {f'{value:g}' if isinstance(value, float) else value}")
        return ", ".join(words) or "the only one"


def default_metric(target: Kind, quantiles: tuple[float, ...]) -> str:
    """What chooses where nothing else is asked for."""
    return "pinball" if quantiles else DEFAULT_METRICS[target]


def fit_head(
    source: RowSource,
    train: Examples,
    val: Examples,
    recipe: Recipe,
    *,
    stop: Examples | None = None,
    device: torch.device,
    progress: Progress = say_nothing,
) -> Fit:
    """Fit the steps on the training rows, then the head behind them; `stop` as in `heads.fitting.Problem`."""
    if recipe.start is not None:
        steps = recipe.start.steps
    else:
        steps = None if recipe.steps is None else fit_steps(source, train.rows, recipe.steps)
    problem = Problem(
        source if steps is None else SteppedRows(source, steps),
        train,
        val,
        recipe.select,
        recipe.seed,
        device,
        recipe.memory_bytes,
        progress,
        stop,
    )
    if recipe.start is None:
        return Fit(HEAD_KINDS[recipe.kind].fit(problem, recipe.options), steps, recipe.select, recipe.stop_on)
    assert isinstance(recipe.start.head, MLPModel)
    fitted = fit_perceptrons(problem, recipe.options, start=recipe.start.head)
    return Fit(fitted, steps, recipe.select, recipe.stop_on)


def trained_shares(fit: Fit, train: Examples, options: Any) -> Doubles | None:
    """Shares of the classes as the weights or the sampler of the chosen head made them in training, (classes,) or of
    labels (L, 2); None for a measured quantity."""
    target = train.target
    if target.kind == "regression":
        return None
    given = _class_weight(fit, options)
    if target.kind == "multilabel":
        weights_NL = row_weights(target, given, train.weights)
        yes_L = (weights_NL * np.asarray(target.values, np.float64)).sum(0) / weights_NL.sum(0)
        return np.stack([1 - yes_L, yes_L], axis=1)
    return sampled_shares(train, given, getattr(options, "sampler", "none"))


def _class_weight(fit: Fit, options: Any) -> ClassWeight:
    """The class weight of the chosen trial."""
    if not hasattr(options, "class_weights"):
        given: ClassWeight = getattr(options, "class_weight", "none")
        return given
    said = fit.fitted.chosen["class_weight"]
    return next(weight for weight in options.class_weights if weight_text(weight) == said)
