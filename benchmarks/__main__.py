"""`make bench`: every benchmark beside its named peer, as a table of ratios and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from benchmarks.lines import LINES, Line, extraction_programs, wrong_results

VERSIONS = ("torch", "numpy", "zarr", "scikit-learn", "lightgbm", "faiss-cpu", "transformers")


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("bench_results/bench.json"), show_default=True)
@click.option("--only", type=click.Choice(list(LINES)), multiple=True, help="Run only these.")
@click.option("--quick", is_flag=True, help="Small sizes that only show that it runs.")
def main(output: Path, only: tuple[str, ...], quick: bool) -> None:
    """Run the benchmarks one after another, about an hour on two cores; print ratios and write all figures as JSON."""
    import importlib

    import cli  # noqa: F401  waiting threads are set as the programs set them, for the peers too

    report: dict[str, Any] = {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in VERSIONS},
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
        for program, figures in extraction_programs(report["extraction"]):
            click.echo(
                f"  {program:<43} {figures['tokens_per_second']:>8,.0f} real tokens/s  {figures['matrix_share']:>5.0%} of "
                f"the matrix rate  least cosine {figures['least_cosine']:.7f}"
            )
    click.echo(f"all figures: {output}")
    wrong = wrong_results(report)
    if wrong:
        sys.exit(f"wrong results, whatever the speed: {', '.join(wrong)}")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
