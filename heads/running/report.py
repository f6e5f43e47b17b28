"""What a run shows: the table on the screen, and one self-contained HTML page."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from heads.data.target import Kind
from heads.fitting import Record
from heads.judging.breakdown import Part
from heads.judging.detection import ClassRate, Detection
from heads.judging.judged import Judged
from heads.judging.metrics import Evaluation
from heads.judging.results import Result
from heads.running.runs import PLOTS, REPORT, Manifest

MEANINGLESS = "the encoder has random weights: these numbers say nothing about biology"
TITLES = {
    "auroc": "AUROC", "auprc": "AUPRC", "mcc": "MCC", "f1": "F1", "acc": "ACC", "balanced_acc": "balanced ACC",
    "precision": "precision", "recall": "recall", "brier": "Brier", "log_loss": "log loss", "ece": "ECE",
    "pearson": "Pearson", "spearman": "Spearman", "r2": "R2", "rmse": "RMSE", "mae": "MAE", "pinball": "pinball",
}  # fmt: skip
_OF_CLASSES, _OF_QUANTITIES = ("auroc", "auprc", "mcc", "f1", "acc"), ("pearson", "spearman", "r2", "rmse")
_MOST_EPOCHS = 60
"""Lines of the training log that the page shows; history.csv has them all."""


def shown_metrics(kind: Kind, quantiles: Sequence[float] = ()) -> tuple[str, ...]:
    """The metrics of the table on the screen."""
    if kind != "regression":
        return _OF_CLASSES
    return (*_OF_QUANTITIES, "pinball") if quantiles else _OF_QUANTITIES


def _cells(evaluation: Evaluation, metrics: Sequence[str]) -> list[str]:
    """Metrics as text, the second one (AUPRC, Spearman) with its interval."""
    cells = []
    for place, metric in enumerate(metrics):
        text = figure(evaluation.values[metric])
        interval = evaluation.intervals.get(metric)
        if place == 1 and interval is not None:
            text += f" [{interval[0]:.4f}, {interval[1]:.4f}]"
        cells.append(text)
    return cells


def grid(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as aligned columns, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def table(results: Sequence[Result], part: str, metrics: Sequence[str]) -> str:
    """One line per model for one split, the head first."""
    evaluation = results[0].parts[part].evaluation
    head = [f"{part} ({evaluation.rows:,} rows)", *(TITLES[metric] for metric in metrics)]
    lines = [[result.name, *_cells(result.parts[part].evaluation, metrics)] for result in results]
    remarks = [_what(evaluation), "[95 % bootstrap interval]" if any(evaluation.intervals.values()) else ""]
    said = ", ".join(filter(None, remarks))
    return grid([head, *lines]) + (f"\n({said})" if said else "")


def _what(evaluation: Evaluation) -> str:
    if not evaluation.class_rows:
        return ""
    if evaluation.kind == "multilabel":
        return "means over labels"
    return f"prevalence {evaluation.prevalence:.4f}" if evaluation.kind == "binary" else "means over classes"


def figure(value: float) -> str:
    """A metric for a table; a dash where it is not defined."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def judged_table(judged: Judged, metrics: Sequence[str], unit: str = "rows") -> str:
    """One line per model on one set of rows, the head first."""
    evaluation = judged.head.evaluation
    head = [f"{evaluation.rows:,} {unit}", *(TITLES[metric] for metric in metrics)]
    lines = [[name, *_cells(result.evaluation, metrics)] for name, result in judged.results]
    remarks = [_what(evaluation), "[95 % bootstrap interval]" if any(evaluation.intervals.values()) else ""]
    said = ", ".join(filter(None, remarks))
    return grid([head, *lines]) + (f"\n({said})" if said else "")


def parts_table(parts: Sequence[Part], metrics: Sequence[str]) -> str:
    """A block for each stratum, with one line per model, the head first."""
    lines = [[f"by {parts[0].column}", *(TITLES[metric] for metric in metrics)]]
    for part in parts:
        lines.append([f"{part.name} ({part.evaluation.rows:,} rows)", *("" for _ in metrics)])
        lines += [[f"  {model}", *_cells(evaluation, metrics)] for model, evaluation in part.models]
    return grid(lines)


def detection_table(found: Detection) -> str:
    """One line per model, the head first: how many rows of each class it detects."""
    return grid(_detected(found))


def _detected(found: Detection) -> list[list[str]]:
    (_, first), *_ = found.models
    head = [f"predicted {found.rule.words}", *(f"{one.name} ({one.rows:,} rows)" for one in first)]
    return [head, *([name, *map(_rate, rates)] for name, rates in found.models)]


def _rate(one: ClassRate) -> str:
    if not one.rows:
        return "-"
    between = "" if one.interval is None else f" [{one.interval[0]:.1%}, {one.interval[1]:.1%}]"
    return f"{one.detected:,} = {one.rate:.1%}{between}"


def folds_line(folds: Sequence[Record], metrics: Sequence[str]) -> str:
    """Mean and standard deviation of the head over the folds; their rows together are judged with scores of many heads.

    Folds in which a metric has no value, as AUROC where all rows are of one class, are left out of it and counted.
    """
    words = []
    for metric in metrics:
        values = np.array([fold[metric] for fold in folds], np.float64)
        known = values[~np.isnan(values)]
        spread = f" ± {known.std(ddof=1):.4f}" if len(known) > 1 else ""
        some = f" (of {len(known)})" if 0 < len(known) < len(values) else ""
        words.append(f"{TITLES[metric]} {figure(float(known.mean()) if len(known) else np.nan)}{spread}{some}")
    return f"mean over {len(folds)} folds: {', '.join(words)} (above, scores of {len(folds)} heads are ranked together)"


@dataclass(frozen=True)
class Page:
    """What the report page is made of."""

    encoder: Mapping[str, Any]
    manifest: Manifest
    kind: Kind
    label: str
    origin: str
    """Where the split comes from."""
    described: str
    """Rows of each split."""
    results: Sequence[Result]
    """The head first, then its baselines."""
    certificate: Sequence[str]
    """What was looked for between the splits, and found."""
    chosen: str
    trials: Sequence[Record]
    history: Sequence[Record]
    breakdown: Sequence[Record]
    pictures: Sequence[str]
    notes: Sequence[str]
    folds: Sequence[Record] = ()
    detections: Mapping[str, Sequence[Detection]] = field(default_factory=dict)
    """By the name of the split."""


def write(folder: Path, page: Page) -> None:
    """Write ``report.html`` into a run directory, with the pictures of ``plots/`` inside."""
    manifest, encoder = page.manifest, page.encoder
    body = [f"<h1>{html.escape(manifest.outdir.rsplit('/', 1)[-1])}</h1>"]
    if encoder.get("meaningless"):
        body.append(f"<p class='warning'>{html.escape(MEANINGLESS)}</p>")
    body.append(_paragraph(f"Features: {manifest.dataset_path} ({encoder.get('name')}). Label: {page.label}."))
    body.append(_paragraph(f"Split: {page.origin}.") + f"<pre>{html.escape(page.described)}</pre>")
    body.append(_list(page.certificate))
    for part in ("test", "val", "stop", "train"):
        if part in page.results[0].parts:
            body.append(f"<h2>{part}</h2>" + _html_table(page, part))
    for part, found in page.detections.items():
        for one in found:
            head, *lines = _detected(one)
            body.append(f"<h2>Detected in {part}</h2>" + _rows(head, lines))
    if page.folds:
        body.append("<h2>Folds</h2>" + records_table(page.folds))
    if page.pictures:
        body.append("<h2>Pictures of the test split</h2>")
        body += [_image(folder / PLOTS / f"{name}.png") for name in page.pictures]
    if page.breakdown:
        body.append("<h2>By stratum and group</h2>" + records_table(page.breakdown))
    body.append("<h2>Grid</h2>" + _paragraph(page.chosen) + records_table(page.trials))
    if page.history:
        last = page.history[-_MOST_EPOCHS:]
        more = f"The last {len(last)} of {len(page.history):,} epochs." if len(last) < len(page.history) else ""
        body.append("<h2>Epochs</h2>" + _paragraph(more) + records_table(last))
    if page.notes:
        body.append("<h2>Notes</h2>" + _list(page.notes))
    body.append(_paragraph(f"{manifest.command} - {manifest.finished_at_utc} UTC on {manifest.hostname}"))
    (folder / REPORT).write_text(_PAGE.format(title=html.escape(manifest.outdir), body="\n".join(body)))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; margin: 1em 0 }} td, th {{ padding: .2em .8em; border-bottom: 1px solid #ddd }}
td, th {{ text-align: right }} td:first-child, th:first-child {{ text-align: left }}
small {{ color: #777 }} .warning {{ color: #a00; font-weight: bold }} img {{ max-width: 32% }}
.wide {{ overflow-x: auto }}
</style></head><body>
{body}
</body></html>
"""


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>" if text else ""


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def short(value: object) -> str:
    """A value for a table."""
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def records_table(records: Sequence[Record]) -> str:
    """Flat records as an HTML table."""
    fields = list(dict.fromkeys(field for record in records for field in record))
    return _rows(fields, [[short(record.get(field)) for field in fields] for record in records])


def _rows(head: Sequence[str], lines: Sequence[Sequence[str]], escape: bool = True) -> str:
    clean = html.escape if escape else str
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    rest = ("<tr>" + "".join(f"<td>{clean(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<div class='wide'><table><tr>{top}</tr>{''.join(rest)}</table></div>"


def _html_table(page: Page, part: str) -> str:
    first = page.results[0].parts[part].evaluation
    metrics = [metric for metric in TITLES if metric in first.values]
    lines = []
    for result in page.results:
        found = result.parts[part]
        cells = [html.escape(result.name)]
        for metric in metrics:
            cell = figure(found.evaluation.values.get(metric, math.nan))
            interval = found.evaluation.intervals.get(metric)
            if interval is not None:
                cell += f"<br><small>{interval[0]:.4f} - {interval[1]:.4f}</small>"
            cells.append(cell)
        lines.append(cells)
        if found.at_half is not None:
            half = [figure(found.at_half.values.get(metric, math.nan)) for metric in metrics]
            lines.append([f"{html.escape(result.name)}, at 0.5", *half])
    share = "" if len(first.class_rows) != 2 else f", {first.prevalence:.2%} positive"
    return _paragraph(f"{first.rows:,} rows{share}; 95 % bootstrap intervals") + _rows(
        ["model", *(TITLES[metric] for metric in metrics)], lines, escape=False
    )


def _image(path: Path) -> str:
    return f"<img alt='{path.stem}' src='data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}'>"
