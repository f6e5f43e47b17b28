"""Before anything is encoded: hold the plan against the machine and against what the store already has.

Everything that can be refused is refused here, before a byte is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embedcache import __version__
from embedcache.cellnames import cells_named
from embedcache.counted import counted, counted_of
from embedcache.encoding import Encoding
from embedcache.errors import InputError, StoreError
from embedcache.extraction.plan import Plan, make_plan, slices
from embedcache.extraction.resume import Todo, check_same_encoding, compare
from embedcache.fingerprint import fingerprint
from embedcache.memory import give_freed_pages_back
from embedcache.progress import Progress, duration, size
from embedcache.records import ID, SEQUENCE, Source, provenance_of, remarks_of
from embedcache.reusing.known import Forecast, KnownStore, open_known
from embedcache.reusing.repeats import Repeats
from embedcache.sequences.alphabet import Letters, normalise
from embedcache.sequences.passages import Passages
from embedcache.sequences.views import AVERAGE, CANONICAL, CENTER, GIVEN, MIDDLE, Scope, View
from embedcache.storage.commit import StoreWriter, create_store, remove_store
from embedcache.storage.layout import CHUNK_ROWS, DEFAULT_SHARD_ROWS, Layout, read_layout
from embedcache.storage.store import (
    FORMAT,
    FORMAT_VERSION,
    SCOPED_FORMAT_VERSION,
    Commit,
    environments,
    read_attributes,
    read_commits,
)
from embedcache.transforms.remade import Remade

if TYPE_CHECKING:
    from embedcache.encoders.encoder import Encoder
    from embedcache.encoders.readout import ReadoutBlock

OVERLONG = ("window", "truncate", "skip", "error")
_SHARD_SECONDS, _SHARD_BYTES, _SHARD_LETTERS = 300.0, 70e6, 128e6


@dataclass(frozen=True)
class Options:
    """What the user chose beside the encoder."""

    poolings: tuple[str, ...] = ("mean",)
    layers: tuple[str | int, ...] | None = None
    """None takes the one that the encoder's authors take."""
    one_based: bool = False
    """Whether the columns of ``at:COLUMN`` and of `center` count letters from 1."""
    views: tuple[View, ...] = ()
    """Which letters around the centre of each record are encoded, as blocks; none: whole sequences."""
    center: str | None = None
    """A column that names the centre of each record, or ``middle``; None: the column ``center`` if there is one."""
    edge: str = "pad"
    """Of views over the ends of a sequence: ``pad``, ``drop`` or ``shorten``, see `embedcache.sequences.views.Scope`."""
    strands: str = GIVEN
    """``given``, ``average`` or ``canonical``."""
    dtype: str = "float16"
    batch_tokens: int | None = None
    overlong: str | None = None
    """``window``, ``truncate``, ``skip`` or ``error``; None takes the encoder's default."""
    on_bad_row: str = "stop"
    """``stop`` or ``quarantine``."""
    shard_rows: int | None = None
    restart: bool = False
    drop_sequence: bool = False
    compress: str | None = None
    """``zstd``, for archives: smaller, and read through zarr-python instead of a memory map."""
    any_alphabet: bool = False
    reuse: tuple[str, ...] = ()
    """Stores whose rows are copied where they are what encoding would give."""
    cache: tuple[str, ...] = ()
    """Folders; every store below them serves like those of `reuse`, if it fits."""


@dataclass
class Preflight:
    """All that the extraction needs to know before it starts."""

    plan: Plan
    encoding: Encoding
    layout: Layout
    todo: dict[int, Todo]
    tokens_to_do: int
    writer: StoreWriter
    known: list[KnownStore]
    repeats: Repeats

    def old_tokens(self, shard: int) -> NDArray[np.int64]:
        """The token counts in a shard's rows part as it is on disk."""
        column = pq.read_table(self.writer.paths.part(shard), columns=["n_tokens"]).column(0)
        return np.asarray(column, np.int64)


def prepare(source: Source, encoder: Encoder, output: Path, options: Options, progress: Progress) -> Preflight:
    """Read the input once, decide what is to be done, print it, and make or update the store.

    Raises
    ------
    InputError : the input or an option cannot be used with this encoder.
    StoreError : the store at `output` was made otherwise, or the disk is too small.
    """
    encoding = encoding_of(encoder, options, source.columns)
    _check_places(source, encoding)
    there = output.exists() and not options.restart
    if there:
        check_same_encoding(output, encoding, options.dtype, not options.drop_sequence, options.compress)
        _check_shard_rows(output, options)
    elif output.exists():
        read_attributes(output)  # refuse to restart over anything but a store, before the input is read
    known = open_known(encoding, options.dtype, options.reuse, options.cache, progress.say, output=output)
    plan = make_plan(source, encoding)
    if not options.any_alphabet:
        plan.letters.check(encoder.alphabet, encoder.name)
    if encoding.overlong == "error":
        check_lengths(source, encoding)
    with cells_named(source, encoder):
        tokens, seconds = _estimate(plan, encoder)
    plan.sample.clear()
    shard_rows = _shard_rows(plan, encoding, options, seconds)
    layout = Layout(plan.rows, encoding.dim, options.dtype, shard_rows, plan.offsets, options.compress)
    todo: dict[int, Todo] = {shard: Todo(True, None) for shard in range(layout.shards)}
    if there:
        before = read_layout(output)
        layout = Layout(plan.rows, before.dim, before.dtype, before.shard_rows, plan.offsets, before.compress)
        todo = compare(source, encoding, plan, layout, before, read_commits(output), output)
    encode = [shard for shard, task in todo.items() if task.encode]
    records = sum(stop - start for start, stop in map(layout.bounds, encode))
    rows = sum(last - first for first, last in map(layout.span, encode))
    written = records / plan.rows
    write_N, there_N = _standing(layout, todo)
    for store in known:
        store.index(plan.keys)
    forecast = Forecast.of(plan.keys, plan.weights, known, write_N, there_N)
    work = tokens * forecast.share, seconds * forecast.share
    _report(source, encoding, plan, layout, todo, forecast, *work, output, progress)
    if there:
        _warn_of_another_environment(encoder, read_commits(output), progress)
    _tell_of(known, forecast, encoder, progress)
    _check_disk(output, rows * layout.row_bytes + 0.5 * plan.total_letters * written + 100 * records)
    repeats = Repeats(plan.keys, layout.shard_rows, there_N)
    plan.forget_records()
    attributes = _attributes(source, encoding, plan, layout, options)
    if options.restart and output.exists():
        remove_store(output)
    if any(not task.encode for task in todo.values()):
        attributes["metadata_pending"] = True
    if not there:
        create_store(output, layout, attributes)
    writer = StoreWriter(output)
    writer.update(layout, attributes)
    for shard, task in todo.items():
        if task.on_disk and task.withdraw:
            writer.withdraw(task.on_disk)
            todo[shard] = Todo(True, None)
    give_freed_pages_back()
    return Preflight(plan, encoding, layout, todo, round(tokens * forecast.share), writer, known, repeats)


def _standing(layout: Layout, todo: dict[int, Todo]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which records are to be written with new values, and of which the values are in the store already, (N,) each."""
    write_N, there_N = np.zeros(layout.rows, bool), np.ones(layout.rows, bool)
    for shard, task in todo.items():
        if task.encode:
            start, stop = layout.bounds(shard)
            write_N[start:stop], there_N[start + task.kept : stop] = True, False
    return write_N, there_N


def encoding_of(encoder: Encoder, options: Options, columns: Sequence[str] = ()) -> Encoding:
    """What an encoder is to do with an input of these columns; raises `InputError` where the options make no sense."""
    readout = encoder.readout(options.poolings, options.layers)
    if options.views and options.center is None:
        center = CENTER if CENTER in columns else None
    else:
        center = None if options.center == MIDDLE else options.center
    if center is not None and not options.views:
        raise InputError("--center says where the views of a sequence are: name them with --context and --side")
    scope = Scope(options.views, center, options.edge, options.strands)
    scope.check(encoder.alphabet, readout.pooled)
    encoding = Encoding(encoder, readout, _overlong(encoder, options), options.one_based, scope)
    if options.one_based and not encoding.columns:
        raise InputError(
            "--one-based says how a column of positions counts: name the column with --pool at:COLUMN or --center COLUMN"
        )
    return encoding


def _overlong(encoder: Encoder, options: Options) -> str:
    policy = options.overlong or encoder.overlong
    if policy not in OVERLONG:
        raise InputError(f"there is no over-length policy '{policy}': take one of {', '.join(OVERLONG)}")
    if policy == "window" and encoder.overlong == "error":
        raise InputError(f"windows of {encoder.name} cannot be averaged: take --overlong truncate, skip or error")
    return policy


def _check_places(source: Source, encoding: Encoding) -> None:
    """Raise `InputError` if places of the input's records are looked at, and these are cut, turned or translated."""
    if isinstance(source, Remade) and encoding.columns:
        raise InputError(
            f"the column {encoding.columns[0]!r} holds places in the input's records, and {source.option} makes others of "
            "them: leave out --pool at:COLUMN and --center, or the option"
        )


def _check_shard_rows(output: Path, options: Options) -> None:
    """Raise `StoreError` if a store's shards are of another size than the one asked for."""
    had = read_layout(output).shard_rows
    if options.shard_rows and options.shard_rows != had:
        raise StoreError(f"{output} has shards of {counted(had, 'row')}: leave out --shard-rows, or --restart")


def check_lengths(source: Source, encoding: Encoding) -> None:
    """Raise for the first sequence over the encoder's limit, before anything is encoded."""
    encoder, row = encoding.encoder, 0
    limit = encoder.token_limit
    if limit is None:
        return
    for unit in slices(source, CHUNK_ROWS):
        letters = encoding.letters(unit.column(SEQUENCE))
        lengths = Passages.of(encoding, letters, encoding.positions(unit, letters.lengths)).longest
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


def _estimate(plan: Plan, encoder: Encoder) -> tuple[float, float]:
    """Tokens of the whole input and seconds to encode them, from a sample's tokens a letter and the matrix rate."""
    tokens = encoder.tokenize(normalise(Letters.of(plan.sample), encoder.alphabet)).lengths
    letters = max(sum(map(len, plan.sample)), 1)
    total = plan.passage_letters * float(tokens.sum()) / letters
    flops = encoder.flops(total, float(tokens.mean()))
    return total, flops / (0.8 * encoder.matrix_rate()) if flops else total / 2e7


def _shard_rows(plan: Plan, encoding: Encoding, options: Options, seconds: float) -> int:
    """Records of a shard: fewer where one would take over five minutes, 70 MB, or 128 million letters of input."""
    unit = plan.unit_rows
    if options.shard_rows is not None:
        if options.shard_rows < unit or options.shard_rows % unit:
            raise InputError(f"--shard-rows {options.shard_rows} is not a multiple of {unit:,}")
        return options.shard_rows
    row_bytes = encoding.dim * np.dtype(options.dtype).itemsize
    encoded = max(plan.passage_letters / max(plan.total_letters, 1), 1.0)
    records = DEFAULT_SHARD_ROWS
    while records > unit:
        units = records // unit
        letters = max(sum(plan.unit_letters[i : i + units]) for i in range(0, len(plan.unit_letters), units))
        fits = seconds * records / plan.rows <= _SHARD_SECONDS and _most_rows(plan, records) * row_bytes <= _SHARD_BYTES
        if fits and letters * encoded <= _SHARD_LETTERS:
            break
        records //= 2
    return records


def _most_rows(plan: Plan, records: int) -> int:
    """Rows of the largest shard of so many records."""
    if plan.offsets is None:
        return records
    borders = plan.offsets[[*range(0, plan.rows, records), plan.rows]]
    return int(np.diff(borders).max())


def _report(
    source: Source,
    encoding: Encoding,
    plan: Plan,
    layout: Layout,
    todo: dict[int, Todo],
    forecast: Forecast,
    tokens: float,
    seconds: float,
    output: Path,
    progress: Progress,
) -> None:
    encoder = encoding.encoder
    outside = plan.letters.outside(encoder.alphabet)
    left = source.unmatched
    progress.say(f"input    {source.name}: {counted(plan.rows, 'record')}, {counted(plan.total_letters, 'letter')}")
    for remark in remarks_of(source):
        progress.say(remark)
    if outside:
        most = sorted(outside.items(), key=lambda item: -item[1])[:6]
        fate = (
            "token of their own and are encoded as unknown" if encoder.unit == "tokens" else "column and are left out"
        )
        progress.say(
            f"         {counted(sum(outside.values()), 'letter has', 'letters have')} no {fate}: "
            + ", ".join(f"{letter} {count:,}" for letter, count in most)
        )
    if left is not None and (left.records or left.metadata):
        progress.say(f"metadata {left}")
    for line in _scope_lines(encoding.scope, plan):
        progress.say(line)
    kind = " with RANDOM WEIGHTS: the embeddings mean nothing" if encoder.meaningless else ""
    progress.say(f"encoder  {encoder.name}, {encoder.precision} on {encoder.device}{kind}")
    if encoder.origin.licence and encoder.origin.licence.startswith("CC BY-NC"):
        progress.say(f"         its weights are licensed {encoder.origin.licence}: no commercial use")
    free = size(shutil.disk_usage(existing_folder(output)).free)
    packed = f" before {layout.compress} compression" if layout.compress else ""
    tokens_of = "" if layout.offsets is None else f" with {counted(layout.length, 'token')}"
    progress.say(
        f"store    {output}: {counted(layout.rows, 'row')}{tokens_of} x {layout.dim:,} {layout.dtype} = "
        f"{size(layout.length * layout.row_bytes)}{packed}, {free} free; "
        f"{counted(layout.shards, 'shard')} of {counted(layout.shard_rows, 'row')}"
    )
    encode = sum(task.encode for task in todo.values())
    if not todo:
        progress.say("to do    nothing: all shards are there")
    elif not encode:
        parts = counted(len(todo), "part of the rows table is", "parts of the rows table are")
        progress.say(f"to do    only metadata has changed: {parts} rewritten, nothing is encoded")
    else:
        done = layout.shards - len(todo)
        already = f"{counted_of(done, layout.shards, 'shard')} there; " if done else ""
        for line in forecast.lines():
            progress.say(f"known    {line}")
        work = f"about {tokens:,.0f} {encoder.unit}, about {duration(seconds)}"
        if forecast.encoded < forecast.rows:
            work = f"{counted(forecast.encoded, 'row')} to encode, {work}" if forecast.encoded else "no row to encode"
        progress.say(f"to do    {already}{work}")


def _scope_lines(scope: Scope, plan: Plan) -> Iterator[str]:
    if scope.views:
        names = ", ".join(view.name for view in scope.views)
        around = "the middle of each sequence" if scope.center is None else f"the column '{scope.center}'"
        yield f"views    {names} around {around}, each a block"
    if plan.reaching:
        padding = (
            counted(plan.missing_letters, "letter beyond their ends is", "letters beyond their ends are") + " padding"
        )
        fate = {"pad": padding, "drop": "they are set aside", "shorten": "their views are shorter"}[scope.edge]
        records = counted(plan.reaching, "record does", "records do")
        yield f"         {records} not reach as far as their widest views: {fate} (--edge)"
    if scope.strands == AVERAGE:
        yield "strands  both are encoded, and their vectors averaged"
    elif scope.strands == CANONICAL:
        yield "strands  the one that comes first in the alphabet is encoded"


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


def _tell_of(known: list[KnownStore], forecast: Forecast, encoder: Encoder, progress: Progress) -> None:
    """Say what of the other stores cannot be used, and which of those that can were computed elsewhere."""
    now = encoder.environment()
    for store, rows in forecast.reused:
        for line in store.skipped:
            progress.say(f"caution  {line}")
        others = [one for one in environments(store.commits.values()) if one != now]
        if rows and others:
            had = others[0]
            changed = [f"{k} {had.get(k)}, now {now.get(k)}" for k in {**now, **had} if had.get(k) != now.get(k)]
            progress.say(
                f"caution  {store.path} was computed with {'; '.join(changed)}: the last bits of its rows may "
                "differ from those of rows that are encoded here"
            )


def existing_folder(path: Path) -> Path:
    """The innermost folder of a path that is there already."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _check_disk(output: Path, needed: float) -> None:
    free = shutil.disk_usage(existing_folder(output)).free
    if needed > free:
        raise StoreError(
            f"{output} needs about {size(needed)} more, {size(free)} are free there: free some, choose another --output, "
            "or leave the sequences out with --drop-sequence"
        )


def _attributes(source: Source, encoding: Encoding, plan: Plan, layout: Layout, options: Options) -> dict[str, Any]:
    encoder, identity = encoding.encoder, encoding.fingerprint
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION if encoding.scope.whole else SCOPED_FORMAT_VERSION,
        "embedcache_version": __version__,
        "plan_id": fingerprint(identity, layout.dtype, plan.digest(0, plan.rows)),
        "fingerprint": identity,
        "encoder": encoder.description(),
        "blocks": [_block(block) for block in encoding.blocks],
        "overlong": encoding.overlong,
        "one_based": encoding.one_based,
        **({} if encoding.scope.whole else {"scope": encoding.scope.to_dict()}),
        "keeps_sequences": not options.drop_sequence,
        "input": source.name,
        **provenance_of(source),
        "letters_outside_alphabet": plan.letters.outside(encoder.alphabet),
    }


def _block(block: ReadoutBlock) -> dict[str, Any]:
    return {name: value for name, value in asdict(block).items() if name != "view" or value is not None}
