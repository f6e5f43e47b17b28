"""Inputs that hold cells: which reader they need, and the encoder's vocabulary that all of them share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from embedcache.errors import InputError
from embedcache.sources.batches import Reader
from embedcache.sources.cells import CellFormat
from embedcache.sources.files import InputFile

if TYPE_CHECKING:
    from embedcache.cells.gene_files import GeneFileOptions
    from embedcache.cells.model import CellModel
    from embedcache.cells.vocabulary import GeneVocabulary
    from embedcache.sources.gene_rank_tokens import OwnGenes
    from embedcache.sources.side_file import SideFile


@dataclass(frozen=True)
class CellOptions:
    """What the user chose about cells; see the options of ``embedcache extract``."""

    counts_layer: str | None = None
    genes_in: Literal["rows", "columns"] | None = None
    gene_tokens: str | None = None
    gene_medians: str | None = None
    gene_names: str | None = None
    ensembl_mapping: str | None = None
    gene_vocabulary: str | None = None
    skip_bad: bool = False

    @property
    def first_given(self) -> str | None:
        """The first option that only cells can use, as the user wrote it; None where there is none."""
        for name, value in asdict(self).items():
            if value is not None and name != "skip_bad":
                return f"--{name.replace('_', '-')}"
        return None

    @property
    def files(self) -> GeneFileOptions:
        """The dictionaries among them."""
        from embedcache.cells.gene_files import GeneFileOptions

        return GeneFileOptions(self.gene_tokens, self.gene_medians, self.gene_names, self.ensembl_mapping)


@dataclass
class CellInputs:
    """Opens the cells of a command, for the encoder that will read them."""

    options: CellOptions = field(default_factory=CellOptions)
    model: str | None = None
    """Name of the encoder, as for `load_encoder`; None where none was named."""
    ask: bool = True
    """Whether the hub may be asked for its dictionaries."""
    progress: bool = False
    used: dict[str, SideFile] = field(default_factory=dict)
    """Dictionaries that were read so far."""
    what: str = "the input"
    """The file that is being opened, for messages."""

    def takes_tables(self) -> bool:
        """Whether a table without a column of sequences is one of expression: only if the encoder reads cells."""
        from embedcache.cells.model import cell_model

        if self.options.genes_in is not None:
            return True
        return self.model is not None and cell_model(self.model, ask=self.ask, progress=self.progress) is not None

    def open(self, file: InputFile, format: CellFormat, metadata: str | None, id_column: str | None) -> Reader:
        """Open one file of cells; `metadata` and `id_column` are for ranked tokens, whose table goes row by row."""
        from embedcache.sources.count_matrix import RankedCells

        self.what = file.name
        if self.options.counts_layer is not None and format is not CellFormat.ANNDATA:
            raise file.error("--counts-layer names a matrix of an AnnData, and this is none; leave it out")
        if format is CellFormat.RANKED:
            return self._ranked(file, metadata, id_column)
        if format is CellFormat.ANNDATA:
            from embedcache.sources.anndata_file import AnnDataFile

            anndata = AnnDataFile(file, self.options.counts_layer)
            return RankedCells(anndata, self.vocabulary, skip_bad=self.options.skip_bad)
        if format is CellFormat.TABLE:
            from embedcache.sources.expression import ExpressionTable

            table = ExpressionTable(file, self.vocabulary, self.options.genes_in)
            return RankedCells(table, self.vocabulary, skip_bad=self.options.skip_bad)
        from embedcache.sources.tenx import TenxFolder, TenxHdf5

        tenx = TenxFolder(file) if format is CellFormat.TENX_FOLDER else TenxHdf5(file)
        return RankedCells(tenx, self.vocabulary, skip_bad=self.options.skip_bad)

    @cached_property
    def vocabulary(self) -> GeneVocabulary:
        """The encoder's genes with their medians."""
        return self._read(medians=True)

    def _ranked(self, file: InputFile, metadata: str | None, id_column: str | None) -> Reader:
        from embedcache.sources.gene_rank_tokens import VOCABULARY, GeneRankTokens, OwnGenes

        beside = file.path.parent / VOCABULARY
        named = self.options.gene_vocabulary or (str(beside) if beside.is_file() else None)
        vocabulary = self._read(medians=False)
        own: OwnGenes | None = OwnGenes.read(named, vocabulary) if named else None
        if own is not None:
            self._use(own.file)
        return GeneRankTokens(
            file, vocabulary, own, metadata=metadata, id_column=id_column, skip_bad=self.options.skip_bad
        )

    def _read(self, *, medians: bool) -> GeneVocabulary:
        from embedcache.cells.gene_files import read_vocabulary

        vocabulary = read_vocabulary(
            self._cell_model, self.options.files, medians=medians, ask=self.ask, progress=self.progress
        )
        for file in vocabulary.files:
            self._use(file)
        return vocabulary

    @cached_property
    def _cell_model(self) -> CellModel:
        from embedcache.cells.model import required_cell_model

        return required_cell_model(self.model, self.what, ask=self.ask, progress=self.progress)

    def _use(self, file: SideFile) -> None:
        self.used[file.path] = file

    @property
    def provenance(self) -> dict[str, object]:
        """What a store keeps of how its tokens came about."""
        if not self.used:
            return {}
        files = [{"file": Path(file.path).name, "sha256": file.sha256} for file in self.used.values()]
        return {"cells": {"dictionaries": files, "counts_layer": self.options.counts_layer}}


def refuse_unused(options: CellOptions) -> None:
    """Raise `InputError` where an option for cells was given, and no input holds any."""
    if given := options.first_given:
        raise InputError(
            f"{given} is for cells (AnnData, 10x, tables of expression, ranked tokens), and the input holds none; leave it "
            "out, or name an encoder of cells with --model"
        )
