"""``*_gene_rank_tokens.npz``: cells that were ranked before, by a vocabulary of their own, with a table row for row.

    tokens     (cells, L) whole numbers: the genes of a cell, the most expressed first, then padding
    lengths    (cells,) how many of them are genes

The table of metadata has one row for each cell, in the same order; ``gene_vocab.tsv`` says which gene each number is.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import NDArray

from embedcache.cells.dictionary import read_tokens
from embedcache.cells.rank import cells_as_text
from embedcache.cells.vocabulary import GeneVocabulary
from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.records import ID, SEQUENCE
from embedcache.sources.cells import CELL_IDS
from embedcache.sources.count_matrix import block_rows
from embedcache.sources.files import InputFile, input_file
from embedcache.sources.side_file import SideFile
from embedcache.sources.tables import ID_GUESSES, Table, open_table

TOKENS, LENGTHS, VOCABULARY = "tokens", "lengths", "gene_vocab.tsv"


@dataclass(frozen=True)
class OwnGenes:
    """The numbers of a file, as tokens of the encoder: (largest number + 1,), -1 for a gene without a token."""

    file: SideFile
    tokens: NDArray[np.int64]
    remark: str

    @classmethod
    def read(cls, path: str | Path, vocabulary: GeneVocabulary) -> OwnGenes:
        """Read gene -> number, and look the genes up; raises `InputError` where nearly none has a token."""
        numbers = read_tokens(path)
        genes = vocabulary.map(list(numbers))
        genes.check(str(path), "its first column", vocabulary)
        tokens = np.full(max(numbers.values()) + 1, -1, np.int64)
        tokens[np.fromiter(numbers.values(), np.int64)] = genes.tokens
        return cls(SideFile.of(path), tokens, genes.remark(str(path)))


class GeneRankTokens:
    """Cells of a ``*_gene_rank_tokens.npz``: a `embedcache.sources.batches.Reader`.

    Genes are mapped through `own` to the tokens of the encoder, those without one are left out, the order stays, and what
    is over the encoder's limit is cut off. `metadata` gives columns row by row, and ids if it has a column for them
    (`id_column`, or one called cell, barcode, id ...); otherwise cells are called ``file:row``, from row 1. Arrays of Python
    objects are refused: reading them could run code.

    Raises
    ------
    InputError
        On opening: an array is missing or damaged, or the table has another number of rows. While reading: a length is
        beyond the tokens, a token is not in the vocabulary, or a cell has no gene of the encoder.
    """

    text = True

    def __init__(
        self,
        file: InputFile,
        vocabulary: GeneVocabulary,
        own: OwnGenes | None = None,
        *,
        metadata: str | None = None,
        id_column: str | None = None,
        skip_bad: bool = False,
    ) -> None:
        self.file, self._vocabulary, self._own, self._skip_bad = file, vocabulary, own, skip_bad
        self._skipped: list[int] = []
        with self._archive() as archive:
            self._lengths = self._read_lengths(archive)
            with self._array(archive, TOKENS) as (_, shape, _):
                if len(shape) != 2 or shape[0] != len(self._lengths):
                    raise file.error(f"{TOKENS} is {shape}, and there are {len(self._lengths):,} {LENGTHS}")
        self._width = shape[1]
        wrong = np.flatnonzero((self._lengths < 0) | (self._lengths > self._width))
        if len(wrong):
            row = int(wrong[0])
            raise file.error(f"the length {self._lengths[row]} is not from 0 to {self._width}, the width of {TOKENS}",
                             self._place(row))  # fmt: skip
        self._ids, self._columns, self.schema = self._described(metadata, id_column)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user should know of the genes, and, after a full pass, of cells that were left out."""
        as_they_are = (
            f"caution  the tokens of {self.file.name} are taken as the encoder's own; if they are of another vocabulary, "
            f"name its {VOCABULARY} with --gene-vocabulary"
        )
        left_out = f"cells    {len(self._skipped):,} without a gene of the encoder are left out (--skip-bad)"
        return (self._own.remark if self._own else as_they_are, *([left_out] if self._skipped else []))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all cells."""
        row, skipped = 0, []
        for block in self._blocks():
            tokens, lengths = self._encoded(block, row)
            texts = cells_as_text(tokens, lengths, self._vocabulary)
            columns = [column.slice(row, len(lengths)) for column in (self._ids, *self._columns)]
            batch = pa.record_batch([columns[0], texts, *columns[1:]], names=[ID, SEQUENCE, *self.schema.names])
            if (empty := np.flatnonzero(lengths == 0)).size:
                if not self._skip_bad:
                    name = self._ids[row + int(empty[0])].as_py()
                    raise self.file.error(
                        f"the cell {name!r} has no gene that the encoder knows; remove it, or leave such cells out with "
                        "--skip-bad",
                        self._place(row + int(empty[0])),
                    )
                skipped += (row + empty).tolist()
                batch = batch.filter(pa.array(lengths > 0))
            row += len(lengths)
            if len(batch):
                yield batch
        self._skipped = skipped

    def places(self) -> Iterator[str]:
        """Say for each cell that is not left out its row, counted from 1."""
        skipped = set(self._skipped)
        return (self._place(row) for row in range(len(self._lengths)) if row not in skipped)

    @staticmethod
    def _place(row: int) -> str:
        return f"row {row + 1}"

    def _encoded(self, block: NDArray[np.integer[Any]], row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The encoder's tokens of some cells end to end, and how many each has."""
        lengths = self._lengths[row : row + len(block)]
        inside = np.arange(self._width) < lengths[:, None]
        cells, numbers = np.repeat(np.arange(len(block)), lengths), block[inside].astype(np.int64)
        most = len(self._own.tokens) if self._own else max(self._vocabulary.tokens.values()) + 1
        wrong = np.flatnonzero((numbers < 0) | (numbers >= most))
        if len(wrong):
            at = int(wrong[0])
            whose = f"the vocabulary {self._own.file.path}" if self._own else "the encoder"
            raise self.file.error(
                f"the token {numbers[at]} is not among the {most:,} of {whose}: padding begins after the length, or "
                "--gene-vocabulary is another one's",
                self._place(row + int(cells[at])),
            )
        tokens = self._own.tokens[numbers] if self._own else numbers
        known = tokens >= 0
        tokens, cells = tokens[known], cells[known]
        first = np.sort(np.unique(cells * (tokens.max(initial=0) + 1) + tokens, return_index=True)[1])
        tokens, cells = tokens[first], cells[first]  # a gene that has two names counts where it first stands
        counts = np.bincount(cells, minlength=len(block))
        rank = np.arange(len(tokens)) - np.repeat(np.cumsum(counts) - counts, counts)
        return tokens[rank < self._vocabulary.genes], np.minimum(counts, self._vocabulary.genes)

    def _blocks(self) -> Iterator[NDArray[np.integer[Any]]]:
        """The tokens, some cells at a time; the whole array is never in memory, unless it was written column by column."""
        with self._archive() as archive, self._array(archive, TOKENS) as (stream, shape, dtype):
            rows = block_rows(self._width)
            for start in range(0, shape[0], rows):
                count = min(rows, shape[0] - start) * self._width
                content = stream.read(count * dtype.itemsize)
                if len(content) < count * dtype.itemsize:
                    raise self.file.error(f"{TOKENS} ends in the middle; copy the file again", self._place(start))
                yield np.frombuffer(content, dtype).reshape(-1, self._width)

    def _read_lengths(self, archive: zipfile.ZipFile) -> NDArray[np.int64]:
        with self._array(archive, LENGTHS) as (stream, shape, dtype):
            if len(shape) != 1:
                raise self.file.error(f"{LENGTHS} is {shape}, and one number for each cell is expected")
            return np.frombuffer(stream.read(), dtype, shape[0]).astype(np.int64)

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.file.path) as archive:
                yield archive
        except InputError:
            raise
        except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
            raise self.file.error(f"the file is cut off or damaged ({error}); copy it again") from error

    @contextmanager
    def _array(
        self, archive: zipfile.ZipFile, name: str
    ) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[np.integer[Any]]]]:
        """An array's bytes, shape and type, by numpy's format; only plain whole numbers are read."""
        names = [entry.removesuffix(".npy") for entry in archive.namelist()]
        if name not in names:
            there = ", ".join(names[:10]) or "nothing"
            raise self.file.error(
                f"there is no array {name!r}; arrays {TOKENS} and {LENGTHS} are expected, it has {there}"
            )
        with archive.open(f"{name}.npy") as stream:
            version = npy.read_magic(stream)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, by_columns, dtype = read(stream)
            if dtype.hasobject:
                raise self.file.error(
                    f"{name} holds Python objects, which could run code when they are read; save it as numbers "
                    f"(np.savez(file, {name}=array.astype(np.int32), ...))"
                )
            if dtype.kind not in "iu" or by_columns:
                kind = "an array stored by columns" if by_columns else str(dtype)
                raise self.file.error(f"{name} is {kind}; whole numbers stored row by row are read")
            yield stream, shape, dtype

    def _described(self, metadata: str | None, id_column: str | None) -> tuple[pa.Array, Sequence[pa.Array], pa.Schema]:
        """Ids and columns of all cells, from the table that goes row by row."""
        cells = len(self._lengths)
        stem = Path(self.file.name).name.partition(".")[0]
        numbered = pa.array([f"{stem}:{row}" for row in range(1, cells + 1)], pa.string())
        if metadata is None:
            return numbered, (), pa.schema([])
        file = input_file(metadata, attach=False)
        table = Table(open_table(file), id_column, sequences=False, id_guesses=(*CELL_IDS, *ID_GUESSES), numbered=True)
        rows = pa.Table.from_batches(table.batches()).combine_chunks()
        if len(rows) != cells:
            raise file.error(
                f"the table has {counted(len(rows), 'row')}, and {self.file.name} {counted(cells, 'cell')}; they go row by "
                "row, so give the table that was written with it"
            )
        columns = [rows.column(name).combine_chunks() for name in table.schema.names]
        self._check_lengths(file, table, columns)
        return rows.column(ID).combine_chunks() if table.has_ids else numbered, columns, table.schema

    def _check_lengths(self, file: InputFile, table: Table, columns: Sequence[pa.Array]) -> None:
        """A column token_length tells whether table and cells are in the same order."""
        if "token_length" not in table.schema.names:
            return
        try:
            told = columns[table.schema.names.index("token_length")].cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            return
        wrong = np.flatnonzero(told != self._lengths)
        if len(wrong):
            row = int(wrong[0])
            raise file.error(
                f"token_length is {told[row]:g} here and {self._lengths[row]} in {self.file.name}: the rows are not in the "
                "order of the cells; give the table that was written with it",
                table.place(row),
            )
