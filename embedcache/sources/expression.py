"""Tables of expression, genes by cells or cells by genes, as CSV or TSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray
from scipy import sparse

from embedcache.cells.vocabulary import GeneVocabulary
from embedcache.errors import InputError
from embedcache.sources.count_matrix import CellBlock, block_rows
from embedcache.sources.delimited import BLOCK_BYTES, NULLS, Delimited
from embedcache.sources.files import InputFile

GenesIn = Literal["rows", "columns"]


class ExpressionTable:
    """A table of numbers whose header names the cells and whose first column names the genes, or the other way round.

    Where `genes_in` is None, that is told from which of the two have more tokens. A header may lack the name of the first
    column, as R writes it. A table with its genes in rows is held in memory, without its zeros; with its cells in rows, it
    is read as a stream.

    Raises
    ------
    InputError
        On opening: it is no table. While reading: a field is missing or no number, a row has too few or too many; each with
        its line and column.
    """

    what = "the table"
    way_out = "give the table of raw counts"
    schema = pa.schema([])
    remarks: Sequence[str] = ()

    def __init__(self, file: InputFile, vocabulary: GeneVocabulary, genes_in: GenesIn | None = None) -> None:
        self.file = file
        self._table = Delimited(file)
        header = [name.strip() for name in self._table.names]
        first = self._first_row()
        if len(first) == len(header) + 1:
            header = ["", *header]
        if len(header) < 2:
            raise file.error("a table of expression has a column of names and more of numbers; this one has one column")
        self._header = header
        self._row_names = self._first_column()
        in_rows, in_columns = vocabulary.share(self._row_names), vocabulary.share(header[1:])
        self.genes_in: GenesIn = genes_in or ("columns" if in_columns > in_rows else "rows")
        genes, cells = self._row_names, header[1:]
        if self.genes_in == "columns":
            genes, cells = cells, genes
        self._genes = len(genes)
        self._cells = cells
        called = {"rows": "first column", "columns": "header"}[self.genes_in]
        self.gene_names: Mapping[str, Sequence[str]] = {called: genes}

    def blocks(self) -> Iterator[CellBlock]:
        """Read from the start."""
        row = 0
        for counts in self._by_cells() if self.genes_in == "columns" else self._transposed():
            ids = pa.array([name.strip() for name in self._cells[row : row + counts.shape[0]]], pa.string())
            yield CellBlock(ids, counts)
            row += counts.shape[0]

    def place(self, cell: int) -> str:
        """Say where a cell, counted from 0, stands: its line or its column."""
        if self.genes_in == "rows":
            return f"column {cell + 2}"
        return next(islice(self._table.places(), cell, None))

    def _by_cells(self) -> Iterator[sparse.csr_matrix]:
        for block in self._numbers():
            for start in range(0, len(block), rows := block_rows(self._genes)):
                yield sparse.csr_matrix(block[start : start + rows])

    def _transposed(self) -> Iterator[sparse.csr_matrix]:
        for start in range(0, len(self._cells), rows := block_rows(self._genes)):
            yield self._whole[start : start + rows]

    @cached_property
    def _whole(self) -> sparse.csr_matrix:
        return sparse.vstack([sparse.csr_matrix(block) for block in self._numbers()], format="csc").T.tocsr()

    def _first_column(self) -> list[str]:
        names: list[str] = []
        for batch in self._read({"0": pa.string()}):
            names += ["" if name is None else name.strip() for name in batch.column(0).to_pylist()]
        return names

    def _numbers(self) -> Iterator[NDArray[np.float64]]:
        """The numbers of the table, some rows at a time."""
        line = 0
        for batch in self._read({str(at): pa.float64() for at in range(1, len(self._header))}):
            for at, column in enumerate(batch.columns, 1):
                if column.null_count:
                    row = line + int(np.asarray(column.is_null()).argmax())
                    raise self._missing(row, at)
            yield np.column_stack([column.to_numpy(zero_copy_only=False) for column in batch.columns])
            line += len(batch)

    def _read(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        read = pacsv.ReadOptions(
            use_threads=False,
            block_size=BLOCK_BYTES,
            column_names=[str(at) for at in range(len(self._header))],
            skip_rows=self._table.header,
        )
        parse = pacsv.ParseOptions(delimiter=self._table.delimiter, newlines_in_values=False)
        convert = pacsv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=NULLS, strings_can_be_null=True
        )
        file = pa.OSFile(str(self.file.path))
        try:
            with pa.CompressedInputStream(file, "gzip") if self.file.gzipped else file as stream:
                yield from pacsv.open_csv(stream, read, parse, convert)
        except (pa.ArrowInvalid, OSError) as error:
            self._explain()
            raise self.file.error(f"this cannot be read as a table of numbers ({error})") from error

    def _first_row(self) -> list[str]:
        return next(islice(self._lines(), 1, None))[1]

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Header and rows with their lines, slowly."""
        line = 1
        with (
            self.file.reading() as stream,
            io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="") as text,
        ):
            rows = csv.reader(text, delimiter=self._table.delimiter)
            for fields in rows:
                if fields:
                    yield line, fields
                line = rows.line_num + 1

    def _explain(self) -> None:
        """Raise for the first field that is no number, or the first row that has too few or too many."""
        for line, fields in islice(self._lines(), 1, None):
            if len(fields) != len(self._header):
                raise self.file.error(
                    f"the row has {len(fields)} fields where the header has {len(self._header)}; complete it", line
                )
            for at, field in enumerate(fields[1:], 1):
                if not _is_number(field):
                    raise self.file.error(
                        f"{field[:40]!r} in the column {self._header[at]!r} is no number; a table of expression has one "
                        "column of names and numbers in all others: put other columns into a table for --metadata",
                        line,
                    )

    def _missing(self, row: int, at: int) -> InputError:
        line = next(islice(self._lines(), row + 1, None))[0]
        message = f"the value of {self._row_names[row]!r} in the column {self._header[at]!r} is missing"
        return self.file.error(f"{message}; write 0 where nothing was counted", line)


def _is_number(field: str) -> bool:
    if field in NULLS:
        return True
    try:
        float(field)
    except ValueError:
        return False
    return True
