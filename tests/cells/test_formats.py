"""Cells of every format become the same records, and what cannot be used is refused by name."""

from __future__ import annotations

import gzip
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import zarr
from scipy import sparse

from embedcache.errors import InputError
from embedcache.input_options import InputOptions
from embedcache.records import remarks_of
from embedcache.sources import open_records
from tests.cells.counted import Counted, opened, texts
from tests.stores import run_extract_source

Written = Callable[[Counted, Path], Path]


def h5ad(matrix: Callable[[np.ndarray], object]) -> Written:
    def written(counted: Counted, folder: Path) -> Path:
        counted.anndata(matrix(counted.counts)).write_h5ad(folder / "cells.h5ad")
        return folder / "cells.h5ad"

    return written


def zarr_folder(format: int = 3) -> Written:
    def written(counted: Counted, folder: Path) -> Path:
        with anndata.settings.override(zarr_write_format=format), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata announces that it will write the other version
            counted.anndata().write_zarr(folder / "cells.zarr")
        return folder / "cells.zarr"

    return written


def zarr_zip(counted: Counted, folder: Path) -> Path:
    shutil.make_archive(str(folder / "cells.zarr"), "zip", zarr_folder()(counted, folder))
    return folder / "cells.zarr.zip"


def table(name: str = "cells.tsv", **form: str | None) -> Written:
    def written(counted: Counted, folder: Path) -> Path:
        content = counted.table(**form)  # type: ignore[arg-type]
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return folder / name

    return written


def windows_table(counted: Counted, folder: Path) -> Path:
    (folder / "cells.csv").write_bytes(b"\xef\xbb\xbf" + counted.table(delimiter=",").replace(b"\n", b"\r\n"))
    return folder / "cells.csv"


FORMATS: dict[str, Written] = {
    "h5ad csr": h5ad(sparse.csr_matrix),
    "h5ad csc": h5ad(sparse.csc_matrix),
    "h5ad dense": h5ad(np.asarray),
    "h5ad int": h5ad(lambda counts: sparse.csr_matrix(counts.astype(np.int64))),
    "zarr": zarr_folder(),
    "zarr 2": zarr_folder(2),
    "zarr zip": zarr_zip,
    "10x": lambda counted, folder: counted.folder(folder / "run"),
    "10x plain": lambda counted, folder: counted.folder(folder / "run", packed=False),
    "10x old": lambda counted, folder: counted.folder(folder / "run", old=True),
    "10x transposed": lambda counted, folder: counted.folder(folder / "run", transposed=True),
    "10x h5": lambda counted, folder: counted.hdf5(folder / "run.h5"),
    "10x h5 old": lambda counted, folder: counted.hdf5(folder / "run.h5", old=True),
    "table": table(),
    "table gz": table("cells.tsv.gz"),
    "table R": table(corner=None),
    "table pandas": table(corner=""),
    "table csv": table("cells.csv", delimiter=","),
    "table wrong extension": table("cells.csv"),
    "table transposed": table(genes_in="columns"),
    "table transposed R": table(genes_in="columns", corner=None),
    "table windows": windows_table,
}


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_give_the_same_cells(counted: Counted, model: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "expected").mkdir()
    expected = texts(opened(model, h5ad(sparse.csr_matrix)(counted, tmp_path / "expected")))
    source = opened(model, FORMATS[name](counted, tmp_path))
    assert texts(source) == expected == texts(source)
    assert list(expected) == counted.cells
    assert all(text.startswith("2 ") and text.endswith(" 3") for text in expected.values())
    assert max(len(text.split()) for text in expected.values()) <= 20
    assert len(source.locate([0, 11])) == 2


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("name", ["h5ad csr", "h5ad csc", "h5ad dense", "10x", "10x h5", "table", "table transposed"])
def test_the_size_of_a_block_changes_nothing(
    counted: Counted, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows: int
) -> None:
    path = FORMATS[name](counted, tmp_path)
    expected = texts(opened(model, path))
    monkeypatch.setattr("embedcache.sources.count_matrix.BLOCK_VALUES", rows * 30)
    source = opened(model, path)
    assert max(map(len, source.batches())) == rows
    assert texts(source) == expected


def test_columns_of_obs_keep_their_types(counted: Counted, model: Path, tmp_path: Path) -> None:
    source = opened(model, h5ad(sparse.csr_matrix)(counted, tmp_path))
    table = pa.Table.from_batches(source.batches())
    kinds = {field.name: field.type for field in table.schema if field.name not in ("id", "sequence")}
    assert kinds == {
        "donor": pa.string(), "batch": pa.string(), "n_counts": pa.float64(), "tumor": pa.bool_(), "age": pa.int32(),
        "note": pa.string(), "length_in": pa.int64(),
    }  # fmt: skip
    assert table["donor"].to_pylist()[:4] == ["d0", "d1", "d2", "d0"]
    assert table["batch"].to_pylist()[:3] == ["0", "1", "0"]
    assert table["note"].to_pylist()[:3] == ["", "a b", None]
    assert not source.text_columns


def test_missing_categories_and_columns_of_nothing_are_null(counted: Counted, model: Path, tmp_path: Path) -> None:
    cells = counted.anndata()
    cells.obs["donor"] = pd.Categorical([None, *cells.obs["donor"][1:]])
    cells.obs["seen"] = pd.array([True, None] * 6, "boolean")
    cells.obs["whole"] = pd.array([1, None] * 6, "Int64")
    cells.write_h5ad(tmp_path / "a.h5ad")
    table = pa.Table.from_batches(opened(model, tmp_path / "a.h5ad").batches())
    assert table["donor"].to_pylist()[:2] == [None, "d1"]
    assert table["seen"].to_pylist()[:2] == [True, None]
    assert table["whole"].type == pa.int64()


def test_the_counts_may_be_in_a_layer_or_in_raw(counted: Counted, model: Path, tmp_path: Path) -> None:
    plain = counted.anndata()
    scaled = counted.anndata(counted.counts - 1, layers={"counts": sparse.csr_matrix(counted.counts)})
    scaled.raw = plain
    scaled = scaled[:, :10].copy()
    scaled.write_h5ad(tmp_path / "a.h5ad")
    plain.write_h5ad(tmp_path / "plain.h5ad")
    ways_out = r"--counts-layer raw or --counts-layer counts"
    with pytest.raises(InputError, match=rf"cell 1: X has values that are negative, such as -1 .*{ways_out}"):
        opened(model, tmp_path / "a.h5ad")
    assert texts(opened(model, tmp_path / "a.h5ad", counts_layer="raw")) == texts(
        opened(model, tmp_path / "plain.h5ad")
    )
    of_layer = texts(opened(model, tmp_path / "a.h5ad", counts_layer="counts"))
    assert list(of_layer) == counted.cells
    assert max(len(text.split()) for text in of_layer.values()) <= 12
    with pytest.raises(InputError, match=r"no layer 'count', given with --counts-layer; there is X or raw or counts"):
        opened(model, tmp_path / "a.h5ad", counts_layer="count")


def test_fractions_are_taken_with_a_caution(counted: Counted, model: Path, tmp_path: Path) -> None:
    for scale, expected in ((1.5, "look like logarithms"), (100.25, "are no whole numbers.*divided by their length")):
        counted.anndata(counted.counts * scale).write_h5ad(tmp_path / "a.h5ad")
        remarks = "\n".join(remarks_of(opened(model, tmp_path / "a.h5ad")))
        assert re.search(f"caution .*{expected}", remarks)
    counted.anndata().write_h5ad(tmp_path / "b.h5ad")
    assert remarks_of(opened(model, tmp_path / "b.h5ad")) == (
        "genes    25 of 30 (index of var) have a token; 5 have none, such as "
        "ENSG00000000025, ENSG00000000026, ENSG00000000027",
    )


def test_genes_may_be_named_by_a_column_of_var(counted: Counted, model: Path, tmp_path: Path) -> None:
    cells = counted.anndata()
    cells.write_h5ad(tmp_path / "by_id.h5ad")
    cells.var = pd.DataFrame({"gene_ids": cells.var_names, "type": ["x"] * 30}, index=counted.symbols)
    cells.write_h5ad(tmp_path / "by_symbol.h5ad")
    source = opened(model, tmp_path / "by_symbol.h5ad")
    assert texts(source) == texts(opened(model, tmp_path / "by_id.h5ad"))
    assert "column 'gene_ids' of var" in remarks_of(source)[0]


def test_symbols_need_a_dictionary_of_names(counted: Counted, model: Path, tmp_path: Path) -> None:
    named = Counted(genes=counted.symbols)
    path = FORMATS["table"](named, tmp_path)
    with pytest.raises(InputError, match=r"0 of 30 genes.*GENE0.*ENSG00000000000.*--gene-names.*--genes-in"):
        opened(model, path, genes_in="rows")
    names = tmp_path / "names.csv"
    names.write_text("".join(f"{a},{b}\n" for a, b in zip(counted.symbols, counted.genes, strict=True)))
    found = texts(opened(model, path, gene_names=str(names)))
    assert found == texts(opened(model, counted.folder(tmp_path / "run")))


def test_other_features_than_genes_are_left_out(counted: Counted, model: Path, tmp_path: Path) -> None:
    more = Counted(
        genes=[*counted.genes, "CD3_antibody"],
        symbols=[*counted.symbols, "CD3"],
        counts=np.concatenate([counted.counts, np.full((12, 1), 900.0)], axis=1),
    )
    expected = texts(opened(model, counted.folder(tmp_path / "genes")))
    features = more.folder(tmp_path / "all", packed=False) / "features.tsv"
    features.write_text(features.read_text().replace("CD3\tGene Expression", "CD3\tAntibody Capture"))
    hdf5 = more.hdf5(tmp_path / "all.h5")
    with h5py.File(hdf5, "r+") as file:
        file["matrix/features/feature_type"][-1] = b"Antibody"
    for path in (tmp_path / "all", hdf5):
        source = opened(model, path)
        assert texts(source) == expected
        assert remarks_of(source)[0] == "genes    1 feature of another type than Gene Expression is left out"


def test_a_folder_may_have_files_with_a_prefix(counted: Counted, model: Path, tmp_path: Path) -> None:
    expected = texts(opened(model, counted.folder(tmp_path / "run")))
    for path in (tmp_path / "run").iterdir():
        path.rename(path.with_name(f"GSM1_{path.name}"))
    assert texts(opened(model, tmp_path / "run")) == expected


def test_several_files_and_attached_columns_go_together(counted: Counted, model: Path, tmp_path: Path) -> None:
    other = Counted(cells=[f"{cell}x" for cell in counted.cells])
    first, second = counted.folder(tmp_path / "a"), other.hdf5(tmp_path / "b.h5")
    source = opened(model, f"{first}:donor=MGH36", f"{second}:donor=MGH53")
    table = pa.Table.from_batches(source.batches())
    assert table["donor"].to_pylist() == ["MGH36"] * 12 + ["MGH53"] * 12
    assert source.locate([0, 12]) == [f"{first}, line 1 of the barcodes", f"{second}, barcode 1"]


def test_metadata_is_joined_by_the_column_of_cells(counted: Counted, model: Path, tmp_path: Path) -> None:
    table = tmp_path / "cells.csv"
    table.write_text("class,Cell\n" + "".join(f"k{at},{cell}\n" for at, cell in enumerate(counted.cells)))
    source = opened(model, counted.folder(tmp_path / "run"), metadata=table)
    assert pa.Table.from_batches(source.batches())["class"].to_pylist() == [f"k{at}" for at in range(12)]


# Empty and bad cells


@pytest.fixture
def with_empty(counted: Counted) -> Counted:
    counts = counted.counts.copy()
    counts[4] = 0
    counts[9, :25] = 0
    counts[9, 27] = 5
    return Counted(counts=counts)


@pytest.mark.parametrize("name", ["h5ad csr", "h5ad dense", "10x", "10x h5", "table", "table transposed"])
def test_a_cell_without_genes_is_named_or_left_out(with_empty: Counted, model: Path, tmp_path: Path, name: str) -> None:
    path = FORMATS[name](with_empty, tmp_path)
    with pytest.raises(InputError, match="the cell 'ACGT4-1' has no counts at all; remove it, or .* --skip-bad"):
        texts(opened(model, path))
    source = opened(model, path, skip_bad=True)
    kept = [cell for at, cell in enumerate(with_empty.cells) if at not in (4, 9)]
    assert list(texts(source)) == kept
    assert remarks_of(source)[-1] == "cells    2 without a gene of the encoder are left out (--skip-bad)"
    twelfth = {"h5ad": "cell 12", "10x": "line 12 of the barcodes", "10x h5": "barcode 12", "table": "column 13"}
    where = {"table transposed": "line 13", "10x h5": "barcode 12"}.get(name) or twelfth[name.split()[0]]
    assert source.locate([9])[0].endswith(where)


def test_a_cell_with_genes_that_nobody_knows_is_told_from_one_without_counts(
    with_empty: Counted, model: Path, tmp_path: Path
) -> None:
    with_empty.counts[4] = 1
    with pytest.raises(InputError, match="the cell 'ACGT9-1' has no gene that the encoder knows"):
        texts(opened(model, FORMATS["10x"](with_empty, tmp_path)))


@pytest.mark.parametrize(
    ("value", "message"), [(-2.0, "negative, such as -2"), (np.nan, "missing"), (np.inf, "missing")]
)
@pytest.mark.parametrize("name", ["h5ad csr", "h5ad dense", "table transposed"])
def test_values_that_are_no_counts_are_named_by_cell_and_gene(
    counted: Counted, model: Path, tmp_path: Path, name: str, value: float, message: str
) -> None:
    counts = counted.counts.copy()
    counts[7, 2] = value
    where = "ENSG00000000002 in the cell 'ACGT7-1'"
    if name == "table transposed" and np.isnan(value):
        message, where = "is missing", "write 0"
    with pytest.raises(InputError, match=f"{message}.*{where}"):
        texts(opened(model, FORMATS[name](Counted(counts=counts), tmp_path)))


def test_duplicate_cells_are_named_with_both_places(counted: Counted, model: Path, tmp_path: Path) -> None:
    twice = Counted(cells=[*counted.cells[:-1], counted.cells[0]])
    with pytest.raises(InputError, match=r"ACGT0-1.*column 2.*column 13"):
        run_extract_source(opened(model, FORMATS["table"](twice, tmp_path)), str(model), tmp_path / "s.zarr")


@pytest.mark.parametrize("name", ["h5ad csr", "h5ad csc", "zarr zip", "10x", "10x plain", "10x h5", "table gz"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_a_file_that_was_cut_off_is_an_error_that_names_it(
    counted: Counted, model: Path, tmp_path: Path, name: str, kept: float
) -> None:
    path = FORMATS[name](counted, tmp_path)
    cut = path if path.is_file() else next(path.glob("matrix.mtx*"))
    content = cut.read_bytes()
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match=f"{path.name}.*(cut off|damaged|is no AnnData|one matrix of Cell Ranger)"):
        texts(opened(model, path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("matrix.mtx", r"matrix\.mtx"),
        ("features.tsv", "one file named like features.tsv"),
        ("barcodes.tsv", "barcodes"),
    ],
)
def test_a_folder_that_lacks_a_file_says_which(
    counted: Counted, model: Path, tmp_path: Path, name: str, message: str
) -> None:
    folder = counted.folder(tmp_path / "run", packed=False)
    (folder / name).unlink()
    with pytest.raises(InputError, match=message if name != "matrix.mtx" else "is a folder"):
        texts(opened(model, folder))


def test_a_matrix_that_does_not_fit_its_lists_is_refused(counted: Counted, model: Path, tmp_path: Path) -> None:
    folder = counted.folder(tmp_path / "run", packed=False)
    (folder / "barcodes.tsv").write_text("A-1\nB-1\n")
    with pytest.raises(InputError, match=r"matrix\.mtx is 30 x 12, and there are 30 features and 2 barcodes"):
        texts(opened(model, folder))


def test_an_hdf5_of_something_else_is_refused(model: Path, tmp_path: Path) -> None:
    for name, message in (("a.h5", "one matrix of Cell Ranger is expected"), ("a.h5ad", "this is no AnnData")):
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = [1, 2]
        with pytest.raises(InputError, match=rf"{name}: .*{message}"):
            opened(model, tmp_path / name)
    zarr.open_group(tmp_path / "b.zarr", mode="w", attributes={"encoding-type": "anndata"})
    with pytest.raises(InputError, match=r"b\.zarr: this is no AnnData"):
        opened(model, tmp_path / "b.zarr")


def test_an_h5ad_inside_gzip_is_to_be_unpacked(counted: Counted, model: Path, tmp_path: Path) -> None:
    path = h5ad(sparse.csr_matrix)(counted, tmp_path)
    packed = tmp_path / "cells.h5ad.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match="gunzip"):
        opened(model, packed)


def test_an_anndata_without_cells_is_refused(model: Path, tmp_path: Path, counted: Counted) -> None:
    anndata.AnnData(np.zeros((0, 30)), var=pd.DataFrame(index=counted.genes)).write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(InputError, match="X has no cells"):
        opened(model, tmp_path / "a.h5ad")


# Tables


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("\n", "\n\n", None),
        ("ENSG00000000003\t", "ENSG00000000003\tabc\t", r"line 5: the row has 14 fields where the header has 13"),
        ("ENSG00000000004\t", "ENSG00000000004\t;", r"line 6: '.*' in the column 'ACGT0-1' is no number"),
        ("\t", "|", "expected .* column names with tabs, commas or semicolons"),
        ("ENSG", "mouse", "0 of 30 genes"),
    ],
)
def test_a_table_with_a_fault_is_an_error_with_its_line(
    counted: Counted, model: Path, tmp_path: Path, before: str, after: str, message: str | None
) -> None:
    path = tmp_path / "cells.tsv"
    path.write_text(counted.table().decode().replace(before, after))
    if message is None:
        assert texts(opened(model, path)) == texts(opened(model, counted.folder(tmp_path / "run")))
        return
    with pytest.raises(InputError, match=message):
        texts(opened(model, path))


def test_an_empty_field_is_named_by_gene_and_cell(counted: Counted, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    lines = counted.table(delimiter=",").decode().split("\n")
    fields = lines[4].split(",")
    fields[2] = "NA"
    lines[4] = ",".join(fields)
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"line 5: the value of 'ENSG00000000003' in the column 'ACGT1-1' is missing"):
        texts(opened(model, path))


def test_which_way_a_table_lies_may_be_said(counted: Counted, model: Path, tmp_path: Path) -> None:
    path = FORMATS["table transposed"](counted, tmp_path)
    assert list(texts(opened(model, path, genes_in="columns"))) == counted.cells
    with pytest.raises(InputError, match=r"0 of 12 genes \(first column\).*--genes-in"):
        opened(model, path, genes_in="rows")


def test_a_table_of_tokens_stays_one(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("cell\ttokens\nx\t2 4 5 3\n")
    assert texts(opened(model, tmp_path / "a.tsv", id_column="cell")) == {"x": "2 4 5 3"}


def test_options_for_cells_are_refused_where_there_are_none(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    with pytest.raises(InputError, match=r"--counts-layer is for cells .*and the input holds none"):
        opened(model, tmp_path / "a.fa", counts_layer="X")
    (tmp_path / "b.tsv").write_text("gene\tc1\nENSG00000000001\t3\n")
    with pytest.raises(InputError, match="--counts-layer names a matrix of an AnnData, and this is none"):
        opened(model, tmp_path / "b.tsv", counts_layer="X")


@pytest.mark.parametrize("name", ["kmer:4", None])
def test_counts_need_an_encoder_of_cells(counted: Counted, tmp_path: Path, name: str | None) -> None:
    path = counted.folder(tmp_path / "run")
    with pytest.raises(InputError, match=r"run holds the genes of cells, .*take a Geneformer"):
        open_records(InputOptions((str(path),)), name)
