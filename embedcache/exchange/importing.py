"""Embeddings that others made -> an ordinary store, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedcache import __version__
from embedcache.counted import counted
from embedcache.errors import EmbedcacheError, InputError, StoreError
from embedcache.exchange.embeddings import LABEL, Values
from embedcache.exchange.formats import Together
from embedcache.exchange.joining import labelled, with_metadata
from embedcache.extraction.plan import digest_of
from embedcache.extraction.preflight import existing_folder
from embedcache.progress import Progress, size
from embedcache.records import ID, SEQUENCE
from embedcache.sequences.alphabet import CELL, DNA, PROTEIN, LetterCounts, Letters, digests, normalise
from embedcache.storage.commit import StoreWriter, create_store, remove_store, sweep_leftovers
from embedcache.storage.layout import CHUNK_ROWS, DEFAULT_SHARD_ROWS, TOKEN_UNIT, Layout
from embedcache.storage.store import FORMAT, FORMAT_VERSION, Block, Commit, read_attributes

IMPORTED = "imported"
_SHARD_BYTES = 128e6


@dataclass(frozen=True)
class Provenance:
    """What the user says of how the vectors were made; free text."""

    encoder: str | None = None
    layer: str | None = None
    pool: str | None = None
    alphabet: str | None = None
    """``dna`` or ``protein``; told from the sequences where they are given."""
    blocks: tuple[tuple[str, int], ...] = ()
    """Names and widths of the blocks of columns; empty for one."""


@dataclass(frozen=True)
class ImportOptions:
    """What the user chose about the store."""

    provenance: Provenance = Provenance()
    dtype: str | None = None
    """float16 or float32; None keeps the files' own, float64 as float32."""
    metadata: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    """The column that is stored as label."""
    on_bad_row: str = "stop"
    overwrite: bool = False


@dataclass(frozen=True)
class Imported:
    """What a store was made of."""

    rows: int
    tokens: int | None
    set_aside: int


def import_embeddings(
    source: Together, sequences: pa.Array | None, output: Path, options: ImportOptions, progress: Progress
) -> Imported:
    """Write the records of foreign files into a new store.

    The store is made beside `output` and renamed when it is whole. Its fingerprint is that of what the user says of the
    encoder, so that two imports of one encoder can be put together; where nothing is said, that of the values.

    Parameters
    ----------
    sequences : large_string (N,) of the records in order, or None.

    Raises
    ------
    InputError : a column is missing, or the options do not go together.
    StoreError : there is something at `output`, or the disk is too small.
    EmbedcacheError : a vector is not finite, and `on_bad_row` is ``stop``.
    """
    _check_output(output, options.overwrite)
    rows = source.rows
    if options.metadata is not None:
        rows = with_metadata(rows, options.metadata, options.id_column, progress)
    rows = labelled(rows, options.label_column)
    layout = _layout(source, options.dtype)
    alphabet = _alphabet(options.provenance, sequences)
    attributes = _attributes(source, options.provenance, layout, alphabet, sequences is not None)
    _report(source, rows, layout, output, progress)
    _check_disk(output, layout)
    with _beside(output, options.overwrite) as folder:
        create_store(folder, layout, attributes)
        writing = _Writing(source, rows, sequences, layout, alphabet, options.on_bad_row, StoreWriter(folder))
        progress.start(len(rows), "rows")
        try:
            for shard in range(layout.shards):
                written = writing.write(shard)
                progress.advance(written, written)
        finally:
            progress.stop()
    return Imported(len(rows), layout.length if layout.offsets is not None else None, writing.set_aside)


class _Writing:
    def __init__(
        self,
        source: Together,
        rows: pa.Table,
        sequences: pa.Array | None,
        layout: Layout,
        alphabet: str,
        on_bad_row: str,
        writer: StoreWriter,
    ) -> None:
        self.source, self.rows, self.sequences, self.layout = source, rows, sequences, layout
        self.alphabet, self.on_bad_row, self.writer = alphabet, on_bad_row, writer
        self.set_aside = 0

    def write(self, shard: int) -> int:
        """Write one shard; returns its records."""
        start, stop = self.layout.bounds(shard)
        with np.errstate(over="ignore"):
            values = self.source.read(start, stop).astype(self.layout.dtype)
        bad = self._bad(shard, values)
        starts = self.layout.starts(shard)
        for row in bad:
            values[starts[row] : starts[row + 1]] = np.nan
        self.set_aside += len(bad)
        part = self._part(start, stop)
        metadata = [part.column(name) for name in self.rows.column_names if name != ID]
        digest = digest_of(*(part.column(name) for name in (ID, SEQUENCE) if name in part.column_names))
        commit = Commit(
            shard, stop - start, digest.hex()[:32], digest_of(*metadata).hex()[:32], 0, "", 0, "",
            quarantined=[start + row for row in bad],
        )  # fmt: skip
        with self.writer.locked(shard):
            self.writer.write_shard(values, pa.Table.from_batches([part]), commit)
        return stop - start

    def _bad(self, shard: int, values: Values) -> list[int]:
        """Records of a shard with a value that cannot be stored; raises for the first, unless they are set aside."""
        finite = np.isfinite(values).all(axis=1)
        if finite.all():
            return []
        starts = self.layout.starts(shard)
        bad = np.unique(np.searchsorted(starts, np.flatnonzero(~finite), side="right") - 1).tolist()
        if self.on_bad_row == "stop":
            start = self.layout.bounds(shard)[0]
            row = start + bad[0]
            name = self.rows.column(ID)[row].as_py()
            beyond = np.isfinite(self.source.read(row, row + 1)).all()
            what, way_out = "NaN or infinite, or missing", "leave such rows out of the file, or "
            if beyond:
                what, way_out = f"beyond {self.layout.dtype}", "store --dtype float32, or "
            raise EmbedcacheError(
                f"the vector of '{name}' (record {row + 1:,} of {self.source.name}) is {what}: {way_out}go on without them "
                "with --on-bad-row quarantine"
            )
        return [int(row) for row in bad]

    def _part(self, start: int, stop: int) -> pa.RecordBatch:
        """The rows table of records [start, stop), with the columns that every store has."""
        n = stop - start
        rows = self.rows.slice(start, n).combine_chunks()
        columns: dict[str, Any] = {"row": pa.array(np.arange(start, stop)), ID: rows.column(ID)}
        lengths: Any = pa.nulls(n, pa.int64())
        tokens: Any = pa.nulls(n, pa.int64())
        columns |= {"digest": pa.nulls(n, pa.binary(16)), "rc_digest": pa.nulls(n, pa.binary(16))}
        if self.layout.offsets is not None:
            tokens = lengths = pa.array(np.diff(self.layout.offsets[start : stop + 1]))
        if self.sequences is not None:
            sequences = self.sequences.slice(start, n)
            letters = normalise(Letters.of(sequences), self.alphabet)
            plain, canonical = digests(letters, self.alphabet)
            columns["digest"], columns["rc_digest"] = pa.array(plain, pa.binary(16)), pa.array(canonical, pa.binary(16))
            columns[SEQUENCE], lengths = sequences, pa.array(letters.lengths)
        columns |= {"length": lengths, "n_tokens": tokens}
        columns |= {name: rows.column(name) for name in rows.column_names if name != ID}
        return pa.table(columns).combine_chunks().to_batches()[0]


@contextmanager
def _beside(output: Path, overwrite: bool) -> Iterator[Path]:
    """A place for the store while it is made, under a name that a killed process leaves to be swept; renamed at the end."""
    root = output.resolve()
    folder = root.with_name(f"{root.name}.creating-{os.getpid()}")
    root.parent.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(root)
    try:
        yield folder
        if overwrite and root.exists():
            remove_store(root)
        folder.rename(root)
    except OSError as error:
        raise StoreError(f"cannot make the store {root}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not overwrite:
        raise StoreError(f"{output} is there already: give another --output, or --overwrite")
    read_attributes(output)  # nothing but a store is ever removed


def _layout(source: Together, dtype: str | None) -> Layout:
    stored = dtype or ("float16" if source.dtype == np.float16 else "float32")
    unit = CHUNK_ROWS if source.offsets is None else TOKEN_UNIT
    layout = Layout(len(source.rows), source.dim, stored, DEFAULT_SHARD_ROWS, source.offsets)
    while layout.shard_rows > unit and _most_rows(layout) * layout.row_bytes > _SHARD_BYTES:
        layout = Layout(layout.rows, layout.dim, stored, layout.shard_rows // 2, source.offsets)
    return layout


def _most_rows(layout: Layout) -> int:
    return max(last - first for first, last in map(layout.span, range(layout.shards)))


def _alphabet(provenance: Provenance, sequences: pa.Array | None) -> str:
    """What the sequences are written in: as said, or as they look; empty where there are none."""
    if provenance.alphabet is not None or sequences is None:
        return provenance.alphabet or ""
    counts = LetterCounts.none()
    counts.add(Letters.of(sequences))
    for alphabet in (CELL, PROTEIN, DNA):  # DNA is text that looks like neither of the others
        try:
            counts.check(alphabet, IMPORTED)
        except InputError:
            continue
        return alphabet
    return DNA


def _blocks(provenance: Provenance, dim: int) -> list[Block]:
    number = provenance.layer if provenance.layer and provenance.layer.lstrip("-").isdigit() else None
    layer = None if number is None else int(number)
    if not provenance.blocks:
        name = f"layer{layer}" if layer is not None else provenance.layer or IMPORTED
        return [Block(f"{name}.{provenance.pool}" if provenance.pool else name, 0, dim, layer, provenance.pool)]
    if sum(width for _, width in provenance.blocks) != dim:
        widths = " + ".join(str(width) for _, width in provenance.blocks)
        raise InputError(f"--blocks: the widths {widths} do not make up the {dim:,} values of a vector")
    blocks, start = [], 0
    for name, width in provenance.blocks:
        blocks.append(Block(name, start, start + width, layer, provenance.pool))
        start += width
    return blocks


def _attributes(
    source: Together, provenance: Provenance, layout: Layout, alphabet: str, sequences: bool
) -> dict[str, Any]:
    blocks = [asdict(block) for block in _blocks(provenance, layout.dim)]
    said = {key: value for key, value in asdict(provenance).items() if value and key != "blocks"}
    if provenance.encoder is None:
        identity = _hash("imported values", content_hash(source), blocks)
    else:
        identity = _hash(
            "imported", [said.get(key) for key in ("encoder", "layer", "pool")], blocks, layout.offsets is None
        )
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "embedcache_version": __version__,
        "plan_id": _hash(identity, layout.dtype, digest_of(source.rows.column(ID).combine_chunks()).hex()),
        "fingerprint": identity,
        "encoder": {
            "name": provenance.encoder or IMPORTED,
            "imported": True,
            "provenance": said,
            "alphabet": alphabet,
            "layers": None,
            "hidden": layout.dim,
            "token_limit": None,
            "precision": str(source.dtype),
            "fingerprint": identity,
            "meaningless": False,
        },
        "blocks": blocks,
        "overlong": None,
        "one_based": False,
        "keeps_sequences": sequences,
        "input": source.name,
        "letters_outside_alphabet": {},
    }


def content_hash(source: Together) -> str:
    """Hash of all values, whatever file and format they lie in; reads them once."""
    total = hashlib.blake2b(digest_size=16)
    for start in range(0, len(source.rows), CHUNK_ROWS):
        values = np.ascontiguousarray(source.read(start, min(start + CHUNK_ROWS, len(source.rows))))
        total.update(values.view(np.uint8).data)
    return total.hexdigest()


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def _report(source: Together, rows: pa.Table, layout: Layout, output: Path, progress: Progress) -> None:
    tokens = "" if layout.offsets is None else f" with {counted(layout.length, 'token')}"
    columns = [name for name in rows.column_names if name != ID]
    progress.say(f"input    {source.name}: {counted(len(rows), 'record')}{tokens} x {layout.dim:,} {source.dtype}")
    progress.say(f"columns  {', '.join(columns) or 'none beside the id'}")
    if LABEL in columns:
        counts = sorted(rows.column(LABEL).value_counts().to_pylist(), key=lambda entry: -entry["counts"])
        shown = ", ".join(f"{entry['values']} {entry['counts']:,}" for entry in counts[:6])
        more = f" and {counted(len(counts) - 6, 'more value')}" if len(counts) > 6 else ""
        progress.say(f"label    {shown}{more}")
    free = size(shutil.disk_usage(existing_folder(output)).free)
    narrower = np.dtype(layout.dtype).itemsize < source.dtype.itemsize
    rounded = f" (rounded from {source.dtype})" if narrower else ""
    progress.say(
        f"store    {output}: {counted(layout.rows, 'row')}{tokens} x {layout.dim:,} {layout.dtype}{rounded} = "
        f"{size(layout.length * layout.row_bytes)}, {free} free; "
        f"{counted(layout.shards, 'shard')} of {counted(layout.shard_rows, 'row')}"
    )


def _check_disk(output: Path, layout: Layout) -> None:
    needed, free = layout.length * layout.row_bytes, shutil.disk_usage(existing_folder(output)).free
    if needed > free:
        raise StoreError(
            f"{output} needs {size(needed)}, {size(free)} are free there: free some, or give another --output"
        )
