"""``embedcache head``: the first rows of a store as a table."""

from __future__ import annotations

import json
import sys

import click

from embedcache.counted import counted


@click.command()
@click.argument("store", type=click.Path())
@click.option("--rows", "-n", type=click.IntRange(min=1), default=10, show_default=True, help="Rows to print.")
@click.option("--columns", help="Columns of the rows table, separated by commas. Default: length and all metadata.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV, whole values.")
@click.option("--json", "form", flag_value="json", help="Print one JSON object a row.")
def head(store: str, rows: int, columns: str | None, form: str | None) -> None:
    """Print the first rows of a store: id, length, metadata, and the first values of the vectors.

    \b
    embedcache head reads.zarr
    embedcache head reads.zarr -n 100 --columns label,sequence --csv
    """
    from embedcache.look.table import aligned, head_of
    from embedcache.storage.store import open_store

    opened = open_store(store, partial=True)
    names = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    table = head_of(opened, rows, names)
    if form == "csv":
        import pyarrow.csv as pacsv

        sys.stdout.flush()
        pacsv.write_csv(table, sys.stdout.buffer)
    elif form == "json":
        for row in table.to_pylist():
            click.echo(json.dumps(row, default=str))
    else:
        for line in aligned(table):
            click.echo(line)
        each = "values a token, the first token is shown" if opened.per_token else "values"
        click.echo(f"{len(table):,} of {counted(len(opened), 'row')}; {opened.dim:,} {each}")
