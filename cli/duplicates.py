"""``embedcache duplicates``: rows of a store that repeat each other."""

from __future__ import annotations

from pathlib import Path

import click

from embedcache.counted import counted

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
    from embedcache.storage.store import open_store

    if output is not None and Path(output).exists() and not overwrite:
        raise InputError(f"{output} is there already: name another one, or --overwrite")
    opened = open_store(store)
    found = find_repeats(opened, threshold, device=str(find_device(device)))
    if found.unknown:
        whose = "all" if found.unknown == len(opened) else "some"
        unknown = counted(found.unknown, f"row ({whose}) has no sequence", f"rows ({whose}) have no sequences")
        click.echo(f"{unknown}: not checked for identical ones")
    identical = counted(found.count(IDENTICAL), "row has", "rows have")
    click.echo(f"identical            {identical} the sequence of an earlier row")
    reversed_ = counted(found.count(REVERSED), "sequence is", "sequences are")
    click.echo(f"reverse complements  {reversed_} the other strand of an earlier one")
    near = counted(found.count(NEAR), "pair of other rows has", "pairs of other rows have")
    click.echo(f"near-duplicates      {near} a cosine over {threshold:g}")
    sizes = found.sizes
    largest = f", the largest of {int(sizes[0]):,}" if len(sizes) else ""
    click.echo(f"clusters             {len(sizes):,} of {counted(int(sizes.sum()), 'row')}{largest}")
    for one, other, rows in found.splits:
        click.echo(
            f"across splits        {counted(rows, f'row of {one} has', f'rows of {one} have')} a repeat in {other}"
        )
    table = pairs_table(opened, found)
    if output is not None:
        write_tsv([table], Path(output))
        click.echo(f"{output}: {counted(len(table), 'pair')}")
    elif len(table):
        for line in aligned(table.slice(0, _SHOWN)):
            click.echo(line)
        if len(table) > _SHOWN:
            click.echo(f"{_SHOWN} of {len(table):,} pairs; -o FILE.tsv writes all")
