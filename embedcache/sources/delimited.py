"""CSV and TSV, plain or gzip, as named columns of strings."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import islice

import pyarrow as pa
import pyarrow.csv as pacsv

from embedcache.errors import InputError
from embedcache.sources.files import InputFile, shown

NULLS = ["", "NA", "NaN", "nan", "null"]
BLOCK_BYTES = 1 << 23
DELIMITERS = {".csv": ",\t;", ".tsv": "\t,;"}

csv.field_size_limit(2**31 - 1)  # the default, 131,072 letters, is shorter than a contig


class Delimited:
    """A text table with a header line; values are strings; nothing, ``NA``, ``NaN``, ``nan`` and ``null`` are null.

    Quoted fields may hold delimiters and line ends; blank lines are skipped. The delimiter is that of the extension,
    or, where the header has none of those, the first of tab, comma and semicolon that it has.

    Raises
    ------
    InputError
        On opening: the file is empty, not UTF-8 text, or has no header or no rows. While reading: a row with too few or
        too many fields, a quote that is never closed, or damaged gzip data; each with its line.
    """

    text = True

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self.header, head = file.head
        if not head:
            raise file.error("the file is empty", 1)
        first = head.splitlines()[0]
        candidates = DELIMITERS.get(file.extension, "\t,;")
        self.delimiter = next((mark for mark in candidates if mark.encode() in first), "")
        if b"\0" in head or not self.delimiter:
            expected = "a FASTA header ('>') or column names with tabs, commas or semicolons between them"
            raise file.error(f"expected {expected} as UTF-8 text, found {shown(first)}", self.header)
        rows = self._rows()
        _, self._header = next(rows)
        if _undecodable(self._header):
            raise file.error(
                f"the column names {shown(first)} are not UTF-8 text; save the table as UTF-8", self.header
            )
        if next(rows, None) is None:
            raise file.error("the table has a header and no rows", self.header)
        self.names = [name.strip() or f"column_{at}" for at, name in enumerate(self._header, 1)]
        self.types = [pa.string()] * len(self.names)

    def arrays(self) -> Iterator[list[pa.Array]]:
        """Read from the start in blocks of 8 MB; one array for each of `names`."""
        read = pacsv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
        parse = pacsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True)
        convert = pacsv.ConvertOptions(
            column_types=dict.fromkeys(self._header, pa.string()), null_values=NULLS, strings_can_be_null=True
        )
        last: list[pa.Array] = []
        # pyarrow's own file, no Python one: its reading thread may still hold that when the interpreter ends, which aborts
        # the process.
        file = pa.OSFile(str(self.file.path))
        try:
            with pa.CompressedInputStream(file, "gzip") if self.file.gzipped else file as stream:
                for batch in pacsv.open_csv(stream, read, parse, convert):
                    if len(batch):
                        last = [column.slice(len(batch) - 1) for column in batch.columns]
                        yield batch.columns
        except pa.ArrowInvalid as error:
            raise self._explained(str(error)) from error
        except OSError as error:
            for _ in self._rows():  # says the line up to which the gzip data is good
                pass
            raise self.file.error(f"the file cannot be read ({error})") from error
        if any("\n" in (column[0].as_py() or "") for column in last):
            for _ in self._rows(strict=True):  # pyarrow takes a quote that is never closed for a field to the end
                pass

    def places(self) -> Iterator[str]:
        """Say for row after row the line it starts on."""
        return (f"line {line}" for line, _ in islice(self._rows(), 1, None))

    def _rows(self, *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
        """Yield header and rows with their lines: slower than pyarrow, for where the line is what matters."""
        line = 1
        with (
            self.file.reading() as stream,
            io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="") as text,
        ):
            rows = csv.reader(text, delimiter=self.delimiter, strict=strict)
            try:
                for fields in rows:
                    if fields:
                        yield line, fields
                    line = rows.line_num + 1
            except csv.Error as error:
                raise self.file.error(f"a quote opened on this line is not closed ({error})", line) from error

    def _explained(self, reason: str) -> InputError:
        """Find the row that pyarrow could not read."""
        for line, fields in self._rows():
            if len(fields) != len(self.names):
                what = f"the row has {len(fields)} fields where the header has {len(self.names)}"
                return self.file.error(f"{what}; complete it, or quote fields that hold {self.delimiter!r}", line)
            if _undecodable(fields):
                return self.file.error("the row is not UTF-8 text; save the table as UTF-8", line)
            if (letters := sum(map(len, fields))) > BLOCK_BYTES - len(fields) - 2:
                return self.file.error(f"a row of {letters:,} letters is too long here; use FASTA or parquet", line)
        return self.file.error(f"this cannot be read as a table ({reason})")


def _undecodable(fields: list[str]) -> bool:
    return any("\udc80" <= letter <= "\udcff" for field in fields for letter in field)
