"""The grid of logistic regressions of one training: fit on train, chosen on validation rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from heads.features import Design, Rows, RowSource
from heads.labels import Codes
from heads.logistic import CERTIFIED, Doubles, LogisticGrid, LogisticModel, balanced, fit_grid
from heads.metrics import evaluate
from heads.moments import standardise

ClassWeight = Literal["none", "balanced"]
SelectMetric = Literal["auprc", "auroc"]

STRENGTHS = tuple(float(f"{C:.3g}") for C in np.logspace(-4, 1, 8))
"""C of the default grid: 8 values from 1e-4 to 10, evenly spaced in the logarithm."""
MOST_COLUMNS = 256
"""Heads fitted at once are limited to so many columns (heads x classes), which bounds the memory of a pass."""


@dataclass(frozen=True)
class Grid:
    """Every C with every class weight."""

    strengths: tuple[float, ...] = STRENGTHS
    class_weights: tuple[ClassWeight, ...] = ("none", "balanced")
    select: SelectMetric = "auprc"

    @property
    def points(self) -> list[tuple[float, ClassWeight]]:
        """Stronger regularisation first, so that it wins a tie."""
        return [(strength, weight) for strength in sorted(self.strengths) for weight in self.class_weights]


@dataclass(frozen=True)
class Trial:
    """One head of the grid; `gap` is the estimated relative distance of its objective to the minimum."""

    C: float
    class_weight: ClassWeight
    val_auprc: float
    val_auroc: float
    objective: float
    passes: int
    gap: float


@dataclass(frozen=True)
class Selection:
    """The chosen head and the whole grid it was chosen from."""

    model: LogisticModel
    trials: tuple[Trial, ...]
    best: int
    select: SelectMetric
    notes: tuple[str, ...]

    @property
    def chosen(self) -> Trial:
        return self.trials[self.best]

    @property
    def score(self) -> str:
        """What the head was chosen by, in words."""
        return f"val {self.select.upper()} {getattr(self.chosen, f'val_{self.select}'):.4f}"


@dataclass(frozen=True)
class Labelled:
    """Rows of a source with their class codes."""

    rows: Rows
    labels: Codes


def fit_and_select(
    source: RowSource,
    train: Labelled,
    val: Labelled,
    classes: int,
    grid: Grid,
    *,
    device: torch.device | str = "cpu",
    memory_bytes: int,
    progress: Callable[[int], None] | None = None,
) -> Selection:
    """Fit the grid on `train` and choose the head that ranks `val` best; `progress` is told the number of open heads."""
    design = Design(source, train.rows, standardise(source, train.rows), device=device, memory_bytes=memory_bytes)
    points = grid.points
    table = {"none": np.ones(classes), "balanced": balanced(train.labels, classes)}
    strengths = np.array([strength for strength, _ in points])
    weights = np.array([table[weight] for _, weight in points])
    fitted = _fit_in_parts(design, train.labels, strengths, weights, progress)

    validation = Design(source, val.rows, design.standardisation, device=device, memory_bytes=0)
    scores = [
        evaluate(val.labels, ranking, ranking.argmax(1), resamples=0).scores for ranking in fitted.rankings(validation)
    ]
    trials = tuple(
        Trial(strength, weight, score.auprc, score.auroc, float(objective), int(passes), float(gap))
        for (strength, weight), score, objective, passes, gap in zip(
            points, scores, fitted.objectives, fitted.passes, fitted.gaps, strict=True
        )
    )
    best = int(np.argmax([getattr(score, grid.select) for score in scores]))
    model = LogisticModel(design.standardisation.on("cpu"), fitted.weights[best], fitted.intercepts[best])
    return Selection(model, trials, best, grid.select, tuple(_notes(grid, trials, best)))


def _fit_in_parts(
    design: Design, labels: Codes, strengths: Doubles, weights: Doubles, progress: Callable[[int], None] | None
) -> LogisticGrid:
    """Fit all heads at once, or in parts where many classes make them too wide for that."""
    from heads.moments import eigenbasis

    classes = weights.shape[1]
    step = len(strengths) if classes == 2 else max(1, MOST_COLUMNS // classes)
    basis = eigenbasis(design)
    parts = []
    for start in range(0, len(strengths), step):
        later = max(0, len(strengths) - start - step)
        part = slice(start, start + step)
        told = None if progress is None else (lambda left, later=later: progress(left + later))
        parts.append(fit_grid(design, labels, strengths[part], weights[part], basis=basis, progress=told))
    return LogisticGrid(
        torch.cat([part.weights for part in parts]),
        torch.cat([part.intercepts for part in parts]),
        np.concatenate([part.objectives for part in parts]),
        np.concatenate([part.gaps for part in parts]),
        np.concatenate([part.passes for part in parts]),
    )


def _notes(grid: Grid, trials: tuple[Trial, ...], best: int) -> list[str]:
    notes = []
    chosen = trials[best].C
    if len(grid.strengths) > 1 and chosen in (min(grid.strengths), max(grid.strengths)):
        side = "smallest" if chosen == min(grid.strengths) else "largest"
        notes.append(f"the best C ({chosen:g}) is the {side} of the grid: a wider --c may do better")
    if trials[best].class_weight == "balanced":
        notes.append("class weight balanced: the probabilities are as if the classes were equally frequent")
    for trial in trials:
        if trial.gap > CERTIFIED:
            notes.append(
                f"C = {trial.C:g}, class weight {trial.class_weight}: stopped after {trial.passes} passes about "
                f"{trial.gap:.0e} of its objective above the minimum (the classes may be separable)"
            )
    return notes
