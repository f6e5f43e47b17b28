"""BED and GFF as named columns: text without a header line, with comments in between."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa

from embedcache.sources.batches import BATCH_ROWS
from embedcache.sources.files import InputFile, shown

BED, GFF = "BED", "GFF"
BED_EXTENSIONS, GFF_EXTENSIONS = (".bed",), (".gff", ".gff3", ".gtf")
_NAMES = {
    BED: "chrom start end name score strand thick_start thick_end item_rgb block_count block_sizes block_starts".split(),
    GFF: "chrom source type start end score strand phase attributes".split(),
}
_AT_LEAST = {BED: 3, GFF: 8}
_MISSING = {".", ""}


class Intervals:
    """The lines of a BED or GFF file (GTF too); values are strings, ``.`` is null.

    Comments, ``track`` and ``browser`` lines are passed over, and a GFF ends at ``##FASTA``. Fields of BED are separated by
    tabs, or by blanks where a line has no tab. Columns are called as their formats call them; a first line of BED that names
    its columns is taken as the header, and columns after the twelfth are called column_13 and so on otherwise.

    Raises
    ------
    InputError
        On opening: the file is empty or has no rows. While reading: a line with another number of fields than the first,
        or that is not UTF-8 text, or damaged gzip data; each with its line.
    """

    text = True
    header: int | None = None

    def __init__(self, file: InputFile, kind: str) -> None:
        self.file, self.kind = file, kind
        self._names: list[str] | None = None
        first = next(self._lines(), None)
        if first is None:
            raise file.error(f"the {kind} file has no rows" if file.head[1] else "the file is empty", 1)
        line, fields = first
        if len(fields) < _AT_LEAST[kind]:
            expected = ", ".join(_NAMES[kind][: _AT_LEAST[kind]])
            raise file.error(
                f"{kind} has the fields {expected} with tabs between them, found {shown(' '.join(fields).encode())}",
                line,
            )
        if kind == BED and not fields[1].strip().isdigit() and not fields[2].strip().isdigit():
            self._names = [name.lstrip("#").strip() for name in fields]
            self.header = line
        known = _NAMES[kind]
        numbered = [known[at] if at < len(known) else f"column_{at + 1}" for at in range(len(fields))]
        self.names = numbered if self._names is None else [*known[:3], *self._names[3:]]
        self.types = [pa.string()] * len(self.names)
        if self._names is not None and next(self._rows(), None) is None:
            raise file.error("the table has a header and no rows", line)

    def arrays(self) -> Iterator[list[pa.Array]]:
        """Read from the start, 16,384 rows at a time; one array for each of `names`."""
        rows = self._rows()
        while block := list(islice(rows, BATCH_ROWS)):
            columns = zip(*(fields for _, fields in block), strict=True)
            yield [
                pa.array([None if value in _MISSING else value for value in column], pa.string()) for column in columns
            ]

    def places(self) -> Iterator[str]:
        """Say for row after row its line."""
        return (f"line {line}" for line, _ in self._rows())

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        for line, fields in self._lines():
            if line == self.header:
                continue
            if len(fields) != len(self.names):
                raise self.file.error(
                    f"the line has {len(fields)} fields where the first has {len(self.names)}; put one tab between fields",
                    line,
                )
            yield line, fields

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        with self.file.reading() as stream:
            for line, text in enumerate(stream, 1):
                if text.startswith(b"##FASTA") and self.kind == GFF:
                    return
                if self._is_comment(text):
                    continue
                try:
                    content = text.decode().rstrip("\r\n")
                except UnicodeDecodeError:
                    raise self.file.error("the line is not UTF-8 text; save the file as UTF-8", line) from None
                yield line, [field.strip() for field in (content.split("\t") if "\t" in content else content.split())]

    def _is_comment(self, text: bytes) -> bool:
        header = self.kind == BED and text.lower().startswith((b"#chrom\t", b"#chr\t"))
        return not text.strip() or (text.startswith((b"#", b"track", b"browser")) and not header)
