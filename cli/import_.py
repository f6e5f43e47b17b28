"""``embedcache import``: embeddings that others made, as a store."""

from __future__ import annotations

from pathlib import Path

import click

from embedcache.counted import counted

FORMATS = ("auto", "pt", "npy", "npz", "hdf5", "parquet", "h5ad", "safetensors")


@click.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--output", "-o", required=True, type=click.Path(), help="The store to make.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="auto", show_default=True,
              help="Of the files. auto tells it by the extension, else by the first bytes.")  # fmt: skip
@click.option("--ids", type=click.Path(), help="For files without ids (npy, a plain tensor): a text file with one a line, "
              "or a table; of several files in order.")  # fmt: skip
@click.option("--key", help="The array, dataset, tensor, list column or obsm array that holds the vectors. Default: the "
              "only one, or embeddings, data, X.")  # fmt: skip
@click.option("--metadata", type=click.Path(), help="Table whose columns are joined to the records by id.")
@click.option("--sequences", type=click.Path(), help="FASTA or table with the sequence of every id. Without it nothing can "
              "be screened for identical sequences.")  # fmt: skip
@click.option(
    "--id-column", help="Name of the id column of tables and parquet. Default: the first of id, name, seq_id..."
)
@click.option("--label-column", help="The column to store as label, where it is called otherwise.")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), help="Stored type. Default: that of the files, "
              "float64 and bfloat16 as float32.")  # fmt: skip
@click.option("--encoder", help="What made the vectors, in your words. Stores of one encoder, layer, pool and width "
              "can be put together; without it a store fits only its own values.")  # fmt: skip
@click.option("--layer", help="The hidden state that was taken, in your words.")
@click.option("--pool", help="How tokens became one vector, in your words.")
@click.option(
    "--alphabet", type=click.Choice(["dna", "protein"]), help="What the records are. Default: told from --sequences."
)
@click.option("--blocks", help="Names and widths of column blocks, such as dna=768,protein=1280.")
@click.option("--on-bad-row", type=click.Choice(["stop", "quarantine"]), default="stop", show_default=True,
              help="A vector with NaN, or beyond float16: stop and name it, or store NaN and list it.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the store at --output.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def import_(
    files: tuple[str, ...],
    output: str,
    form: str,
    ids: str | None,
    key: str | None,
    metadata: str | None,
    sequences: str | None,
    id_column: str | None,
    label_column: str | None,
    dtype: str | None,
    encoder: str | None,
    layer: str | None,
    pool: str | None,
    alphabet: str | None,
    blocks: str | None,
    on_bad_row: str,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Make a store of embeddings that another program made.

    Reads .pt ({'ids', 'data', 'labels'}, DNA and protein parts, a plain tensor), .npy, .npz, HDF5 of bio_embeddings and
    biotrainer, parquet with a list column, AnnData and safetensors. Several files become one store, one after another;
    FILE:label=1 gives every record of FILE that column. Nothing that is read can run code.

    \b
    embedcache import viral_merged.pt:label=1 host_merged.pt:label=0 -o merged.zarr --encoder dnabert-s+fastesm2
    embedcache import embeddings.h5 --sequences proteins.fasta --encoder prottrans_t5 -o proteins.zarr
    embedcache import X.npy --ids ids.txt --metadata labels.tsv -o x.zarr
    """
    from embedcache.exchange.embeddings import Reading
    from embedcache.exchange.formats import open_embeddings
    from embedcache.exchange.importing import ImportOptions, Provenance, import_embeddings
    from embedcache.exchange.joining import read_sequences
    from embedcache.progress import Progress

    progress = Progress(quiet=quiet)
    provenance = Provenance(encoder, layer, pool, alphabet, _widths(blocks))
    options = ImportOptions(provenance, dtype, metadata, id_column, label_column, on_bad_row, overwrite)
    source = open_embeddings(files, Reading(form, key, id_column), ids)
    letters = None if sequences is None else read_sequences(sequences, source.rows.column("id"), id_column, progress)
    made = import_embeddings(source, letters, Path(output), options, progress)
    aside = f", {made.set_aside:,} of them set aside without a vector" if made.set_aside else ""
    tokens = "" if made.tokens is None else f" with {counted(made.tokens, 'token')}"
    progress.say(f"done     {counted(made.rows, 'row')}{tokens}{aside}")
    train = f"    heads train --features {output}" if made.tokens is None else ""
    progress.say(f"next     embedcache info {output}{train}")


def _widths(blocks: str | None) -> tuple[tuple[str, int], ...]:
    if blocks is None:
        return ()
    pairs = [block.partition("=") for block in blocks.split(",")]
    if not all(name.strip() and width.strip().isdigit() for name, _, width in pairs):
        raise click.UsageError(f"--blocks {blocks}: give names and widths, such as dna=768,protein=1280")
    return tuple((name.strip(), int(width)) for name, _, width in pairs)
