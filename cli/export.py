"""``embedcache export``: a store as a file that other programs read."""

from __future__ import annotations

from pathlib import Path

import click

FORMATS = ("npy", "npz", "parquet", "hdf5", "h5ad", "pt", "safetensors")


@click.command()
@click.argument("store", type=click.Path())
@click.option("--to", "form", required=True, type=click.Choice(FORMATS), help="The format.")
@click.option("--output", "-o", required=True, type=click.Path(), help="The file to write; npy and safetensors write the "
              "ids beside it, as NAME.ids.txt.")  # fmt: skip
@click.option("--block", "blocks", multiple=True, help="Only this block of columns (see `embedcache info`); several may "
              "follow. Default: all.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float16", "float32"]), help="Type of the values. Default: the stored one.")
@click.option("--columns", help="Columns of the rows table that go along, separated by commas (parquet, h5ad, npz). "
              "Default: all metadata; length and sequence may be named too.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def export(
    store: str,
    form: str,
    output: str,
    blocks: tuple[str, ...],
    dtype: str | None,
    columns: str | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write a store as a file for other programs.

    parquet, h5ad and npz carry the columns along. hdf5 is biotrainer's layout: one dataset a sequence, with original_id.
    pt is {'ids', 'data', 'labels'}. A store that keeps every token goes to npz or hdf5, one array a sequence.

    \b
    embedcache export reads.zarr --to parquet -o reads.parquet
    embedcache export proteins.zarr --to hdf5 -o proteins.h5
    embedcache export merged.zarr --to pt -o merged.pt --block dna.mean
    """
    from embedcache.exchange.exporting import export_store
    from embedcache.progress import Progress
    from embedcache.progress import size as size_of
    from embedcache.storage.store import open_store

    progress = Progress(quiet=quiet)
    opened = open_store(store)
    names = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    done = export_store(
        opened, form, Path(output), blocks=blocks, dtype=dtype, columns=names, overwrite=overwrite, progress=progress
    )
    for file in done.files:
        progress.say(f"wrote    {file}, {size_of(file.stat().st_size)}")
    tokens = "" if not opened.per_token else f" with {int(opened.offsets[-1]):,} tokens"
    progress.say(f"rows     {len(opened):,}{tokens} x {done.dim:,} {done.dtype}")
    if done.columns:
        progress.say(f"columns  {', '.join(done.columns)}")
    if done.left:
        progress.say(f"left     {', '.join(done.left)}: {form} has no place for columns, parquet and h5ad have")
    if done.remark:
        progress.say(f"datasets are called {done.remark}")
