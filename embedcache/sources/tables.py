"""Tables as records: which column is the id, which the sequence or the cell, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from embedcache.errors import InputError
from embedcache.records import ID, SEQUENCE, metadata_name
from embedcache.sources.batches import LETTERS, Fault, first_fault, sliced
from embedcache.sources.cells import (
    DIGITS,
    FAULTS,
    FORM,
    TOKEN_COLUMNS,
    are_numbers,
    is_token_list,
    lists_as_text,
    tidied,
)
from embedcache.sources.delimited import Delimited
from embedcache.sources.files import InputFile
from embedcache.sources.parquet import MAGIC, Parquet

ID_GUESSES = ("id", "name", "seq_id", "sequence_id", "accession", "protein_id", "read_id", "contig")
SEQUENCE_GUESSES = ("sequence", "seq", "dna", "protein", "text", *TOKEN_COLUMNS)
POSITION_GUESSES = ("pos", "pos_1based")


def open_table(file: InputFile) -> Delimited | Parquet:
    """Open parquet, told by its name or its first bytes, or else a text table; raises InputError as these two do."""
    if file.extension in (".parquet", ".pq") or file.head[1].startswith(MAGIC):
        return Parquet(file)
    return Delimited(file)


class Table:
    """Records of a table: ids, sequences (unless `sequences` is False) and all other columns as metadata.

    `id_column` and `sequence_column` name the columns; where they are None, the first of ID_GUESSES and of
    SEQUENCE_GUESSES that is there is taken, whatever its case. A table without ids, but with chrom and pos (or
    pos_1based), gets the ids ``chrom:pos:strand``, or ``chrom:pos`` where it has no strand. Blanks around ids and
    sequences are stripped.

    A cell is a list of token ids in parquet, or their text: the column holds cells where its first text is numbers.
    Either becomes text with one blank between the numbers. Cells without ids are called ``file:row``, from row 1, and so are
    all records of a `numbered` table without ids.

    Raises
    ------
    InputError
        On opening: a column is missing. While reading: an id or a sequence is empty or null, a sequence holds anything
        but letters, ``*``, ``-``, ``.``, or a cell anything but whole numbers; each with its line, or row in parquet.
    """

    def __init__(
        self,
        table: Delimited | Parquet,
        id_column: str | None = None,
        sequence_column: str | None = None,
        *,
        sequences: bool = True,
        id_guesses: Sequence[str] = ID_GUESSES,
        numbered: bool = False,
    ) -> None:
        self.table = table
        self.file = table.file
        self.text = table.text
        self.places = table.places
        self._sequence = self._found("sequence", sequence_column, SEQUENCE_GUESSES) if sequences else None
        self._cells = False
        self._guesses, self._numbers_rows = id_guesses, numbered
        self._ids = self._id_columns(id_column)
        whole = {self._sequence, *(self._ids if len(self._ids) == 1 else ())}
        self._metadata = [at for at in range(len(table.names)) if at not in whole]
        stored = [metadata_name(table.names[at]) for at in self._metadata]
        if twice := next((name for name in stored if stored.count(name) > 1), None):
            raise self.file.error(f"two columns would be stored as {twice!r}; rename one of them", table.header)
        self.schema = pa.schema(list(zip(stored, (table.types[at] for at in self._metadata), strict=True)))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all records; without sequences, the batches have the id and the columns of `schema` alone."""
        row = 0
        for arrays in self.table.arrays():
            ids = _joined([arrays[at] for at in self._ids]) if self._ids else self._numbered(row, len(arrays[0]))
            columns = {ID: ids}
            if self._sequence is not None:
                columns[SEQUENCE] = self._texts(arrays[self._sequence], first=row == 0)
            fault = first_fault(ids, columns.get(SEQUENCE), DIGITS if self._cells else LETTERS)
            if fault is not None:
                raise self._error(fault, row + fault.row, ids[fault.row].as_py())
            columns |= zip(self.schema.names, (arrays[at] for at in self._metadata), strict=True)
            batch = pa.record_batch(columns)
            yield from sliced(batch) if self._sequence is not None else (batch,)
            row += len(batch)

    @property
    def has_ids(self) -> bool:
        """Whether ids come from columns; otherwise records are numbered."""
        return bool(self._ids)

    def place(self, row: int) -> str:
        """Say where a row, counted from 0, stands in the file."""
        return next(islice(self.places(), row, None))

    def _texts(self, column: pa.Array, first: bool) -> pa.Array:
        """Write sequences or cells (n,) as large_string (n,)."""
        if is_token_list(column.type):
            self._cells = True
            return lists_as_text(column)
        texts = pc.ascii_trim_whitespace(column.cast(pa.large_string()))
        if first:
            self._cells = are_numbers(texts)
        return tidied(texts) if self._cells else texts

    def _numbered(self, row: int, rows: int) -> pa.Array:
        """Name rows after their file and number: ``cells:1``."""
        stem = Path(self.file.name).name.partition(".")[0]
        return pa.array([f"{stem}:{number}" for number in range(row + 1, row + rows + 1)])

    def _id_columns(self, given: str | None) -> list[int]:
        """Return the columns that make the ids, none where records have to be numbered."""
        lowered = self._lowered()
        if given is not None or any(guess in lowered for guess in self._guesses):
            return [self._found("id", given, self._guesses)]
        if "chrom" in lowered:
            position = next((lowered[guess] for guess in POSITION_GUESSES if guess in lowered), None)
            if position is not None:
                return [lowered["chrom"], position, *([lowered["strand"]] if "strand" in lowered else [])]
        return [] if self._numbers_rows or self._are_cells() else [self._found("id", None, self._guesses)]

    def _are_cells(self) -> bool:
        """Whether the column of sequences is one of cells by its type or name."""
        at = self._sequence
        return at is not None and (is_token_list(self.table.types[at]) or self.table.names[at].lower() in TOKEN_COLUMNS)

    def _found(self, what: str, given: str | None, guesses: Sequence[str]) -> int:
        """Return the place of the column for `what`; raises InputError where it is missing or of an unfit type."""
        names = self.table.names
        lowered = self._lowered()
        known = f"the columns are {', '.join(names[:30])}{', ...' if len(names) > 30 else ''}"
        if given is not None and given not in names:
            message = f"there is no column {given!r}, given with --{what}-column; {known}"
            raise self.file.error(message, self.table.header)
        at = (
            next((lowered[guess] for guess in guesses if guess in lowered), None)
            if given is None
            else names.index(given)
        )
        if at is None:
            message = f"no column is named like the {what}s; {known}; name the one to take with --{what}-column"
            raise self.file.error(message, self.table.header)
        kind = self.table.types[at]
        if not (is_text(kind) or (pa.types.is_integer(kind) if what == "id" else is_token_list(kind))):
            wanted = "text" if what == "id" else "text or lists of whole numbers"
            message = f"the column {names[at]!r} holds {kind}, not {wanted}; name another one with --{what}-column"
            raise self.file.error(message, self.table.header)
        return at

    def _lowered(self) -> dict[str, int]:
        return {name.lower(): at for at, name in reversed(list(enumerate(self.table.names)))}

    def _error(self, fault: Fault, row: int, name: str | None) -> InputError:
        what = "list of tokens" if self._cells and fault.column == "sequence" else fault.column
        if fault.junk is not None and self._cells:
            found = FAULTS.get(fault.junk, fault.found)
            return self.file.error(f"{found} among the tokens of {name!r}; {FORM}", self.place(row))
        if fault.junk is not None:
            found = f"{fault.found} in the sequence of {name!r}; a sequence holds letters, '*', '-' and '.' only"
            hint = "; join k-mers to one sequence first" if fault.junk == ord(" ") else ""
            return self.file.error(found + hint, self.place(row))
        whose = f" of {name!r}" if fault.column == "sequence" else ""
        counts = " (NA, NaN, nan and null count as empty)" if self.text else ""
        return self.file.error(f"the {what}{whose} is empty{counts}; fill it in or drop the row", self.place(row))


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of the string types."""
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _joined(columns: list[pa.Array]) -> pa.Array:
    texts = [pc.ascii_trim_whitespace(column.cast(pa.string())) for column in columns]
    return pc.binary_join_element_wise(*texts, ":") if len(texts) > 1 else texts[0]
