"""Many runs of one command: every combination of some options, each in a run directory of its own, and one table of all.

A run that is finished is not made again, so that a sweep that was interrupted goes on where it stopped. One that fails is
a line of the table with its reason, and is tried again the next time. The best point is chosen by the mean of a metric over
its seeds on the validation rows, never on the test rows. Called again with other points, a sweep keeps the lines of the runs
that it made before.

sweep.json         the options that all runs share, and every run with its point
POINT/             one run directory for each point
sweep.csv          a line for each run: its options, metrics, and where it lies, or why it failed; then the baselines
sweep.md           the points, mean and deviation over their seeds, the best marked and compared with the baselines
sweep_OPTION.csv   groups of points, where the values of an option are words and numbers (`heads.running.sweep_tables`)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embedcache.errors import EmbedcacheError, HeadError
from heads.head import read_json
from heads.running.sweep_plan import Point, Sweep
from heads.running.sweep_tables import write_tables
from heads.running.swept import SweepRun, Swept

SWEEP, METRICS = "sweep.json", "metrics.json"
LONGEST_NAME = 100

TrainOne = Callable[[Point, Path], Mapping[str, Any]]
"""Makes one run in a directory that is not there yet; returns what its metrics.json holds."""


def sweep(
    plan: Sweep,
    folder: Path,
    train_one: TrainOne,
    *,
    metric: str | None,
    fixed: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Swept:
    """Make every run of a sweep that is not there yet, and write the tables.

    Parameters
    ----------
    folder : of the sweep, made if it is not there.
    train_one : makes one run; an `EmbedcacheError` of it becomes a line of the table.
    metric : on the validation rows that chooses the best point; None for the one that chose most heads.
    fixed : the options that all runs share; a folder with other ones is refused.

    Raises
    ------
    HeadError : the folder holds another sweep, or something else.
    """
    shared = _claim(folder, fixed or {})
    notes = _noted(folder)
    planned = {_folder_name(options) for options in plan.points}
    before = [_earlier_run(folder, name, note) for name, note in notes.items() if name not in planned]
    runs: list[SweepRun] = []
    for number, options in enumerate(plan.points, 1):
        point = dict(options)
        outdir = folder / _folder_name(options)
        if (outdir / METRICS).exists():
            run, done = SweepRun(point, outdir, read_json(outdir / METRICS)), "finished before"
        else:
            run, done = _made(point, outdir, train_one), ""
        runs.append(run)
        chooses = metric or _select_of((*runs, *before))
        value = run.value("val", chooses)
        outcome = f"FAILED: {run.failure}" if run.metrics is None else f"val {chooses} {value:.4f} {done}".rstrip()
        say(f"[{number}/{len(plan.points)}] {_said(point)}: {outcome}")
        # after each run, so that what is there can be looked at
        write_tables(folder, Swept((*runs, *before), chooses))
        notes[outdir.name] = {"point": point, "failure": run.failure}
        _note(folder, shared, notes)
    return Swept((*runs, *before), metric or _select_of((*runs, *before)))


def _select_of(runs: Sequence[SweepRun]) -> str:
    """The metric that chose the heads of most finished runs."""
    counts = Counter(str(run.metrics["select"]) for run in runs if run.metrics and "select" in run.metrics)
    return counts.most_common(1)[0][0] if counts else "auprc"


def _noted(folder: Path) -> dict[str, dict[str, Any]]:
    """Point and failure of the runs that a folder knows, by the names of their folders."""
    try:
        held = read_json(folder / SWEEP).get("runs", {})
        return {
            Path(name).name: {
                "point": {str(key): str(value) for key, value in note["point"].items()},
                "failure": str(note["failure"]),
            }
            for name, note in held.items()
        }
    except (KeyError, TypeError, AttributeError):
        raise HeadError(f"{folder / SWEEP} is damaged: name another folder with --output") from None


def _earlier_run(folder: Path, name: str, note: Mapping[str, Any]) -> SweepRun:
    file = folder / name / METRICS
    metrics = read_json(file) if file.exists() else None
    return SweepRun(
        note["point"], folder / name, metrics, "" if metrics else note["failure"] or "its folder is gone", True
    )


def _note(folder: Path, shared: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """Write down which runs there are, whole or not at all."""
    partial = folder / f".{SWEEP}.partial"
    partial.write_text(json.dumps({"fixed": shared, "runs": notes}, indent=1) + "\n")
    partial.replace(folder / SWEEP)


def _made(point: Point, outdir: Path, train_one: TrainOne) -> SweepRun:
    try:
        return SweepRun(point, outdir, train_one(point, outdir))
    except EmbedcacheError as error:
        return SweepRun(point, outdir, None, _flat(error))


def _claim(folder: Path, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Note in a new folder what all runs share, or make sure that an old one says the same; returns it as JSON has it."""
    held = json.loads(json.dumps(dict(fixed), default=str))
    if (folder / SWEEP).exists():
        before = read_json(folder / SWEEP).get("fixed")
        if before != held:
            changed = sorted({*(before or {}), *held}, key=str)
            names = [name for name in changed if (before or {}).get(name) != held.get(name)]
            raise HeadError(
                f"{folder} holds a sweep with other options ({', '.join(names)}): name another folder with --output, or "
                "give the options it was begun with"
            )
        return dict(held)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise HeadError(f"--output {folder} is not empty and holds no sweep: name another folder")
        (folder / SWEEP).write_text(json.dumps({"fixed": held}, indent=1) + "\n")
    except OSError as error:
        raise HeadError(f"--output {folder} cannot be written: {error.strerror}") from None
    return dict(held)


def _folder_name(options: Sequence[tuple[str, str]]) -> str:
    """``head=mlp,seed=0``; with a hash at the end where characters had to go, or it is long, so that no two are the same."""
    plain = ",".join(f"{name}={value}" for name, value in options)
    safe = re.sub(r"[^\w=,.+-]", "_", plain)[:LONGEST_NAME]
    return safe if safe == plain else f"{safe}-{hashlib.blake2b(plain.encode(), digest_size=4).hexdigest()}"


def _said(point: Point) -> str:
    return ", ".join(f"{name} {value}" for name, value in point.items())


def _flat(error: BaseException) -> str:
    return " ".join(str(error).split())
