"""Columns of a table joined to the rows of a store by id, for as long as a program runs; the store stays as it is."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from embedcache.combining.select import selection
from embedcache.counted import counted
from embedcache.extraction.plan import NarrowestType
from embedcache.records import ID
from embedcache.sources.files import input_file
from embedcache.sources.metadata import Join, Metadata
from embedcache.sources.tables import Table, open_table
from embedcache.storage.store import Store
from embedcache.storage.virtual import VirtualStore


def with_columns(store: Store, file: Path) -> tuple[VirtualStore, str]:
    """A store with the columns of a table beside its own, and in place of those of the same name; and what is to be said.

    A row without a partner in the table has no values in these columns.

    Raises
    ------
    InputError : the table cannot be read, has no column beside its ids or an id twice, or not one id of the store.
    """
    metadata = Metadata(Table(open_table(input_file(str(file), attach=False)), sequences=False))
    join = Join(metadata)
    found = join.columns(store.column(ID).cast(pa.string()).combine_chunks())
    left = join.finish()
    made = selection(store, None)
    table = made.rows
    replaced = [name for name in metadata.schema.names if name in table.column_names]
    for name, column in zip(metadata.schema.names, found, strict=True):
        narrowest = NarrowestType(text=metadata.text)
        narrowest.see(column)
        typed = column.cast(narrowest.type)
        at = table.schema.get_field_index(name)
        table = table.append_column(name, typed) if at < 0 else table.set_column(at, name, typed)
    joined = f"{len(store) - left.records:,} of {counted(len(store), 'row')}"
    said = f"{file}: {', '.join(metadata.schema.names)} joined by id to {joined}"
    said += f", in place of the store's own {', '.join(replaced)}" if replaced else ""
    if left.metadata:
        said += f"; {counted(left.metadata, 'row of the table has', 'rows of the table have')} no partner"
    return VirtualStore(store.path, made.attrs, made.parts, made.pieces, table), said
