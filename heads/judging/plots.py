"""The pictures of a run, drawn from its test rows: ranking, calibration and confusion of classes, predicted against true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from heads.data.target import Codes, Doubles, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CALIBRATION_BINS = 10
_MOST_CURVES, _FEWER_CURVES = 12, 5
_MOST_CELLS = 15
"""Classes up to which a confusion matrix is drawn with its numbers."""
_MOST_POINTS = 5000


def draw_plots(folder: Path, target: Target, outputs: Doubles, predictions: npt.NDArray[np.generic]) -> list[str]:
    """Draw what suits the kind of target; returns the names of the pictures, without ``.png``."""
    if target.kind == "regression":
        _draw_scatter(folder / "scatter.png", target.values, predictions)
        return ["scatter"]
    draw_curves(folder, target, outputs)
    if not target.has_classes or len(target.names) > _MOST_CELLS:
        return ["pr", "roc", "calibration"]
    _draw_confusion(folder / "confusion.png", target, np.asarray(predictions, np.int64))
    return ["pr", "roc", "calibration", "confusion"]


@dataclass(frozen=True)
class Curve:
    """One line of a plot."""

    name: str
    x: Doubles
    y: Doubles


def _judged(target: Target) -> list[tuple[int, npt.NDArray[np.bool_]]]:
    """Columns of the outputs to draw, with the rows that are positive for each."""
    if target.kind == "binary":
        return [(1, target.values == 1)]
    if target.kind == "multilabel":
        return [(one, target.values[:, one] == 1) for one in range(len(target.names))]
    return [(one, target.values == one) for one in range(len(target.names)) if (target.values == one).any()]


def draw_curves(folder: Path, target: Target, outputs: Doubles) -> None:
    """Draw pr.png, roc.png and calibration.png, with three classes and more one curve for each against the rest.

    Of more than twelve only the most frequent are drawn, and the legend says so.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    judged = [(one, positive) for one, positive in _judged(target) if positive.any() and not positive.all()]
    legend = None
    if len(judged) > _MOST_CURVES:
        what = "labels" if target.kind == "multilabel" else "classes"
        legend = f"the {_FEWER_CURVES} most frequent of {len(judged)} {what}"
        judged = sorted(judged, key=lambda item: -int(item[1].sum()))[:_FEWER_CURVES]
    curves: dict[str, list[Curve]] = {"pr": [], "roc": [], "calibration": []}
    for one, positive in judged:
        name, score = _shown(target, one), outputs[:, one]
        precision, recall, _ = precision_recall_curve(positive, score)
        curves["pr"].append(Curve(f"{name}, AUPRC {average_precision_score(positive, score):.3f}", recall, precision))
        wrong, right, _ = roc_curve(positive, score)
        curves["roc"].append(Curve(f"{name}, AUROC {roc_auc_score(positive, score):.3f}", wrong, right))
        curves["calibration"].append(Curve(f"{name}, bins of equal counts", *_calibration(positive, score)))
    prevalence = float(judged[0][1].mean()) if len(judged) == 1 else None
    rows = f"test split, {len(target):,} rows"
    for name, title, across, up, diagonal in (
        ("pr", "Precision and recall", "recall", "precision", False),
        ("roc", "ROC", "false positive rate", "true positive rate", True),
        ("calibration", "Calibration", "mean predicted probability", "observed share", True),
    ):
        level = prevalence if name == "pr" else None
        _draw(
            folder / f"{name}.png",
            curves[name],
            f"{title} ({rows})",
            across,
            up,
            diagonal=diagonal,
            level=level,
            legend=legend,
        )


def _shown(target: Target, one: int) -> str:
    """A class or label for a legend, where a number alone says nothing."""
    name = target.names[one]
    return f"class {name}" if isinstance(name, int) else name


def _calibration(positive: npt.NDArray[np.bool_], score: Doubles) -> tuple[Doubles, Doubles]:
    """Mean probability and observed share in bins of equal counts."""
    bins = np.array_split(np.argsort(score, kind="stable"), min(_CALIBRATION_BINS, len(score)))
    return np.array([score[one].mean() for one in bins]), np.array([positive[one].mean() for one in bins])


def _axes() -> tuple[Figure, Axes]:
    # the figure alone, without pyplot: no window system, no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.8), dpi=120, layout="constrained")
    return figure, figure.subplots()


def _save(figure: Figure, path: Path) -> None:
    # savefig gives the same picture, and draws it twice
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).print_png(path)


def _draw(
    path: Path,
    curves: Sequence[Curve],
    title: str,
    across: str,
    up: str,
    *,
    diagonal: bool = False,
    level: float | None = None,
    legend: str | None = None,
) -> None:
    figure, axes = _axes()
    for curve in curves:
        axes.plot(curve.x, curve.y, label=curve.name, marker="." if path.stem == "calibration" else "", linewidth=1.2)
    if diagonal:
        ends = [float(max(curve.x.max(), curve.y.max())) for curve in curves]
        most = 1.0 if path.stem == "roc" else max(ends, default=1.0)
        axes.plot([0, most], [0, most], color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    if level is not None:
        axes.axhline(level, color="0.6", linewidth=0.8, linestyle="--", zorder=0, label=f"prevalence {level:.3f}")
    axes.set_title(title, fontsize=9)
    axes.set(xlabel=across, ylabel=up)
    if curves:
        axes.legend(frameon=False, fontsize=8, title=legend, title_fontsize=8)
    _save(figure, path)


def _draw_confusion(path: Path, target: Target, predictions: Codes) -> None:
    """Rows of each true class, and the share of them that each class was predicted for."""
    classes = len(target.names)
    counts = np.bincount(np.asarray(target.values, np.int64) * classes + predictions, minlength=classes**2)
    counts = counts.reshape(classes, classes)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axes = _axes()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(classes):
        for column in range(classes):
            dark = shares[row, column] > 0.5
            text = f"{counts[row, column]:,}\n{shares[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    names = [str(name) for name in target.names]
    axes.set_xticks(range(classes), names, fontsize=8, rotation=0 if classes < 5 else 60)
    axes.set_yticks(range(classes), names, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"Confusion (test split, {len(target):,} rows; share of the true class)", fontsize=9)
    _save(figure, path)


def _draw_scatter(path: Path, true: npt.NDArray[np.generic], predicted: npt.NDArray[np.generic]) -> None:
    figure, axes = _axes()
    shown = np.linspace(0, len(true) - 1, min(len(true), _MOST_POINTS)).astype(int)
    axes.scatter(true[shown], predicted[shown], s=6, alpha=0.5, linewidths=0)
    low, high = float(np.min(true)), float(np.max(true))
    axes.plot([low, high], [low, high], color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    of = "" if len(shown) == len(true) else f", {len(shown):,} of them drawn"
    axes.set_title(f"Predicted and true (test split, {len(true):,} rows{of})", fontsize=9)
    axes.set(xlabel="true", ylabel="predicted")
    _save(figure, path)
