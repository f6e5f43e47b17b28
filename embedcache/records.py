"""What a source hands to the extraction: Arrow batches of records, readable again from the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from embedcache.counted import counted

ID = "id"
SEQUENCE = "sequence"
RESERVED = ("row", ID, "digest", "rc_digest", SEQUENCE, "length", "n_tokens")
"""Columns that a store writes itself; metadata columns may not have these names (see `metadata_name`)."""


@dataclass(frozen=True)
class Unmatched:
    """What a join left over in one full pass: how many records and rows had no partner, and the first of their ids."""

    records: int
    record_ids: tuple[str, ...]
    metadata: int
    metadata_ids: tuple[str, ...]

    def __str__(self) -> str:
        records = counted(self.records, "record has", "records have")
        rows = counted(self.metadata, "of its rows has", "of its rows have")
        return (
            f"{records} no row in the table{examples(self.record_ids)}, {rows} no record{examples(self.metadata_ids)}"
        )


def examples(ids: tuple[str, ...]) -> str:
    """The first three ids for a message, `` (a, b, c...)``; nothing where there are none."""
    return f" ({', '.join(ids[:3])}{'...' if len(ids) > 3 else ''})" if ids else ""


class Source(Protocol):
    """Records of one or several inputs in input order.

    `batches` may be called any number of times; each call reads from the start and yields the same records. A batch
    has the columns ``id`` (string, never null or empty), ``sequence`` (large_string, never empty: letters as in the file,
    or the token ids of a cell with one blank between them) and then `columns` in their order. Columns of text formats
    come as string with null for missing; columns of parquet keep their type.
    """

    name: str
    """What the user gave, for messages."""
    columns: tuple[str, ...]
    """Names of the metadata columns."""
    text_columns: frozenset[str]
    """Those of `columns` that were read as text, so that a narrower type may be found for them."""
    unmatched: Unmatched | None
    """What the join of ``--metadata`` left over in the last full pass; None without one."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all records; raises `embedcache.errors.InputError` with file and line at the first bad one."""
        ...

    def locate(self, rows: Sequence[int]) -> list[str]:
        """Say where each record (counted from 0 over all inputs) stands, as ``reads.fa.gz, line 12``."""
        ...


def remarks_of(source: object) -> tuple[str, ...]:
    """Return the lines that a source (or a part of it) wants to be printed, such as what it left out; most have none."""
    return tuple(getattr(source, "remarks", ()))


def provenance_of(source: object) -> Mapping[str, object]:
    """Return what a source wants to be kept with the store, as JSON values: files beside the input, with digests."""
    return dict(getattr(source, "provenance", {}))


def metadata_name(name: str) -> str:
    """Return the name under which an input column is stored: reserved names get a suffix, ``length`` -> ``length_in``."""
    return f"{name}_in" if name in RESERVED else name
