"""The tables of a sweep: a line for each run, the points side by side, and groups of points by the parts of a name. The
baselines stand below the runs, points and groups (`heads.running.sweep_baselines`).

An option whose values are a word and a number, such as the blocks ``both_100`` and ``upstream_50``, has two tables more: the
points by word, and by number.
"""

from __future__ import annotations

import csv
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from heads.judging.metrics import better
from heads.running.sweep_baselines import comparison, swept_baselines
from heads.running.swept import SEED, Swept, SweptPoint

TABLE, SUMMARY = "sweep.csv", "sweep.md"
_PARTS = re.compile(r"(?P<word>.*[^_\W\d].*?)[_-](?P<number>\d+)", re.ASCII)


def write_tables(folder: Path, swept: Swept) -> None:
    """Write all tables into the folder of the sweep."""
    metrics = _metric_names(swept)
    names = _options(swept)
    earlier = any(run.earlier for run in swept.runs)
    with (folder / TABLE).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        head = [*names, "baseline", *(f"{part}_{metric}" for part, metric in metrics), "run", "failure"]
        writer.writerow([*head, "earlier"] if earlier else head)
        for run in swept.runs:
            cells = [_cell(run.value(*metric)) for metric in metrics]
            line = [*(run.point.get(name, "") for name in names), "", *cells, run.folder.name, run.failure]
            writer.writerow([*line, "earlier" if run.earlier else ""] if earlier else line)
        for rival in swept_baselines(swept, [(run,) for run in swept.runs], metrics):
            cells = [_cell(*rival.values[metric]) for metric in metrics]
            line = [*(rival.point.get(name, "") for name in names), rival.name, *cells, "", ""]
            writer.writerow([*line, "earlier" if rival.earlier else ""] if earlier else line)
    for name, groups in grouped(swept).items():
        _write_groups(folder / f"sweep_{name}.csv", swept, groups, metrics)
    (folder / SUMMARY).write_text(summary(swept) + "\n")


def _cell(value: float = float("nan")) -> str:
    return "" if value != value else f"{value:.6g}"


def _options(swept: Swept) -> list[str]:
    """Options that vary in any of the runs."""
    return list(dict.fromkeys(name for run in swept.runs for name in run.point))


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
    """The table of the points and the baselines in Markdown: the metric on validation and test rows, mean and deviation over
    the seeds."""
    names = [name for name in _options(swept) if name != SEED]
    best = swept.best
    earlier = [all(run.earlier for run in point.runs) for point in swept.points]
    head = ["", *names, "seeds", f"val {swept.metric}", f"test {swept.metric}", "failed"]
    lines = []
    for point, before in zip(swept.points, earlier, strict=True):
        failed = [run for run in point.runs if run.metrics is None]
        marks = ["**best**" if point == best else "", "earlier" if before else ""]
        lines.append(
            [
                " ".join(filter(None, marks)),
                *(point.point.get(name, "") for name in names),
                str(len(point.runs)),
                *(_spread(point.values(part, swept.metric)) for part in ("val", "test")),
                failed[0].failure if failed else "",
            ]
        )
    shown = [(part, swept.metric) for part in ("val", "test")]
    rivals = swept_baselines(swept, [point.runs for point in swept.points], shown)
    for rival in rivals:
        lines.append(
            [
                f"baseline {rival.name}{' earlier' if rival.earlier else ''}",
                *(rival.point.get(name, "") for name in names),
                "",
                *(_spread(rival.values[metric]) for metric in shown),
                "",
            ]
        )
    chosen = (
        "the best by its mean on validation rows"
        if best
        else "no point has that metric of validation rows for all seeds"
    )
    said = [markdown(head, lines), f"Mean and standard deviation over the seeds; {chosen}."]
    if rivals:
        said[-1] += " A baseline has one line where the options make no difference to it."
    if line := comparison(swept):
        said.append(line)
    if any(earlier):
        said.append("Points marked as earlier are of calls with other points, and were not looked at again.")
    for name, groups in grouped(swept).items():
        said += [f"By the parts of `{name}`:", _group_table(swept, groups)]
    return "\n\n".join(said)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in rows)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"


@dataclass(frozen=True)
class Group:
    """The points whose value of an option has the same word, or the same number."""

    name: str
    points: tuple[SweptPoint, ...]

    def best(self, metric: str) -> SweptPoint | None:
        """The point with the best mean of the metric on validation rows; None where none has it."""
        best: SweptPoint | None = None
        for point in self.points:
            value = point.mean("val", metric)
            if value == value and (best is None or better(metric, value, best.mean("val", metric))):
                best = point
        return best

    def mean(self, part: str, metric: str) -> float:
        """Mean over the points that have the metric; NaN where none has."""
        values = [value for point in self.points if (value := point.mean(part, metric)) == value]
        return statistics.fmean(values) if values else float("nan")


def grouped(swept: Swept) -> dict[str, list[Group]]:
    """Groups of the options whose values are words and numbers: by word, as they come, then by rising number."""
    found: dict[str, list[Group]] = {}
    for name in _options(swept):
        values = {point.point.get(name, "") for point in swept.points}
        parts = {value: match for value in values if (match := _PARTS.fullmatch(value)) is not None}
        if len(values) < 2 or len(parts) < len(values):
            continue
        words = _groups(swept, lambda point, name=name, parts=parts: parts[point.point[name]]["word"])  # type: ignore[misc]
        numbers = _groups(swept, lambda point, name=name, parts=parts: parts[point.point[name]]["number"])  # type: ignore[misc]
        found[name] = [*words, *sorted(numbers, key=lambda group: int(group.name))]
    return found


def _groups(swept: Swept, key: Callable[[SweptPoint], str]) -> list[Group]:
    held: dict[str, list[SweptPoint]] = {}
    for point in swept.points:
        held.setdefault(key(point), []).append(point)
    return [Group(name, tuple(points)) for name, points in held.items()]


def _group_table(swept: Swept, groups: Sequence[Group]) -> str:
    metric = swept.metric
    head = ["", "points", "best", *(f"{how} {part} {metric}" for how in ("best", "mean") for part in ("val", "test"))]
    lines = []
    for group in groups:
        best = group.best(metric)
        values = [float("nan") if best is None else best.mean(part, metric) for part in ("val", "test")]
        values += [group.mean(part, metric) for part in ("val", "test")]
        said = "" if best is None else ", ".join(best.point.values())
        cells = ["-" if value != value else f"{value:.4f}" for value in values]
        lines.append([group.name, str(len(group.points)), said, *cells])
    shown = [(part, metric) for part in ("val", "test")]
    for rival in swept_baselines(swept, [point.runs for point in swept.points], shown):
        cells = [_spread(rival.values[one]) for one in shown]
        lines.append([f"baseline {rival.name}", "", ", ".join(rival.point.values()), *cells, *cells])
    return markdown(head, lines) + "\n\nThe best is the best on validation rows; means are over the points."


def _write_groups(file: Path, swept: Swept, groups: Sequence[Group], metrics: Sequence[tuple[str, str]]) -> None:
    """A line for each group: its points, the best one by validation rows, every metric of that one, and their means; below
    them the baselines."""
    names = [f"{part}_{metric}" for part, metric in metrics]
    with file.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            ["group", "points", "best", *(f"best_{name}" for name in names), *(f"mean_{name}" for name in names)]
        )
        for group in groups:
            best = group.best(swept.metric)
            values = [float("nan") if best is None else best.mean(*one) for one in metrics]
            values += [group.mean(*one) for one in metrics]
            said = "" if best is None else ", ".join(f"{name} {value}" for name, value in best.point.items())
            writer.writerow([group.name, len(group.points), said, *map(_cell, values)])
        for rival in swept_baselines(swept, [point.runs for point in swept.points], metrics):
            said = ", ".join(f"{name} {value}" for name, value in rival.point.items())
            means = [_cell(statistics.fmean(rival.values[one] or (float("nan"),))) for one in metrics]
            writer.writerow([f"baseline {rival.name}", "", said, *means, *means])
