"""Many runs of one command: every combination of some options, each in a run directory of its own, and one table of all.

A run that is finished is not made again, so that a sweep that was interrupted goes on where it stopped. One that fails is
a line of the table with its reason, and is tried again the next time. The best point is chosen by the mean of a metric over
its seeds on the validation rows, never on the test rows.

sweep.json      the options that all runs share, and those that vary
POINT/          one run directory for each point
sweep.csv       a line for each run: its options, metrics, and where it lies, or why it failed
sweep.md        the points, mean and deviation over their seeds, the best marked
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from embedcache.errors import EmbedcacheError, HeadError
from heads.head import read_json
from heads.metrics import better

SWEEP, TABLE, SUMMARY, METRICS = "sweep.json", "sweep.csv", "sweep.md", "metrics.json"
SEED = "seed"
"""The option whose values are repetitions of a point, not points."""
LONGEST_NAME = 100

Point = Mapping[str, str]
"""Options of one run by their name on the command line without dashes, and their values as text."""
TrainOne = Callable[[Point, Path], Mapping[str, Any]]
"""Makes one run in a directory that is not there yet; returns what its metrics.json holds."""
Mode = Literal["product", "zip"]


@dataclass(frozen=True)
class Sweep:
    """Options that vary, each with its values."""

    values: Mapping[str, tuple[str, ...]]
    mode: Mode = "product"
    """All combinations, or the first values together, then the second ones, and so on."""

    def __post_init__(self) -> None:
        if self.mode not in ("product", "zip"):
            raise HeadError(f"the mode of a sweep is product or zip, not {self.mode!r}")
        empty = [name for name, values in self.values.items() if not values]
        if not self.values or empty:
            raise HeadError(
                f"--vary {empty[0]}= has no values" if empty else "nothing varies: give --vary option=value,value"
            )
        counts = {name: len(values) for name, values in self.values.items()}
        if self.mode == "zip" and len(set(counts.values())) > 1:
            said = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise HeadError(f"options that vary together need equally many values: {said}")
        if len(set(self.points)) < len(self.points):
            raise HeadError("a sweep would make the same run twice: a value is given twice")

    @classmethod
    def parse(cls, given: Sequence[str], mode: str = "product") -> Self:
        """Read ``option=value,value`` of the command line; values with commas go into a file (`read`)."""
        values: dict[str, tuple[str, ...]] = {}
        for text in given:
            name, equals, listed = text.partition("=")
            name = _name(name)
            if not equals or not name:
                raise HeadError(f"--vary {text}: write option=value,value, such as c=0.1,1")
            if name in values:
                raise HeadError(f"--vary {name} is given twice: put all of its values into one list")
            values[name] = tuple(value.strip() for value in listed.split(",") if value.strip())
        return cls(values, mode)  # type: ignore[arg-type]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a YAML file: ``vary: {option: [value, value]}`` and, if wanted, ``mode: zip``.

        Raises HeadError where it is not one.
        """
        try:
            held = yaml.safe_load(file.read_text())
            if not isinstance(held, dict) or set(held) - {"vary", "mode"} or not isinstance(held["vary"], dict):
                raise TypeError("it holds something else")
            values = {_name(str(name)): tuple(map(_text, _listed(listed))) for name, listed in held["vary"].items()}
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise HeadError(f"{file} is no sweep ({_flat(error)}): write vary: {{option: [value, value]}}") from None
        return cls(values, held.get("mode", "product"))

    @property
    def points(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """The options of every run, in the order of the values."""
        combine = itertools.product if self.mode == "product" else zip
        return tuple(tuple(zip(self.values, chosen, strict=True)) for chosen in combine(*self.values.values()))


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: where it lies, and its metrics or why it has none."""

    point: Point
    folder: Path
    metrics: Mapping[str, Any] | None
    failure: str = ""

    def value(self, part: str, metric: str) -> float:
        """A metric of a split; NaN where there is none."""
        found = (self.metrics or {}).get(part, {}).get(metric)
        return float(found) if isinstance(found, int | float) else float("nan")


@dataclass(frozen=True)
class SweptPoint:
    """The runs of one point, which differ in their seeds alone."""

    point: Point
    """Without the seed."""
    runs: tuple[SweepRun, ...]

    def values(self, part: str, metric: str) -> list[float]:
        """A metric of all runs that have it."""
        found = [run.value(part, metric) for run in self.runs]
        return [value for value in found if value == value]

    def mean(self, part: str, metric: str) -> float:
        """Mean over the seeds; NaN where one of them failed, for the others may be the lucky ones."""
        values = self.values(part, metric)
        return statistics.fmean(values) if len(values) == len(self.runs) else float("nan")


@dataclass(frozen=True)
class Swept:
    """All runs of a sweep."""

    runs: tuple[SweepRun, ...]
    metric: str

    @property
    def points(self) -> tuple[SweptPoint, ...]:
        """The points in the order of the sweep."""
        grouped: dict[tuple[tuple[str, str], ...], list[SweepRun]] = {}
        for run in self.runs:
            key = tuple((name, value) for name, value in run.point.items() if name != SEED)
            grouped.setdefault(key, []).append(run)
        return tuple(SweptPoint(dict(key), tuple(runs)) for key, runs in grouped.items())

    @property
    def best(self) -> SweptPoint | None:
        """The point with the best mean of the metric on validation rows, of equals the first; None where all failed."""
        best: SweptPoint | None = None
        for point in self.points:
            value = point.mean("val", self.metric)
            if value == value and (best is None or better(self.metric, value, best.mean("val", self.metric))):
                best = point
        return best


def sweep(
    plan: Sweep,
    folder: Path,
    train_one: TrainOne,
    *,
    metric: str,
    fixed: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Swept:
    """Make every run of a sweep that is not there yet, and write the tables.

    Parameters
    ----------
    folder : of the sweep, made if it is not there.
    train_one : makes one run; an `EmbedcacheError` of it becomes a line of the table.
    metric : on the validation rows that chooses the best point.
    fixed : the options that all runs share; a folder with other ones is refused.

    Raises
    ------
    HeadError : the folder holds another sweep, or something else.
    """
    _claim(folder, fixed or {})
    runs = []
    for number, options in enumerate(plan.points, 1):
        point = dict(options)
        outdir = folder / _folder_name(options)
        if (outdir / METRICS).exists():
            run, done = SweepRun(point, outdir, read_json(outdir / METRICS)), "finished before"
        else:
            run, done = _made(point, outdir, train_one), ""
        runs.append(run)
        value = run.value("val", metric)
        outcome = f"FAILED: {run.failure}" if run.metrics is None else f"val {metric} {value:.4f} {done}".rstrip()
        say(f"[{number}/{len(plan.points)}] {_said(point)}: {outcome}")
        swept = Swept(tuple(runs), metric)
        _write_tables(folder, swept)  # after each run, so that what is there can be looked at
    return swept


def _made(point: Point, outdir: Path, train_one: TrainOne) -> SweepRun:
    try:
        return SweepRun(point, outdir, train_one(point, outdir))
    except EmbedcacheError as error:
        return SweepRun(point, outdir, None, _flat(error))


def _claim(folder: Path, fixed: Mapping[str, Any]) -> None:
    """Note in a new folder what all runs share, or make sure that an old one says the same."""
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
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise HeadError(f"--output {folder} is not empty and holds no sweep: name another folder")
        (folder / SWEEP).write_text(json.dumps({"fixed": held}, indent=1) + "\n")
    except OSError as error:
        raise HeadError(f"--output {folder} cannot be written: {error.strerror}") from None


def _folder_name(options: Sequence[tuple[str, str]]) -> str:
    """``head=mlp,seed=0``; with a hash at the end where characters had to go, or it is long, so that no two are the same."""
    plain = ",".join(f"{name}={value}" for name, value in options)
    safe = re.sub(r"[^\w=,.+-]", "_", plain)[:LONGEST_NAME]
    return safe if safe == plain else f"{safe}-{hashlib.blake2b(plain.encode(), digest_size=4).hexdigest()}"


def _write_tables(folder: Path, swept: Swept) -> None:
    metrics = _metric_names(swept)
    names = list(swept.runs[0].point)
    with (folder / TABLE).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, *(f"{part}_{metric}" for part, metric in metrics), "run", "failure"])
        for run in swept.runs:
            found = [run.value(part, metric) for part, metric in metrics]
            cells = ["" if value != value else f"{value:.6g}" for value in found]
            writer.writerow([*run.point.values(), *cells, run.folder.name, run.failure])
    (folder / SUMMARY).write_text(summary(swept) + "\n")


def _metric_names(swept: Swept) -> list[tuple[str, str]]:
    """Every metric that is one number, of validation and test rows."""
    found: dict[tuple[str, str], None] = {}
    for run in swept.runs:
        for part in ("val", "test"):
            for metric, value in (run.metrics or {}).get(part, {}).items():
                if isinstance(value, float):
                    found.setdefault((part, metric))
    return sorted(found, key=lambda name: (name != ("val", swept.metric), name[0] != "val"))


def summary(swept: Swept) -> str:
    """The table of the points in Markdown: the metric on validation and test rows, mean and deviation over the seeds."""
    names = [name for name in swept.runs[0].point if name != SEED]
    head = ["", *names, "seeds", f"val {swept.metric}", f"test {swept.metric}", "failed"]
    best = swept.best
    lines = [head, ["---"] * len(head)]
    for point in swept.points:
        failed = [run for run in point.runs if run.metrics is None]
        lines.append(
            [
                "**best**" if best is not None and point.point == best.point else "",
                *point.point.values(),
                str(len(point.runs)),
                *(_spread(point.values(part, swept.metric)) for part in ("val", "test")),
                failed[0].failure if failed else "",
            ]
        )
    rows = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
    chosen = (
        "the best by its mean on validation rows"
        if best
        else "no point has that metric of validation rows for all seeds"
    )
    return f"{rows}\n\nMean and standard deviation over the seeds; {chosen}."


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"


def _name(text: str) -> str:
    return text.strip().lstrip("-").replace("_", "-")


def _listed(values: object) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _text(value: object) -> str:
    """A value of YAML as it would be typed."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise TypeError(f"{value!r} is no text and no number")


def _said(point: Point) -> str:
    return ", ".join(f"{name} {value}" for name, value in point.items())


def _flat(error: BaseException) -> str:
    return " ".join(str(error).split())
