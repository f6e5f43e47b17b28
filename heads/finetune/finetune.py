"""Fine-tuning: a store and an encoder in; a run directory out, judged as `heads train` judges, with the encoder in it.

RUN/encoder/         the encoder as it was trained, in its published format (or its adapters)
RUN/features.zarr    the rows as that encoder sees them: what the head of the run reads
RUN/...              all that `heads train` writes (`heads.running.runs`)

Of folds RUN has what `heads train` writes of folds, each row judged by a model that has not seen it, and RUN/FOLD is such a
run for each fold. While it runs, checkpoints, cached states and the plan lie in RUN.training (those of a fold in
RUN.training/FOLD), from which the same command goes on.
"""

from __future__ import annotations

import gc
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import embedcache
from embedcache.encoding import Encoding
from embedcache.errors import HeadError
from embedcache.input_options import InputOptions
from embedcache.progress import Progress
from embedcache.storage.positionstore import PositionStore
from embedcache.storage.store import Store
from heads.data.features import pick_device
from heads.finetune.finished import is_over, write_finished
from heads.finetune.ground import EncoderChoice, check_trainable, choose_encoding, features_of, holds, keep_records
from heads.finetune.journal import check_same, forget_checkpoints
from heads.finetune.material import Material
from heads.finetune.members import Member, members_of, with_starts
from heads.finetune.options import FinetuneOptions, require_packages
from heads.finetune.processes import Processes
from heads.finetune.training import Setting, Workshop, train_model
from heads.finetune.write_tuned import FEATURES, Tuned, room_for, write_tuned
from heads.fitting import Progress as Told
from heads.fitting import say_nothing
from heads.judging.metrics import check_metric
from heads.running import runs
from heads.running.keep_run import About
from heads.running.rounds import told_of
from heads.running.train import Training, TrainOptions, introduce, plain, recipe_of
from heads.splitting.certificates import certify_task
from heads.splitting.folds import Folds
from heads.splitting.splits import NAMES, parts_in
from heads.splitting.stop_on import StopOn
from heads.splitting.task import Task, load_task, split_task

Say = Callable[[str], None]
TRAINING = ".training"


def finetune(
    source: Path | InputOptions,
    shared: TrainOptions,
    options: FinetuneOptions,
    choice: EncoderChoice,
    say: Say,
    told: Told,
    *,
    per_position: tuple[str, ...] | None = None,
    kept: Path | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    restart: bool = False,
    keep: bool = False,
) -> Training | None:
    """Train encoder and head, judge them, and write the run directory; None in all but the first process.

    The rows are those of a store, or records of files, which are first kept with their embeddings as a store at `kept`;
    or with `per_position` (see `heads.data.feature_stores.Features`) the letters of these records. Run again with the same
    options it goes on where it stopped.

    Raises HeadError, StoreError, ModelError or InputError where something cannot be.
    """
    started = datetime.now(UTC)
    options.check()
    StopOn.parse(shared.stop_on)  # refuses test rows before anything is read
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
                keep_records(source, choice, options, str(processes.device), features, progress)
    rows = embedcache.open_store(features)

    encoding = choose_encoding(choice, rows, str(processes.device), as_stored=isinstance(source, InputOptions))
    check_trainable(encoding, options, rows, per_position is not None)

    def begin(store: Store) -> tuple[Task, Folds | None, tuple[Member, ...]]:
        """What is learned of which rows, by which trainings; they go on from those that were begun."""
        task, folds = _task(store, shared)
        members = members_of(task, folds)
        with processes.first_does() as mine:
            if mine:
                if restart and per_position is None:
                    _forget(work)
                check_same(work, _plan(rows, encoding, shared, options, members))
        return task, folds, members

    # of records the labels are known before anything is encoded, of letters when it is known which have a token
    begun = begin(rows) if per_position is None else None
    with processes.first_does() as mine:
        if mine:
            if restart and per_position is not None:
                _forget(work)
            features_of(rows, encoding, work / FEATURES, progress)
    store = _rows_of(_opened(rows, encoding, work / FEATURES), encoding, per_position)
    task, folds, members = begun or begin(store)
    recipe = recipe_of(shared, store, task)
    shared, options = replace(shared, head=recipe.options), replace(options, head=recipe.options)
    certificate = certify_task(store, task, folds, shared.near, processes.device, shared.memory_bytes)
    members, notes = with_starts(members, shared.start, encoding.encoder, store)
    task = replace(task, notes=(*task.notes, *notes))
    introduce(store, task, folds, certificate, say)
    if shared.strict:
        certificate.require_clean()
    material = Material(store, task.rows, encoding, options, work, processes, progress)
    setting = Setting(store, material, task, encoding, options, recipe, work, processes, told)
    for line in room_for(setting, members, outdir):
        say(line)

    with threadpool_limits(1, "blas"):
        for member in members:
            _train(member, setting, say, keep)
        if not processes.first:
            return None
        arguments = {
            "features": str(features), **({} if per_position is None else {"per_position": True}), **plain(shared),
            "columns": asdict(task.columns), "select": recipe.select,
            "finetune": plain(options) | {"head": None}, "encoder": plain(choice),
        }  # fmt: skip
        about = About(outdir, started, str(processes.device), arguments, str(rows.path.resolve()))
        tuned = Tuned(rows, setting, shared, folds, members, certificate, progress)
        done = write_tuned(tuned, about, say, overwrite)
    if not keep:
        shutil.rmtree(work)
    return done


def _train(member: Member, whole: Setting, say: Say, keep: bool) -> None:
    """One training of a run, to its end; nothing where it is over already."""
    work = whole.work / member.folder
    if is_over(work, whole.options):
        say(f"{f'fold {member.place}' if member.place else 'the training'} is over: {work} has what came of it")
        return
    if whole.processes.first:
        work.mkdir(exist_ok=True)
    told = told_of(whole.told, member.place) if member.place else whole.told
    recipe = replace(whole.recipe, start=None) if member.fresh else whole.recipe
    setting = replace(whole, task=member.task, work=work, recipe=recipe, told=told)
    workshop = Workshop(setting)
    parts = parts_in(member.task.parts)
    rows = ", ".join(f"{NAMES[part]} {len(member.task.part(part)):,}" for part in parts)
    say(f"{f'fold {member.place} ({rows} rows): ' if member.place else ''}{_what_learns(workshop)}")
    fitted = train_model(workshop, f"{whole.work.name.removesuffix(TRAINING)} {member.name}".strip())
    setting.processes.wait()  # until all have read the best epoch
    if setting.processes.first:
        write_finished(work, fitted, workshop.model, setting.encoding, setting.options)
        if not keep:
            forget_checkpoints(work)
    del workshop, fitted
    gc.collect()  # model and optimiser, which hold each other
    if setting.processes.device.type == "cuda":
        torch.cuda.empty_cache()


def _task(store: Store, shared: TrainOptions) -> tuple[Task, Folds | None]:
    """What is learned of which rows."""
    task = load_task(store, shared.columns, kind=shared.task, positive=shared.positive)
    if shared.select is not None:
        check_metric(task.target.kind, shared.select)
    split_seed = shared.seed if shared.split_seed is None else shared.split_seed
    return split_task(store, task, split_seed, StopOn.parse(shared.stop_on))


def _plan(
    store: Store, encoding: Encoding, shared: TrainOptions, options: FinetuneOptions, members: tuple[Member, ...]
) -> dict[str, Any]:
    """All that decides the weights in the end, in the words of the command line."""
    said = {name: value for name, value in plain(options).items() if name not in ("report_to", "save_steps", "head")}
    head = {f"head-{name}": value for name, value in plain(options.head).items()}
    task = members[0].task
    values = np.ascontiguousarray(task.target.values)
    split = hashlib.sha256(task.rows.tobytes())
    for member in members:
        split.update(member.task.parts.tobytes())
    split.update(values.tobytes())
    return {
        **{name.replace("_", "-"): value for name, value in {**said, **head}.items()},
        "pos-weight": shared.pos_weight,
        "select": shared.select,
        "stop-on": StopOn.parse(shared.stop_on).value,
        "seed": shared.seed,
        "init-head": None if shared.start is None else str(shared.start),
        "encoder": encoding.fingerprint,
        "rows": runs.rows_digest(store),
        "label": task.columns.label,
        "split": split.hexdigest()[:16],
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
    if not any((work / name).exists() for name in ("plan.json", FEATURES)):
        raise HeadError(f"--restart removes trainings only, and {work} is none (it has no plan.json)")
    shutil.rmtree(work)


def _opened(rows: Store, encoding: Encoding, place: Path) -> Store:
    return rows if holds(rows, encoding) else embedcache.open_store(place)


def _rows_of(records: Store, encoding: Encoding, per_position: tuple[str, ...] | None) -> Store:
    return records if per_position is None else PositionStore(records, per_position, encoding)


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
    counted = "1 step" if steps == 1 else f"{steps:,} steps"
    return f"training {what}{adapted}: {learned:,} parameters, {counted} an epoch{states}"
