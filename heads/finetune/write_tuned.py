"""Trained encoders and heads become a run: rows encoded anew, judged as `heads train` judges, and written.

Of folds each becomes a run of its own within the run, and the run itself judges every row by a model that has not seen it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from embedcache.errors import StoreError
from embedcache.extraction.preflight import existing_folder
from embedcache.progress import Progress, size
from embedcache.storage.positionstore import PositionStore
from embedcache.storage.store import Store
from heads.baselines.fit_baselines import baselines
from heads.baselines.shared_baselines import SharedBaselines
from heads.finetune.finished import is_over, read_finished
from heads.finetune.ground import features_of
from heads.finetune.members import Member
from heads.finetune.save import encoder_bytes, load_tuned
from heads.finetune.training import Setting
from heads.running import runs
from heads.running.fit import Fit
from heads.running.keep_run import About, Say, keep_run
from heads.running.rounds import Model, judge_once, run_folds
from heads.running.rounds import Setting as JudgingSetting
from heads.running.train import Training, TrainOptions, detector_of_task
from heads.splitting.certificates import Certificates, certify_task
from heads.splitting.folds import Folds

FEATURES = "features.zarr"
_TUNED, _LOGS = "tuned.zarr", "logs"
_WORTH_SAYING = 4e9
"""Bytes."""


@dataclass(frozen=True)
class Tuned:
    """A fine-tuning whose trainings are over."""

    rows: Store
    setting: Setting
    """Of the whole run."""
    shared: TrainOptions
    folds: Folds | None
    members: tuple[Member, ...]
    certificate: Certificates
    progress: Progress

    @property
    def title(self) -> str:
        """What the head is called in the tables."""
        options = self.setting.options
        return f"{f'top {options.top_layers}' if options.mode == 'top' else options.mode}, mlp head"


def room_for(setting: Setting, members: Sequence[Member], outdir: Path) -> tuple[str, ...]:
    """Say what the encoders of folds take on the disk, where that is much; raises StoreError where it is not there."""
    store, options = setting.store, setting.options
    todo = [member for member in members if not is_over(setting.work / member.folder, options)]
    if len(members) == 1 or not options.trains_encoder:
        return ()
    each = len(store) * store.dim * store.dtype.itemsize
    if options.lora is None or options.lora.merge:
        each += encoder_bytes(setting.encoding.encoder)
    needed, free = each * len(todo), shutil.disk_usage(existing_folder(outdir)).free
    many = "1 encoder" if len(todo) == 1 else f"{len(todo)} encoders"
    said = (
        f"{outdir} needs about {size(needed)} more for {many} and the rows as seen by each, {size(free)} are free there"
    )
    if needed > free:
        raise StoreError(f"{said}: free some, choose another --output, or train adapters with --lora")
    return (said,) if needed > _WORTH_SAYING else ()


def write_tuned(tuned: Tuned, about: About, say: Say, overwrite: bool) -> Training:
    """Judge what was trained on the features of the encoders as they are saved, and write the run.

    Raises HeadError where it cannot be written; the trainings stay where they are then.
    """
    setting, shared = tuned.setting, tuned.shared
    models = {member.name: _model(tuned, member, about.outdir) for member in tuned.members}
    judging = JudgingSetting(
        setting.store,
        setting.recipe,
        shared.judging,
        setting.processes.device,
        say=say,
        fit_baselines=baselines if tuned.folds is None else SharedBaselines(),
        title=tuned.title,
    )
    with runs.new_folder(about.outdir, overwrite) as folder:
        if tuned.folds is None:
            (member,) = tuned.members
            (model,) = models.values()
            outcome = judge_once(member.task, model, judging)
            store = model.store
        else:
            for member in tuned.members:
                _write_member(tuned, member, models[member.name], judging, about, folder / member.folder)
            outcome = run_folds(setting.task, tuned.folds, judging, lambda name, *_: models[name])
            store = setting.store
        detector = detector_of_task(shared, store, outcome.task)
        kept = keep_run(folder, store, outcome, about, tuned.certificate, shared.judging, detector, say)
        for member in tuned.members:  # at the very end: until then another start finds all of it
            _move(setting.work / member.folder, folder / member.folder)
    return Training.of(about.outdir, outcome, kept)


def _model(tuned: Tuned, member: Member, outdir: Path) -> Model:
    """Head and features of one training, encoded by its encoder as it was saved."""
    setting, work = tuned.setting, tuned.setting.work / member.folder
    store = setting.store
    if setting.options.trains_encoder:
        encoding = load_tuned(work / runs.ENCODER, setting.encoding, outdir / member.folder)
        made = features_of(tuned.rows, encoding, work / _TUNED, tuned.progress)
        store = store.over(made, encoding) if isinstance(store, PositionStore) else made
    return Model(member.name, Fit(read_finished(work), None, setting.recipe.select, setting.recipe.stop_on), store)


def _write_member(
    tuned: Tuned, member: Member, model: Model, judging: JudgingSetting, about: About, folder: Path
) -> None:
    """The run of one fold, judged on the rows of that fold alone."""
    setting, shared, task = tuned.setting, tuned.shared, member.judged
    quiet = replace(judging, say=lambda line: None)
    outcome = judge_once(task, replace(model, name=""), quiet)
    known = tuned.certificate.by_fold.get(member.name)
    certificate = (
        Certificates({"": known})
        if known is not None
        else certify_task(setting.store, task, None, shared.near, judging.device, shared.memory_bytes)
    )
    about = replace(about, outdir=about.outdir / member.folder, arguments={**about.arguments, "fold": member.name})
    folder.mkdir()
    detector = detector_of_task(shared, model.store, task)
    keep_run(folder, model.store, outcome, about, certificate, shared.judging, detector, quiet.say)


def _move(work: Path, folder: Path) -> None:
    """Take encoder, features and logs of a training into its run."""
    for kept, place in ((runs.ENCODER, runs.ENCODER), (_TUNED, FEATURES), (_LOGS, _LOGS)):
        if (work / kept).exists():
            (work / kept).rename(folder / place)
