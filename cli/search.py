"""``embedcache search``: the rows of a store that are nearest to some queries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from embedcache.rawfeatures import Window
    from embedcache.search.lookup import Kind, Queries
    from embedcache.storage.store import Store

_SHOWN = 100


@click.command()
@click.argument("store", type=click.Path())
@click.option("--query", "-q", required=True, help="Sequences (FASTA, FASTQ or a table), encoded as the store's were; or a "
              "store of the same encoder, the searched one too.")  # fmt: skip
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Hits of each query.")
@click.option("--index", type=click.Choice(["exact", "ivf", "hnsw"]), default="exact", show_default=True,
              help="ivf and hnsw are indices that are kept beside the store; they are faster on millions of rows and not "
              "always right.")  # fmt: skip
@click.option(
    "--metric", type=click.Choice(["cosine", "l2"]), default="cosine", show_default=True, help="What near means."
)
@click.option("--output", "-o", type=click.Path(), help="TSV of all hits.")
@click.option("--columns", help="Columns of the store beside each hit, separated by commas. Default: all metadata.")
@click.option("--id-column", help="Name of the id column of a table of queries.")
@click.option("--sequence-column", help="Name of its sequence column.")
@click.option(
    "--model", help="Encoder for the queries, where the recorded one is not to be found. Same forms as extract."
)
@click.option("--device", default="auto", show_default=True, help="auto (a GPU if there is one), cpu, cuda or cuda:N.")
@click.option("--trust-remote-code", is_flag=True, help="As for extract.")
@click.option("--any-alphabet", is_flag=True, help="Encode even if the letters look like the wrong alphabet.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def search(
    store: str,
    query: str,
    k: int,
    index: str,
    metric: str,
    output: str | None,
    columns: str | None,
    id_column: str | None,
    sequence_column: str | None,
    model: str | None,
    device: str,
    trust_remote_code: bool,
    any_alphabet: bool,
    overwrite: bool,
) -> None:
    """Find the rows of a store that are nearest to each query.

    Where the queries are the store itself, no row is its own hit.

    \b
    embedcache search proteins.zarr --query new.faa -k 5
    embedcache search reads.zarr --query other.zarr --index hnsw -o hits.tsv
    """
    from embedcache.encoders.loading import find_device
    from embedcache.errors import InputError
    from embedcache.look.table import aligned, write_tsv
    from embedcache.search.lookup import StoreSearch, rows_of
    from embedcache.sources.files import is_store
    from embedcache.storage.store import open_store

    if output is not None and Path(output).exists() and not overwrite:
        raise InputError(f"{output} is there already: name another one, or --overwrite")
    opened = open_store(store)
    if is_store(Path(query)):
        queries = rows_of(open_store(query), opened)
    else:
        queries = _encoded(opened, query, id_column, sequence_column, model, device, trust_remote_code, any_alphabet)
    kind: Kind = "ivf" if index == "ivf" else "hnsw" if index == "hnsw" else "exact"
    near = StoreSearch(opened, kind, "cosine" if metric == "cosine" else "euclidean", device=str(find_device(device)))
    if near.index is not None:
        click.echo(f"index    {index}: {near.index}", err=True)
    names = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
    tables = near.tables(queries, k, names)
    if output is not None:
        count = write_tsv(tables, Path(output))
        click.echo(f"{output}: {count:,} hits")
        return
    shown = 0
    for table in tables:
        if shown < _SHOWN:
            for line in aligned(table.slice(0, _SHOWN - shown)):
                click.echo(line)
        shown += len(table)
    if shown > _SHOWN:
        click.echo(f"{_SHOWN} of {shown:,} hits; -o FILE.tsv writes all")


def _encoded(
    store: Store,
    query: str,
    id_column: str | None,
    sequence_column: str | None,
    model: str | None,
    device: str,
    trust_remote_code: bool,
    any_alphabet: bool,
) -> Iterator[Queries]:
    """The sequences of a file, encoded as those of the store were."""
    from embedcache.input_options import InputOptions
    from embedcache.rawfeatures import RawFeatures, encoder_record
    from embedcache.sources import open_records

    source = open_records(InputOptions((query,), id_column=id_column, sequence_column=sequence_column))
    raw = RawFeatures.load(
        encoder_record(store), store.fingerprint, whose=str(store.path), model=model, device=device,
        trust_remote_code=trust_remote_code, instead="give a store of the same encoder as --query",
    )  # fmt: skip
    return _windows(raw.windows(source, any_alphabet=any_alphabet))


def _windows(windows: Iterator[Window]) -> Iterator[Queries]:
    from embedcache.search.lookup import Queries

    left = 0
    for window in windows:
        left += int((~window.encoded).sum())
        ids = window.records.column("id").to_pylist()
        yield Queries([name for name, there in zip(ids, window.encoded, strict=True) if there], window.features)
    if left:
        click.echo(
            f"{left:,} queries are over the encoder's limit, or have no finite embedding, and are left out", err=True
        )
