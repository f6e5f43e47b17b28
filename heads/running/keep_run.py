"""A judged training becomes a run: what is said of it, what of it is saved, and what is written."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from embedcache.rawfeatures import encoder_record
from embedcache.storage.store import Store
from heads.baselines import saved_baselines
from heads.data.labels import MISSING
from heads.data.strata import Strata
from heads.deciding.thresholds import UNTUNED, ThresholdRule
from heads.judging.breakdown import Part, breakdown
from heads.judging.detection import Detection, Detector, detect
from heads.judging.results import Judging
from heads.linear.logistic import UNEVEN
from heads.running import runs
from heads.running.rounds import Outcome
from heads.running.write_run import write_run
from heads.saving import saved
from heads.saving.profile import TrainingProfile, profile_of
from heads.saving.saved import HeadCard, SavedHead
from heads.splitting.certificates import Certificates
from heads.splitting.splits import NAMES, TEST, TRAIN
from heads.splitting.task import Task

Say = Callable[[str], None]
"""Where the running account goes, a line at a time."""
MOST_GROUPS = 50
"""Groups up to which the metrics of each are written."""


@dataclass(frozen=True)
class About:
    """What the manifest says of a run."""

    outdir: Path
    started: datetime
    device: str
    arguments: Mapping[str, Any]
    dataset: str
    """Path of the rows."""


@dataclass(frozen=True)
class Shown:
    """What a run shows of its models beside their metrics on the whole splits."""

    parts: tuple[Part, ...]
    """Of the test rows, by stratum and by group."""
    detections: Mapping[str, tuple[Detection, ...]]
    """What they detect, by the name of the split."""


def keep_run(
    folder: Path,
    store: Store,
    outcome: Outcome,
    about: About,
    certificate: Certificates,
    judging: Judging,
    detector: Detector,
    say: Say,
) -> Shown:
    """Save heads and baselines and write all else of a run into its folder; returns what else is to be shown.

    `store` holds the features of the run, of folds with an encoder each those before the training.
    """
    notes = account(outcome, judging.decisions.threshold, say)
    save_heads(folder / runs.MODEL, outcome, judging)
    saved_baselines.save(folder, outcome.baselines)
    manifest = runs.make_manifest(
        store,
        dataset=about.dataset,
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        args=about.arguments,
        outdir=about.outdir,
        device=about.device,
        started=about.started,
        certificate=certificate.hash,
    )
    shown = Shown(parts_of(outcome, judging), detections_of(outcome, detector, judging))
    write_run(folder, store, outcome, manifest, certificate, notes, shown.parts, shown.detections)
    return shown


def parts_of(outcome: Outcome, judging: Judging) -> tuple[Part, ...]:
    """Head and baselines on the test rows, by stratum and by group."""
    rows = outcome.task.part(TEST)
    tested, said = outcome.task.take(rows), [result.on(rows) for result in outcome.results]
    parts: tuple[Part, ...] = ()
    by_group = _groups_as_strata(tested)
    for strata, groups in ((tested.strata, tested.groups), (by_group, None)):
        # where the groups are the strata, each is judged once, with intervals over its rows
        if strata is not None and (strata is by_group or by_group is None or strata.column != by_group.column):
            parts += breakdown(
                tested.target, said, strata, resamples=judging.resamples, groups=groups, seed=judging.seed
            )
    return parts


def _groups_as_strata(task: Task) -> Strata | None:
    """The groups as strata, where they are few enough to be looked at one by one."""
    if task.groups is None:
        return None
    held = np.unique(task.groups[task.groups != MISSING])
    if not 2 <= len(held) <= MOST_GROUPS:
        return None
    codes = np.where(task.groups == MISSING, MISSING, np.searchsorted(held, task.groups))
    return Strata(str(task.columns.group), codes, tuple(str(task.group_names[one]) for one in held))


def detections_of(outcome: Outcome, detector: Detector, judging: Judging) -> dict[str, tuple[Detection, ...]]:
    """What head and baselines detect among the rows of val and test."""
    task, found = outcome.task, {}
    for name in ("val", "test"):
        rows = task.part(NAMES.index(name))
        if len(rows) and detector.rules:
            said = [(one.name, np.asarray(one.decided.predictions[rows], np.float64)) for one in outcome.results]
            true = np.asarray(task.target.values[rows], np.float64)
            groups = None if task.groups is None else task.groups[rows]
            found[name] = detect(detector.take(rows), true, said, judging, groups)
    return found


def account(outcome: Outcome, aim: str, say: Say) -> list[str]:
    """Say what was chosen and what is to be known of it; returns the notes."""
    for model in outcome.models:
        say(f"{model.name + ': ' if model.name else ''}chosen: {model.fit.settings} ({model.fit.score})")
    notes = list(dict.fromkeys(note for model in outcome.models for note in model.fit.notes))
    decisions = outcome.decisions
    if decisions.prior is not None or decisions.calibrator is not None:
        notes = [note for note in notes if not note.startswith(UNEVEN)]
    quantiles = outcome.quantiles
    if quantiles and 0.5 not in quantiles:
        nearest = min(quantiles, key=lambda quantile: abs(quantile - 0.5))
        notes.append(
            f"there is no quantile 0.5: predictions, and all metrics but pinball, are those of the quantile {nearest:g}"
        )
    if decisions.threshold is not None:
        cuts = decisions.threshold if isinstance(decisions.threshold, tuple) else (decisions.threshold,)
        how = f"for {aim} on validation rows"
        if ThresholdRule.parse(aim).aim == "fixed":
            how = "as given"
        elif decisions.notes and all(cut == UNTUNED for cut in cuts):
            how = "not tuned"
        say(f"threshold {', '.join(f'{cut:.4g}' for cut in cuts)} ({how})")
    notes += [note for note in outcome.results[0].notes if note not in notes]
    for note in notes:
        say(f"  {note}")
    return notes


def save_heads(folder: Path, outcome: Outcome, judging: Judging) -> None:
    """Save the head, or one of each fold in a folder of its own."""
    task = outcome.task
    trained = task.rows[task.part(TRAIN)] if outcome.single else task.rows
    folders = runs.fold_folders([model.name for model in outcome.models])
    profiles: dict[str, TrainingProfile] = {}
    for model in outcome.models:
        head, store = model.fit.fitted.head, model.store
        if store.fingerprint not in profiles:
            profiles[store.fingerprint] = profile_of(store, trained)
        card = HeadCard(
            kind=head.kind,
            dim=store.dim,
            target=task.target.kind,
            names=task.target.names,
            label=tuple(str(task.columns.label).split(","))
            if task.target.kind == "multilabel"
            else (str(task.columns.label),),
            fingerprint=store.fingerprint,
            encoder=encoder_record(store),
            strata=task.columns.stratum if judging.decisions.by_stratum else None,
        )
        saved_head = SavedHead(head, card, outcome.decisions, model.fit.steps, profiles[store.fingerprint])
        saved.save(folder / folders[model.name], saved_head)
