"""What a run shows: the table on the screen, the plots, and one self-contained HTML page."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from heads.labels import Codes
from heads.logistic import Doubles
from heads.metrics import METRICS
from heads.results import PartResult, Result
from heads.runs import PLOTS, REPORT, Manifest
from heads.selection import Selection
from heads.splits import TEST
from heads.task import Task, describe

MEANINGLESS = "the encoder has random weights: these numbers say nothing about biology"
_TITLES = {"auroc": "AUROC", "auprc": "AUPRC", "mcc": "MCC", "f1": "F1", "acc": "ACC"}
_CALIBRATION_BINS = 10
_MOST_CURVES, _FEWER_CURVES = 12, 5


def _cells(part: PartResult) -> list[str]:
    """AUROC, AUPRC with its interval, MCC, F1 and ACC as text."""
    evaluation = part.evaluation
    cells = []
    for metric in METRICS:
        text = f"{getattr(evaluation.scores, metric):.4f}"
        interval = None if evaluation.intervals is None else evaluation.intervals.auprc
        if metric == "auprc" and interval is not None:
            text += f" [{interval[0]:.4f}, {interval[1]:.4f}]"
        cells.append(text)
    return cells


def _grid(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def table(results: Sequence[Result], part: str) -> str:
    """One line per model for one split, the head first."""
    evaluation = getattr(results[0], part).evaluation
    head = [f"{part} ({evaluation.rows:,} rows)", *_TITLES.values()]
    share = f"prevalence {evaluation.prevalence:.4f}, " if len(evaluation.positives) == 2 else "means over classes, "
    note = f"{share}[95 % bootstrap interval]"
    return _grid([head, *([result.name, *_cells(getattr(result, part))] for result in results)]) + f"\n({note})"


def single_table(name: str, part: PartResult) -> str:
    """The table of one saved head on one set of rows."""
    return _grid([[f"{part.evaluation.rows:,} rows", *_TITLES.values()], [name, *_cells(part)]])


def write(
    folder: Path,
    encoder: Mapping[str, Any],
    manifest: Manifest,
    task: Task,
    selection: Selection,
    results: Sequence[Result],
    probabilities: Doubles,
) -> None:
    """Write ``plots/`` and ``report.html`` into a run directory."""
    test = task.part(TEST)
    plots = folder / PLOTS
    plots.mkdir()
    draw_plots(plots, task.labels[test], probabilities[test], [str(name) for name in task.classes])
    body = [f"<h1>{html.escape(manifest.outdir.rsplit('/', 1)[-1])}</h1>"]
    if encoder.get("meaningless"):
        body.append(f"<p class='warning'>{html.escape(MEANINGLESS)}</p>")
    body.append(_paragraph(f"Features: {manifest.dataset_path} ({encoder.get('name')}). Label: {task.label}."))
    body.append(_paragraph(f"Split: {task.origin}.") + f"<pre>{html.escape(describe(task))}</pre>")
    for part in ("test", "val", "train"):
        body.append(f"<h2>{part}</h2>" + _html_table(results, part))
    body.append("<h2>Curves on the test split</h2>")
    body += [_image(plots / f"{name}.png") for name in ("pr", "roc", "calibration")]
    chosen = selection.chosen
    body.append("<h2>Grid</h2>")
    body.append(_paragraph(f"Chosen by {selection.score}: C = {chosen.C:g}, class weight {chosen.class_weight}."))
    lines = [[_short(value) for value in asdict(trial).values()] for trial in selection.trials]
    body.append(_rows(list(asdict(chosen)), lines))
    notes = [*task.notes, *selection.notes, *results[0].notes]
    if notes:
        body.append("<h2>Notes</h2><ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>")
    body.append(_paragraph(f"{manifest.command} - {manifest.finished_at_utc} UTC on {manifest.hostname}"))
    (folder / REPORT).write_text(_PAGE.format(title=html.escape(manifest.outdir), body="\n".join(body)))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; margin: 1em 0 }} td, th {{ padding: .2em .8em; border-bottom: 1px solid #ddd }}
td, th {{ text-align: right }} td:first-child, th:first-child {{ text-align: left }}
small {{ color: #777 }} .warning {{ color: #a00; font-weight: bold }} img {{ max-width: 32% }}
</style></head><body>
{body}
</body></html>
"""


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _rows(head: Sequence[str], lines: Sequence[Sequence[str]], escape: bool = True) -> str:
    clean = html.escape if escape else str
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    rest = ("<tr>" + "".join(f"<td>{clean(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<table><tr>{top}</tr>{''.join(rest)}</table>"


def _html_table(results: Sequence[Result], part: str) -> str:
    lines = []
    for result in results:
        found: PartResult = getattr(result, part)
        intervals = found.evaluation.intervals
        cells = [html.escape(result.name)]
        for metric in METRICS:
            cell = f"{getattr(found.evaluation.scores, metric):.4f}"
            interval = None if intervals is None else getattr(intervals, metric)
            if interval is not None:
                cell += f"<br><small>{interval[0]:.4f} - {interval[1]:.4f}</small>"
            cells.append(cell)
        lines.append(cells)
        if found.at_half is not None:
            half = [f"{getattr(found.at_half, metric):.4f}" for metric in METRICS]
            lines.append([f"{html.escape(result.name)}, at 0.5", *half])
    evaluation = getattr(results[0], part).evaluation
    share = f", {evaluation.prevalence:.2%} positive" if len(evaluation.positives) == 2 else ""
    return _paragraph(f"{evaluation.rows:,} rows{share}; 95 % bootstrap intervals") + _rows(
        ["model", *_TITLES.values()], lines, escape=False
    )


def _image(path: Path) -> str:
    return f"<img alt='{path.stem}' src='data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}'>"


def draw_plots(folder: Path, labels: Codes, probabilities: Doubles, classes: Sequence[str]) -> None:
    """Draw pr.png, roc.png and calibration.png; with three classes and more one curve per class against the rest.

    Of more than twelve classes only the most frequent are drawn, and the legend says so.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    judged = [1] if len(classes) == 2 else [one for one in range(len(classes)) if (labels == one).any()]
    legend = None
    if len(judged) > _MOST_CURVES:
        legend = f"the {_FEWER_CURVES} most frequent of {len(judged)} classes"
        frequent = np.argsort(-np.bincount(labels, minlength=len(classes)), kind="stable")[:_FEWER_CURVES]
        judged = frequent.tolist()
    curves: dict[str, list[Curve]] = {"pr": [], "roc": [], "calibration": []}
    for one in judged:
        name, positive, score = classes[one], labels == one, probabilities[:, one]
        precision, recall, _ = precision_recall_curve(positive, score)
        curves["pr"].append(Curve(f"{name}, AUPRC {average_precision_score(positive, score):.3f}", recall, precision))
        wrong, right, _ = roc_curve(positive, score)
        curves["roc"].append(Curve(f"{name}, AUROC {roc_auc_score(positive, score):.3f}", wrong, right))
        curves["calibration"].append(Curve(f"{name}, bins of equal counts", *_calibration(positive, score)))
    prevalence = float((labels == judged[0]).mean()) if len(judged) == 1 else None
    rows = f"test split, {len(labels):,} rows"
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


@dataclass(frozen=True)
class Curve:
    """One line of a plot."""

    name: str
    x: Doubles
    y: Doubles


def _calibration(positive: np.ndarray[Any, Any], score: Doubles) -> tuple[Doubles, Doubles]:
    """Mean probability and observed share in bins of equal counts."""
    bins = np.array_split(np.argsort(score, kind="stable"), min(_CALIBRATION_BINS, len(score)))
    return np.array([score[one].mean() for one in bins]), np.array([positive[one].mean() for one in bins])


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
    # the figure alone, without pyplot: no window system, no global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for curve in curves:
        axes.plot(curve.x, curve.y, label=curve.name, marker="." if path.stem == "calibration" else "", linewidth=1.2)
    if diagonal:
        most = 1.0 if path.stem == "roc" else max(float(max(curve.x.max(), curve.y.max())) for curve in curves)
        axes.plot([0, most], [0, most], color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    if level is not None:
        axes.axhline(level, color="0.6", linewidth=0.8, linestyle="--", zorder=0, label=f"prevalence {level:.3f}")
    axes.set_title(title, fontsize=9)
    axes.set(xlabel=across, ylabel=up)
    axes.legend(frameon=False, fontsize=8, title=legend, title_fontsize=8)
    figure.savefig(path, dpi=120)
