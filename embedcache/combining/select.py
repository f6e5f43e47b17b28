"""Some rows and column blocks of a store: chosen by a condition, by their ids, or drawn from splits and classes.

Everything is drawn with a seed, so that the same command makes the same selection; the rows stay in the order of the store.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.combining.concat import inherited, write
from embedcache.combining.where import matching
from embedcache.counted import counted
from embedcache.errors import InputError, StoreError
from embedcache.progress import Progress
from embedcache.records import ID
from embedcache.sources.files import input_file
from embedcache.sources.tables import Table, open_table
from embedcache.storage.pieces import Piece, Rows
from embedcache.storage.store import Block, Store, fingerprint_of_blocks, open_store
from embedcache.storage.virtual import VirtualStore
from embedcache.storage.virtualfiles import as_json

Codes = NDArray[np.int64]
_TABLES = (".csv", ".tsv", ".parquet", ".pq")
_SHOWN = 5


@dataclass(frozen=True)
class SelectOptions:
    """What `embedcache select` was asked for; see there."""

    where: str | None = None
    ids: Path | None = None
    per_class: int | None = None
    per_split: int | None = None
    sample: int | None = None
    blocks: tuple[str, ...] = ()
    label: str = "label"
    split: str = "split"
    seed: int = 0


def select(
    path: Path,
    output: Path,
    options: SelectOptions,
    progress: Progress,
    *,
    materialized: bool = False,
    overwrite: bool = False,
) -> Store:
    """Make a store of some rows and blocks of another at `output`, and open it.

    Raises
    ------
    InputError : a condition, a column, an id file or a block cannot be used.
    StoreError : no row is left, or the output cannot be written.
    """
    store = open_store(path)
    rows = chosen_rows(store, options, progress.say)
    made = selection(store, None if len(rows) == len(store) else rows, options.blocks, output)
    made.attrs["asked"] = as_json({key: value for key, value in asdict(options).items() if value or key == "seed"})
    for line in table_of_counts(made, options):
        progress.say(line)
    write(made, output, progress, materialized=materialized, overwrite=overwrite)
    return open_store(output)


def selection(store: Store, rows: Rows | None, blocks: Sequence[str] = (), path: Path | None = None) -> VirtualStore:
    """Some rows and blocks of a store; nothing is copied.

    Parameters
    ----------
    rows : row numbers in the order that they are to have; None for all.
    blocks : names of blocks, or the part of their names before a dot, in the order that they are to have; () for all.
    """
    chosen = blocks_named(store, blocks) if blocks else store.blocks
    whole = chosen == store.blocks
    follow = rows is None or (len(rows) > 0 and bool(np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))))
    number, first = (len(store), 0) if rows is None else (len(rows), int(rows[0]) if follow else 0)
    pieces, moved, column = [], [], 0
    for block in [Block("", 0, store.dim)] if whole else chosen:
        stop = column + block.stop - block.start
        pieces.append(Piece(0, 0, number, column, stop, block.start, first, None if follow else rows))
        moved.append(replace(block, start=column, stop=stop))
        column = stop
    table = store.rows if rows is None else store.rows.take(pa.array(rows))
    table = table.set_column(table.schema.get_field_index("row"), "row", pa.array(np.arange(number)))
    attributes = inherited(store, "selected") | {"input": str(store.path)}
    if not whole:
        attributes |= {"blocks": [asdict(block) for block in moved], "fingerprint": fingerprint_of_blocks(moved)}
        views = list(dict.fromkeys(block.view for block in moved if block.view is not None))
        attributes |= {"scope": attributes["scope"] | {"views": views}} if views else {}
    return VirtualStore(path or store.path, attributes, [store], pieces, table)


def blocks_named(store: Store, names: Sequence[str]) -> list[Block]:
    """The blocks of the given names, or of names that begin with one and a dot; raises `InputError` for an unknown one."""
    found: list[Block] = []
    for name in names:
        held = [block for block in store.blocks if block.name == name]
        held = held or [block for block in store.blocks if block.name.startswith(f"{name}.")]
        if not held:
            known = [block.name for block in store.blocks]
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{store.path} has no block '{name}'; it has: {', '.join(known)}{hint}")
        found += held
    if len({block.name for block in found}) < len(found):
        raise InputError(f"a block is named twice in {', '.join(names)}: name each once")
    return found


def chosen_rows(store: Store, options: SelectOptions, say: Callable[[str], None]) -> Rows:
    """Rows that an extraction of options leaves, rising; raises `StoreError` where it leaves none."""
    rows = np.arange(len(store))
    if options.where is not None:
        rows = rows[matching(store, options.where)]
        say(f"where    {len(rows):,} of {counted(len(store), 'row')}")
    if options.ids is not None:
        rows = np.intersect1d(rows, _rows_of_ids(store, options.ids, say))
    splits = _codes(store, options.split) if options.split in store.column_names else None
    if options.per_class is not None:
        classes = _needed(store, options.label, "--per-class", "--label")
        cells = classes if splits is None else np.where(classes < 0, -1, classes + (splits + 1) * (classes.max() + 1))
        rows = _drawn(rows, cells, options.per_class, np.random.default_rng([options.seed, 1]))
    if options.per_split is not None:
        splits = _needed(store, options.split, "--per-split", "--split")
        within = _codes(store, options.label) if options.label in store.column_names else None
        rows = _drawn(rows, splits, options.per_split, np.random.default_rng([options.seed, 2]), within)
    if options.sample is not None and options.sample < len(rows):
        rows = np.sort(np.random.default_rng([options.seed, 3]).choice(rows, options.sample, replace=False))
    if not len(rows):
        raise StoreError(f"no row of {store.path} is left: ask for others")
    return rows


def _rows_of_ids(store: Store, file: Path, say: Callable[[str], None]) -> Rows:
    opened = input_file(str(file), attach=False)
    if opened.extension in _TABLES:
        wanted = [
            name for batch in Table(open_table(opened), sequences=False).batches() for name in batch[ID].to_pylist()
        ]
    else:
        with opened.reading() as stream:
            wanted = [line.strip().decode() for line in stream if line.strip()]
    place = {name: row for row, name in enumerate(store.column(ID).to_pylist())}
    unknown = [name for name in wanted if name not in place]
    if unknown:
        shown = ", ".join(unknown[:_SHOWN]) + ("..." if len(unknown) > _SHOWN else "")
        say(f"ids      not in {store.path}: {len(unknown):,} of {counted(len(wanted), 'id')} of {file} ({shown})")
    return np.asarray(sorted({place[name] for name in wanted if name in place}), np.int64)


def _needed(store: Store, column: str, option: str, way_out: str) -> Codes:
    if column not in store.column_names:
        raise InputError(
            f"{option} draws by the column '{column}', which {store.path} has not: name it with {way_out}; it has "
            f"{', '.join(store.column_names)}"
        )
    return _codes(store, column)


def _codes(store: Store, column: str) -> Codes:
    """A number for each distinct value of a column, -1 where it is missing."""
    encoded = store.column(column).combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.fill_null(-1), np.int64)


def _drawn(rows: Rows, cells: Codes, most: int, rng: np.random.Generator, within: Codes | None = None) -> Rows:
    """At most so many rows of each cell, at random; rows of no cell (-1) are left out.

    With `within` the shares of its values in a cell are kept, to a row.
    """
    kept = []
    for cell in np.unique(cells[rows]):
        here = rows[cells[rows] == cell]
        if cell < 0:
            continue
        if len(here) > most:
            here = _shares(here, most, rng, np.zeros_like(cells) if within is None else within)
        kept.append(here)
    return np.sort(np.concatenate(kept)) if kept else rows[:0]


def _shares(rows: Rows, most: int, rng: np.random.Generator, within: Codes) -> Rows:
    """So many rows at random, of each value of `within` its share (largest remainders)."""
    values, counts = np.unique(within[rows], return_counts=True)
    exact = counts * (most / len(rows))
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: most - quota.sum()]] += 1
    return np.concatenate(
        [rng.choice(rows[within[rows] == value], n, replace=False) for value, n in zip(values, quota, strict=True)]
    )


def table_of_counts(store: Store, options: SelectOptions) -> list[str]:
    """How many rows each split has of each class, as lines to print."""
    names = [name for name in (options.split, options.label) if name in store.column_names]
    if not names:
        return []
    counts: Any = store.read_rows(names).group_by(names).aggregate([([], "count_all")]).to_pylist()
    rows = sorted({str(one[names[0]]) for one in counts})
    columns = sorted({str(one[names[-1]]) for one in counts}) if len(names) == 2 else ["rows"]
    held = {
        (str(one[names[0]]), str(one[names[-1]]) if len(names) == 2 else "rows"): one["count_all"] for one in counts
    }
    if len(columns) > 20:
        return [
            f"         {row}: {counted(sum(n for (name, _), n in held.items() if name == row), 'row')}" for row in rows
        ]
    title = f"{names[0]} x {names[-1]}" if len(names) == 2 else names[0]
    lines = [[title, *columns], *([row, *(f"{held.get((row, column), 0):,}" for column in columns)] for row in rows)]
    first, *others = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return [
        "  ".join(
            [f"         {name:<{first}}", *(f"{cell:>{width}}" for cell, width in zip(cells, others, strict=True))]
        )
        for name, *cells in lines
    ]
