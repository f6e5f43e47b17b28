"""One matrix of counts, written in every format that cells come in."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.io import mmwrite

from embedcache.records import Source
from embedcache.sources import open_source
from embedcache.sources.cell_inputs import CellInputs, CellOptions


@dataclass
class Counted:
    """12 cells by 30 genes, of which the encoder knows the first 25."""

    genes: list[str] = field(default_factory=lambda: [f"ENSG{number:011d}" for number in range(30)])
    symbols: list[str] = field(default_factory=lambda: [f"GENE{number}" for number in range(30)])
    cells: list[str] = field(default_factory=lambda: [f"ACGT{number}-1" for number in range(12)])
    counts: NDArray[np.float64] = field(
        default_factory=lambda: np.random.default_rng(3).poisson(1.5, (12, 30)).astype(float)
    )

    @property
    def known(self) -> list[str]:
        return self.genes[:25]

    def frame(self) -> pd.DataFrame:
        """Columns of every kind that obs has."""
        return pd.DataFrame(
            {
                "donor": pd.Categorical([f"d{at % 3}" for at in range(12)]),
                "batch": pd.Categorical([at % 2 for at in range(12)]),
                "n_counts": self.counts.sum(axis=1),
                "tumor": np.arange(12) % 2 == 0,
                "age": np.arange(12, dtype=np.int32),
                "note": ["", "a b", None, *"efghijklm"],
                "length": np.arange(12),
            },
            index=pd.Index(self.cells, name="barcode"),
        )

    def anndata(self, matrix: Any = None, **more: Any) -> anndata.AnnData:
        var = pd.DataFrame({"symbol": self.symbols, "chromosome": ["chr1"] * 30}, index=self.genes)
        x = sparse.csr_matrix(self.counts) if matrix is None else matrix
        return anndata.AnnData(x, obs=self.frame(), var=var, **more)

    def folder(self, folder: Path, *, packed: bool = True, transposed: bool = False, old: bool = False) -> Path:
        """matrix.mtx, features.tsv (genes.tsv where `old`), barcodes.tsv."""
        folder.mkdir()
        features = "".join(
            f"{gene}\t{symbol}\n" if old else f"{gene}\t{symbol}\tGene Expression\n"
            for gene, symbol in zip(self.genes, self.symbols, strict=True)
        )
        mmwrite(folder / "matrix.mtx", sparse.coo_matrix(self.counts if transposed else self.counts.T).astype(np.int32))
        (folder / ("genes.tsv" if old else "features.tsv")).write_text(features)
        (folder / "barcodes.tsv").write_text("".join(f"{cell}\n" for cell in self.cells))
        for path in list(folder.iterdir()) if packed else []:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        return folder

    def hdf5(self, path: Path, *, old: bool = False) -> Path:
        """An .h5 as Cell Ranger 3 (2 where `old`) writes it."""
        by_cell = sparse.csc_matrix(self.counts.T.astype(np.int32))
        with h5py.File(path, "w") as file:
            group = file.create_group("GRCh38" if old else "matrix")
            group["data"], group["indices"], group["indptr"] = by_cell.data, by_cell.indices, by_cell.indptr
            group["shape"], group["barcodes"] = by_cell.shape, np.array(self.cells, "S")
            if old:
                group["genes"], group["gene_names"] = np.array(self.genes, "S"), np.array(self.symbols, "S")
            else:
                group["features/id"], group["features/name"] = np.array(self.genes, "S"), np.array(self.symbols, "S")
                group["features/feature_type"] = np.array(["Gene Expression"] * len(self.genes), "S")
        return path

    def table(self, *, genes_in: str = "rows", delimiter: str = "\t", corner: str | None = "gene") -> bytes:
        """Genes by cells, or cells by genes; without `corner` the header is one name short, as R writes it."""
        rows, columns, values = self.genes, self.cells, self.counts.T
        if genes_in == "columns":
            rows, columns, values = columns, rows, values.T
        lines = [delimiter.join([*([] if corner is None else [corner]), *columns])]
        lines += [
            delimiter.join([name, *(f"{value:g}" for value in row)]) for name, row in zip(rows, values, strict=True)
        ]
        return ("\n".join(lines) + "\n").encode()


def opened(model: Path, *inputs: Path | str, metadata: Path | None = None, id_column: str | None = None,
           **options: Any) -> Source:  # fmt: skip
    """Open cells as the command does."""
    cells = CellInputs(CellOptions(**options), str(model), ask=False)
    named = str(metadata) if metadata else None
    return open_source([str(path) for path in inputs], metadata=named, id_column=id_column, cells=cells)


def texts(source: Source) -> dict[str, str]:
    """Token text of each cell by its id."""
    return {
        name: text
        for batch in source.batches()
        for name, text in zip(batch.column("id").to_pylist(), batch.column("sequence").to_pylist(), strict=True)
    }
