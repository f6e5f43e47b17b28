"""`embedcache merge`, `concat` and `select`: stores made of the rows and columns of others."""

from __future__ import annotations

from pathlib import Path

import click

PATH = click.Path(path_type=Path)
OUTPUT = click.option("-o", "--output", type=PATH, required=True, metavar="STORE", help="The store to make.")
MATERIALIZE = click.option(
    "--materialize",
    is_flag=True,
    help="Copy the values into an ordinary store. By default nothing is copied: values are read from the given stores, "
    "which must stay unchanged, where they are or beside the new one.",
)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace the store in --output.")
QUIET = click.option("--quiet", is_flag=True, help="Say nothing but errors.")


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))


@click.command()
@click.argument("stores", nargs=-1, required=True, type=PATH, metavar="STORE STORE...")
@OUTPUT
@click.option(
    "--names", metavar="A,B", help="Names of the stores, and so of their blocks.  [default: those of the folders]"
)
@click.option(
    "--id-map",
    multiple=True,
    metavar="[STORE=]REGEX|TABLE",
    help="Turns ids into the common ones: a regular expression with one group, such as '(.+)[FR][123]$', which is matched "
    "from the start of the id, or a table of two columns, an id and what it becomes. STORE= says whose.",
)
@click.option(
    "--on", multiple=True, metavar="[STORE=]COLUMN", help="Join on this column, such as parent, instead of the id."
)
@click.option(
    "--join",
    type=click.Choice(["inner", "left"]),
    default="inner",
    show_default=True,
    help="inner keeps ids that all stores have; left keeps all of the first store: what another lacks reads as zeros, and a "
    "block has_STORE of one column says 1 or 0.",
)
@click.option(
    "--aggregate",
    type=click.Choice(["error", "mean", "max", "longest", "first"]),
    default="error",
    show_default=True,
    help="What becomes of several rows of one id, such as six frames. A mean or maximum is computed once and kept.",
)
@click.option(
    "--agree", metavar="COL,...", help="Columns that the stores may not disagree on, beside label, split and group."
)
@click.option(
    "--missing", type=PATH, metavar="FILE", help="Where to list ids without a partner.  [default: in the store]"
)
@MATERIALIZE
@OVERWRITE
@QUIET
def merge(
    stores: tuple[Path, ...],
    output: Path,
    names: str | None,
    id_map: tuple[str, ...],
    on: tuple[str, ...],
    join: str,
    aggregate: str,
    agree: str | None,
    missing: Path | None,
    materialize: bool,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Put stores side by side: rows joined by id, the columns of each store a block of their own.

    \b
    embedcache merge dna.zarr protein.zarr -o merged.zarr --id-map 'protein=(.+)[FR][123]$' --aggregate mean
    heads train --features merged.zarr

    The first store decides the order of the rows and lends its sequences. An id that a store lacks never shifts another row:
    it is counted, and listed in a table.
    """
    from embedcache.merge import MergeOptions
    from embedcache.merge import merge as merge_stores
    from embedcache.progress import Progress

    options = MergeOptions(
        names=_names(names),
        id_map=id_map,
        on=on,
        join=join,
        aggregate=aggregate,
        agree=_names(agree) or (),
        missing=missing,
        materialize=materialize,
        overwrite=overwrite,
    )
    merge_stores(stores, output, options, Progress(quiet))
    if not quiet:
        click.echo(f"next     heads train --features {output}", err=True)
