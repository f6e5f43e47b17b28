"""The trainings of a run: one, or in folds one of each fold, or of each pair of a nested fold; and what each starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedcache.encoders.encoder import Encoder
from embedcache.errors import HeadError
from embedcache.storage.store import Store
from heads.data.labels import MISSING
from heads.running.open_run import Run, open_run
from heads.running.rounds import parts_of
from heads.running.runs import MANIFEST, fold_folders
from heads.splitting.folds import Fold, Folds
from heads.splitting.splits import TEST, TRAIN, VAL
from heads.splitting.task import Task


@dataclass(frozen=True)
class Member:
    """One training of a run."""

    name: str
    """As the run calls its model (`heads.running.rounds.Model`)."""
    folder: str
    """Within the folder of the run, and in that of its training; empty for the run itself."""
    place: str
    """Which it is of how many, in words; empty for one split."""
    task: Task
    """All rows of the run, in the parts of this training."""
    fresh: bool = False
    """Whether it begins with a new head, since the one to start from knows rows that judge."""

    @property
    def judged(self) -> Task:
        """The rows that take part in it, as a run of one split has them."""
        return self.task.take(np.flatnonzero(self.task.parts != MISSING))


def members_of(task: Task, folds: Folds | None) -> tuple[Member, ...]:
    """The trainings of a task; raises HeadError where one has no rows that train or none that validate."""
    if folds is None:
        found = [Member("", "", "", task)]
    else:
        names = {fold.name: f"{number}/{len(folds)} {fold.name}" for number, fold in enumerate(folds, 1)}
        parts = [(fold, parts_of(task, fold)) for fold in folds]
        folders = fold_folders([name for _, of_fold in parts for name in of_fold])
        found = [
            Member(
                name,
                folders[name],
                names[fold.name] + name.removeprefix(fold.name),
                replace(part, origin=f"{name} of {task.origin}", notes=_notes_of(task, fold, folds)),
            )
            for fold, of_fold in parts
            for name, part in of_fold.items()
        ]
    for member in found:
        if not len(member.task.part(VAL)) or not len(member.task.part(TRAIN)):
            raise HeadError(
                f"a fine-tuning needs rows that train and rows that validate (they choose its epoch), and "
                f"{member.name or 'this split'} has not both: give another --split"
            )
    return tuple(found)


def _notes_of(task: Task, fold: Fold, folds: Folds) -> tuple[str, ...]:
    """What is to be known of a task, without what is said of other folds."""
    others = tuple(f"{other.name}: " for other in folds if other.name != fold.name)
    return tuple(note for note in task.notes if not note.startswith(others))


def with_starts(
    members: Sequence[Member], head: Path | None, encoder: Encoder, store: Store
) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    """The trainings, knowing which of them cannot start from a head that has seen rows they test, and what is to be said.

    Parameters
    ----------
    head : the run that they start from.
    encoder : what is trained; it may be that of a run as well.
    """
    if not members[0].name:
        return tuple(members), ()
    tested = [_tested(member) for member in members]
    notes, found = [], tuple(members)
    if head is not None:
        seen = _seen(open_run(head), store)
        found = tuple(replace(m, fresh=bool(seen[rows].any())) for m, rows in zip(members, tested, strict=True))
        fresh = [member.name for member in found if member.fresh]
        if fresh:
            which = "every fold" if len(fresh) == len(found) else ", ".join(fresh)
            notes.append(
                f"{which}: begins with a new head, since {head} trained or tuned its own on rows that are tested"
            )
    run = _run_of(encoder)
    if run is not None:
        rows = np.unique(np.concatenate(tested))
        known = int(_seen(run, store)[rows].sum())
        if known:
            notes.append(
                f"WARNING: {known:,} of {len(rows):,} rows that are tested trained or tuned the encoder in {run.path}: on "
                "those it looks better than it is"
            )
    noted = (replace(m, task=replace(m.task, notes=(*m.task.notes, *notes))) for m in found)
    return tuple(noted), tuple(notes)


def _tested(member: Member) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return member.task.rows[member.task.part(TEST)]


def _seen(run: Run, store: Store) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    table = store.read_rows(["id", "digest"])
    return run.seen(table["id"], table["digest"])


def _run_of(encoder: Encoder) -> Run | None:
    """The run that made an encoder, where it is there."""
    if encoder.origin.directory is None:
        return None
    folder = Path(encoder.origin.directory)
    found = next((path for path in (folder, folder.parent) if (path / MANIFEST).exists()), None)
    return None if found is None else open_run(found)
