"""Counts as Cell Ranger, STARsolo and kallisto write them: a folder with matrix.mtx, or an HDF5 file."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.sources.count_matrix import CellBlock, block_rows
from embedcache.sources.files import GZIP, InputFile

EXPRESSION = "Gene Expression"
_FEATURES = ("features.tsv", "genes.tsv", "genes.txt")
_BARCODES = ("barcodes.tsv", "barcodes.txt")
_WAY_OUT = "take the folder of raw or filtered counts that the aligner wrote"


def is_tenx_folder(path: Path) -> bool:
    """Whether a folder has a matrix of counts."""
    return path.is_dir() and any(any(path.glob(pattern)) for pattern in ("*.mtx", "*.mtx.gz"))


class TenxFolder:
    """A folder with matrix.mtx, features.tsv or genes.tsv, and barcodes.tsv, each plain or gzipped, with any prefix.

    The matrix is genes by cells, or cells by genes, whichever fits the two lists; it is held in memory. Features of another
    type than Gene Expression (antibodies, guides) are left out.

    Raises
    ------
    InputError
        A file is missing, damaged or cut off, or the three do not fit together.
    """

    what = "the matrix"
    way_out = _WAY_OUT
    schema = pa.schema([])

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self._matrix = self._one(("matrix.mtx",), "*.mtx")
        features = self._table(self._one(_FEATURES, "*features*.tsv"))
        self._ids = pa.array([row[0] for row in self._table(self._one(_BARCODES, "*barcodes*.tsv"))], pa.string())
        types = [row[2] if len(row) > 2 else EXPRESSION for row in features]
        self._kept = _kept(types)
        self._features = len(features)
        self.gene_names: Mapping[str, Sequence[str]] = {
            called: [features[at][column] for at in self._kept]
            for column, called in enumerate(("first column of the features", "second column of the features"))
            if all(len(row) > column for row in features)
        }
        self.remarks = _of_others(self._features - len(self._kept))
        if not len(self._kept):
            raise file.error(f"no feature is of the type {EXPRESSION!r}; the types are {', '.join(sorted(set(types)))}")

    def blocks(self) -> Iterator[CellBlock]:
        """Read from the start."""
        counts = self._counts
        for start in range(0, len(self._ids), rows := block_rows(counts.shape[1])):
            stop = min(start + rows, len(self._ids))
            yield CellBlock(self._ids.slice(start, stop - start), counts[start:stop])

    def place(self, cell: int) -> str:
        """Say where a cell, counted from 0, stands: the line of its barcode."""
        return f"line {cell + 1} of the barcodes"

    @cached_property
    def _counts(self) -> sparse.csr_matrix:
        """Counts of cells by genes."""
        from scipy.io import mmread

        with self._reading(self._matrix) as stream:
            matrix = sparse.coo_matrix(mmread(stream))
        expected = (self._features, len(self._ids))
        if matrix.shape == expected:
            counts = matrix.T.tocsr()
        elif matrix.shape == expected[::-1]:
            counts = matrix.tocsr()
        else:
            raise self.file.error(
                f"{self._matrix.name} is {matrix.shape[0]:,} x {matrix.shape[1]:,}, and there are {expected[0]:,} features "
                f"and {expected[1]:,} barcodes; take the three files of one run"
            )
        counts = counts if len(self._kept) == self._features else counts[:, self._kept]
        counts.sort_indices()
        return counts

    def _one(self, names: Sequence[str], pattern: str) -> Path:
        """The one file of the folder that has one of the names, after a prefix if need be."""
        folder = self.file.path
        for name in names:
            for ending in (name, f"{name}.gz"):
                if (folder / ending).is_file():
                    return folder / ending
        found = sorted({*folder.glob(pattern), *folder.glob(f"{pattern}.gz")})
        found += [path for name in names for path in sorted(folder.glob(f"*{name}*")) if path not in found]
        if len(found) == 1:
            return found[0]
        there = "there are " + ", ".join(path.name for path in found) if found else "there is none"
        raise self.file.error(f"one file named like {' or '.join(names)} is expected, plain or gzipped, and {there}")

    def _table(self, path: Path) -> list[list[str]]:
        with self._reading(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            rows = [row for row in csv.reader(text, delimiter="\t") if row]
        if not rows:
            raise self.file.error(f"{path.name} is empty")
        return rows

    @contextmanager
    def _reading(self, path: Path) -> Iterator[Any]:
        try:
            with path.open("rb") as raw:
                packed = raw.read(2) == GZIP
            with gzip.open(path) if packed else path.open("rb") as stream:
                yield stream
        except InputError:
            raise
        except (OSError, EOFError, zlib.error, ValueError, OverflowError, csv.Error) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise self.file.error(f"{path.name} is cut off or damaged ({reason[:120]}); copy it again") from error


class TenxHdf5:
    """An .h5 of Cell Ranger, read some cells at a time; versions 2 (a group for each genome) and 3 (a group matrix).

    Raises
    ------
    InputError
        The file is cut off, has no such matrix, or several genomes.
    """

    what = "the matrix"
    way_out = _WAY_OUT
    schema = pa.schema([])

    def __init__(self, file: InputFile) -> None:
        self.file = file
        with self._opened() as group:
            features, self._shape = group.get("features", group), tuple(map(int, group["shape"][:]))
            ids, names = ("id", "name") if "features" in group else ("genes", "gene_names")
            kinds = _texts(features["feature_type"]) if "feature_type" in features else [EXPRESSION] * self._shape[0]
            self._kept = _kept(kinds)
            self.gene_names: Mapping[str, Sequence[str]] = {
                called: [values[at] for at in self._kept]
                for called, values in ((f"features/{name}", _texts(features[name])) for name in (ids, names))
            }
            self._ids = pa.array(_texts(group["barcodes"]), pa.string())
            self._bounds = group["indptr"][:].astype(np.int64)
        self.remarks = _of_others(self._shape[0] - len(self._kept))
        if self._shape[1] != len(self._ids) or len(self._bounds) != len(self._ids) + 1:
            raise file.error(f"the matrix is {self._shape}, and there are {len(self._ids):,} barcodes; write it again")
        if not len(self._kept):
            raise file.error(f"no feature is of the type {EXPRESSION!r}; the types are {', '.join(sorted(set(kinds)))}")

    def blocks(self) -> Iterator[CellBlock]:
        """Read from the start."""
        genes, cells = self._shape
        with self._opened() as group:
            for start in range(0, cells, rows := block_rows(genes)):
                stop = min(start + rows, cells)
                bounds = self._bounds[start : stop + 1]
                data, indices = group["data"][bounds[0] : bounds[-1]], group["indices"][bounds[0] : bounds[-1]]
                if len(indices) and (indices.min() < 0 or indices.max() >= genes):
                    raise self.file.error("the matrix names genes that are not there; the file is damaged")
                counts = sparse.csr_matrix((data, indices, bounds - bounds[0]), shape=(stop - start, genes))
                counts = counts if len(self._kept) == genes else counts[:, self._kept]
                counts.sort_indices()
                yield CellBlock(self._ids.slice(start, stop - start), counts)

    def place(self, cell: int) -> str:
        """Say where a cell, counted from 0, stands."""
        return f"barcode {cell + 1}"

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        import h5py

        try:
            with h5py.File(self.file.path, "r") as file:
                groups = [name for name in file if isinstance(file[name], h5py.Group) and "barcodes" in file[name]]
                if len(groups) != 1:
                    there = (
                        f"several genomes, {', '.join(groups)}" if groups else f"the groups {', '.join(file) or 'none'}"
                    )
                    raise self.file.error(f"one matrix of Cell Ranger is expected in it, and it has {there}")
                yield file[groups[0]]
        except InputError:
            raise
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].strip('"')
            raise self.file.error(f"the file is cut off or damaged ({reason[:160]}); copy it again") from error


def _kept(types: Sequence[str]) -> NDArray[np.int64]:
    return np.array([at for at, kind in enumerate(types) if kind.strip() in (EXPRESSION, "")], np.int64)


def _of_others(others: int) -> Sequence[str]:
    kind = f"of another type than {EXPRESSION}"
    return [f"genes    {counted(others, f'feature {kind} is', f'features {kind} are')} left out"] if others else []


def _texts(dataset: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in dataset[:]]
