"""``embedcache extract`` and ``embedcache estimate``: the same options, to do it and to say what it will take."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.input_options import INPUT_NAMES, input_options, with_records
from cli.sections import OfExtraction
from embedcache.counted import counted

if TYPE_CHECKING:
    from embedcache.input_options import InputOptions

MODEL_HELP = "Encoder: an alias (see `embedcache models`), a hub id, a folder, hf:NAME, kmer:K or onehot:L."


@click.command(cls=OfExtraction)
@click.option("--model", required=True, help=MODEL_HELP)
@input_options
@click.option("-o", "--output", required=True, type=click.Path(), help="The store to make, to finish or to extend.")
@click.option("--pool", default="mean", show_default=True, help="mean (as the encoder's authors do it), mean:all (special "
              "tokens too), mean:inner (without them), max, cls, last, center:W (mean over the W letters in the middle), "
              "at:COLUMN (the token at the letter that a column of the input names); several by comma become blocks. none "
              "keeps every token.")  # fmt: skip
@click.option("--layer", help="Hidden state: 0 the embeddings, -1 the last, mid half of the layers; several by comma "
              "become blocks. Default: the one that the encoder's authors take.")  # fmt: skip
@click.option("--one-based", is_flag=True, help="The positions of at:COLUMN and --center COLUMN count "
              "from 1 (VCF, GFF), not from 0 (BED).")  # fmt: skip
@click.option("--dtype", type=click.Choice(["float16", "float32"]), default="float16", show_default=True,
              help="Stored type.")  # fmt: skip
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto",
              show_default=True, help="Of the matrix products; auto is bfloat16 on a GPU, and float32 on a CPU, because "
              "what a lower one costs depends on the weights (the report tells). float16 is slow on a CPU.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto (a GPU if there is one), cpu, cuda or cuda:N.")
@click.option("--batch-tokens", type=click.IntRange(min=1), help="Tokens of a batch. Default: 512 on a CPU "
              "(1,024 in bfloat16), 32,768 on a GPU; halved by itself when memory runs out.")  # fmt: skip
@click.option("--overlong", type=click.Choice(["window", "truncate", "skip", "error"]),
              help="Sequences over the encoder's limit: windows that overlap by a quarter and are averaged (default), "
              "cut off, left out (NaN), or refused.")  # fmt: skip
@click.option("--on-bad-row", type=click.Choice(["stop", "quarantine"]), default="stop", show_default=True,
              help="A vector with NaN, or beyond float16: stop and name it, or store NaN and list it.")  # fmt: skip
@click.option("--shard-rows", type=int, help="Rows of a shard, a multiple of 1,024 (of 16 for --pool none); a kill costs "
              "at most one shard. Default: 16,384, fewer where that takes over five minutes or 70 MB.")  # fmt: skip
@click.option("--restart", is_flag=True, help="Remove the store at --output and begin it anew.")
@click.option("--drop-sequence", is_flag=True, help="Do not keep the sequences in the store.")
@click.option("--compress", type=click.Choice(["zstd"]), help="Compress the embeddings, for archives: those of "
              "transformers by about a tenth, k-mer frequencies to a quarter. Everything reads them, single rows far "
              "slower.")  # fmt: skip
@click.option("--reuse", multiple=True, type=click.Path(), metavar="STORE", help="Copy rows from this store of the same "
              "encoding where it has their sequence; may be given several times.")  # fmt: skip
@click.option("--cache", multiple=True, type=click.Path(), metavar="DIR", help="The same with every store of this encoding "
              "below a folder, which is only read.")  # fmt: skip
@click.option("--any-alphabet", is_flag=True, help="Encode even if the letters look like the wrong alphabet.")
@click.option("--random-weights", is_flag=True, help="The real architecture with random weights, for benchmarks and "
              "capacity planning: the embeddings mean nothing.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Seed of --random-weights.")
@click.option("--alphabet", type=click.Choice(["dna", "protein"]),
              help="What an hf: encoder reads. Default: told from its vocabulary.")  # fmt: skip
@click.option("--trust-remote-code", is_flag=True, help="Let Python code that comes with an hf: encoder run here, with "
              "your rights; without it such an encoder is refused.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@with_records
def extract(
    model: str,
    records: InputOptions,
    output: str,
    pool: str,
    layer: str | None,
    one_based: bool,
    dtype: str,
    precision: str,
    device: str,
    batch_tokens: int | None,
    overlong: str | None,
    on_bad_row: str,
    shard_rows: int | None,
    restart: bool,
    drop_sequence: bool,
    compress: str | None,
    reuse: tuple[str, ...],
    cache: tuple[str, ...],
    any_alphabet: bool,
    random_weights: bool,
    seed: int,
    alphabet: str | None,
    trust_remote_code: bool,
    quiet: bool,
) -> None:
    """Encode sequences into a Zarr store.

    Row i of the store is record i of the input. If the run is stopped, by Ctrl-C or by a kill, the same command goes on
    where it was; if the input has grown, it adds what is new.

    \b
    embedcache extract --model nt500m --input windows.fa.gz --output windows.zarr
    embedcache extract --model esm2-650m --input viral.faa:label=1 host.faa:label=0 --output proteins.zarr
    embedcache extract --model kmer:4 --input reads.fa --metadata labels.tsv --output reads.zarr
    embedcache extract --model geneformer-v2-104m --input cells.h5ad --output cells.zarr
    """
    _refuse_one_based(one_based, records)
    from embedcache.encoders import load_encoder
    from embedcache.encoders.fidelity import no_faster_here
    from embedcache.extraction.extract import extract
    from embedcache.extraction.preflight import Options
    from embedcache.progress import Progress
    from embedcache.sources import open_records

    options = Options(
        poolings=tuple(word.strip() for word in pool.split(",")),
        layers=tuple(word.strip() for word in layer.split(",")) if layer else None,
        one_based=one_based,
        views=records.views,
        center=records.center,
        edge=records.edge,
        strands=records.strands,
        dtype=dtype,
        batch_tokens=batch_tokens,
        overlong=overlong,
        on_bad_row=on_bad_row,
        shard_rows=shard_rows,
        restart=restart,
        drop_sequence=drop_sequence,
        compress=compress,
        reuse=reuse,
        cache=cache,
        any_alphabet=any_alphabet,
    )
    source = open_records(records, model, progress=not quiet)
    encoder = load_encoder(
        model, device=device, precision=precision, random_weights=random_weights, seed=seed, progress=not quiet,
        trust_remote_code=trust_remote_code, alphabet=alphabet,
    )  # fmt: skip
    progress = Progress(quiet=quiet)
    for remark in filter(None, (no_faster_here(encoder), *encoder.remarks)):
        progress.say(f"caution  {remark}")
    throughput = extract(source, encoder, output, options, progress)
    for number, line in enumerate(str(throughput).splitlines()):
        progress.say(f"{'         ' if number else 'done     '}{line}")
    if throughput.overlong or throughput.set_aside:
        progress.say(
            f"         {counted(throughput.overlong, 'row was', 'rows were')} over the limit of {encoder.token_limit} "
            f"tokens, {counted(throughput.set_aside, 'row was', 'rows were')} set aside (see `embedcache info {output}`)"
        )
    train = "" if "none" in options.poolings else f"    heads train --features {output}"
    progress.say(f"next     embedcache info {output}{train}")


_ALIKE = (
    "model", *INPUT_NAMES, "pool", "layer", "one_based", "dtype", "precision", "device", "batch_tokens", "overlong",
    "shard_rows", "drop_sequence", "compress", "reuse", "cache", "any_alphabet", "trust_remote_code", "alphabet",
)  # fmt: skip


@click.command(cls=OfExtraction, params=[option for option in extract.params if option.name in _ALIKE])
@click.option("-o", "--output", type=click.Path(), help="Where the store would lie, for the free disk. Default: here.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=5.0, show_default=True,
              help="How long batches are timed.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of records.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, in bytes and seconds.")
@with_records
@click.pass_context
def estimate(
    context: click.Context,
    model: str,
    records: InputOptions,
    pool: str,
    layer: str | None,
    one_based: bool,
    dtype: str,
    precision: str,
    device: str,
    batch_tokens: int | None,
    overlong: str | None,
    shard_rows: int | None,
    drop_sequence: bool,
    compress: str | None,
    reuse: tuple[str, ...],
    cache: tuple[str, ...],
    any_alphabet: bool,
    trust_remote_code: bool,
    alphabet: str | None,
    output: str | None,
    seconds: float,
    seed: int,
    as_json: bool,
) -> None:
    """Say what an extraction will take: tokens, disk, memory and time.

    Takes the options of extract. The input is read once and a few seconds of it are encoded on this machine; nothing is
    downloaded or written. Where the weights are not here, random ones of the same size take their place; of an encoder too
    big for this machine, some of the layers.

    \b
    embedcache estimate --model esm2-650m --input proteins.faa
    embedcache estimate --model nt500m --input windows.fa.gz --device cpu --precision bfloat16
    """
    _refuse_one_based(one_based, records)
    from embedcache.extraction.estimate import estimate
    from embedcache.extraction.preflight import Options
    from embedcache.records import remarks_of
    from embedcache.sources import open_records

    options = Options(
        poolings=tuple(word.strip() for word in pool.split(",")),
        layers=tuple(word.strip() for word in layer.split(",")) if layer else None,
        one_based=one_based,
        views=records.views,
        center=records.center,
        edge=records.edge,
        strands=records.strands,
        dtype=dtype,
        batch_tokens=batch_tokens,
        overlong=overlong,
        shard_rows=shard_rows,
        drop_sequence=drop_sequence,
        compress=compress,
        reuse=reuse,
        cache=cache,
        any_alphabet=any_alphabet,
    )
    source = open_records(records, model, ask=False)
    found = estimate(
        source, model, options, device=device, precision=precision, seconds=seconds, seed=seed, folder=output or ".",
        trust_remote_code=trust_remote_code, alphabet=alphabet,
    )  # fmt: skip
    command = _extraction(context, output or _store_beside((*records.inputs, *records.sites)[0]))
    if as_json:
        click.echo(json.dumps(found.to_dict() | {"next": command}, indent=1))
        return
    for line in (*found.lines(), *remarks_of(source)):
        click.echo(line)
    click.echo(f"next     {command}")


def _store_beside(first: str) -> str:
    """A name for the store of an input, which may be a .zarr itself."""
    named = f"{Path(first).name.partition('.')[0].strip('-') or 'store'}.zarr"
    return named if named != Path(first).name else f"embedded-{named}"


def _refuse_one_based(one_based: bool, records: InputOptions) -> None:
    if one_based and records.genome is not None:
        raise click.UsageError("the column center of sites counts from 0; how sites count is said with --coordinates")


def _extraction(context: click.Context, output: str) -> str:
    """The command that does what was estimated: the same options, as they were typed."""
    words = ["embedcache", "extract"]
    for option in context.command.params:
        value = context.params[option.name or ""]
        if option.name not in _ALIKE or value in (None, (), option.get_default(context)):
            continue
        name = [option.opts[0]] if isinstance(option, click.Option) else []
        if isinstance(value, tuple):
            words += [word for one in value for word in (*name, one)]
        else:
            words += name if value is True else [*name, str(value)]
    return shlex.join([*words, "--output", output])
