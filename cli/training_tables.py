"""What a finished training shows on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from heads.running.train import Training

MOST_STRATA = 12
"""Strata up to which the table of them is shown."""


def echo_tables(done: Training) -> None:
    """The head beside its baselines on val and test, on the strata of test, and over the folds."""
    from heads.running import report
    from heads.running.runs import BREAKDOWN

    for part in [part for part in ("val", "test") if part in done.results[0].parts]:
        click.echo("\n" + report.table(done.results, part, done.metrics))
        if done.results[0].parts[part].conformal is not None:
            click.echo(f"conformal: {done.results[0].parts[part].conformal}")
        for found in done.detections.get(part, ()):
            click.echo("\n" + report.detection_table(found))
    if done.folds:
        click.echo(report.folds_line(done.folds, done.metrics))
    if len(done.strata) > MOST_STRATA:
        click.echo(f"\ntest by {done.strata[0].column}: {len(done.strata)} strata, see {done.outdir / BREAKDOWN}")
    elif done.strata:
        click.echo("\ntest " + report.parts_table(done.strata, done.metrics))
