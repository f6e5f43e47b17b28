"""``heads predict``: what a saved head says of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.cell_options import CELL_OPTIONS
from cli.input_options import RECORD_OPTIONS, SITE_OPTIONS, records_of
from cli.run_options import AGGREGATE, BY, DEVICE, FEATURES_HELP, FOLDER, STRICT, by_parent
from cli.sections import OfPredicting
from cli.transform_options import TRANSFORM_OPTIONS

if TYPE_CHECKING:
    from heads.judging.aggregation import How


def _of_records(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed((*RECORD_OPTIONS, *SITE_OPTIONS, *CELL_OPTIONS, *TRANSFORM_OPTIONS)):
        command = option(command)
    return command


@click.command(cls=OfPredicting)
@click.argument("run_directory", type=FOLDER, metavar="RUN")
@click.option("--features", multiple=True, metavar="STORE", help=FEATURES_HELP.partition(" STORE:")[0])
@_of_records
@click.option("--model", metavar="NAME|DIR", help="The encoder, where it is not found under its recorded name.")
@click.option("--any-alphabet", is_flag=True, help="Also take sequences that look like another alphabet.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with an hf: encoder.")
@click.option(
    "-o", "--output", type=FOLDER, required=True, metavar="FILE", help="File to write: parquet, or .csv, .tsv, .csv.gz."
)
@AGGREGATE
@BY
@STRICT
@DEVICE
@click.pass_context
def predict(
    context: click.Context,
    /,
    run_directory: Path,
    features: tuple[str, ...],
    output: Path,
    aggregate: How | None,
    by: str | None,
    strict: bool,
    device: str,
    **raw: Any,
) -> None:
    """Score every row of a store, or of sequence files, with the head of RUN; no labels are needed.

    Records are encoded on the way by the encoder that the head was trained on.

    \b
    heads predict RUN --features new.zarr -o predictions.parquet
    heads predict RUN --input contigs.fa --windows 150:75 --aggregate mean -o contigs.tsv
    heads predict RUN --genome genome.fa.gz --sites new.bed -o sites.tsv
    """
    from heads.data.feature_stores import Features
    from heads.running.predict import encoder_of, predict_sequences, scope_of
    from heads.running.predict import predict as predict_rows

    records = records_of(raw)
    if bool(features) == bool(records.inputs or records.genome):
        raise click.UsageError("name the rows: --features STORE, or --input FILE, or --genome FASTA --sites TABLE")
    parents = by_parent(aggregate, by)
    if features:
        _refuse_of_records(context)
        stores = Features(features)
        predict_rows(run_directory, stores, output, click.echo, aggregate=parents, strict=strict, device=device)
        return
    from embedcache.records import remarks_of
    from embedcache.sources import open_records
    from heads.progress import told

    # the genes of cells are ranked as the head's encoder wants them
    source = open_records(
        records, raw["model"] or encoder_of(run_directory), scope=scope_of(run_directory), progress=True
    )
    for remark in remarks_of(source):
        click.echo(f"  {remark}")
    with told("predicting rows") as told_of:
        predict_sequences(
            run_directory,
            source,
            output,
            click.echo,
            aggregate=parents,
            of_sites=records.genome is not None,
            strict=strict,
            device=device,
            progress=lambda rows: told_of(rows, 0, ""),
            **raw,
        )


def _refuse_of_records(context: click.Context) -> None:
    """Raise for an option that says how records are read or encoded, where the rows are those of a store."""
    ours = {"run_directory", "features", "output", "aggregate", "by", "strict", "device"}
    for option in context.command.params:
        typed = context.get_parameter_source(option.name or "") is click.core.ParameterSource.COMMANDLINE
        if typed and option.name not in ours and context.params[option.name or ""]:
            raise click.UsageError(f"{option.opts[0]} is for --input: the rows of --features are encoded already")
