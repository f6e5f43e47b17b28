"""embedcache: run a frozen encoder once over sequences, into a Zarr store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from cli.cache import cache
from cli.duplicates import duplicates
from cli.errors import run
from cli.export import export
from cli.extract import estimate, extract
from cli.head import head
from cli.import_ import import_
from cli.plot import plot
from cli.search import search
from cli.views import concat, merge, select
from cli.windows import windows
from embedcache.counted import counted, counted_of

if TYPE_CHECKING:
    from embedcache.storage.store import Store


def main() -> None:
    """Entry point of the console script."""
    run(cli, "embedcache")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="embedcache", prog_name="embedcache")
def cli() -> None:
    """Run frozen DNA, protein and cell encoders once over your data and keep the embeddings in a Zarr store.

    \b
    embedcache extract --model nt500m --input reads.fa.gz --output reads.zarr
    heads train --features reads.zarr
    """


cli.add_command(extract)
cli.add_command(estimate)
cli.add_command(import_)
cli.add_command(export)
cli.add_command(head)
cli.add_command(plot)
cli.add_command(duplicates)
cli.add_command(search)
cli.add_command(merge)
cli.add_command(cache)
cli.add_command(concat)
cli.add_command(select)
cli.add_command(windows)


@cli.command()
@click.argument("store", type=click.Path())
def info(store: str) -> None:
    """Print what a store holds and how it was made."""
    from embedcache.extraction.throughput import read_throughput
    from embedcache.progress import size
    from embedcache.storage.status import store_status
    from embedcache.storage.store import open_store, reused_rows
    from embedcache.storage.virtual import VirtualStore

    opened = open_store(store, partial=True)
    state = store_status(store)
    encoder = opened.attrs["encoder"]
    click.echo(f"{opened.path}")
    if not state.complete:
        doing = "being written" if state.running else "not finished: run the same extraction again"
        click.echo(f"  CAUTION     {doing}; {counted_of(state.shards_done, state.shards, 'shard')} there")
    click.echo(f"  rows        {len(opened):,} from {opened.attrs['input']}")
    for transform in opened.attrs.get("transforms", ()):
        click.echo(f"  made by     {transform}")
    if opened.per_token:
        click.echo(f"  tokens      {opened.length:,}, none pooled: row i has tokens offsets[i] to offsets[i+1]")
    bytes_ = size(opened.length * opened.dim * opened.dtype.itemsize)
    where = "in its parts" if isinstance(opened, VirtualStore) else f"in {counted(state.shards, 'shard')}"
    click.echo(
        f"  values      {opened.dim:,} {opened.dtype} a {'token' if opened.per_token else 'row'}, {bytes_} {where}"
    )
    if opened.compress:
        stored = sum(file.stat().st_size for file in (opened.path / "embeddings" / "c").rglob("0"))
        on_disk = f", {size(stored)} on disk" if stored else ""
        click.echo(f"  compressed  {opened.compress}{on_disk}: single rows read slowly")
    for part in opened.parts if isinstance(opened, VirtualStore) else ():
        click.echo(
            f"  part        {part.path}: {counted(len(part), 'row')} x {part.dim:,} of {part.attrs['encoder']['name']}"
        )
    if opened.attrs.get("asked"):
        click.echo(f"  {state.kind:<11} {', '.join(f'{key} {value}' for key, value in opened.attrs['asked'].items())}")
    for block in opened.blocks:
        click.echo(f"  block       {block.name}: columns {block.start:,} to {block.stop:,}")
    origin = (
        encoder.get("repo_id") or encoder.get("directory") or ("imported" if encoder.get("imported") else "built in")
    )
    revision = f" at {encoder['revision']}" if encoder.get("revision") else ""
    alphabet = encoder["alphabet"] or "alphabet not known"
    click.echo(f"  encoder     {encoder['name']} ({origin}{revision}), {alphabet}, {encoder['precision']}")
    if encoder["meaningless"]:
        click.echo("  CAUTION     random weights: the embeddings mean nothing")
    if encoder.get("licence"):
        click.echo(f"  licence     of the weights: {encoder['licence']}")
    if not encoder.get("imported"):
        click.echo(f"  over-long   {opened.attrs['overlong']} beyond {encoder['token_limit'] or 'no limit'} tokens")
    click.echo(f"  fingerprint {opened.fingerprint}")
    click.echo(f"  columns     {', '.join(opened.column_names)}")
    for name in ("label", "split", "group"):
        if name in opened.column_names:
            click.echo(f"  {name:<11} {_values(opened, name)}")
    if len(opened.quarantined):
        ids = ", ".join(opened.column("id").take(opened.quarantined[:5]).to_pylist())
        more = "..." if len(opened.quarantined) > 5 else ""
        click.echo(f"  set aside   {counted(len(opened.quarantined), 'row')} without an embedding: {ids}{more}")
    for other, rows in reused_rows(store).items():
        click.echo(f"  reused      {counted(rows, 'row')} from {other}")
    for run_ in read_throughput(store):
        click.echo(f"  run         {run_['started_at_utc']} on {run_['host']}: {counted(run_['rows'], 'row')} in "
                   f"{run_['seconds']:,.1f} s, {run_['tokens_per_second']:,.0f} {run_['unit']}/s")  # fmt: skip


def _values(store: Store, column: str) -> str:
    counts = store.column(column).value_counts().to_pylist()
    counts.sort(key=lambda entry: -entry["counts"])
    shown = ", ".join(f"{entry['values']} {entry['counts']:,}" for entry in counts[:6])
    return shown + (f" and {counted(len(counts) - 6, 'more value')}" if len(counts) > 6 else "")


@cli.command()
@click.argument("store", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(store: str, as_json: bool) -> None:
    """Print how much of a store is there; also while it is being written."""
    from embedcache.storage.status import store_status

    state = store_status(store)
    if as_json:
        click.echo(json.dumps(state.to_dict()))
        return
    what = "complete" if state.complete else "being written" if state.running else "not finished"
    shards = (
        f"{state.shards_done} of {counted(state.shards, 'shard')}"
        if state.shards
        else f"{state.kind} from other stores"
    )
    click.echo(f"{store}: {what}, {shards}, {state.rows_done:,} of {counted(state.rows, 'row')}")


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
@click.option("--trust-remote-code", is_flag=True, help="For --recompute: as for extract.")
@click.pass_context
def verify(
    context: click.Context,
    store: str,
    recompute: int,
    model: str | None,
    device: str,
    seed: int,
    trust_remote_code: bool,
) -> None:
    """Check a store's files against its records: sizes, checksums, finite values.

    With --recompute it also encodes random rows again from the sequences that the store keeps. Exit code 2 if anything
    is wrong.
    """
    from embedcache.extraction.verify import check_files

    problems = check_files(store)
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if problems:
        context.exit(2)
    click.echo(f"{store}: sizes, checksums and values are as recorded")
    if recompute:
        from embedcache.extraction.recompute import recompute_rows

        result = recompute_rows(
            store, recompute, model=model, device=device, seed=seed, trust_remote_code=trust_remote_code
        )
        click.echo(f"{store}: {result}")
        if not result.agrees:
            context.exit(2)


@cli.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON with all fields.")
def models(name: str | None, as_json: bool) -> None:
    """List the encoders that have a short name, or tell all about the one called NAME.

    pool and layer are what extract takes where nothing else is said: what the encoder's authors take for a sequence.
    """
    from embedcache.encoders.listing import details, fields, named, table
    from embedcache.encoders.registry import REGISTRY

    if as_json:
        found = fields(named(name)) if name else [fields(entry) for entry in REGISTRY.values()]
        click.echo(json.dumps(found, indent=1))
        return
    for line in details(name) if name else table():
        click.echo(line)
