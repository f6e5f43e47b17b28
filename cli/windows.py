"""``embedcache windows``: windows, other strands or proteins of records, as a FASTA file of their own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.input_options import input_options, with_records
from cli.sections import OfInput

if TYPE_CHECKING:
    from embedcache.input_options import InputOptions


@click.command(cls=OfInput)
@input_options
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FASTA",
              help="The file to write, .fa or .fa.gz; their columns go beside it, as .tsv.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@with_records
def windows(records: InputOptions, output: Path, overwrite: bool, quiet: bool) -> None:
    """Write windows of sequences as FASTA, with a table of where they are from.

    Takes --windows, --reverse-complement add and --translate as extract does, which needs no such file; this is for other
    programs, and for a look. The table has id, the input's columns (label, split ...), parent, start, stop and group, for
    `embedcache extract --metadata`.

    \b
    embedcache windows --input contigs.fa --metadata labels.tsv --windows random:150x1-3 -o reads.fa.gz
    embedcache windows --input viral.fa:label=1 host.fa:label=0 --windows random:150 --about 100000 -o reads.fa
    embedcache windows --input genomes.fa --translate six-frame --min-length 50 -o proteins.faa
    """
    from tqdm import tqdm

    from embedcache.errors import InputError
    from embedcache.fasta_writer import write_fasta
    from embedcache.progress import Progress
    from embedcache.records import remarks_of
    from embedcache.sources import open_records

    if records.windows is None and records.translate is None and records.reverse_complement is None:
        raise click.UsageError("say what to write: --windows RULE, --translate HOW or --reverse-complement add")
    if records.reverse_complement not in (None, "add") or records.context is not None:
        raise InputError("average, canonical and --context are about encoding: here, take --reverse-complement add")
    progress = Progress(quiet=quiet)
    source = open_records(records)
    with tqdm(desc="writing", unit=" records", disable=True if quiet else None, leave=False) as bar:

        def reached(done: int) -> None:
            bar.update(done - bar.n)

        written = write_fasta(source, output, overwrite=overwrite, reached=reached)
    for line in (*remarks_of(source), *written.lines()):
        progress.say(line)
    files = shlex.join(["--input", str(written.fasta), "--metadata", str(written.table)])
    progress.say(f"next     embedcache extract --model NAME {files} --output {written.table.stem}.zarr")
