"""`make bench`: every benchmark beside its named peer, as a table of ratios and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click


@dataclass(frozen=True)
class Line:
    """One line of the table: a figure, what it is a ratio to, and what it should reach."""

    what: str
    figure: float
    reach: float
    unit: str = "x"
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the figure is as good as it should be."""
        return self.figure <= self.reach if self.at_most else self.figure >= self.reach

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        verdict = "" if self.reached else "   NOT REACHED"
        return f"{self.measured} reach {sign} {self.reach:g}{self.unit}{verdict}"

    @property
    def measured(self) -> str:
        """The figure alone, for sizes at which the aim means nothing."""
        return f"  {self.what:<70} {self.figure:>9.3g}{self.unit:<2}"


def extraction_lines(found: dict[str, Any]) -> list[Line]:
    """Ratios of extraction."""
    ways = found["ways"]
    lines = []
    for precision, plain, peer in (("float32", 5.0, 2.3), ("bfloat16", 9.0, 1.2)):
        ours = ways[f"embedcache {precision}"]
        lines += [
            Line(f"extraction {precision} / plain transformers loop in float32", ours["times_plain_loop"], plain),
            Line(
                f"extraction {precision} / sentence-transformers in {precision}",
                ours["times_sentence_transformers"],
                peer,
            ),
            Line(f"extraction {precision} / matrix rate of this machine", ours["matrix_share"], 0.8),
        ]
    return lines


def reading_lines(found: dict[str, Any]) -> list[Line]:
    """Ratios of the reader."""
    ways = found["ways"]
    return [
        Line("reading 1,024 random rows / numpy memmap", ways["random"]["embedcache"]["times_memmap"], 0.7),
        Line("reading a block-shuffled epoch / numpy memmap", ways["epoch"]["embedcache"]["times_memmap"], 0.9),
        Line("reading all rows / numpy memmap", ways["scan"]["embedcache"]["times_memmap"], 0.7),
        Line(
            "reading 1,024 random rows / zarr-python",
            ways["random"]["embedcache"]["rows_per_second"] / ways["random"]["zarr-python"]["rows_per_second"],
            100,
        ),
    ]


def logistic_lines(found: dict[str, Any]) -> list[Line]:
    """Ratios of the logistic grid."""
    return [
        Line("16 logistic regressions / scikit-learn loop, preconditioner at hand", found["ratio_warm"], 50),
        Line("16 logistic regressions / scikit-learn loop, from nothing", found["ratio_cold"], 50),
        Line("16 logistic regressions / scikit-learn loop warm-started along C", found["ratio_warm_started"], 25),
        Line("largest objective gap of the 16 to float64 Newton", found["largest_gap"], 1e-6, "", at_most=True),
    ]


def memory_lines(found: dict[str, Any]) -> list[Line]:
    """Peak memory against its bound."""
    return [Line("peak memory of extraction / (model + 700 MB + 16 B a row)", found["share"], 1.0, at_most=True)]


LINES: dict[str, Callable[[dict[str, Any]], list[Line]]] = {
    "reading": reading_lines,
    "logistic": logistic_lines,
    "memory": memory_lines,
    "extraction": extraction_lines,
}


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("bench_results/bench.json"), show_default=True)
@click.option("--only", type=click.Choice(list(LINES)), multiple=True, help="Run only these.")
@click.option("--quick", is_flag=True, help="Small sizes that only show that it runs.")
def main(output: Path, only: tuple[str, ...], quick: bool) -> None:
    """Run the benchmarks one after another, about ten minutes; print ratios and write all figures as JSON."""
    import importlib

    import cli  # noqa: F401  waiting threads are set as the programs set them, for the peers too

    report: dict[str, Any] = {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "numpy", "zarr", "scikit-learn", "transformers")},
        "quick": quick,
    }
    lines: list[Line] = []
    for name in only or LINES:
        click.echo(f"{name}...", err=True)
        report[name] = importlib.import_module(f"benchmarks.{name}").run(quick=quick)
        lines += LINES[name](report[name])
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=1) + "\n")
    click.echo(f"{report['machine']['processor']}, {os.cpu_count()} cores, torch {report['versions']['torch']}")
    for line in lines:
        click.echo(line.measured if quick else str(line))
    if "extraction" in report:
        for way, figures in report["extraction"]["ways"].items():
            click.echo(
                f"  {way:<34} {figures['tokens_per_second']:>8,.0f} real tokens/s  {figures['matrix_share']:>5.0%} of the "
                f"matrix rate  least cosine {figures['least_cosine']:.7f}"
            )
    click.echo(f"all figures: {output}")
    wrong = [name for name, right in _correct(report) if not right]
    if wrong:
        sys.exit(f"wrong results, whatever the speed: {', '.join(wrong)}")


def _correct(report: dict[str, Any]) -> list[tuple[str, bool]]:
    """What must hold whatever the speed: the same vectors as the peer, and heads at their optimum."""
    checks = []
    if "extraction" in report:
        least = min(way["least_cosine"] for way in report["extraction"]["ways"].values())
        checks.append((f"extraction: cosine {least:.5f} to the plain loop", least > 0.999))
    if "logistic" in report:
        checks.append((f"logistic: gap {report['logistic']['largest_gap']:.1e}", report["logistic"]["within_gate"]))
    return checks


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
