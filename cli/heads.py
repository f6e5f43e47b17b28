"""`heads`: train light heads on a store of embeddings, predict with them, evaluate them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from cli.errors import run

FOLDER = click.Path(path_type=Path)
DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)
FEWEST_RESAMPLES = 100


def _resamples(context: click.Context, parameter: click.Parameter, value: int) -> int:
    if 0 < value < FEWEST_RESAMPLES:
        raise click.BadParameter(f"{value} resamples make no 95 % interval; give {FEWEST_RESAMPLES} or more, or 0")
    return value


BOOTSTRAP = click.option(
    "--bootstrap",
    type=click.IntRange(min=0),
    callback=_resamples,
    default=1000,
    show_default=True,
    metavar="N",
    help=f"Resamples for the 95 % intervals, {FEWEST_RESAMPLES} or more; 0 for none.",
)
SEED = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="For drawn splits and the bootstrap.",
)
FEATURES = click.option("--features", type=FOLDER, required=True, metavar="STORE", help="A store of embeddings.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def heads() -> None:
    """Train light heads on cached embeddings, in seconds."""


def _strengths(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        strengths = tuple(dict.fromkeys(float(part) for part in value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1e-3,0.1,1") from None
    if not all(0 < strength < float("inf") for strength in strengths):
        raise click.BadParameter("every C must be a positive number")
    return strengths


@heads.command()
@FEATURES
@click.option("--label", metavar="COL", help="Column of the classes.  [default: label]")
@click.option(
    "--split",
    metavar="COL",
    help="Column of train, val and test; none to draw 60/20/20.  [default: split where the store has it, else drawn]",
)
@click.option(
    "--group",
    metavar="COL",
    help="Column of groups that a drawn split keeps whole and the bootstrap draws, or none.  "
    "[default: group where it is there]",
)
@click.option("--strata", metavar="COL", help="Column whose class shares alone are a baseline.")
@click.option("--head", type=click.Choice(["lr"]), default="lr", show_default=True, help="Kind of head.")
@click.option("--output", type=FOLDER, metavar="DIR", help="Run directory.  [default: runs/STORE-lr]")
@click.option("--overwrite", is_flag=True, help="Replace the run in --output.")
@click.option(
    "--c",
    "strengths",
    callback=_strengths,
    metavar="C,C,...",
    help="Inverse strengths of the L2 penalty to try.  [default: 8 values from 1e-4 to 10]",
)
@click.option(
    "--class-weight",
    type=click.Choice(["none", "balanced", "both"]),
    default="both",
    show_default=True,
    help="Weights of the classes to try.",
)
@click.option(
    "--select",
    type=click.Choice(["auprc", "auroc"]),
    default="auprc",
    show_default=True,
    help="Metric on the validation rows that chooses the head.",
)
@click.option(
    "--threshold-metric",
    type=click.Choice(["f1", "mcc"]),
    default="f1",
    show_default=True,
    help="Metric on the validation rows that sets the threshold (two classes).",
)
@click.option("--positive", metavar="CLASS", help="Positive one of two classes.  [default: the last in sorted order]")
@click.option(
    "--memory",
    type=click.FloatRange(min=0),
    default=4.0,
    show_default=True,
    metavar="GIB",
    help="Keep features in memory up to this size, else read the store in every pass.",
)
@SEED
@BOOTSTRAP
@DEVICE
def train(
    features: Path,
    label: str | None,
    split: str | None,
    group: str | None,
    strata: str | None,
    output: Path | None,
    overwrite: bool,
    strengths: tuple[float, ...] | None,
    class_weight: Literal["none", "balanced", "both"],
    select: Literal["auprc", "auroc"],
    threshold_metric: Literal["f1", "mcc"],
    memory: float,
    bootstrap: int,
    seed: int,
    **options: Any,
) -> None:
    """Train a head on a store that has a label column, and show it beside its baselines.

    All strengths and class weights are fitted at once; the best on validation rows is kept.
    """
    from heads import report
    from heads.results import Judging
    from heads.selection import STRENGTHS, Grid
    from heads.task import Columns
    from heads.train import TrainOptions
    from heads.train import train as train_head

    done = train_head(
        features,
        TrainOptions(
            columns=Columns(label, split, group, strata),
            grid=Grid(
                strengths or STRENGTHS, ("none", "balanced") if class_weight == "both" else (class_weight,), select
            ),
            judging=Judging(threshold_metric, bootstrap, seed),
            seed=seed,
            memory_bytes=int(memory * 2**30),
            **options,
        ),
        click.echo,
        output=output,
        overwrite=overwrite,
    )
    asked = click.get_current_context().get_parameter_source("threshold_metric")
    if done.result.threshold is None and asked is click.core.ParameterSource.COMMANDLINE:
        click.echo("  --threshold-metric has no effect: with three classes and more the most probable one is predicted")
    for part in ("val", "test"):
        click.echo("\n" + report.table([done.result, *done.baselines], part))
    click.echo(f"\nrun directory: {done.outdir} (report.html, metrics.json, predictions.parquet, model/)")
    click.echo(f"next: heads predict {done.outdir} --features STORE -o predictions.parquet")
    click.echo(f"      heads evaluate {done.outdir} --features STORE")


@heads.command()
@click.argument("run_directory", type=FOLDER, metavar="RUN")
@FEATURES
@click.option("-o", "--output", type=FOLDER, required=True, metavar="FILE", help="Parquet file to write.")
@DEVICE
def predict(run_directory: Path, features: Path, output: Path, device: str) -> None:
    """Score every row of a store with the head of RUN; the store needs no labels."""
    from heads.predict import predict as predict_rows

    predict_rows(run_directory, features, output, click.echo, device=device)


@heads.command()
@click.argument("run_directory", type=FOLDER, metavar="RUN")
@FEATURES
@click.option("--label", metavar="COL", help="Column of the classes.  [default: the one of the training]")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    help="Rows to judge.  [default: test where RUN was trained on this store, else all that did not train it]",
)
@click.option("-o", "--output", type=FOLDER, metavar="FILE", help="Also write the metrics as JSON.")
@SEED
@BOOTSTRAP
@DEVICE
def evaluate(
    run_directory: Path,
    features: Path,
    label: str | None,
    split: str | None,
    output: Path | None,
    seed: int,
    bootstrap: int,
    device: str,
) -> None:
    """Judge the head of RUN on a store with labels."""
    from heads import report
    from heads.predict import evaluate_run, write_evaluation
    from heads.results import Judging

    judged = evaluate_run(
        run_directory,
        features,
        label=label,
        split=split,
        judging=Judging(resamples=bootstrap, seed=seed),
        device=device,
    )
    click.echo(f"{features}: {judged.what}")
    for note in judged.notes:
        click.echo(f"  {note}")
    click.echo(report.single_table(run_directory.name, judged.result))
    if output is not None:
        write_evaluation(output, judged)


def main() -> NoReturn:
    """Entry point of the program `heads`."""
    run(heads, "heads")
