"""Training: labels and features of a store in, a run directory with a judged head out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from embedcache.store import Store
from heads import baselines, report, runs
from heads.decisions import decide
from heads.features import MEMORY_BYTES, open_features, pick_device
from heads.head import HeadCard, save_head
from heads.results import Judging, Result, judge
from heads.selection import Grid, Labelled, Selection, fit_and_select
from heads.splits import TRAIN, VAL
from heads.task import Columns, Task, describe, load_task

Say = Callable[[str], None]
"""Where the running account goes, a line at a time."""


@dataclass(frozen=True)
class TrainOptions:
    """What `heads train` was asked for."""

    columns: Columns = field(default_factory=Columns)
    head: str = "lr"
    grid: Grid = field(default_factory=Grid)
    judging: Judging = field(default_factory=Judging)
    positive: str | None = None
    seed: int = 0
    device: str = "auto"
    memory_bytes: int = MEMORY_BYTES


@dataclass(frozen=True)
class Training:
    """What came of a training: where it lies, and its table."""

    outdir: Path
    result: Result
    baselines: tuple[Result, ...]


def train(
    features: Path, options: TrainOptions, say: Say, *, output: Path | None = None, overwrite: bool = False
) -> Training:
    """Train a head on a store, judge it beside its baselines, and write the run directory.

    Raises HeadError or StoreError, and leaves nothing behind then.
    """
    started = datetime.now(UTC)
    store = open_features(features)
    outdir = output or runs.free_name(store.path, options.head)
    runs.refuse_existing(outdir, overwrite)
    device = pick_device(options.device)
    task = load_task(store, options.columns, positive=options.positive, seed=options.seed)
    resolved = replace(options, columns=task.columns, device=str(device))
    arguments = {"features": str(features), **_plain(asdict(resolved))}
    _introduce(store, task, say)

    with threadpool_limits(1, "blas"), runs.new_folder(outdir, overwrite) as folder:
        selection = _fit(store, task, options, device)
        chosen = selection.chosen
        say(f"chosen: C = {chosen.C:g}, class weight {chosen.class_weight} ({selection.score})")
        probabilities = selection.model.probabilities(store, task.rows, device)
        result = judge(task, f"{options.head} head", probabilities, options.judging)
        for note in (*selection.notes, *result.notes):
            say(f"  {note}")
        rivals = _baselines(store, task, options, device, say)

        decided = decide(probabilities, result.threshold)
        card = HeadCard(
            kind=selection.model.kind,
            dim=store.dim,
            classes=task.classes,
            threshold=result.threshold,
            label=task.label,
            fingerprint=store.fingerprint,
            encoder=store.attrs["encoder"]["name"],
        )
        save_head(folder / runs.MODEL, selection.model, card)
        runs.write_config(folder / runs.CONFIG, arguments)
        runs.write_history(folder / runs.HISTORY, [asdict(trial) for trial in selection.trials])
        runs.write_predictions(folder, store, task, probabilities, decided)
        runs.write_json(folder / runs.METRICS, _metrics(task, selection, result, rivals, options))
        manifest = runs.make_manifest(
            store,
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            args=arguments,
            outdir=outdir,
            device=str(device),
            started=started,
        )
        runs.write_json(folder / runs.MANIFEST, runs.manifest_json(manifest))
        report.write(folder, store.attrs["encoder"], manifest, task, selection, (result, *rivals), probabilities)
    return Training(outdir, result, tuple(rivals))


def _introduce(store: Store, task: Task, say: Say) -> None:
    encoder = store.attrs["encoder"]
    say(f"{store.path}: {len(store):,} rows x {store.dim} {store.dtype} of {encoder['name']}")
    if encoder.get("meaningless"):
        say(f"WARNING: {report.MEANINGLESS}")
    positive = f", positive class {task.classes[1]!s}" if task.binary else f", {len(task.classes)} classes"
    say(f"label '{task.label}'{positive}; split: {task.origin}")
    say(describe(task))
    for note in task.notes:
        say(f"  {note}")


def _fit(store: Store, task: Task, options: TrainOptions, device: torch.device) -> Selection:
    train_rows, val_rows = (Labelled(task.rows[task.part(part)], task.labels[task.part(part)]) for part in (TRAIN, VAL))
    with _bar(f"fitting {len(options.grid.points)} heads", len(options.grid.points), "head") as bar:
        return fit_and_select(
            store,
            train_rows,
            val_rows,
            len(task.classes),
            options.grid,
            device=device,
            memory_bytes=options.memory_bytes,
            progress=lambda left: bar(len(options.grid.points) - left),
        )


def _baselines(store: Store, task: Task, options: TrainOptions, device: torch.device, say: Say) -> list[Result]:
    rows = [baselines.prior(task)]
    if task.strata is not None:
        rows.append(baselines.stratum(task, task.strata))
    reason = baselines.why_no_kmers(store, len(task.rows), options.memory_bytes)
    if reason is None:
        done = 0
        with _bar("k-mer baseline", len(task.rows), "row") as bar:

            def encoded(count: int) -> None:
                nonlocal done
                done += count
                bar(done)

            rows.append(
                baselines.kmers(
                    store, task, options.grid.select, device=device, memory_bytes=options.memory_bytes, progress=encoded
                )
            )
    else:
        say(f"no k-mer baseline: {reason}")
    return [judge(task, row.name, row.probabilities, options.judging) for row in rows]


@contextmanager
def _bar(text: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere; the function it yields takes how much is done."""
    with tqdm(total=total, desc=text, unit=unit, disable=None, leave=False) as bar:

        def reach(done: int) -> None:
            bar.update(done - bar.n)

        yield reach


def _metrics(
    task: Task, selection: Selection, result: Result, rivals: list[Result], options: TrainOptions
) -> dict[str, Any]:
    return {
        "n_rows": len(task.rows),
        **result.to_json(),
        "threshold_metric": options.judging.threshold_metric if task.binary else None,
        "selected": asdict(selection.chosen),
        "classes": list(task.classes),
        "label": task.label,
        "split": task.origin,
        "notes": [*task.notes, *selection.notes, *result.notes],
        "baselines": {rival.name: rival.to_json() for rival in rivals},
        "history": [asdict(trial) for trial in selection.trials],
    }


def _plain(value: Any) -> Any:
    """Tuples to lists, for YAML and JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
