"""``heads evaluate``: a saved head held against what is true."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.run_options import (
    AGGREGATE,
    BOOTSTRAP,
    BY,
    DETECT,
    DETECT_BY,
    DEVICE,
    FEATURES,
    FOLDER,
    LABELS,
    SEED,
    STRATA,
    STRICT,
    by_parent,
)

if TYPE_CHECKING:
    from heads.judging.aggregation import How


@click.command()
@click.argument("run_directory", type=FOLDER, metavar="RUN")
@FEATURES
@LABELS
@click.option("--label", metavar="COL[,COL...]", help="Column of what is true.  [default: the one of the training]")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    help="Rows to judge.  [default: test where RUN was trained on this store, else all that did not train it]",
)
@STRATA
@DETECT
@DETECT_BY
@AGGREGATE
@BY
@click.option("-o", "--output", type=FOLDER, metavar="FILE", help="Also write the metrics as JSON.")
@STRICT
@SEED
@BOOTSTRAP
@DEVICE
def evaluate(
    run_directory: Path,
    features: tuple[str, ...],
    labels: Path | None,
    label: str | None,
    split: str | None,
    strata: str | None,
    detect: tuple[str, ...],
    detect_by: str | None,
    aggregate: How | None,
    by: str | None,
    output: Path | None,
    strict: bool,
    seed: int,
    bootstrap: int,
    device: str,
) -> None:
    """Judge the head of RUN on a store with labels."""
    from heads.data.feature_stores import Features
    from heads.judging.detection_rule import DetectionRule
    from heads.judging.results import Judging
    from heads.running import report
    from heads.running.evaluate import evaluate_run, write_evaluation

    stores = Features(features, labels=labels)
    judged = evaluate_run(
        run_directory,
        stores,
        click.echo,
        label=label,
        split=split,
        strata=strata,
        aggregate=by_parent(aggregate, by),
        detect=tuple(map(DetectionRule.parse, detect)),
        detect_by=detect_by,
        judging=Judging(resamples=bootstrap, seed=seed),
        strict=strict,
        device=device,
    )
    click.echo(f"{stores}: {judged.rows.what}")
    for note in (*judged.notes, *judged.rows.notes):
        click.echo(f"  {note}")
    metrics = report.shown_metrics(judged.rows.head.evaluation.kind, judged.quantiles)
    click.echo(report.judged_table(judged.rows, metrics))
    for found in judged.rows.detections:
        click.echo("\n" + report.detection_table(found))
    if judged.rows.parts:
        click.echo("\n" + report.parts_table(judged.rows.parts, metrics))
    if judged.parents is not None:
        click.echo(f"\n{judged.parents.what}")
        for note in judged.parents.notes:
            click.echo(f"  {note}")
        click.echo(report.judged_table(judged.parents, metrics, "parents"))
        if judged.parents.parts:
            click.echo("\n" + report.parts_table(judged.parents.parts, metrics))
    if output is not None:
        write_evaluation(output, judged)
