"""Matrices of counts, cells by genes, as records: each cell becomes the text of its ranked gene tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from embedcache.cells.rank import Ranking, cells_as_text
from embedcache.cells.vocabulary import GeneMap, GeneVocabulary
from embedcache.errors import InputError
from embedcache.records import ID, SEQUENCE
from embedcache.sources.batches import BATCH_ROWS
from embedcache.sources.files import InputFile

BLOCK_VALUES = 1 << 24
"""Values of a block of cells, were it dense: 128 MB."""
_LOOK_LIKE_LOGARITHMS = 20.0


@dataclass(frozen=True)
class CellBlock:
    """Some cells one after the other: their ids (n,), their counts (n, G), and the columns that came with them."""

    ids: pa.Array
    counts: sparse.csr_matrix
    columns: Sequence[pa.Array] = ()


class CountMatrix(Protocol):
    """Counts of one file, read some cells at a time."""

    file: InputFile
    what: str
    """Which matrix of the file, for messages: ``X``, ``layer counts``."""
    gene_names: Mapping[str, Sequence[str]]
    """The names (G,) of the genes, by what they are called in the file; often there are several."""
    schema: pa.Schema
    """Names and types of the columns that come with the cells."""
    way_out: str
    """What else the user can take, where these are no counts."""
    remarks: Sequence[str]

    def blocks(self) -> Iterator[CellBlock]:
        """Read from the start."""
        ...

    def place(self, cell: int) -> str:
        """Say where a cell, counted from 0, stands in the file."""
        ...


def block_rows(genes: int) -> int:
    """Cells of a block."""
    return max(1, min(BATCH_ROWS, BLOCK_VALUES // max(1, genes)))


class RankedCells:
    """The cells of a matrix as ranked tokens: a `embedcache.sources.batches.Reader`.

    Of the names that the genes have, those are taken that have the most tokens. Counts must not be negative or missing;
    where they are no whole numbers, that is remarked on. A cell without any gene of the encoder is refused by its name, or
    left out and counted with `skip_bad`.

    Raises
    ------
    InputError
        On opening: nearly no gene has a token. While reading: a count is negative or missing, a cell is empty or has no
        name.
    """

    text = False

    def __init__(self, matrix: CountMatrix, vocabulary: GeneVocabulary, *, skip_bad: bool = False) -> None:
        self.matrix, self.file, self.schema = matrix, matrix.file, matrix.schema
        self._vocabulary, self._skip_bad = vocabulary, skip_bad
        called, self.genes = best_names(matrix.gene_names, vocabulary)
        self.genes.check(f"{self.file.name}, {matrix.what}", called, vocabulary)
        self._rank = Ranking(self.genes, vocabulary.genes)
        self._skipped: list[int] = []
        self._about = [*matrix.remarks, self.genes.remark(called)]
        first = next(self.matrix.blocks(), None)
        if first is None or not first.counts.shape[0]:
            raise self.file.error(f"{matrix.what} has no cells")
        self._check(first, 0)
        if caution := _are_no_counts(first.counts.data):
            self._about.append(f"caution  {self.file.name}, {matrix.what}: {caution}; {matrix.way_out}")

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user should know of the genes, the counts, and, after a full pass, of cells that were left out."""
        left_out = f"cells    {len(self._skipped):,} without a gene of the encoder are left out (--skip-bad)"
        return (*self._about, *([left_out] if self._skipped else []))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all cells."""
        row, skipped = 0, []
        for block in self.matrix.blocks():
            self._check(block, row)
            tokens, lengths = self._rank(block.counts)
            texts = cells_as_text(tokens, lengths, self._vocabulary)
            batch = pa.record_batch([block.ids, texts, *block.columns], names=[ID, SEQUENCE, *self.schema.names])
            if (empty := np.flatnonzero(lengths == 0)).size:
                if not self._skip_bad:
                    raise self._empty(block, row, int(empty[0]))
                skipped += (row + empty).tolist()
                batch = batch.filter(pa.array(lengths > 0))
            row += len(lengths)
            if len(batch):
                yield batch
        self._skipped = skipped

    def places(self) -> Iterator[str]:
        """Say for each cell that is not left out where it stands."""
        skipped, row = set(self._skipped), 0
        for block in self.matrix.blocks():
            for cell in range(row, row + len(block.ids)):
                if cell not in skipped:
                    yield self.matrix.place(cell)
            row += len(block.ids)

    def _check(self, block: CellBlock, row: int) -> None:
        if (
            unnamed := _first(np.asarray(pa.compute.fill_null(pa.compute.binary_length(block.ids), 0)) == 0)
        ) is not None:
            raise self.file.error("the cell has no name; every cell needs one", self.matrix.place(row + unnamed))
        values = block.counts.data
        for fault, wrong in (("negative", values < 0), ("missing (NaN)", ~np.isfinite(values))):
            if (at := _first(wrong)) is not None:
                cell = int(np.searchsorted(block.counts.indptr, at, "right")) - 1
                gene = self.genes.names[block.counts.indices[at]]
                shown = f"{values[at]:.4g} of the gene {gene} in the cell {block.ids[cell].as_py()!r}"
                raise self.file.error(
                    f"{self.matrix.what} has values that are {fault}, such as {shown}, so these are no counts; "
                    f"{self.matrix.way_out}",
                    self.matrix.place(row + cell),
                )

    def _empty(self, block: CellBlock, row: int, cell: int) -> InputError:
        why = "no counts at all" if block.counts[[cell]].sum() == 0 else "no gene that the encoder knows"
        return self.file.error(
            f"the cell {block.ids[cell].as_py()!r} has {why}; remove it, or leave such cells out with --skip-bad",
            self.matrix.place(row + cell),
        )


def best_names(named: Mapping[str, Sequence[str]], vocabulary: GeneVocabulary) -> tuple[str, GeneMap]:
    """Of the names that the genes have, those of which the most have a token, and what they are called."""
    maps = {called: vocabulary.map(names) for called, names in named.items()}
    return max(maps.items(), key=lambda item: item[1].known)


def _first(wrong: NDArray[np.bool_]) -> int | None:
    at = int(wrong.argmax()) if len(wrong) else 0
    return at if len(wrong) and wrong[at] else None


def _are_no_counts(values: NDArray[np.number]) -> str | None:
    """What to say of values (n,) that are no whole numbers."""
    if not len(values) or not np.mod(values, 1).any():
        return None
    largest = float(values.max())
    if largest < _LOOK_LIKE_LOGARITHMS:
        return (
            f"the values are no whole numbers and {largest:.3g} is the largest, so they look like logarithms, which rank "
            "genes in another order than counts do"
        )
    return (
        "the values are no whole numbers (such as TPM, or corrected counts): they are ranked as they are, and genes that "
        "were divided by their length rank otherwise than in the counts that the encoder was trained on"
    )
