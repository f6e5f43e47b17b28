"""The options that say where records come from, declared once for every command that reads an input."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from cli.cell_options import CELL_OPTIONS
from cli.transform_options import TRANSFORM_OPTIONS
from embedcache.input_options import InputOptions

Command = Callable[..., None]

RECORD_OPTIONS = (
    click.option(
        "--input",
        "inputs",
        multiple=True,
        help="FASTA, FASTQ, CSV, TSV or parquet, plain or gzipped, or a store (its sequences and columns); for cells also "
        ".h5ad, .zarr, 10x folders and .h5, tables of expression, .npz of ranked tokens. Several may follow, - is standard "
        "input. FILE:label=1 gives every record of FILE that column.",
    ),
    click.argument("more_inputs", nargs=-1, metavar="[FILE]..."),
    click.option("--metadata", type=click.Path(), help="Table whose columns are joined to the records by id."),
    click.option("--id-column", help="Name of the id column of tables. Default: the first of id, name, seq_id..."),
    click.option("--sequence-column", help="Name of the sequence column of tables. Default: sequence or seq."),
)
"""Which files hold the records, and which of their columns."""
SITE_OPTIONS = (
    click.option(
        "--genome",
        type=click.Path(),
        help="Instead of --input: FASTA (plain, bgzip or gzip) out of which the letters around --sites are cut, on the "
        "strand of each.",
    ),
    click.option(
        "--sites",
        multiple=True,
        help="BED, GFF, VCF (each alternative and its reference), CSV, TSV or parquet with chrom, pos and strand; several, "
        "and FILE:label=1, as with --input. Other columns travel along.",
    ),
    click.option(
        "--coordinates",
        type=click.Choice(["0", "1"]),
        help="The number of a contig's first base. Default: 0 for BED, start and pos0; 1 for GFF, VCF, pos and pos_1based.",
    ),
    click.option(
        "--anchor",
        type=click.Choice(["start", "center", "end"]),
        help="The base of a longer interval that is the site, on its strand.  [default: center]",
    ),
)
"""Of a genome, and of the sites in it."""
_OPTIONS = (
    *RECORD_OPTIONS,
    *SITE_OPTIONS,
    click.option(
        "--context",
        metavar="W[,W...]",
        help="Letters around a site that are looked at, on each side of it; several by comma become blocks of one store. "
        "Default: whole sequences.",
    ),
    click.option(
        "--side",
        type=click.Choice(["upstream", "downstream", "both", "all"]),
        help="The letters before the site, those from the site on, or both; all makes blocks of the three.  [default: both]",
    ),
    click.option(
        "--center",
        help="Column that says which letter of each sequence is the site, or middle. Default: the column center where "
        "there is one, else the middle, letter length // 2 counted from 0.",
    ),
    click.option(
        "--edge",
        type=click.Choice(["pad", "drop", "shorten"]),
        default="pad",
        show_default=True,
        help="Contexts that reach over an end: fill them with N, leave the record out, or take what there is.",
    ),
    click.option(
        "--reverse-complement",
        type=click.Choice(["add", "average", "canonical"]),
        help="Of DNA: add a record for the other strand of each; average the vectors of both strands; or encode the strand "
        "that comes first in the alphabet, so that a sequence and its reverse complement get the same vector.",
    ),
    click.option(
        "--splits",
        type=click.Path(),
        metavar="FILE",
        help=".npz with the rows, from 0, of train_idx, val_idx and test_idx: they become the column split.",
    ),
    click.option(
        "--skip-bad",
        is_flag=True,
        help="Leave records out that cannot be used, such as sites outside the genome, and say how many; otherwise the "
        "first one ends the run.",
    ),
    *CELL_OPTIONS,
    *TRANSFORM_OPTIONS,
)


INPUT_NAMES = (*(field.name for field in fields(InputOptions)), "more_inputs")
"""Names of the parameters that `input_options` adds."""


def input_options(command: Command) -> Command:
    """Give a command the options above; it gets them together, as its parameter ``records``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def with_records(command: Command) -> Command:
    """Put the values of the options above together, as the parameter ``records`` of a command."""

    @functools.wraps(command)
    def gathered(*arguments: Any, **given: Any) -> None:
        chosen = records_of(given)
        if not chosen.inputs and chosen.genome is None:
            raise click.UsageError("name the records: --input FILE, or --genome FASTA --sites TABLE")
        command(*arguments, records=chosen, **given)

    return gathered


def records_of(given: dict[str, Any]) -> InputOptions:
    """Take the values of the options above out of all that a command was given."""
    given["inputs"] = (*given["inputs"], *given.pop("more_inputs"))
    return InputOptions(**{name: given.pop(name) for name in INPUT_NAMES if name in given})
