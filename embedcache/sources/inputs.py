"""From the strings of the command line to one source: files put after each other, metadata joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from embedcache.errors import InputError
from embedcache.records import ID, SEQUENCE, Unmatched, metadata_name, remarks_of
from embedcache.sources.batches import Reader
from embedcache.sources.cell_inputs import CellInputs, refuse_unused
from embedcache.sources.cells import CELL_IDS, CellFormat, cell_format
from embedcache.sources.delimited import NULLS
from embedcache.sources.fasta import EXTENSIONS as FASTA_EXTENSIONS
from embedcache.sources.fasta import Fasta
from embedcache.sources.fastq import EXTENSIONS as FASTQ_EXTENSIONS
from embedcache.sources.fastq import Fastq
from embedcache.sources.files import STDIN, InputFile, input_file, is_store
from embedcache.sources.metadata import Join, Metadata
from embedcache.sources.stores import StoredRecords
from embedcache.sources.tables import ID_GUESSES, SEQUENCE_GUESSES, Table, is_text, open_table

TABLE_EXTENSIONS = (".csv", ".tsv", ".parquet", ".pq")


def open_source(
    inputs: Sequence[str],
    *,
    metadata: str | None = None,
    id_column: str | None = None,
    sequence_column: str | None = None,
    cells: CellInputs | None = None,
) -> Records:
    """Open FASTA files, FASTQ files, tables and stores as one source of records.

    Parameters
    ----------
    inputs
        Paths, or ``-`` for standard input, each with columns attached to all its records where it ends in
        ``:name=value,name=value``. The format is told by the extension (below .gz), else by the content.
    metadata
        A table of more columns, joined by id. Its id column is `id_column` where it has that column, else guessed.
    id_column, sequence_column
        Columns of the input tables; None: guessed, see `embedcache.sources.tables.Table`.
    cells
        What the user chose about cells, and the encoder that ranks their genes.

    Raises
    ------
    InputError
        A file cannot be read, or lacks a column; a column comes from two places; an option has nothing to act on.
    """
    if not inputs:
        raise InputError(
            "no input; give FASTA or FASTQ files, tables (CSV, TSV, parquet), stores, or - for standard input"
        )
    if [*inputs, metadata].count(STDIN) > 1:
        raise InputError("standard input (-) can be read only once; save it to a file first")
    files = [input_file(text) for text in inputs]
    cells = cells or CellInputs()
    formats = [None if is_store(file.path) else _cell_format(file, sequence_column, cells) for file in files]
    if not any(formats):
        refuse_unused(cells.options)
    tables = [
        format is None and not is_store(file.path) and is_table(file)
        for file, format in zip(files, formats, strict=True)
    ]
    if not any(tables) and (sequence_column or (id_column and metadata is None)):
        option = "--sequence-column" if sequence_column else "--id-column"
        raise InputError(f"{option} names a column of a table, and the input has none; leave the option out")
    row_by_row = metadata is not None and CellFormat.RANKED in formats
    if row_by_row and len(files) > 1:
        raise InputError("--metadata goes row by row with one .npz of ranked tokens; give one .npz at a time")
    readers: list[Reader] = [
        cells.open(file, format, metadata, id_column)
        if format
        else Table(open_table(file), id_column, sequence_column)
        if table
        else _without_columns(file)
        for file, format, table in zip(files, formats, tables, strict=True)
    ]
    guesses = (*CELL_IDS, *ID_GUESSES) if any(formats) else ID_GUESSES
    table = None if row_by_row else open_metadata(metadata, id_column, strict=not any(tables), id_guesses=guesses)
    return Records(files, readers, table, cells.provenance)


def open_metadata(
    metadata: str | None, id_column: str | None, *, strict: bool, id_guesses: Sequence[str] = ID_GUESSES
) -> Metadata | None:
    """Open the table of ``--metadata``; unless `strict`, it need not have the `id_column`, which may be the input's."""
    if metadata is None:
        return None
    rows = open_table(input_file(metadata, attach=False))
    own = id_column if strict or id_column in rows.names else None
    return Metadata(Table(rows, own, sequences=False, id_guesses=id_guesses))


def _cell_format(file: InputFile, sequence_column: str | None, cells: CellInputs) -> CellFormat | None:
    """The format of cells: a text table holds counts if it has no column of sequences, and the encoder reads cells."""
    if format := cell_format(file.path, file.name):
        return format
    if sequence_column is not None or not is_table(file):
        return None
    table = open_table(file)
    named = not {name.lower() for name in table.names}.isdisjoint(SEQUENCE_GUESSES)
    if not table.text or (named and cells.options.genes_in is None):
        return None
    return CellFormat.TABLE if cells.takes_tables() else None


def is_table(file: InputFile) -> bool:
    """Whether to read a file as a table rather than as FASTA or FASTQ."""
    if file.extension in (*FASTA_EXTENSIONS, *FASTQ_EXTENSIONS, *TABLE_EXTENSIONS):
        return file.extension in TABLE_EXTENSIONS
    return not file.head[1].startswith((b">", b"@"))


def _without_columns(file: InputFile) -> Reader:
    """Open a store, or FASTA or FASTQ, told by the first byte, or else by the name."""
    if is_store(file.path):
        return StoredRecords(file)
    first = file.head[1][:1]
    return Fastq(file) if first == b"@" or (first != b">" and file.extension in FASTQ_EXTENSIONS) else Fasta(file)


class Records:
    """The records of all inputs, one input after the other; a column that an input lacks is null there.

    A `embedcache.records.Source`, with some attributes more. Where inputs hold a column in different types, it becomes
    the narrowest number type that holds both, else string.
    """

    name: str
    columns: tuple[str, ...]
    text_columns: frozenset[str]
    schema: pa.Schema
    """Schema of the batches: id, sequence and `columns`."""
    size_bytes: int
    """Size of the input files on disk, packed as they are."""
    unmatched: Unmatched | None
    """What ``--metadata`` left over; None without it and before the first full pass."""

    provenance: Mapping[str, object]
    """What a store keeps of how its records came about."""

    def __init__(
        self,
        files: Sequence[InputFile],
        readers: Sequence[Reader],
        metadata: Metadata | None,
        provenance: Mapping[str, object] | None = None,
    ) -> None:
        self.name = ", ".join(file.name for file in files[:3]) + (f" and {len(files) - 3} more" if files[3:] else "")
        self.size_bytes = sum(file.size for file in files)
        self.unmatched = None
        self.provenance = provenance or {}
        self._files = files
        self._readers = readers
        self._metadata = metadata
        self._attached = [_attached(file, reader) for file, reader in zip(files, readers, strict=True)]
        held: dict[str, list[tuple[pa.DataType, bool]]] = {}
        for reader, attached in zip(readers, self._attached, strict=True):
            for field in reader.schema:
                held.setdefault(field.name, []).append((field.type, reader.text))
            for name in attached:
                held.setdefault(name, []).append((pa.string(), True))
        self._own = pa.schema([(name, _common(name, [kind for kind, _ in kinds])) for name, kinds in held.items()])
        joined = metadata.schema if metadata else pa.schema([])
        if metadata and (twice := next((name for name in joined.names if name in held), None)):
            raise metadata.file.error(f"the column {twice!r} also comes with the input; rename it in one of the two")
        self.columns = (*self._own.names, *joined.names)
        self.schema = pa.schema([(ID, pa.string()), (SEQUENCE, pa.large_string()), *self._own, *joined])
        text = {name for name, kinds in held.items() if any(text for _, text in kinds) and not _kept_text(kinds)}
        self.text_columns = frozenset(text | set(joined.names if metadata and metadata.text else ()))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the readers have to say of their files after a full pass."""
        return tuple(dict.fromkeys(line for reader in self._readers for line in remarks_of(reader)))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all records from the start, in batches of at most 16,384 records and about 64 MB of letters.

        Raises
        ------
        InputError
            At the first bad record, with file and line; at the end, where no record has a row in the metadata.
        """
        join = Join(self._metadata) if self._metadata else None
        for file, reader, attached in zip(self._files, self._readers, self._attached, strict=True):
            for batch in reader.batches():
                arrays = [batch.column(ID), batch.column(SEQUENCE), *self._columns(batch, file, attached)]
                if join:
                    arrays += join.columns(batch.column(ID))
                yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)
        if join:
            self.unmatched = join.finish()

    def locate(self, rows: Sequence[int]) -> list[str]:
        """Say where each record (counted from 0 over all inputs) stands, as ``reads.fa.gz, line 12``; reads again."""
        wanted = set(rows)
        found: dict[int, str] = {}
        places = (
            f"{file.name}, {place}"
            for file, reader in zip(self._files, self._readers, strict=True)
            for place in reader.places()
        )
        for row, place in enumerate(places):
            if row in wanted:
                found[row] = place
                if len(found) == len(wanted):
                    break
        return [found[row] for row in rows]

    def _columns(self, batch: pa.RecordBatch, file: InputFile, attached: dict[str, str]) -> Iterator[pa.Array]:
        for field in self._own:
            if field.name in attached:
                value = attached[field.name]
                array = pa.repeat(pa.scalar(None if value in NULLS else value, pa.string()), len(batch))
            elif field.name in batch.schema.names:
                array = batch.column(field.name)
            else:
                array = pa.nulls(len(batch), field.type)
            try:
                yield array.cast(field.type)
            except pa.ArrowInvalid as error:
                message = (
                    f"the column {field.name!r} is {array.type} here and does not fit the type of the other inputs"
                )
                raise file.error(f"{message}, {field.type} ({error})") from error


def _attached(file: InputFile, reader: Reader) -> dict[str, str]:
    attached = {metadata_name(name): value for name, value in file.attached}
    if twice := next((name for name in attached if name in reader.schema.names), None):
        raise file.error(f"the column {twice!r} is attached, but the file has it already; attach another name")
    return attached


def _common(name: str, kinds: Sequence[pa.DataType]) -> pa.DataType:
    """Return the type that a column of several inputs has in the batches."""
    try:
        return pa.unify_schemas([pa.schema([(name, kind)]) for kind in kinds], promote_options="permissive").types[0]
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        if any(pa.types.is_nested(kind) for kind in kinds):
            held = " and ".join(sorted({str(kind) for kind in kinds}))
            raise InputError(f"the column {name!r} holds {held} in different inputs; make them alike") from None
        return pa.string()


def _kept_text(kinds: Sequence[tuple[pa.DataType, bool]]) -> bool:
    """Whether an input holds the column as strings of a typed format, where "007" was meant as text."""
    return any(is_text(kind) and not text for kind, text in kinds)
