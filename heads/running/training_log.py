"""The log of what was tried: one entry a run, with its settings, epochs, metrics, confusion matrices, and what it changed
against the run that it started from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from embedcache.errors import HeadError
from heads.head import read_json
from heads.running import runs
from heads.running.report import figure, shown_metrics

DEFAULT = "TRAINING_HISTORY.md"
_TITLE = "# Training history\n\nEach entry is a run as its own files say; the latest is the last.\n"
_SETTINGS = {
    "pos_weight": "pos-weight", "seed": "seed", "start": "init-head", "select": "select",
    "stop_on": "stop-on",
}  # fmt: skip
_OF_FINETUNE = (
    "mode", "top_layers", "lr", "layer_lr_decay", "weight_decay", "batch_tokens", "accumulate", "clip", "mask",
    "hidden_dropout", "attention_dropout", "lora",
)  # fmt: skip
_OF_HEAD = (
    "hidden", "lr", "dropout", "epochs", "batch_size", "schedule", "warmup", "patience", "class_weight", "focal_gamma",
    "label_smoothing", "loss", "sampler", "mixup_alpha", "mixup_probability",
)  # fmt: skip
_ZERO_SAYS = ("seed", "patience", "hidden-dropout", "attention-dropout")
"""Settings that are shown where they are 0 too."""


def append_to_log(run: Path, file: Path) -> bool:
    """Append a run to a log, which is begun if it is not there; False where the run is in it already.

    Raises HeadError where the run cannot be read or the log cannot be written.
    """
    metrics, manifest = read_json(run / runs.METRICS), read_json(run / runs.MANIFEST)
    title = f"## {run.name}, {manifest['finished_at_utc'].replace('T', ' ').removesuffix('+00:00')} UTC"
    try:
        before = file.read_text() if file.exists() else _TITLE
        if title in before.splitlines():
            return False
        entry = "\n".join([title, "", *_entry(run, metrics, manifest)])
        file.write_text(f"{before.rstrip()}\n\n{entry.rstrip()}\n")
    except OSError as error:
        raise HeadError(f"--file {file} cannot be written: {runs.reason(error)}") from None
    return True


def _entry(run: Path, metrics: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    yield f"`{manifest['command']}`"
    yield ""
    yield f"{metrics['n_rows']:,} rows of {Path(manifest['dataset_path']).name}, split: {metrics['split']}"
    yield from _section("Config", _table(("setting", "value"), list(_config(manifest["args"]).items())))
    yield from _section("Epochs", [*_epochs(metrics), "", _best(metrics)])
    yield from _section("Metrics", _metrics(metrics))
    if "folds" in metrics:
        yield from _section("Folds, test rows", _folds(metrics))
    for part in ("val", "test"):
        matrix = _confusion(run, metrics, part)
        if matrix:
            yield from _section(f"Confusion matrix, {part} rows (true down, predicted across)", matrix)
    parent = started_from(manifest["args"])
    if parent is not None:
        yield from _section(f"Change against {parent.name}", _change(metrics, parent))
    if metrics["notes"]:
        yield from _section("Notes", [f"- {note}" for note in metrics["notes"]])


def _section(name: str, lines: Sequence[str]) -> Iterator[str]:
    yield from ("", f"### {name}", "", *lines)


def _config(arguments: Mapping[str, Any]) -> dict[str, str]:
    """The settings that were not left out, by the words of the command line."""
    found: dict[str, Any] = {"head": arguments["kind"]}
    tuned, head = arguments.get("finetune"), arguments["head"]
    if tuned is not None:
        encoder = arguments.get("encoder") or {}
        found |= {"model": encoder.get("name") or "that of the store"}
        found |= {name.replace("_", "-"): tuned.get(name) for name in _OF_FINETUNE}
        found["lora"] = (
            None if tuned.get("lora") is None else f"rank {tuned['lora']['rank']}, alpha {tuned['lora']['alpha']:g}"
        )
    known = [name for name in _OF_HEAD if name in head] or list(head)
    found |= {
        ("head-" if tuned is not None and name in ("lr",) else "") + name.replace("_", "-"): head[name]
        for name in known
    }
    found |= {word: arguments.get(name) for name, word in _SETTINGS.items()}
    decisions = arguments["judging"]["decisions"]
    found |= {"threshold": decisions["threshold"], "calibration": decisions["calibration"]}
    if tuned is not None and tuned["mode"] == "frozen":
        found = {
            name: value for name, value in found.items() if name not in ("lr", "top-layers", "clip", "layer-lr-decay")
        }
    if not found.get("mixup-alpha"):
        found.pop("mixup-probability", None)
    return {
        name: _text(value)
        for name, value in found.items()
        if value not in (None, [], "none", 0.0) or (value == 0 and name in _ZERO_SAYS)
    }


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_text(item)}" for name, item in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _epochs(metrics: Mapping[str, Any]) -> list[str]:
    history = metrics["history"]
    if not history:
        return ["This kind of head has no epochs."]
    names = [name for name in history[0] if name != "trial" or len({record["trial"] for record in history}) > 1]
    return _table(names, [[_cell(record.get(name)) for name in names] for record in history])


def _best(metrics: Mapping[str, Any]) -> str:
    chosen = metrics["selected"] if isinstance(metrics["selected"], list) else [metrics["selected"]]
    folds = [f"{fold['fold']}: " for fold in metrics.get("folds", [])]
    said = []
    for fold, one in zip(folds if len(folds) == len(chosen) else [""] * len(chosen), chosen, strict=True):
        value = one.get(f"val_{metrics['select']}")
        epoch = f"best epoch {one['best_epoch']} of {one['epochs']}" if one.get("best_epoch") else "chosen"
        said.append(f"{fold}{epoch}: val {metrics['select'].upper()} {_cell(value)}")
    return "; ".join(said)


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    names = _shown(metrics)
    rows = []
    for part in ("val", "test"):
        if part in metrics:
            rows.append([part, *(_cell(metrics[part].get(name)) for name in names), f"{metrics[part]['rows']:,}"])
            for rival, said in metrics["baselines"].items():
                if part in said:
                    rows.append([f"{part}, {rival}", *(_cell(said[part].get(name)) for name in names), ""])
    return _table(["", *names, "rows"], rows)


def _folds(metrics: Mapping[str, Any]) -> list[str]:
    names = ["fold", *_shown(metrics), "rows"]
    return _table(names, [[_cell(fold.get(name)) for name in names] for fold in metrics["folds"]])


def _shown(metrics: Mapping[str, Any]) -> list[str]:
    names = [name for name in shown_metrics(metrics["target"]) if name in metrics.get("val", metrics.get("test", {}))]
    select = metrics["select"]
    return names if select in names else [*names, select]


def _confusion(run: Path, metrics: Mapping[str, Any], part: str) -> list[str]:
    """Rows of each class by what was said of them; empty where there are no classes, and of val in folds: there a row
    validates in several."""
    folds = "folds" in metrics
    if metrics["target"] not in ("binary", "multiclass") or part not in metrics or (folds and part == "val"):
        return []
    table = pq.read_table(run / runs.PREDICTIONS, columns=["split", "y_true", "y_pred"])
    split = np.asarray(table["split"].to_pylist(), object)
    mask = split != "" if folds else split == part
    names = [str(name) for name in metrics["classes"]]
    place = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), int)
    said = (np.asarray([place[str(value)] for value in table[name].to_pylist()], int) for name in ("y_true", "y_pred"))
    true, predicted = (codes[mask] for codes in said)
    np.add.at(counts, (true, predicted), 1)
    return _table(["", *names], [[name, *map(str, row)] for name, row in zip(names, counts.tolist(), strict=True)])


def started_from(arguments: Mapping[str, Any]) -> Path | None:
    """The run that a run went on from, with its head or its encoder; None where it began anew."""
    named = arguments.get("start") or (arguments.get("encoder") or {}).get("name")
    if named is None or not (Path(named) / runs.METRICS).exists():
        return None
    return Path(named)


def _change(metrics: Mapping[str, Any], parent: Path) -> list[str]:
    before = read_json(parent / runs.METRICS)
    names = [name for name in _shown(metrics) if name in _shown(before)]
    rows = []
    for part in ("val", "test"):
        if part in metrics and part in before:
            same = metrics[part]["rows"] == before[part]["rows"]
            changes = [_difference(metrics[part].get(name), before[part].get(name)) for name in names]
            rows.append([part + ("" if same else " (other rows)"), *changes])
    return _table(["", *names], rows) if rows else ["It has no rows to compare."]


def _difference(now: float | None, before: float | None) -> str:
    if now is None or before is None:
        return ""
    return f"{before:.4f} -> {now:.4f} ({now - before:+.4f})"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return figure(value) if isinstance(value, float) and abs(value) >= 1e-3 else _text(value)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(names)} |",
        f"|{'|'.join('---' for _ in names)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
