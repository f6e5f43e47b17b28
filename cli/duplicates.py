"""``embedcache duplicates``: rows of a store that repeat each other."""

from __future__ import annotations

from pathlib import Path

import click

_SHOWN = 10


@click.command()
@click.argument("store", type=click.Path())
@click.option("--threshold", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.99, show_default=True,
              help="Cosine of the standardised features over which two rows are near-duplicates.")  # fmt: skip
@click.option("--output", "-o", type=click.Path(), help="TSV of all pairs: cluster, kind, ids, rows, splits, cosine.")
@click.option("--device", default="auto", show_default=True, help="auto (a GPU if there is one), cpu, cuda or cuda:N.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def duplicates(store: str, threshold: float, output: str | None, device: str, overwrite: bool) -> None:
    """Find rows that repeat each other: identical sequences, reverse complements, near-duplicates.

    Repeats are put together to clusters, and counted across splits where the store has a column split.

    \b
    embedcache duplicates reads.zarr -o pairs.tsv
    """
    from embedcache.encoders.loading import find_device
    from embedcache.errors import InputError
    from embedcache.look.repeats import IDENTICAL, NEAR, REVERSED, find_repeats, pairs_table
    from embedcache.look.table import aligned, write_tsv
    from embedcache.store import open_store

    if output is not None and Path(output).exists() and not overwrite:
        raise InputError(f"{output} is there already: name another one, or --overwrite")
    opened = open_store(store)
    found = find_repeats(opened, threshold, device=str(find_device(device)))
    if found.unknown:
        whose = "all" if found.unknown == len(opened) else "some"
        click.echo(f"{found.unknown:,} rows ({whose}) have no sequences: not checked for identical ones")
    click.echo(f"identical            {found.count(IDENTICAL):,} rows have the sequence of an earlier row")
    click.echo(f"reverse complements  {found.count(REVERSED):,} sequences are the other strand of an earlier one")
    click.echo(f"near-duplicates      {found.count(NEAR):,} pairs of other rows have a cosine over {threshold:g}")
    sizes = found.sizes
    largest = f", the largest of {int(sizes[0]):,}" if len(sizes) else ""
    click.echo(f"clusters             {len(sizes):,} of {int(sizes.sum()):,} rows{largest}")
    for one, other, rows in found.splits:
        click.echo(f"across splits        {rows:,} rows of {one} have a repeat in {other}")
    table = pairs_table(opened, found)
    if output is not None:
        write_tsv([table], Path(output))
        click.echo(f"{output}: {len(table):,} pairs")
    elif len(table):
        for line in aligned(table.slice(0, _SHOWN)):
            click.echo(line)
        if len(table) > _SHOWN:
            click.echo(f"{_SHOWN} of {len(table):,} pairs; -o FILE.tsv writes all")
