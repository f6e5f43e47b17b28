"""``embedcache plot``: the embeddings of a store as a map."""

from __future__ import annotations

from pathlib import Path

import click

from embedcache.counted import counted


@click.command()
@click.argument("store", type=click.Path())
@click.option("--output", "-o", required=True, type=click.Path(), help="NAME.png; NAME.html is written beside it.")
@click.option("--color", help="Column that colours the points: classes, or a scale of numbers.")
@click.option("--shape", help="Column that shapes them, such as split.")
@click.option("--method", type=click.Choice(["pca", "umap"]), default="pca", show_default=True,
              help="Principal components of all rows, or UMAP (needs umap-learn).")  # fmt: skip
@click.option(
    "--points", type=click.IntRange(min=3), default=20_000, show_default=True, help="At most so many rows are drawn."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of rows, and of UMAP.")
@click.option("--overwrite", is_flag=True, help="Replace pictures that are there.")
def plot(
    store: str, output: str, color: str | None, shape: str | None, method: str, points: int, seed: int, overwrite: bool
) -> None:
    """Draw the embeddings of a store in the plane, as PNG and as an HTML page to point at.

    The page needs nothing beside itself: hovering shows a record's id and columns, the wheel zooms, names can be hidden.

    \b
    embedcache plot reads.zarr --color label --shape split -o map.png
    """
    from embedcache.errors import InputError
    from embedcache.look.colouring import colouring_of, shapes_of
    from embedcache.look.page import write_page
    from embedcache.look.picture import draw
    from embedcache.look.projection import project
    from embedcache.storage.store import open_store

    wanted = Path(output)
    picture, page = wanted.with_suffix(".png"), wanted.with_suffix(".html")
    there = [file for file in (picture, page) if file.exists()]
    if there and not overwrite:
        raise InputError(f"{there[0]} is there already: name another one, or --overwrite")
    opened = open_store(store)
    for column in filter(None, (color, shape)):
        if column not in opened.column_names:
            raise InputError(f"{store} has no column '{column}'; it has: {', '.join(opened.column_names)}")
    projection = project(opened, "umap" if method == "umap" else "pca", seed=seed, points=points)
    colouring, shapes = colouring_of(opened, color, projection.rows), shapes_of(opened, shape, projection.rows)
    drawn = len(projection.rows)
    some = f"{drawn:,} of {projection.usable:,} rows" if drawn < projection.usable else f"{drawn:,} rows"
    title = f"{opened.path.name}: {some}, {opened.attrs['encoder']['name']}"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(picture, projection, colouring, shapes, title)
    write_page(page, opened, projection, colouring, shapes, title)
    click.echo(f"{picture} and {page}: {some}; {', '.join(projection.axes)}")
    if len(opened) > projection.usable:
        left = counted(len(opened) - projection.usable, "row without an embedding is", "rows without an embedding are")
        click.echo(f"{left} left out")
