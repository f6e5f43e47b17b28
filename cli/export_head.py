"""``heads export``: a saved head for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from cli.run_options import FOLDER


@click.command()
@click.argument("run_directory", type=FOLDER, metavar="RUN")
@click.option("--to", "form", type=click.Choice(["onnx", "sklearn"]), required=True, help="What to write.")
@click.option("-o", "--output", type=FOLDER, metavar="FILE|DIR", help="[default: RUN/head.onnx, RUN/sklearn]")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
def export(run_directory: Path, form: str, output: Path | None, overwrite: bool) -> None:
    """Write the head of RUN for other programs: an ONNX file, or a folder that gives a scikit-learn pipeline.

    Scores are equal. The features are those of the store, before any steps; the threshold is in the file, thresholds by
    stratum are in its metadata and not applied, conformal sets are not in it.
    """
    from embedcache.errors import HeadError
    from heads.running.open_run import open_run
    from heads.saving.export import export_onnx, export_sklearn, refuse_existing

    opened = open_run(run_directory)
    output = output or run_directory / ("head.onnx" if form == "onnx" else "sklearn")
    if not overwrite:
        refuse_existing(output)
    if len(opened.heads) > 1:
        raise HeadError(
            f"{run_directory} has a head for each of {len(opened.heads)} folds: name a run of one split{opened.of_one_fold}"
        )
    decisions = opened.first.decisions
    if decisions.thresholds is not None and decisions.thresholds.strata:
        click.echo(
            f"  the head has a threshold for each stratum of '{opened.card.strata}': the file applies none of them and cuts "
            "at that of all rows; they are in its metadata, and `heads predict` applies them"
        )
    if form == "onnx":
        export_onnx(opened.first, output)
        click.echo(f"{output}: features (n, {opened.card.dim}) float32 in, probabilities or values out")
    else:
        export_sklearn(opened.first, output)
        click.echo(f"{output}: `from sklearn_head import load; load()` in this folder gives the fitted pipeline")
