"""L2 logistic regression, binary, multinomial and of several labels: the grid of one training, and the fitted head.

Axes: N rows, n rows of a selection, D features, L labels, c classes; M columns of a fitted head: 1 for two classes, one
for each of more classes, one for each label.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch

from embedcache.errors import HeadError
from embedcache.search.standardising import standardise
from heads.data.features import Design, Rows, RowSource, Standardisation
from heads.data.moments import eigenbasis
from heads.data.present import check_present
from heads.data.target import Doubles
from heads.data.weights import ClassWeight, class_weights, weight_text
from heads.fitting import Fitted, Problem, Record
from heads.head import Settings, load_tensors, save_tensors
from heads.judging.metrics import better, check_metric, score
from heads.linear.kernel import NoKernel, find_kernel
from heads.linear.logistic_grid import CERTIFIED, MOST_PASSES, LogisticGrid, fit_grid, scores

STRENGTHS = tuple(float(f"{C:.3g}") for C in np.logspace(-4, 1, 8))
"""C of the default grid: 8 values from 1e-4 to 10, evenly spaced in the logarithm."""
MOST_COLUMNS = 256
"""So many columns are fitted at once, which bounds the memory of a pass."""


class NotConvergedWarning(UserWarning):
    """A fit used up its passes before it reached its optimum."""


UNEVEN = "class weight "
"""How a note begins that says what class weights did to the probabilities; a calibration or a prior undoes it."""


@dataclass(frozen=True)
class LogisticOptions:
    """Every C with every class weight."""

    strengths: tuple[float, ...] = STRENGTHS
    class_weights: tuple[ClassWeight, ...] = ("none", "balanced")
    most_passes: int = MOST_PASSES
    """Passes over the rows before a fit gives up."""

    @property
    def points(self) -> list[tuple[float, ClassWeight]]:
        """Stronger penalties first, so that they win a tie."""
        return [(strength, weight) for strength in sorted(self.strengths) for weight in self.class_weights]


@dataclass(frozen=True)
class LogisticModel:
    """A fitted logistic regression, as it is saved: standardisation (D,), weights (M, D), intercepts (M,)."""

    standardisation: Standardisation
    weights: torch.Tensor
    intercepts: torch.Tensor
    multilabel: bool = False
    """Each column is a label of its own, and not a class of one."""

    kind: ClassVar[str] = "lr"
    quantiles: ClassVar[tuple[float, ...]] = ()

    @property
    def dim(self) -> int:
        return self.weights.shape[1]

    @property
    def outputs(self) -> int:
        return len(self.weights) if self.multilabel else max(2, len(self.weights))

    def __call__(self, source: RowSource, rows: Rows, device: torch.device | str = "cpu") -> Doubles:
        design = Design(source, rows, self.standardisation, device=device, memory_bytes=0)
        return _probabilities(scores(design, self.weights, self.intercepts), self.multilabel)

    def save(self, folder: Path) -> Settings:
        tensors = {
            "centre": self.standardisation.centre,
            "factor": self.standardisation.factor,
            "weights": self.weights,
            "intercepts": self.intercepts,
        }
        save_tensors(folder, tensors)
        return {"multilabel": self.multilabel}

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        tensors, multilabel = load_tensors(folder), settings["multilabel"]
        weights, intercepts = tensors["weights"], tensors["intercepts"]
        standardisation = Standardisation(tensors["centre"], tensors["factor"])
        outputs, dim = weights.shape
        shapes = {standardisation.centre.shape, standardisation.factor.shape}
        if shapes != {(dim,)} or intercepts.shape != (outputs,) or not isinstance(multilabel, bool):
            raise ValueError("the tensors of the head do not fit each other")
        if not outputs or (outputs == 2 and not multilabel):
            raise ValueError(f"{outputs} columns of weights are no logistic regression")
        return cls(standardisation, weights, intercepts, multilabel)


def _probabilities(scores_nM: torch.Tensor, multilabel: bool) -> Doubles:
    """Outputs of a head in float64, in which probabilities stay apart that float32 would round to 1."""
    scores_nM = scores_nM.double()
    if multilabel:
        return np.asarray(scores_nM.sigmoid().numpy())
    if scores_nM.shape[1] > 1:
        return np.asarray(scores_nM.softmax(1).numpy())
    return np.asarray(torch.cat([torch.sigmoid(-scores_nM), torch.sigmoid(scores_nM)], dim=1).numpy())


def fit(problem: Problem, options: LogisticOptions) -> Fitted:
    """Fit the grid on the training rows and choose the point that is best on the validation rows.

    Several labels are so many regressions at each point, fitted in the same passes; one point is chosen for all labels,
    by the metric's mean over them. Sample weights count in the standardisation too, as if rows were repeated.

    Raises HeadError for a measured quantity, a class without training rows, features that are not finite, a C that is
    not above 0, and a grid without validation rows to choose by.
    """
    fitted = fit_points(problem, options)
    best = 0
    for point in range(1, len(options.points)):
        if better(problem.select, fitted.found[point], fitted.found[best]):
            best = point
    trials = tuple(fitted.trial(point, problem.select) for point in range(len(options.points)))
    return Fitted(fitted.model(best), trials, best, notes=tuple(_notes(fitted, best, problem)))


@dataclass(frozen=True)
class _Points:
    """The points of a grid, and all their regressions, those of a point one after another."""

    options: LogisticOptions
    grid: LogisticGrid
    found: tuple[float, ...]
    """The metric of each point on the validation rows; NaN where there are none."""
    standardisation: Standardisation
    multilabel: bool

    def heads(self, point: int) -> slice:
        """The regressions of a point: one, or one for each label."""
        each = len(self.grid.objectives) // len(self.found)
        return slice(point * each, (point + 1) * each)

    def model(self, point: int) -> LogisticModel:
        """The head of a point."""
        weights, intercepts = self.grid.weights[self.heads(point)], self.grid.intercepts[self.heads(point)]
        return LogisticModel(
            self.standardisation.on("cpu"), weights.flatten(0, 1), intercepts.flatten(), self.multilabel
        )

    def trial(self, point: int, select: str) -> Record:
        """`gap` is the estimated relative distance of the objective to its minimum, of several labels the largest."""
        (strength, weight), heads = self.options.points[point], self.heads(point)
        return {
            "C": strength,
            "class_weight": weight_text(weight),
            f"val_{select}": self.found[point],
            "objective": float(self.grid.objectives[heads].sum()),
            "passes": int(self.grid.passes[heads].max()),
            "gap": float(self.grid.gaps[heads].max()),
        }


def fit_points(problem: Problem, options: LogisticOptions) -> _Points:
    """Fit all points at once, or in parts where many classes or labels make them too wide for that."""
    target, points = problem.target, options.points
    _check(problem, options)
    standardisation = standardise(problem.source, problem.train.rows, problem.train.weights)
    device, memory = problem.device, problem.memory_bytes
    train = Design(problem.source, problem.train.rows, standardisation, device=device, memory_bytes=memory)
    val = Design(problem.source, problem.val.rows, standardisation, device=device, memory_bytes=0)
    basis = eigenbasis(train)
    tables = [np.atleast_2d(class_weights(target, given)) for _, given in points]
    heads, classes = tables[0].shape
    total = heads * len(points)
    step = max(1, MOST_COLUMNS // (heads * (1 if classes == 2 else classes)))

    grids: list[LogisticGrid] = []
    found: list[float] = []
    for start in range(0, len(points), step):
        part = points[start : start + step]

        def told(left: int, later: int = total - heads * (start + len(part))) -> None:
            done = total - later - left
            problem.progress(done, total, f"{done} of {total} regressions at their optimum")

        grid = fit_grid(
            train,
            target.values.astype(np.int64),
            np.repeat([strength for strength, _ in part], heads),
            np.concatenate(tables[start : start + step]),
            labels=np.tile(np.arange(heads), len(part)),
            row_weights=problem.train.weights,
            basis=basis,
            most_passes=options.most_passes,
            progress=told,
        )
        grids.append(grid)
        found += _scores_of_points(grid, len(part), val, problem)
    return _Points(options, LogisticGrid.join(grids), tuple(found), standardisation, target.kind == "multilabel")


def _check(problem: Problem, options: LogisticOptions) -> None:
    target = problem.target
    if not target.has_classes and target.kind != "multilabel":
        raise HeadError(
            f"--head lr: {target.names[0]} is a measured quantity, and lr learns classes; take --head ridge"
        )
    check_metric(target.kind, problem.select)
    for strength in options.strengths:
        if not (np.isfinite(strength) and strength > 0):
            raise HeadError(f"--c {strength:g}: the inverse strength of a penalty is a finite number above 0")
    if not options.strengths or not options.class_weights:
        raise HeadError("--c and --class-weight need a value each: there is no regression to fit")
    if len(options.points) > 1 and not len(problem.val):
        raise HeadError(
            f"there are no validation rows to choose from {len(options.points)} regressions by; give a split with such "
            "rows, or one --c and one --class-weight"
        )
    check_present(target, problem.train.weights)


def _scores_of_points(grid: LogisticGrid, points: int, val: Design, problem: Problem) -> list[float]:
    if not len(val):
        return [float("nan")] * points
    scores_NC = scores(val, grid.weights.flatten(0, 1), grid.intercepts.flatten())
    multilabel = problem.target.kind == "multilabel"
    return [
        score(problem.val.target, _probabilities(scores_NM, multilabel), problem.select)
        for scores_NM in scores_NC.chunk(points, dim=1)
    ]


def _notes(fitted: _Points, best: int, problem: Problem) -> list[str]:
    notes = []
    kernel = find_kernel()
    if isinstance(kernel, NoKernel) and problem.device.type == "cpu":
        notes.append(f"passes run as products by torch, several times slower, with the same results: {kernel.reason}")
    strengths = fitted.options.strengths
    chosen, weight = fitted.options.points[best]
    if len(strengths) > 1 and chosen in (min(strengths), max(strengths)):
        side = "smallest" if chosen == min(strengths) else "largest"
        notes.append(f"the best C ({chosen:g}) is the {side} of the grid: a wider --c may do better")
    if weight == "balanced":
        notes.append(f"{UNEVEN}balanced: the probabilities are as if the classes were equally frequent")
    elif weight != "none":
        notes.append(
            f"{UNEVEN}{weight_text(weight)}: the probabilities are as if the classes were so many times as frequent"
        )
    for point, (strength, given) in enumerate(fitted.options.points):
        gap = fitted.grid.gaps[fitted.heads(point)].max()
        if gap > CERTIFIED:
            notes.append(
                f"C = {strength:g}, class weight {weight_text(given)}: stopped after "
                f"{fitted.grid.passes[fitted.heads(point)].max()} passes about {gap:.0e} of its objective above the minimum "
                "(the classes may be separable)"
            )
    return notes
