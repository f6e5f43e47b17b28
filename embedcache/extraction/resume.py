"""What a store that is there already has of what is wanted, and what is left to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from embedcache.counted import counted
from embedcache.encoding import Encoding
from embedcache.errors import StoreError
from embedcache.extraction.plan import Plan, slices
from embedcache.records import ID, SEQUENCE, Source
from embedcache.sequences.alphabet import digests
from embedcache.sequences.views import MIDDLE, Scope
from embedcache.storage.layout import Layout, StorePaths, read_layout
from embedcache.storage.shardfile import chunks_held
from embedcache.storage.store import Commit, read_attributes

Difference = tuple[str, object, object]
"""What differs, as it was, as it is now."""
ANEW = "give another --output, or --restart to begin it anew"


@dataclass(frozen=True)
class Todo:
    """A shard that is to be done: encoded, or only its rows part rewritten."""

    encode: bool
    on_disk: Commit | None
    withdraw: bool = False
    """Whether the record on disk is to be taken back first, since its files are not there whole."""
    kept: int = 0
    """How many of its first records are on disk already with their values: the input has grown."""


def check_same_encoding(
    output: Path, encoding: Encoding, dtype: str, keeps_sequences: bool, compress: str | None
) -> None:
    """Raise `StoreError` if a store was made by another encoder or in another way, naming the first difference."""
    attributes, layout = read_attributes(output), read_layout(output)
    of_storing: list[Difference] = [
        ("stored type", layout.dtype, dtype),
        ("sequences kept", attributes["keeps_sequences"], keeps_sequences),
        ("compression", layout.compress or "none", compress or "none"),
    ]
    found = difference(attributes, encoding) or next((pair for pair in of_storing if pair[1] != pair[2]), None)
    if found is not None:
        what, before, now = found
        raise StoreError(f"{output} was made with another plan ({what}: {before}, now {now}): {ANEW}")


def difference(attributes: dict[str, Any], encoding: Encoding) -> Difference | None:
    """The first thing that gives the rows of a store other values than an encoding does, None if there is nothing."""
    if attributes["fingerprint"] == encoding.fingerprint:
        return None
    had, encoder = attributes["encoder"], encoding.encoder
    of_encoder: list[Difference] = [
        ("encoder", had.get("name"), encoder.name),
        ("precision", had.get("precision"), encoder.precision),
    ]
    if had.get("name") == encoder.name:
        of_encoder.insert(1, ("seed of the random weights", had.get("seed"), encoder.origin.seed))
    of_values: list[Difference] = [
        ("blocks", [block["name"] for block in attributes["blocks"]], [b.name for b in encoding.blocks]),
        *_of_scope(Scope.from_dict(attributes.get("scope")), encoding.scope),
        ("over-length policy", attributes.get("overlong"), encoding.overlong),
        ("first letter is position", int(attributes.get("one_based", False)), int(encoding.one_based)),
        ("weights of the encoder", had.get("fingerprint"), encoder.fingerprint),
    ]
    # the same encoder may go by another name
    pairs = of_values if had.get("fingerprint") == encoder.fingerprint else [*of_encoder, *of_values]
    return next((pair for pair in pairs if pair[1] != pair[2]), None)


def _of_scope(had: Scope, scope: Scope) -> list[Difference]:
    """What two scopes are, side by side; the views themselves are in the names of the blocks."""
    return [
        ("strands", had.strands, scope.strands),
        ("views over the ends", had.edge, scope.edge),
        ("centre of the views", had.center or MIDDLE, scope.center or MIDDLE),
    ]


def compare(
    source: Source,
    encoding: Encoding,
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
            f"{output} was made from {counted(encoded, 'record')}, the input now has {layout.rows:,}: {ANEW}"
        )
    _check_places(source, layout, before, output)
    todo: dict[int, Todo] = {}
    for shard in range(layout.shards):
        start, stop = layout.bounds(shard)
        commit = commits.get(shard)
        if commit is None:
            todo[shard] = Todo(True, None)
        elif commit.fingerprint != encoding.fingerprint:
            todo[shard] = Todo(True, commit)
        elif not _files_are_there(StorePaths(output), layout, commit):
            todo[shard] = Todo(True, commit, withdraw=True)
        elif commit.rows == stop - start and commit.digest == plan.digest(start, stop):
            if commit.metadata_digest != plan.metadata_digest(start, stop):
                todo[shard] = Todo(False, commit)
        elif commit.rows < stop - start and _begins_like(source, encoding, layout, shard, commit, output):
            todo[shard] = Todo(True, commit, kept=commit.rows)
        else:
            what = "ids, sequences or positions" if encoding.columns else "ids or sequences"
            raise StoreError(
                f"the {what} of {source.name} have changed since {output} was made, first in shard {shard} "
                f"(records {start:,} to {stop:,}): {ANEW}"
            )
    return todo


def _check_places(source: Source, layout: Layout, before: Layout, output: Path) -> None:
    """Raise `StoreError` if the tokens of a record now lie elsewhere: shards share files, so none may ever move."""
    if layout.offsets is None or before.offsets is None:
        return
    both = min(len(layout.offsets), len(before.offsets))
    moved = np.flatnonzero(layout.offsets[:both] != before.offsets[:both])
    if len(moved):
        place = source.locate([int(moved[0]) - 1])[0]
        raise StoreError(
            f"the sequences of {source.name} have changed since {output} was begun, first at {place}, and with them where "
            f"the tokens of all that follow lie: {ANEW}"
        )


def _files_are_there(paths: StorePaths, layout: Layout, commit: Commit) -> bool:
    """Whether the part of a committed shard has its size, and the files of the embeddings reach as far as its rows."""
    part = paths.part(commit.shard)
    if not part.exists() or part.stat().st_size != commit.part_bytes:
        return False
    return all(
        chunks_held(paths.file(file), layout) >= layout.chunks(stop)
        for file, _, stop in layout.pieces(layout.span(commit.shard)[0], commit.payload_bytes // layout.row_bytes)
    )


def _begins_like(source: Source, encoding: Encoding, layout: Layout, shard: int, commit: Commit, output: Path) -> bool:
    """Whether the first records of a shard that has grown are the ones that were encoded, by id, digest and positions."""
    columns = encoding.columns
    # A kill between the part and its record leaves a part that is longer than the record says.
    part = pq.read_table(StorePaths(output).part(shard), columns=[ID, "digest", "length", *columns]).slice(
        0, commit.rows
    )
    for number, records in enumerate(slices(source, layout.shard_rows)):
        if number == shard:
            head = records.slice(0, commit.rows)
            letters = encoding.letters(head.column(SEQUENCE))
            now = encoding.positions(head, letters.lengths)
            then = encoding.positions(part, np.asarray(part.column("length"), np.int64))
            return bool(
                head.column(ID).to_pylist() == part.column(ID).to_pylist()
                and digests(letters, encoding.encoder.alphabet)[0] == part.column("digest").to_pylist()
                and all((now[column] == then[column]).all() for column in columns)
            )
    return False
