"""What comes to imported records from other files: columns by id, and sequences by id."""

from __future__ import annotations

import pyarrow as pa

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.exchange.embeddings import LABEL, narrowed, with_columns
from embedcache.progress import Progress
from embedcache.records import ID, SEQUENCE, examples
from embedcache.sources.files import input_file
from embedcache.sources.inputs import open_source
from embedcache.sources.metadata import Join, Metadata
from embedcache.sources.tables import Table, open_table


def with_metadata(rows: pa.Table, file: str, id_column: str | None, progress: Progress) -> pa.Table:
    """Join the columns of a table by id.

    Raises
    ------
    InputError : the table cannot be read, no id matches, or a column comes twice.
    """
    metadata = Metadata(Table(open_table(input_file(file, attach=False)), id_column, sequences=False))
    join = Join(metadata)
    columns = join.columns(rows.column(ID).combine_chunks())
    left = join.finish()
    rows = with_columns(rows, dict(zip(metadata.schema.names, columns, strict=True)))
    rows = narrowed(rows, metadata.schema.names if metadata.text else ())
    if left.records or left.metadata:
        progress.say(f"metadata {left}")
    return rows


def labelled(rows: pa.Table, column: str | None) -> pa.Table:
    """Call a column label; raises `InputError` where it is not there, or another one has that name."""
    if column is None or (column == LABEL and LABEL in rows.column_names):
        return rows
    if column not in rows.column_names:
        raise InputError(f"--label-column {column}: there is no such column; there are {', '.join(rows.column_names)}")
    if LABEL in rows.column_names:
        raise InputError(
            f"--label-column {column}: there is a column 'label' already; leave the option out, or rename one"
        )
    return rows.rename_columns([LABEL if name == column else name for name in rows.column_names])


def read_sequences(text: str, ids: pa.ChunkedArray, id_column: str | None, progress: Progress) -> pa.Array:
    """Read the sequence of each id from a FASTA file or a table, large_string (N,).

    Raises
    ------
    InputError : an id has no sequence there, or the file cannot be read or has an id twice.
    """
    # ids of FASTA files have no column
    try:
        source = open_source([text], id_column=id_column)
    except InputError:
        if id_column is None:
            raise
        source = open_source([text])
    table = pa.Table.from_batches([batch.select([ID, SEQUENCE]) for batch in source.batches()])
    row_of: dict[str, int] = {}
    for row, name in enumerate(table.column(ID).to_pylist()):
        if row_of.setdefault(name, row) != row:
            raise InputError(f"{source.name} has the id '{name}' twice: leave one sequence for each id")
    wanted = ids.to_pylist()
    missing = [name for name in wanted if name not in row_of]
    if missing:
        raise InputError(
            f"{source.name} has no sequence for {len(missing):,} of {counted(len(wanted), 'id')}"
            f"{examples(tuple(missing[:4]))}: complete it, or leave --sequences out"
        )
    if len(row_of) > len(wanted):
        others = counted(len(row_of) - len(wanted), "sequence there has", "sequences there have")
        progress.say(f"         {others} no vector: left out")
    return table.column(SEQUENCE).take(pa.array([row_of[name] for name in wanted])).combine_chunks()
