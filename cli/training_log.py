"""``heads log``: what was tried, a run after the other, in one file."""

from __future__ import annotations

from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)


@click.command("log")
@click.argument("run_directories", type=FOLDER, nargs=-1, required=True, metavar="RUN...")
@click.option("--file", type=FOLDER, default=Path("TRAINING_HISTORY.md"), show_default=True, help="The log.")
def log_command(run_directories: tuple[Path, ...], file: Path) -> None:
    """Append runs to a log: their settings, epochs, metrics and confusion matrices, and what each changed.

    The change is against the run that it went on from (--init, --init-head, --model RUN).
    """
    from heads.running.training_log import append_to_log

    for run in run_directories:
        added = append_to_log(run, file)
        click.echo(f"{run} is {'now' if added else 'already'} in {file}")
