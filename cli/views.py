"""`embedcache merge`, `concat` and `select`: stores made of the rows and columns of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    from embedcache.combining.merge import MergeOptions
    from embedcache.combining.merge import merge as merge_stores
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


@click.command()
@click.argument("stores", nargs=-1, required=True, metavar="STORE[:COL=VALUE,...]...")
@OUTPUT
@click.option(
    "--duplicate-ids",
    type=click.Choice(["error", "suffix", "prefix"]),
    default="error",
    show_default=True,
    help="Of ids that several stores have: suffix calls the second x x.2, prefix puts the store's name before every id.",
)
@MATERIALIZE
@OVERWRITE
@QUIET
def concat(
    stores: tuple[str, ...], output: Path, duplicate_ids: str, materialize: bool, overwrite: bool, quiet: bool
) -> None:
    """Put the rows of stores on top of each other, each with columns attached to all its rows.

    \b
    embedcache concat viral.zarr:label=1 host.zarr:label=0 -o all.zarr
    heads train --features all.zarr

    All must be of the same encoder, layers, poolings and type.
    """
    from embedcache.combining.concat import concat as concat_stores
    from embedcache.progress import Progress

    concat_stores(
        stores, output, Progress(quiet), duplicate_ids=duplicate_ids, materialized=materialize, overwrite=overwrite
    )
    if not quiet:
        click.echo(f"next     heads train --features {output}", err=True)


@click.command()
@click.argument("store", type=PATH)
@OUTPUT
@click.option(
    "--where",
    metavar="CONDITION",
    help="Rows for which it holds, such as \"split == 'train' and length >= 500\": == != < <= > >=, in ['a', 'b'], is None, "
    "+ - * /, and, or, not; text in quotes.",
)
@click.option("--ids", type=PATH, metavar="FILE", help="Rows of these ids: one a line, or the id column of a table.")
@click.option(
    "--per-class", type=click.IntRange(1), metavar="N", help="At most N random rows of each class, in each split."
)
@click.option(
    "--per-split",
    type=click.IntRange(1),
    metavar="N",
    help="At most N random rows of each split, with the shares that its classes have.",
)
@click.option("--sample", type=click.IntRange(1), metavar="N", help="At most N random rows of all that are left.")
@click.option(
    "--blocks",
    metavar="NAME,...",
    help="Column blocks, such as both_100, or all whose name begins so: dna for dna.mean.",
)
@click.option("--label", default="label", show_default=True, metavar="COL", help="Column of the classes.")
@click.option("--split", default="split", show_default=True, metavar="COL", help="Column of the splits.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of everything that is drawn.")
@MATERIALIZE
@OVERWRITE
@QUIET
def select(
    store: Path,
    output: Path,
    blocks: str | None,
    materialize: bool,
    overwrite: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Take some rows and column blocks of a store; rows stay in its order.

    \b
    embedcache select reads.zarr --where "split == 'train' and length >= 500" --per-class 100 -o some.zarr

    The options act in the order in which they stand here.
    """
    from embedcache.combining.select import SelectOptions
    from embedcache.combining.select import select as select_rows
    from embedcache.progress import Progress

    options = SelectOptions(blocks=_names(blocks) or (), **asked)
    select_rows(store, output, options, Progress(quiet), materialized=materialize, overwrite=overwrite)
    if not quiet:
        click.echo(f"next     heads train --features {output}", err=True)
