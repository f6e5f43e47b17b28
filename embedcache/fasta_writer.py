"""Records as a FASTA file with a table of their columns beside it, both whole or not there."""

from __future__ import annotations

import csv
import gzip
import io
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.extraction.plan import check_unique
from embedcache.records import ID, SEQUENCE, Source
from embedcache.sources.batches import letters_of

COUNTED = ("label", "split")
_MOST_VALUES = 12


@dataclass
class Written:
    """What was written, and where."""

    fasta: Path
    table: Path
    records: int = 0
    letters: int = 0
    values: dict[str, Counter[str]] = field(default_factory=dict)
    """How many records have each value of the columns label and split."""

    def lines(self) -> Iterator[str]:
        """It as lines for the terminal."""
        yield f"wrote    {self.fasta}: {counted(self.records, 'record')}, {counted(self.letters, 'letter')}"
        yield f"         {self.table}: their columns, by id"
        for name, counts in self.values.items():
            shown = ", ".join(f"{value} {count:,}" for value, count in counts.most_common(_MOST_VALUES))
            more = f" and {counted(len(counts) - _MOST_VALUES, 'more value')}" if len(counts) > _MOST_VALUES else ""
            yield f"{name:<9}{shown}{more}"


def table_of(fasta: Path) -> Path:
    """Where the table of a FASTA file goes: ``reads.tsv`` for reads.fa and reads.fa.gz."""
    name = fasta.name.removesuffix(".gz")
    return fasta.with_name(f"{Path(name).stem}.tsv")


def write_fasta(
    source: Source, fasta: Path, *, overwrite: bool = False, reached: Callable[[int], None] = lambda records: None
) -> Written:
    """Write all records of a source: ids and sequences as FASTA (gzipped where it ends in .gz), columns as a table.

    Raises
    ------
    InputError
        A file is there already, cannot be written, an id occurs twice or holds a blank, or as the source raises; nothing
        is left of the files then.
    """
    table = table_of(fasta)
    if table == fasta:
        raise InputError(f"{fasta} is the name of the table of columns: let --output end in .fa or .fa.gz")
    there = next((file for file in (fasta, table) if file.exists() and not overwrite), None)
    if there is not None:
        raise InputError(f"{there} is there already: name another --output, or --overwrite")
    written = Written(fasta, table)
    with _whole(fasta, table) as (letters, rows), _packed(letters, fasta) as text:
        _write(source, text, rows, written, reached)
    return written


def _write(source: Source, fasta: BinaryIO, table: BinaryIO, written: Written, reached: Callable[[int], None]) -> None:
    hashes = array("q")
    table.write(_as_lines([(ID, *source.columns)]))
    written.values = {name: Counter() for name in COUNTED if name in source.columns}
    for batch in source.batches():
        ids = batch.column(ID).to_pylist()
        _check_ids(source, batch.column(ID), written.records)
        fasta.write(_as_fasta(ids, batch.column(SEQUENCE)))
        table.write(_as_lines(zip(ids, *(batch.column(name).to_pylist() for name in source.columns), strict=True)))
        for name, counts in written.values.items():
            counts.update("nothing" if value is None else str(value) for value in batch.column(name).to_pylist())
        hashes.extend(map(hash, ids))
        written.records += len(batch)
        written.letters += len(letters_of(batch.column(SEQUENCE))[1])
        reached(written.records)
    if not written.records:
        raise InputError(f"{source.name} holds no records")
    check_unique(source, np.frombuffer(hashes, np.int64))


def _as_lines(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _as_fasta(ids: list[str], sequences: pa.Array) -> bytes:
    offsets, letters = letters_of(sequences)
    text, bounds = letters.tobytes(), offsets.tolist()
    return b"".join(
        b">%b\n%b\n" % (name.encode(), text[start:stop])
        for name, start, stop in zip(ids, bounds[:-1], bounds[1:], strict=True)
    )


def _check_ids(source: Source, ids: pa.Array, first: int) -> None:
    """Raise for an id that would not come back from FASTA, where it ends at the first blank."""
    blank = pc.index(pc.match_substring_regex(ids, r"\s"), True).as_py()
    if blank >= 0:
        place = source.locate([first + blank])[0]
        raise InputError(f"{place}: the id {ids[blank].as_py()!r} holds a blank, which ends an id in FASTA: rename it")


@contextmanager
def _packed(stream: BinaryIO, file: Path) -> Iterator[BinaryIO]:
    if file.suffix != ".gz":
        yield stream
        return
    with gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=4, mtime=0) as packed:
        yield cast(BinaryIO, packed)


@contextmanager
def _whole(*files: Path) -> Iterator[tuple[BinaryIO, ...]]:
    """Open files under other names, and put them into place when all are whole."""
    partial = [file.with_name(f"{file.name}.partial-{os.getpid()}") for file in files]
    try:
        files[0].parent.mkdir(parents=True, exist_ok=True)
        streams = [path.open("wb") for path in partial]
        try:
            yield tuple(streams)
            for stream in streams:
                stream.flush()
                os.fsync(stream.fileno())
        finally:
            for stream in streams:
                stream.close()
        for path, file in zip(reversed(partial), reversed(files), strict=True):
            path.replace(file)
    except OSError as error:
        raise InputError(f"cannot write {files[0]}: {error.strerror or error}; nothing is left of it") from None
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
