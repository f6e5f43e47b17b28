"""``heads sweep``: many trainings, and one table of them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cli.run_options import FEATURES, FOLDER, METRICS
from cli.train import run_training, train
from embedcache.counted import counted, counted_of


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@FEATURES
@click.option(
    "--vary",
    multiple=True,
    metavar="OPTION=V,V,...",
    help="An option of `heads train` and its values, such as --vary head=lr,mlp --vary seed=0,1,2.",
)
@click.option(
    "--plan", type=FOLDER, metavar="FILE", help="The same as YAML: vary: {OPTION: [V, V], ...}; values may hold commas."
)
@click.option(
    "--zip", "zipped", is_flag=True, help="Take first values together, then second ones, instead of all combinations."
)
@click.option(
    "--select",
    type=click.Choice(METRICS),
    metavar="METRIC",
    help="Metric on validation rows that chooses.  [default: as for train]",
)
@click.option("-o", "--output", type=FOLDER, required=True, metavar="DIR", help="Folder of the sweep.")
@click.pass_context
def sweep(
    context: click.Context,
    features: tuple[str, ...],
    vary: tuple[str, ...],
    plan: Path | None,
    zipped: bool,
    select: str | None,
    output: Path,
) -> None:
    """Train many heads with every combination of some options, and put them and their baselines side by side.

    All other options are those of `heads train`. Run again, a sweep goes on where it stopped: finished runs stay, failed
    ones are tried again, and runs of other points stay in the table. Ends with exit code 1 where a run failed.
    """
    from embedcache.errors import HeadError, Interrupted
    from heads.data.feature_stores import Features
    from heads.head import read_json
    from heads.running.run_sweep import sweep as run_sweep
    from heads.running.sweep_plan import Sweep
    from heads.running.sweep_tables import summary

    if (plan is None) == (not vary):
        raise click.UsageError("say what varies: --vary OPTION=V,V or --plan FILE")
    points = (
        Sweep.parse(vary, "zip" if zipped else "product")
        if plan is None
        else Sweep.read(plan, "zip" if zipped else None)
    )
    shared = [*context.args, *(["--select", select] if select else [])]
    for point in points.points:
        _parameters(features, shared, dict(point))
    by_letter = () if _parameters(features, shared, dict(points.points[0]))["per_position"] else None
    Features(features, per_position=by_letter).open()  # what is wrong with it would be wrong with every run

    from heads.baselines.shared_baselines import SharedBaselines

    shared_baselines = SharedBaselines()

    def train_one(point: Mapping[str, str], outdir: Path) -> Mapping[str, object]:
        given = _parameters(features, shared, point)
        given.pop("features"), given.pop("output"), given.pop("overwrite")
        if given["split_seed"] is None and "seed" in points.values:
            given["split_seed"] = 0  # other rows would make the runs of one point another experiment each
        try:
            run_training(features, outdir, False, given, lambda line: None, shared_baselines)
        except click.UsageError as error:  # an option that means nothing to one of the heads
            raise HeadError(error.message) from None
        return read_json(outdir / "metrics.json")

    try:
        swept = run_sweep(
            points,
            output,
            train_one,
            metric=select,
            fixed={"features": " + ".join(features), "options": shared},
            say=click.echo,
        )
    except KeyboardInterrupt:
        done = len(list(output.glob("*/metrics.json")))
        raise Interrupted(
            f"stopped by Ctrl-C: {counted_of(done, len(points.points), 'run')} finished and kept; run the same command "
            "to go on"
        ) from None
    click.echo("\n" + summary(swept))
    tables = sorted(file for file in output.iterdir() if file.suffix in (".csv", ".md"))
    click.echo(f"\ntables: {', '.join(map(str, tables))}")
    if swept.best is not None:
        best = swept.best.runs[0].folder
        click.echo(f"next: heads evaluate {best} {shlex.join(_flags(features))} (its report: {best / 'report.html'})")
    if swept.failed:
        first = swept.failed[0]
        words = [word for name, value in first.point.items() for word in (f"--{name}", value)]
        command = ["heads", "train", *_flags(features), *shared, *words, "--output", str(first.folder)]
        click.echo(
            f"{len(swept.failed)} of {counted(len(points.points), 'run')} failed; to see why: {shlex.join(command)}",
            err=True,
        )
        context.exit(1)


def _flags(features: Sequence[str]) -> list[str]:
    return [word for store in features for word in ("--features", store)]


def _parameters(features: Sequence[str], shared: Sequence[str], point: Mapping[str, str]) -> dict[str, Any]:
    """Parameters of the command `train`, parsed as it would parse them; raises what it would."""
    words = [word for name, value in point.items() for word in (f"--{name}", value)]
    flags = {flag for option in train.params for flag in option.opts}
    for name in point:
        if f"--{name}" not in flags or name in ("features", "output"):
            raise click.UsageError(f"--vary {name}: `heads train` has no option --{name} that can vary")
    parsed = train.make_context("heads train", [*_flags(features), *shared, *words])
    return dict(parsed.params)
