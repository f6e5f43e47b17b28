"""Cells as lists of token ids: the same text inside, whatever they came as, and errors that name the cell."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedcache import open_store
from embedcache.errors import InputError
from embedcache.extraction.preflight import Options
from embedcache.sequences.alphabet import CELL, LetterCounts, Letters
from embedcache.sources import Records, open_source
from tests.conftest import shared_folder
from tests.stores import run_extract

Write = Callable[[str, bytes], str]

CELLS = [[2, 144, 1486, 3], [7], [0, 25_425]]
TEXTS = ["2 144 1486 3", "7", "0 25425"]


def texts(source: Records) -> list[str]:
    return [text for batch in source.batches() for text in batch.column("sequence").to_pylist()]


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=2)
    return buffer.getvalue()


@pytest.mark.parametrize("number", [pa.int16(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64()])
@pytest.mark.parametrize("list_of", [pa.list_, pa.large_list])
def test_lists_of_any_whole_numbers_become_text(
    write: Write, number: pa.DataType, list_of: Callable[[pa.DataType], pa.DataType]
) -> None:
    cells = pa.array([[2, 144, 1486, 3], [7], [0, 25]], list_of(number))
    source = open_source([write("cells.parquet", parquet(id=["a", "b", "c"], input_ids=cells))])
    assert texts(source) == ["2 144 1486 3", "7", "0 25"]
    assert source.schema.field("sequence").type == pa.large_string()


def test_lists_of_one_length_are_read_as_they_stand(write: Write) -> None:
    cells = pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2))
    assert texts(open_source([write("a.parquet", parquet(id=["a", "b"], tokens=cells))])) == ["1 2", "3 4"]


@pytest.mark.parametrize("column", ["input_ids", "tokens", "gene_tokens", "sequence", "Input_IDs"])
def test_the_column_of_tokens_is_found_by_its_name(write: Write, column: str) -> None:
    as_text = f"id\t{column}\n" + "".join(f"c{i}\t{text}\n" for i, text in enumerate(TEXTS))
    for name, content in [
        ("a.tsv", as_text.encode()),
        ("b.csv", as_text.replace("\t", ",").encode()),
        ("c.parquet", parquet(**{"id": ["a", "b", "c"], column: TEXTS})),
        ("d.parquet", parquet(**{"id": ["a", "b", "c"], column: CELLS})),
    ]:
        assert texts(open_source([write(name, content)])) == TEXTS


def test_any_column_may_be_named_as_the_one_with_tokens(write: Write) -> None:
    path = write("a.parquet", parquet(id=["a", "b", "c"], ranks=CELLS, seq=["A", "C", "G"]))
    assert texts(open_source([path], sequence_column="ranks")) == TEXTS
    assert texts(open_source([path])) == ["A", "C", "G"]


def test_lists_that_pandas_and_numpy_wrote_as_text_are_the_same_cells(write: Write) -> None:
    written = b'id,tokens\na,"[2, 144, 1486, 3]"\nb,[7]\nc,"[    0\n 25425 ]"\n'
    assert texts(open_source([write("a.csv", written)])) == TEXTS


def test_cells_without_ids_are_called_by_file_and_row(write: Write) -> None:
    files = [write("lung.parquet", parquet(input_ids=CELLS, donor=[1, 2, 3])), write("gut.tsv", b"tokens\tx\n1 2\t5\n")]
    source = open_source(files)
    names = [name for batch in source.batches() for name in batch.column("id").to_pylist()]
    assert names == ["lung:1", "lung:2", "lung:3", "gut:1"]
    assert source.columns == ("donor", "x")
    with pytest.raises(InputError, match="no column is named like the ids"):
        open_source([write("a.csv", b"seq,label\nACGT,1\n")])


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ([1, None, 2], "a missing number among the tokens of 'bad'; a cell is whole numbers"),
        ([5, -3], "a negative number among the tokens of 'bad'"),
        ([], "the list of tokens of 'bad' is empty"),
        (None, "the list of tokens of 'bad' is empty"),
    ],
)
def test_a_bad_list_is_an_error_with_its_row(write: Write, cell: list[int | None] | None, says: str) -> None:
    path = write("a.parquet", parquet(id=["x", "y", "bad", "z"], input_ids=[[1], [2, 3], cell, [4]]))
    with pytest.raises(InputError, match=f"{re.escape(path)}, row 3: {says}"):
        texts(open_source([path]))


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (b"5 -3", "a negative number among the tokens of 'bad'"),
        (b"5 3.0", "a fraction among the tokens of 'bad'"),
        (b"5 x", "'x' among the tokens of 'bad'"),
        (b"ACGT", "'A' among the tokens of 'bad'"),
        (b"", "the list of tokens of 'bad' is empty"),
        (b"[]", "the list of tokens of 'bad' is empty"),
    ],
)
def test_a_bad_text_of_tokens_is_an_error_with_its_line(write: Write, cell: bytes, says: str) -> None:
    path = write("a.csv", b"id,tokens\nx,1 2\nbad," + cell + b"\n")
    with pytest.raises(InputError, match=f"{re.escape(path)}, line 3: {says}"):
        texts(open_source([path]))


def test_lists_of_other_things_than_whole_numbers_are_refused_by_their_type(write: Write) -> None:
    for name, cells in [("a.parquet", [[1.0, 2.5]]), ("b.parquet", [["ENSG1"]]), ("c.parquet", [[[1]]])]:
        path = write(name, parquet(id=["x"], input_ids=cells))
        with pytest.raises(InputError, match=r"'input_ids' holds list<.*>, not text or lists of whole numbers"):
            open_source([path])


@pytest.mark.parametrize("name", ["cells.loom", "cells.npy"])
def test_files_of_cells_that_are_not_read_say_what_is(write: Write, name: str) -> None:
    says = r"files are not read; cells are read as counts from AnnData .* and as token ids from parquet"
    with pytest.raises(InputError, match=says):
        open_source([write(name, b"PK\x03\x04")])


def test_sequences_of_letters_are_no_cells(write: Write) -> None:
    with pytest.raises(InputError, match=r"' ' in the sequence of 'x'.*join k-mers"):
        texts(open_source([write("a.csv", b"id,tokens\nx,ACG CGT\n")]))


def test_many_long_cells_come_in_batches_of_bounded_size(tmp_path: Path) -> None:
    # Small numbers are packed to two bytes in the file, and are eight in memory.
    cells = pa.array(np.tile(np.arange(2048) % 4, (9_000, 1)).tolist(), pa.list_(pa.int64()))
    pq.write_table(pa.table({"input_ids": cells}), tmp_path / "a.parquet")
    assert max(map(len, open_source([str(tmp_path / "a.parquet")]).batches())) <= 4_000


def test_real_cells_are_read_as_they_were_ranked(shared_data: Path) -> None:
    path = shared_data / "geneformer_tokens_500" / "genecorpus_500_samples.parquet"
    cells = pq.read_table(path)["input_ids"].to_pylist()
    assert texts(open_source([str(path)])) == [" ".join(map(str, cell)) for cell in cells]


def test_cells_and_sequences_are_not_mistaken_for_each_other() -> None:
    cells, reads = LetterCounts.none(), LetterCounts.none()
    cells.add(Letters.of(TEXTS))
    reads.add(Letters.of(["ACGT" * 9]))
    cells.check(CELL, "geneformer")
    with pytest.raises(InputError, match=r"holds letters .*geneformer encodes cells.*--sequence-column"):
        reads.check(CELL, "geneformer")
    for alphabet in ("dna", "protein"):
        with pytest.raises(InputError, match=r"looks like the token ids of cells.*take a Geneformer"):
            cells.check(alphabet, "nt500m")


def test_cells_from_parquet_give_the_authors_vectors(write: Write, tmp_path: Path) -> None:
    """Golden: the second-to-last layer's mean over the genes, without <cls> and <eos>."""
    golden = shared_folder("golden") / "geneformer"
    lines = [line.split("\t") for line in (golden / "sequences.txt").read_text().splitlines()]
    cells = [[int(token) for token in text.split()] for _, text in lines]
    path = write("cells.parquet", parquet(id=[name for name, _ in lines], input_ids=cells))
    run_extract(tmp_path / "s.zarr", path, model=str(golden), options=Options(dtype="float32", layers=()))
    store = open_store(tmp_path / "s.zarr")
    with np.load(golden / "expected.npz", allow_pickle=False) as arrays:
        expected = arrays["mean_pooled_layer_minus_2_no_special"]
    np.testing.assert_allclose(np.asarray(store.embeddings), expected, atol=5e-5)
    assert store.column("sequence").to_pylist() == [text for _, text in lines]


@pytest.mark.parametrize("bad", [3, 1500])
def test_a_token_beyond_the_embedding_is_named_with_its_cell_file_and_line(tmp_path: Path, bad: int) -> None:
    lines = [f"c{row}\t2 57 {999999 if row == bad else 77 + row % 50} 3" for row in range(1600)]
    (tmp_path / "cells.tsv").write_text("\n".join(["id\tinput_ids", *lines]) + "\n")
    model = str(shared_folder("golden") / "geneformer")
    with pytest.raises(
        InputError, match=rf"^'c{bad}' at .*cells\.tsv, line {bad + 2}: '999999' is beyond the encoder's"
    ):
        run_extract(tmp_path / "s.zarr", tmp_path / "cells.tsv", model=model)
