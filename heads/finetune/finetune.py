"""Fine-tuning: a store and an encoder in; a run directory out, judged as `heads train` judges, with the encoder in it.

RUN/encoder/         the encoder as it was trained, in its published format (or its adapters)
RUN/features.zarr    the rows as that encoder sees them: what the head of the run reads
RUN/...              all that `heads train` writes (`heads.running.runs`)

While it runs, checkpoints, cached states and the plan lie in RUN.training, from which the same command goes on.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import embedcache
from embedcache.encoding import Encoding
from embedcache.errors import HeadError
from embedcache.input_options import InputOptions
from embedcache.progress import Progress
from embedcache.store import Store
from heads.baselines import saved_baselines
from heads.data.features import pick_device
from heads.finetune.ground import EncoderChoice, check_trainable, choose_encoding, features_of, keep_records
from heads.finetune.journal import check_same
from heads.finetune.options import FinetuneOptions, require_packages
from heads.finetune.processes import Processes
from heads.finetune.save import load_tuned, save_encoder
from heads.finetune.training import Setting, Workshop, train_model
from heads.fitting import Fitted, say_nothing
from heads.fitting import Progress as Told
from heads.judging.metrics import check_metric
from heads.running import report, runs
from heads.running.fit import Fit, Recipe
from heads.running.rounds import Setting as JudgingSetting
from heads.running.rounds import judge_once
from heads.running.train import (
    Training,
    TrainOptions,
    account,
    detections_of,
    detector_of_task,
    introduce,
    plain,
    recipe_of,
    save_heads,
)
from heads.running.write_run import write_run
from heads.splitting.certificates import Certificates, certify_task
from heads.splitting.splits import TRAIN, VAL
from heads.splitting.task import Task, load_task, split_task

Say = Callable[[str], None]
TRAINING, FEATURES = ".training", "features.zarr"


def finetune(
    source: Path | InputOptions,
    shared: TrainOptions,
    options: FinetuneOptions,
    choice: EncoderChoice,
    say: Say,
    told: Told,
    *,
    kept: Path | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    restart: bool = False,
    keep: bool = False,
) -> Training | None:
    """Train encoder and head, judge them, and write the run directory; None in all but the first process.

    The rows are those of a store, or records of files, which are first kept with their embeddings as a store at `kept`.
    Run again with the same options it goes on where it stopped.

    Raises HeadError, StoreError, ModelError or InputError where something cannot be.
    """
    started = datetime.now(UTC)
    options.check()
    require_packages(options)
    shared = replace(shared, head=options.head)
    outdir = output or runs.free_name(_named(source), f"finetune-{options.mode}")
    runs.refuse_existing(outdir, overwrite)
    work = outdir.resolve().with_name(outdir.resolve().name + TRAINING)
    processes = Processes.join(pick_device(shared.device))
    if not processes.first:
        say, told = (lambda line: None), say_nothing
    progress = Progress(quiet=not processes.first)
    if shared.start is None and choice.head is not None:
        shared = replace(shared, start=choice.head, start_flag="the head of --model")
    features = source if isinstance(source, Path) else kept or outdir.with_name(f"{outdir.name}.zarr")
    if isinstance(source, InputOptions):
        with processes.first_does() as mine:
            if mine:
                keep_records(source, choice, str(processes.device), features, progress)
    rows = embedcache.open_store(features)

    encoding = choose_encoding(choice, rows, str(processes.device), as_stored=isinstance(source, InputOptions))
    check_trainable(encoding, options, rows)
    task = _task(rows, shared)
    with processes.first_does() as mine:
        if mine:
            if restart:
                _forget(work)
            check_same(work, _plan(rows, encoding, shared, options, task))
            features_of(rows, encoding, work / FEATURES, progress)
    store = _opened(rows, encoding, work / FEATURES)
    recipe = recipe_of(shared, store, task)
    shared, options = replace(shared, head=recipe.options), replace(options, head=recipe.options)
    certificate = certify_task(store, task, None, shared.near, processes.device, shared.memory_bytes)
    introduce(store, task, None, certificate, say)
    if shared.strict:
        certificate.require_clean()

    with threadpool_limits(1, "blas"):
        setting = Setting(store, task, encoding, options, recipe, work, processes, progress, told)
        workshop = Workshop(setting)
        say(_what_learns(workshop))
        fitted = train_model(workshop, outdir.name)
        if not processes.first:
            return None
        tuned, tuned_encoding = store, encoding
        if options.trains_encoder:
            save_encoder(work / runs.ENCODER, workshop.model, encoding, options)
            tuned_encoding = load_tuned(work / runs.ENCODER, encoding, outdir)
            tuned = features_of(rows, tuned_encoding, work / "tuned.zarr", progress)
        arguments = {
            "features": str(features), **plain(shared), "columns": asdict(task.columns), "select": recipe.select,
            "finetune": plain(options) | {"head": None}, "encoder": plain(choice),
        }  # fmt: skip
        run = _Run(outdir, started, arguments, str(rows.path.resolve()))
        return _write(
            run, tuned, task, fitted, shared, options, recipe, certificate, processes, say, work, overwrite, keep
        )


def _task(store: Store, shared: TrainOptions) -> Task:
    """What is learned of which rows."""
    task = load_task(store, shared.columns, kind=shared.task, positive=shared.positive)
    task, folds = split_task(store, task, shared.seed if shared.split_seed is None else shared.split_seed)
    if shared.select is not None:
        check_metric(task.target.kind, shared.select)
    if folds is not None:
        raise HeadError(
            f"--split {task.columns.split} has many folds, and heads finetune trains one: take a column, or none (60/20/20)"
        )
    if not len(task.part(VAL)) or not len(task.part(TRAIN)):
        raise HeadError(
            "a fine-tuning needs rows that train and rows that validate (they choose its epoch): give --split none"
        )
    return task


def _plan(
    store: Store, encoding: Encoding, shared: TrainOptions, options: FinetuneOptions, task: Task
) -> dict[str, Any]:
    """All that decides the weights in the end, in the words of the command line."""
    said = {name: value for name, value in plain(options).items() if name not in ("report_to", "save_steps", "head")}
    head = {f"head-{name}": value for name, value in plain(options.head).items()}
    values = np.ascontiguousarray(task.target.values)
    parts = hashlib.sha256(task.rows.tobytes() + task.parts.tobytes() + values.tobytes()).hexdigest()[:16]
    return {
        **{name.replace("_", "-"): value for name, value in {**said, **head}.items()},
        "pos-weight": shared.pos_weight,
        "select": shared.select,
        "seed": shared.seed,
        "init-head": None if shared.start is None else str(shared.start),
        "encoder": encoding.fingerprint,
        "rows": runs.rows_digest(store),
        "label": task.columns.label,
        "split": parts,
    }


def _named(source: Path | InputOptions) -> Path:
    """What a run is called after."""
    if isinstance(source, Path):
        return source
    first = (*source.inputs, *source.sites)[0].partition(":")[0]
    return Path(Path(first).name.partition(".")[0])


def _forget(work: Path) -> None:
    """Remove what an earlier training left; raises HeadError for a folder that is none."""
    if not work.exists():
        return
    if not (work / "plan.json").exists():
        raise HeadError(f"--restart removes trainings only, and {work} is none (it has no plan.json)")
    shutil.rmtree(work)


def _opened(rows: Store, encoding: Encoding, place: Path) -> Store:
    same = rows.fingerprint == encoding.fingerprint and not rows.per_token
    return rows if same else embedcache.open_store(place)


def _what_learns(workshop: Workshop) -> str:
    model, options = workshop.model, workshop.setting.options
    learned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    trunk = model.trunk
    what = "the head" if trunk is None else f"layers {trunk.first + 1} to {trunk.stop} and the head"
    adapted = "" if options.lora is None else f", the layers by adapters of rank {options.lora.rank}"
    steps = -(-workshop.order.batches // options.accumulate)
    states = ""
    if options.mode == "top":
        states = "; the layers below are " + ("cached" if options.caches else "computed at every step")
    return f"training {what}{adapted}: {learned:,} parameters, {steps:,} steps an epoch{states}"


class _Run:
    """What the manifest says of a run."""

    def __init__(self, outdir: Path, started: datetime, arguments: dict[str, Any], dataset: str) -> None:
        self.outdir, self.started, self.arguments, self.dataset = outdir, started, arguments, dataset


def _write(
    run: _Run, store: Store, task: Task, fitted: Fitted, shared: TrainOptions, options: FinetuneOptions, recipe: Recipe,
    certificate: Certificates, processes: Processes, say: Say, work: Path, overwrite: bool, keep: bool,
) -> Training:  # fmt: skip
    """Judge head and encoder on the features of the encoder as it is saved, and write the run."""
    trained = f"top {options.top_layers}" if options.mode == "top" else options.mode
    fit = Fit(fitted, None, recipe.select)
    with runs.new_folder(run.outdir, overwrite) as folder:
        setting = JudgingSetting(store, recipe, shared.judging, processes.device, say=say)
        outcome = judge_once(task, fit, setting, f"{trained}, mlp head")
        notes = account(outcome, shared.judging.decisions.threshold, say)
        save_heads(folder / runs.MODEL, store, outcome, shared.judging)
        saved_baselines.save(folder, outcome.baselines)
        manifest = runs.make_manifest(
            store,
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            args=run.arguments,
            outdir=run.outdir,
            device=str(processes.device),
            started=run.started,
            certificate=certificate.hash,
        )
        manifest = replace(manifest, dataset_path=run.dataset)
        detections = detections_of(outcome, detector_of_task(shared, store, task), shared.judging)
        write_run(folder, store, outcome, manifest, certificate, shared.judging, notes, detections)
        for kept, place in ((runs.ENCODER, runs.ENCODER), ("tuned.zarr", FEATURES), ("logs", "logs")):
            if (work / kept).exists() and (options.trains_encoder or kept == "logs"):
                (work / kept).rename(folder / place)
    if not keep:
        shutil.rmtree(work)
    shown = report.shown_metrics(task.target.kind, fit.fitted.head.quantiles)
    return Training(run.outdir, outcome.results, (), shown, detections)
