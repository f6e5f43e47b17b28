"""Before anything is encoded: hold the plan against the machine and against what the store already has.

Everything that can be refused is refused here, before a byte is written.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedcache import __version__
from embedcache.alphabet import Letters, digests, normalise
from embedcache.commit import StoreWriter, create_store, remove_store
from embedcache.encoders.encoder import Encoder, Readout, fingerprint
from embedcache.errors import InputError, StoreError
from embedcache.memory import give_freed_pages_back
from embedcache.plan import Plan, make_plan, slices
from embedcache.progress import Progress, duration, size
from embedcache.records import ID, SEQUENCE, Source
from embedcache.store import (
    CHUNK_ROWS,
    DEFAULT_SHARD_ROWS,
    FORMAT,
    FORMAT_VERSION,
    Commit,
    Layout,
    StorePaths,
    read_attributes,
    read_commits,
    read_layout,
)

OVERLONG = ("window", "truncate", "skip", "error")
_SHARD_SECONDS, _SHARD_BYTES, _SHARD_LETTERS = 300.0, 70e6, 128e6


@dataclass(frozen=True)
class Options:
    """What the user chose beside the encoder."""

    poolings: tuple[str, ...] = ("mean",)
    layers: tuple[str | int, ...] = (-1,)
    dtype: str = "float16"
    batch_tokens: int | None = None
    overlong: str | None = None
    """``window``, ``truncate``, ``skip`` or ``error``; None takes the encoder's default."""
    on_bad_row: str = "stop"
    """``stop`` or ``quarantine``."""
    shard_rows: int | None = None
    restart: bool = False
    drop_sequence: bool = False
    any_alphabet: bool = False


@dataclass(frozen=True)
class Todo:
    """A shard that is to be done: encoded, or only its rows part rewritten."""

    encode: bool
    on_disk: Commit | None


@dataclass
class Preflight:
    """All that the extraction needs to know before it starts."""

    plan: Plan
    readout: Readout
    overlong: str
    layout: Layout
    todo: dict[int, Todo]
    tokens_to_do: int
    writer: StoreWriter

    def units(self, shard: int) -> tuple[int, int]:
        """First unit of 1,024 records of a shard and the unit after its last."""
        return _units(self.layout, shard)

    def old_tokens(self, shard: int) -> NDArray[np.int64]:
        """The token counts in a shard's rows part as it is on disk."""
        column = pq.read_table(self.writer.paths.part(shard), columns=["n_tokens"]).column(0)
        return np.asarray(column, np.int64)


def _units(layout: Layout, shard: int) -> tuple[int, int]:
    start, stop = layout.bounds(shard)
    return start // CHUNK_ROWS, -(-stop // CHUNK_ROWS)


def prepare(source: Source, encoder: Encoder, output: Path, options: Options, progress: Progress) -> Preflight:
    """Read the input once, decide what is to be done, print it, and make or update the store.

    Raises
    ------
    InputError : the input or an option cannot be used with this encoder.
    StoreError : the store at `output` was made otherwise, or the disk is too small.
    """
    readout = encoder.readout(options.poolings, options.layers)
    overlong = _overlong(encoder, options)
    identity = fingerprint(encoder.fingerprint, [[b.layer, b.pooling] for b in readout.blocks], overlong)
    there = output.exists() and not options.restart
    if there:
        _check_same_encoding(output, identity, encoder, readout, overlong, options)
    elif output.exists():
        read_attributes(output)  # refuse to restart over anything but a store, before the input is read
    plan = make_plan(source)
    if not options.any_alphabet:
        plan.letters.check(encoder.alphabet, encoder.name)
    if overlong == "error":
        _check_lengths(source, encoder)
    tokens, seconds = _estimate(plan, encoder)
    plan.sample.clear()
    layout = Layout(plan.rows, readout.dim, options.dtype, _shard_rows(plan, readout, options, seconds))
    todo: dict[int, Todo] = {shard: Todo(True, None) for shard in range(layout.shards)}
    if there:
        on_disk = read_layout(output)
        layout = Layout(plan.rows, on_disk.dim, on_disk.dtype, on_disk.shard_rows)
        todo = _compare(source, encoder, plan, layout, on_disk, read_commits(output), output)
    encode = [shard for shard, task in todo.items() if task.encode]
    rows = sum(stop - start for start, stop in map(layout.bounds, encode))
    share = rows / plan.rows
    _report(source, encoder, plan, layout, todo, tokens * share, seconds * share, output, progress)
    if there:
        _warn_of_another_environment(encoder, read_commits(output), progress)
    _check_disk(output, rows * layout.row_bytes + 0.5 * plan.total_letters * share + 100 * rows)
    attributes = _attributes(source, encoder, readout, identity, overlong, plan, layout, options)
    if options.restart and output.exists():
        remove_store(output)
    if any(not task.encode for task in todo.values()):
        attributes["metadata_pending"] = True
    if not there:
        create_store(output, layout, attributes)
    writer = StoreWriter(output)
    writer.update(layout, attributes)
    give_freed_pages_back()
    return Preflight(plan, readout, overlong, layout, todo, round(tokens * share), writer)


def _overlong(encoder: Encoder, options: Options) -> str:
    policy = options.overlong or encoder.overlong
    if policy not in OVERLONG:
        raise InputError(f"there is no over-length policy '{policy}': take one of {', '.join(OVERLONG)}")
    if policy == "window" and encoder.overlong == "error":
        raise InputError(f"windows of {encoder.name} cannot be averaged: take --overlong truncate, skip or error")
    return policy


def _check_lengths(source: Source, encoder: Encoder) -> None:
    """Raise for the first sequence over the encoder's limit, before anything is encoded."""
    limit, row = encoder.token_limit, 0
    if limit is None:
        return
    for unit in slices(source, CHUNK_ROWS):
        lengths = encoder.tokenize(normalise(Letters.of(unit.column(SEQUENCE)), encoder.alphabet)).lengths
        long = np.flatnonzero(lengths > limit)
        if len(long):
            first = int(long[0])
            policies = "truncate or skip" if encoder.overlong == "error" else "window, truncate or skip"
            place = source.locate([row + first])[0]
            raise InputError(
                f"'{unit.column(ID)[first]}' at {place} has {int(lengths[first]):,} {encoder.unit}, "
                f"{encoder.name} takes {limit:,}: choose --overlong {policies}"
            )
        row += len(unit)


def _check_same_encoding(
    output: Path, identity: str, encoder: Encoder, readout: Readout, overlong: str, options: Options
) -> None:
    attributes, layout = read_attributes(output), read_layout(output)
    had = attributes["encoder"]
    pairs = [
        ("encoder", had["name"], encoder.name),
        ("precision", had["precision"], encoder.precision),
        ("blocks", [block["name"] for block in attributes["blocks"]], [block.name for block in readout.blocks]),
        ("over-length policy", attributes["overlong"], overlong),
        ("weights of the encoder", had["fingerprint"], encoder.fingerprint),
        ("stored type", layout.dtype, options.dtype),
        ("sequences kept", attributes["keeps_sequences"], not options.drop_sequence),
    ]
    if attributes["fingerprint"] == identity:
        pairs = pairs[5:]
    elif had["fingerprint"] == encoder.fingerprint:
        pairs = pairs[2:]  # the same encoder under another name
    elif had["name"] == encoder.name:
        pairs.insert(1, ("seed of the random weights", had.get("seed"), encoder.origin.seed))
    for what, before, now in pairs:
        if before != now:
            raise StoreError(
                f"{output} was made with another plan ({what}: {before}, now {now}): give another --output, or --restart "
                "to begin it anew"
            )
    if options.shard_rows and options.shard_rows != layout.shard_rows:
        raise StoreError(f"{output} has shards of {layout.shard_rows:,} rows: leave out --shard-rows, or --restart")


def _estimate(plan: Plan, encoder: Encoder) -> tuple[float, float]:
    """Tokens of the whole input and seconds to encode them, from a sample's tokens a letter and the matrix rate."""
    tokens = encoder.tokenize(normalise(Letters.of(plan.sample), encoder.alphabet)).lengths
    letters = max(sum(map(len, plan.sample)), 1)
    total = plan.total_letters * float(tokens.sum()) / letters
    flops = encoder.flops(total, float(tokens.mean()))
    return total, flops / (0.8 * encoder.matrix_rate()) if flops else total / 2e7


def _shard_rows(plan: Plan, readout: Readout, options: Options, seconds: float) -> int:
    """Rows of a shard: fewer where one would take over five minutes, 70 MB, or 128 million letters of input."""
    if options.shard_rows is not None:
        if options.shard_rows < CHUNK_ROWS or options.shard_rows % CHUNK_ROWS:
            raise InputError(f"--shard-rows {options.shard_rows} is not a multiple of {CHUNK_ROWS:,}")
        return options.shard_rows
    row_bytes = readout.dim * np.dtype(options.dtype).itemsize
    rows = DEFAULT_SHARD_ROWS
    while rows > CHUNK_ROWS:
        units = rows // CHUNK_ROWS
        letters = max(sum(plan.unit_letters[i : i + units]) for i in range(0, len(plan.unit_letters), units))
        fits = seconds * rows / plan.rows <= _SHARD_SECONDS and rows * row_bytes <= _SHARD_BYTES
        if fits and letters <= _SHARD_LETTERS:
            break
        rows //= 2
    return rows


def _compare(
    source: Source,
    encoder: Encoder,
    plan: Plan,
    layout: Layout,
    before: Layout,
    commits: dict[int, Commit],
    output: Path,
) -> dict[int, Todo]:
    """Tell the shards to do from the commit records; raises `StoreError` if committed sequences have changed."""
    encoded = before.rows if len(commits) == before.shards else sum(commit.rows for commit in commits.values())
    if layout.rows < encoded:
        raise StoreError(
            f"{output} was made from {encoded:,} records, the input now has {layout.rows:,}: give another --output, "
            "or --restart to begin it anew"
        )
    paths, identity = StorePaths(output), read_attributes(output)["fingerprint"]
    todo: dict[int, Todo] = {}
    for shard in range(layout.shards):
        commit = commits.get(shard)
        first, last = _units(layout, shard)
        start, stop = layout.bounds(shard)
        if commit is None:
            todo[shard] = Todo(True, None)
        elif commit.fingerprint != identity or not _files_are_there(paths, layout, commit):
            todo[shard] = Todo(True, commit)
        elif commit.rows == stop - start and commit.digest == plan.digest(first, last):
            if commit.metadata_digest != plan.metadata_digest(first, last):
                todo[shard] = Todo(False, commit)
        elif commit.rows < stop - start and _begins_like(source, encoder, layout, shard, commit, output):
            todo[shard] = Todo(True, commit)
        else:
            raise StoreError(
                f"the ids or sequences of {source.name} have changed since {output} was made, first in shard {shard} "
                f"(records {start:,} to {stop:,}): give another --output, or --restart to begin it anew"
            )
    return todo


def _files_are_there(paths: StorePaths, layout: Layout, commit: Commit) -> bool:
    """Whether a committed shard's files still have the sizes they were written with."""
    sizes = {
        paths.shard(commit.shard): commit.payload_bytes + layout.index_bytes,
        paths.part(commit.shard): commit.part_bytes,
    }
    return all(file.exists() and file.stat().st_size == size for file, size in sizes.items())


def _begins_like(source: Source, encoder: Encoder, layout: Layout, shard: int, commit: Commit, output: Path) -> bool:
    """Whether the first records of a shard that has grown are the ones that were encoded, by id and digest."""
    # A kill between the part and its record leaves a part that is longer than the record says.
    old = pq.read_table(StorePaths(output).part(shard), columns=[ID, "digest"]).slice(0, commit.rows)
    for number, records in enumerate(slices(source, layout.shard_rows)):
        if number == shard:
            head = records.slice(0, commit.rows)
            letters = normalise(Letters.of(head.column(SEQUENCE)), encoder.alphabet)
            now = digests(letters, encoder.alphabet)[0]
            return bool(head.column(ID).to_pylist() == old.column(ID).to_pylist() and now == old.column(1).to_pylist())
    return False


def _report(
    source: Source,
    encoder: Encoder,
    plan: Plan,
    layout: Layout,
    todo: dict[int, Todo],
    tokens: float,
    seconds: float,
    output: Path,
    progress: Progress,
) -> None:
    outside = plan.letters.outside(encoder.alphabet)
    left = source.unmatched
    progress.say(f"input    {source.name}: {plan.rows:,} records, {plan.total_letters:,} letters")
    if outside:
        most = sorted(outside.items(), key=lambda item: -item[1])[:6]
        fate = (
            "token of their own and are encoded as unknown" if encoder.unit == "tokens" else "column and are left out"
        )
        progress.say(
            f"         {sum(outside.values()):,} letters have no {fate}: "
            + ", ".join(f"{letter} {count:,}" for letter, count in most)
        )
    if left is not None and (left.records or left.metadata):
        progress.say(
            f"metadata {left.records:,} records have no row in the table{_examples(left.record_ids)}, "
            f"{left.metadata:,} of its rows have no record{_examples(left.metadata_ids)}"
        )
    kind = " with RANDOM WEIGHTS: the embeddings mean nothing" if encoder.meaningless else ""
    progress.say(f"encoder  {encoder.name}, {encoder.precision} on {encoder.device}{kind}")
    if encoder.origin.licence and encoder.origin.licence.startswith("CC BY-NC"):
        progress.say(f"         its weights are licensed {encoder.origin.licence}: no commercial use")
    free = size(shutil.disk_usage(_existing(output)).free)
    progress.say(
        f"store    {output}: {layout.rows:,} rows x {layout.dim:,} {layout.dtype} = {size(layout.rows * layout.row_bytes)}, "
        f"{free} free; {layout.shards} shards of {layout.shard_rows:,} rows"
    )
    encode = sum(task.encode for task in todo.values())
    if not todo:
        progress.say("to do    nothing: all shards are there")
    elif not encode:
        progress.say(f"to do    only metadata has changed: {len(todo)} rows parts are rewritten, nothing is encoded")
    else:
        done = layout.shards - len(todo)
        already = f"{done} of {layout.shards} shards are there; " if done else ""
        progress.say(f"to do    {already}about {tokens:,.0f} {encoder.unit}, about {duration(seconds)}")


def _warn_of_another_environment(encoder: Encoder, commits: dict[int, Commit], progress: Progress) -> None:
    now = encoder.environment()
    for commit in commits.values():
        changed = [f"{key} {commit.environment.get(key)}, now {value}" for key, value in now.items()
                   if commit.environment.get(key) != value]  # fmt: skip
        if changed:
            progress.say(
                f"caution  shard {commit.shard} was computed with {'; '.join(changed)}: the last bits may differ, "
                "`embedcache verify --recompute` says by how much"
            )
            return


def _examples(ids: tuple[str, ...]) -> str:
    return f" ({', '.join(ids[:3])}{'...' if len(ids) > 3 else ''})" if ids else ""


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _check_disk(output: Path, needed: float) -> None:
    free = shutil.disk_usage(_existing(output)).free
    if needed > free:
        raise StoreError(
            f"{output} needs about {size(needed)} more, {size(free)} are free there: free some, choose another --output, "
            "or leave the sequences out with --drop-sequence"
        )


def _attributes(
    source: Source,
    encoder: Encoder,
    readout: Readout,
    identity: str,
    overlong: str,
    plan: Plan,
    layout: Layout,
    options: Options,
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "embedcache_version": __version__,
        "plan_id": fingerprint(identity, layout.dtype, plan.digest(0, len(plan.units))),
        "fingerprint": identity,
        "encoder": encoder.description(),
        "blocks": [{"name": b.name, "start": b.start, "stop": b.stop} for b in readout.blocks],
        "layers": list(dict.fromkeys(block.layer for block in readout.blocks)),
        "poolings": list(dict.fromkeys(block.pooling for block in readout.blocks)),
        "overlong": overlong,
        "keeps_sequences": not options.drop_sequence,
        "input": source.name,
        "letters_outside_alphabet": plan.letters.outside(encoder.alphabet),
    }
