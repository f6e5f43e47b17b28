"""embedcache: run a frozen encoder once over sequences, into a Zarr store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from cli.errors import run

if TYPE_CHECKING:
    from embedcache.store import Store

MODEL_HELP = "Encoder: an alias (see `embedcache models`), a hub id, a folder, kmer:K or onehot:L."


def main() -> None:
    """Entry point of the console script."""
    run(cli, "embedcache")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="embedcache", prog_name="embedcache")
def cli() -> None:
    """Run frozen DNA and protein encoders once over your sequences and keep the embeddings in a Zarr store.

    \b
    embedcache extract --model nt500m --input reads.fa.gz --output reads.zarr
    heads train --features reads.zarr
    """


@cli.command()
@click.option("--model", required=True, help=MODEL_HELP)
@click.option(
    "--input",
    "inputs",
    required=True,
    multiple=True,
    help="FASTA, CSV, TSV or parquet, plain or gzipped; several may follow, - is standard input. FILE:label=1 gives "
    "every record of FILE that column.",
)
@click.argument("more_inputs", nargs=-1, metavar="[FILE]...")
@click.option("--output", required=True, type=click.Path(), help="The store to make, to finish or to extend.")
@click.option("--metadata", type=click.Path(), help="Table whose columns are joined to the records by id.")
@click.option("--id-column", help="Name of the id column of tables. Default: the first of id, name, seq_id...")
@click.option("--sequence-column", help="Name of the sequence column of tables. Default: sequence or seq.")
@click.option("--pool", default="mean", show_default=True, help="mean, cls or max; several by comma become blocks.")
@click.option(
    "--layer",
    default="-1",
    show_default=True,
    help="Hidden state: 0 the embeddings, -1 the last, mid half of the layers; several by comma become blocks.",
)
@click.option("--dtype", type=click.Choice(["float16", "float32"]), default="float16", show_default=True,
              help="Stored type.")  # fmt: skip
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True,
              help="Of the matrix products; auto is float32 on a CPU, bfloat16 on a GPU.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto (a GPU if there is one), cpu, cuda or cuda:N.")
@click.option("--batch-tokens", type=click.IntRange(min=1), help="Tokens of a batch. Default: 512 on a CPU "
              "(1,024 in bfloat16), 32,768 on a GPU; halved by itself when memory runs out.")  # fmt: skip
@click.option("--overlong", type=click.Choice(["window", "truncate", "skip", "error"]),
              help="Sequences over the encoder's limit: windows that overlap by a quarter and are averaged (default), "
              "cut off, left out (NaN), or refused.")  # fmt: skip
@click.option("--on-bad-row", type=click.Choice(["stop", "quarantine"]), default="stop", show_default=True,
              help="A vector with NaN, or beyond float16: stop and name it, or store NaN and list it.")  # fmt: skip
@click.option("--shard-rows", type=int, help="Rows of a shard, a multiple of 1,024; a kill costs at most one shard. "
              "Default: 16,384, fewer where that takes over five minutes.")  # fmt: skip
@click.option("--restart", is_flag=True, help="Remove the store at --output and begin it anew.")
@click.option("--drop-sequence", is_flag=True, help="Do not keep the sequences in the store.")
@click.option("--any-alphabet", is_flag=True, help="Encode even if the letters look like the wrong alphabet.")
@click.option("--random-weights", is_flag=True, help="The real architecture with random weights, for benchmarks and "
              "capacity planning: the embeddings mean nothing.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Seed of --random-weights.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def extract(
    model: str,
    inputs: tuple[str, ...],
    more_inputs: tuple[str, ...],
    output: str,
    metadata: str | None,
    id_column: str | None,
    sequence_column: str | None,
    pool: str,
    layer: str,
    dtype: str,
    precision: str,
    device: str,
    batch_tokens: int | None,
    overlong: str | None,
    on_bad_row: str,
    shard_rows: int | None,
    restart: bool,
    drop_sequence: bool,
    any_alphabet: bool,
    random_weights: bool,
    seed: int,
    quiet: bool,
) -> None:
    """Encode sequences into a Zarr store.

    Row i of the store is record i of the input. If the run is stopped, by Ctrl-C or by a kill, the same command goes on
    where it was; if the input has grown, it adds what is new.

    \b
    embedcache extract --model nt500m --input windows.fa.gz --output windows.zarr
    embedcache extract --model esm2-650m --input viral.faa:label=1 host.faa:label=0 --output proteins.zarr
    embedcache extract --model kmer:4 --input reads.fa --metadata labels.tsv --output reads.zarr
    """
    from embedcache.encoders import load_encoder
    from embedcache.extract import extract
    from embedcache.preflight import Options
    from embedcache.progress import Progress
    from embedcache.sources import open_source

    options = Options(
        poolings=tuple(word.strip() for word in pool.split(",")),
        layers=tuple(word.strip() for word in layer.split(",")),
        dtype=dtype,
        batch_tokens=batch_tokens,
        overlong=overlong,
        on_bad_row=on_bad_row,
        shard_rows=shard_rows,
        restart=restart,
        drop_sequence=drop_sequence,
        any_alphabet=any_alphabet,
    )
    source = open_source(
        [*inputs, *more_inputs], metadata=metadata, id_column=id_column, sequence_column=sequence_column
    )
    encoder = load_encoder(
        model, device=device, precision=precision, random_weights=random_weights, seed=seed, progress=not quiet
    )
    progress = Progress(quiet=quiet)
    throughput = extract(source, encoder, output, options, progress)
    for number, line in enumerate(str(throughput).splitlines()):
        progress.say(f"{'         ' if number else 'done     '}{line}")
    if throughput.overlong or throughput.set_aside:
        progress.say(
            f"         {throughput.overlong:,} rows were over the limit of {encoder.token_limit} tokens, "
            f"{throughput.set_aside:,} rows were set aside (see `embedcache info {output}`)"
        )
    progress.say(f"next     embedcache info {output}    heads train --features {output}")


@cli.command()
@click.argument("store", type=click.Path())
def info(store: str) -> None:
    """Print what a store holds and how it was made."""
    from embedcache.progress import size
    from embedcache.status import store_status
    from embedcache.store import open_store
    from embedcache.throughput import read_throughput

    opened = open_store(store, partial=True)
    state = store_status(store)
    encoder, layout = opened.attrs["encoder"], opened.layout
    click.echo(f"{opened.path}")
    if not state.complete:
        doing = "being written" if state.running else "not finished: run the same extraction again"
        click.echo(f"  CAUTION     {doing}; {state.shards_done} of {state.shards} shards are there")
    click.echo(f"  rows        {len(opened):,} from {opened.attrs['input']}")
    click.echo(f"  values      {opened.dim:,} {opened.dtype} a row, {size(layout.rows * layout.row_bytes)} in "
               f"{layout.shards} shards of {layout.shard_rows:,} rows")  # fmt: skip
    for block in opened.blocks:
        click.echo(f"  block       {block.name}: columns {block.start:,} to {block.stop:,}")
    origin = encoder.get("repo_id") or encoder.get("directory") or "built in"
    revision = f" at {encoder['revision']}" if encoder.get("revision") else ""
    click.echo(f"  encoder     {encoder['name']} ({origin}{revision}), {encoder['alphabet']}, {encoder['precision']}")
    if encoder["meaningless"]:
        click.echo("  CAUTION     random weights: the embeddings mean nothing")
    if encoder.get("licence"):
        click.echo(f"  licence     of the weights: {encoder['licence']}")
    click.echo(f"  over-long   {opened.attrs['overlong']} beyond {encoder['token_limit'] or 'no limit'} tokens")
    click.echo(f"  fingerprint {opened.fingerprint}")
    click.echo(f"  columns     {', '.join(opened.column_names)}")
    for name in ("label", "split", "group"):
        if name in opened.column_names:
            click.echo(f"  {name:<11} {_values(opened, name)}")
    if len(opened.quarantined):
        ids = ", ".join(opened.column("id").take(opened.quarantined[:5]).to_pylist())
        more = "..." if len(opened.quarantined) > 5 else ""
        click.echo(f"  set aside   {len(opened.quarantined):,} rows without an embedding: {ids}{more}")
    for run_ in read_throughput(store):
        click.echo(f"  run         {run_['started_at_utc']} on {run_['host']}: {run_['rows']:,} rows in "
                   f"{run_['seconds']:,.1f} s, {run_['tokens_per_second']:,.0f} {run_['unit']}/s")  # fmt: skip


def _values(store: Store, column: str) -> str:
    counts = store.column(column).value_counts().to_pylist()
    counts.sort(key=lambda entry: -entry["counts"])
    shown = ", ".join(f"{entry['values']} {entry['counts']:,}" for entry in counts[:6])
    return shown + (f" and {len(counts) - 6:,} more values" if len(counts) > 6 else "")


@cli.command()
@click.argument("store", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(store: str, as_json: bool) -> None:
    """Print how much of a store is there; also while it is being written."""
    from embedcache.status import store_status

    state = store_status(store)
    if as_json:
        click.echo(json.dumps(state.to_dict()))
        return
    what = "complete" if state.complete else "being written" if state.running else "not finished"
    click.echo(
        f"{store}: {what}, {state.shards_done} of {state.shards} shards, {state.rows_done:,} of {state.rows:,} rows"
    )


@cli.command()
@click.argument("store", type=click.Path())
@click.option(
    "--recompute",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Encode this many random rows again and compare.",
)
@click.option(
    "--model", help="Encoder for --recompute, where the recorded one is not to be found. Same forms as extract."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of rows.")
@click.pass_context
def verify(context: click.Context, store: str, recompute: int, model: str | None, device: str, seed: int) -> None:
    """Check a store's files against its records: sizes, checksums, finite values.

    With --recompute it also encodes random rows again from the sequences that the store keeps. Exit code 2 if anything
    is wrong.
    """
    from embedcache.verify import check_files, recompute_rows

    problems = check_files(store)
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if problems:
        context.exit(2)
    click.echo(f"{store}: sizes, checksums and values are as recorded")
    if recompute:
        result = recompute_rows(store, recompute, model=model, device=device, seed=seed)
        click.echo(f"{store}: {result}")
        if not result.agrees:
            context.exit(2)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(as_json: bool) -> None:
    """List the encoders that have a short name."""
    from dataclasses import asdict

    from embedcache.encoders.registry import REGISTRY, WEIGHT_FREE

    if as_json:
        click.echo(
            json.dumps([asdict(entry) | {"parameters": entry.parameters} for entry in REGISTRY.values()], indent=1)
        )
        return
    click.echo(
        f"{'alias':<13} {'parameters':>10} {'dim':>5} {'layers':>6} {'tokens':>6}  {'alphabet':<8} {'licence':<15} hub id"
    )
    for entry in REGISTRY.values():
        click.echo(
            f"{entry.alias:<13} {entry.parameters / 1e6:>8,.0f} M {entry.hidden:>5} {entry.layers:>6} "
            f"{entry.token_limit:>6}  {entry.alphabet:<8} {entry.licence:<15} {entry.repo_id}"
            + (f"@{entry.revision[:7]}" if entry.revision != "main" else "")
        )
    for name, what in WEIGHT_FREE.items():
        click.echo(f"{name:<13} {what}")
    click.echo("Any other ESM-2, FastESM2 or Nucleotide Transformer v1 checkpoint: its hub id, or a folder.")
