"""Ranked tokens of another vocabulary: mapped, cut, joined row by row; and never a pickled object is loaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from embedcache.errors import InputError
from embedcache.input_options import InputOptions
from embedcache.records import provenance_of, remarks_of
from embedcache.sources import open_records
from tests.cells.counted import Counted, opened, texts

PAD = 31  # one more than the largest of the 31 numbers below


class Layout:
    """Three cells as the users' scripts write them: numbers of their own vocabulary, padded to a width of 8."""

    def __init__(self, folder: Path, counted: Counted) -> None:
        self.path = folder / "tumor_gene_rank_tokens.npz"
        self.metadata = folder / "metadata.tsv"
        self.vocabulary = folder / "gene_vocab.tsv"
        names = [*reversed(counted.genes), "UNKNOWN"]
        self.vocabulary.write_text(
            "gene_symbol\ttoken_id\n" + "".join(f"{name}\t{at}\n" for at, name in enumerate(names))
        )
        self.tokens = np.full((3, 8), PAD, np.int32)
        self.tokens[0, :4] = [29, 28, 30, 5]  # genes 0, 1, an unknown one, 24
        self.tokens[1, :8] = [10, 0, 11, 1, 12, 2, 13, 3]  # every second one has no token
        self.tokens[2, :1] = [20]
        self.lengths = np.array([4, 8, 1])
        self.metadata.write_text(
            "Patient\tClass\tSample\ttoken_length\nP1\tTumor\ts1\t4\nP2\tNormal\ts2\t8\nP2\tBorder\ts3\t1\n"
        )
        self.save()

    def save(self, **arrays: Any) -> None:
        np.savez(self.path, **{"tokens": self.tokens, "lengths": self.lengths, **arrays})


@pytest.fixture
def layout(tmp_path: Path, counted: Counted) -> Layout:
    return Layout(tmp_path, counted)


EXPECTED = ["2 4 5 28 3", "2 23 22 21 20 3", "2 13 3"]


def test_numbers_of_their_own_are_mapped_to_the_encoders_tokens(layout: Layout, model: Path) -> None:
    source = opened(model, layout.path)
    assert texts(source) == {f"tumor_gene_rank_tokens:{row}": text for row, text in enumerate(EXPECTED, 1)}
    assert remarks_of(source)[0].startswith(
        f"genes    25 of 31 ({layout.vocabulary}) have a token; 6 have none, such as"
    )
    assert [entry["file"] for entry in provenance_of(source)["cells"]["dictionaries"]] == [  # type: ignore[index]
        "token_dictionary_gc104M.pkl",
        "gene_vocab.tsv",
    ]


def test_the_vocabulary_may_lie_elsewhere(layout: Layout, model: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other" / "genes.csv"
    elsewhere.parent.mkdir()
    elsewhere.write_text(layout.vocabulary.read_text().replace("\t", ","))
    layout.vocabulary.unlink()
    assert list(texts(opened(model, layout.path, gene_vocabulary=str(elsewhere))).values()) == EXPECTED


def test_without_a_vocabulary_the_numbers_are_the_encoders(layout: Layout, model: Path) -> None:
    layout.vocabulary.unlink()
    layout.save(tokens=np.minimum(layout.tokens, 28))
    source = opened(model, layout.path)
    assert list(texts(source).values())[2] == "2 20 3"
    assert "taken as the encoder's own" in remarks_of(source)[0]
    layout.save()
    with pytest.raises(InputError, match=r"row 1: the token 29 is not among the 29 of the encoder.*--gene-vocabulary"):
        texts(opened(model, layout.path))


def test_the_table_goes_row_by_row(layout: Layout, model: Path) -> None:
    table = pa.Table.from_batches(opened(model, layout.path, metadata=layout.metadata).batches())
    assert table["Patient"].to_pylist() == ["P1", "P2", "P2"]
    assert table["id"].to_pylist() == [f"tumor_gene_rank_tokens:{row}" for row in (1, 2, 3)]
    named = pa.Table.from_batches(opened(model, layout.path, metadata=layout.metadata, id_column="Sample").batches())
    assert named["id"].to_pylist() == ["s1", "s2", "s3"]
    layout.metadata.write_text(layout.metadata.read_text().replace("Sample", "barcode"))
    guessed = pa.Table.from_batches(opened(model, layout.path, metadata=layout.metadata).batches())
    assert guessed["id"].to_pylist() == ["s1", "s2", "s3"]


def test_a_table_of_other_cells_is_refused(layout: Layout, model: Path) -> None:
    lines = layout.metadata.read_text().splitlines()
    layout.metadata.write_text("\n".join([lines[0], lines[2], lines[1], lines[3]]))
    with pytest.raises(InputError, match=r"line 2: token_length is 8 here and 4 in .*not in the order of the cells"):
        opened(model, layout.path, metadata=layout.metadata)
    layout.metadata.write_text("\n".join(lines[:3]))
    with pytest.raises(InputError, match=r"the table has 2 rows, and .* 3 cells"):
        opened(model, layout.path, metadata=layout.metadata)


def test_two_files_cannot_share_a_table(layout: Layout, model: Path) -> None:
    with pytest.raises(InputError, match=r"give one \.npz at a time"):
        opened(model, layout.path, layout.path, metadata=layout.metadata)


def test_what_is_over_the_limit_is_cut_off_and_a_gene_counts_once(
    tmp_path: Path, counted: Counted, model: Path
) -> None:
    layout = Layout(tmp_path, counted)
    layout.vocabulary.write_text(layout.vocabulary.read_text().replace("UNKNOWN", f"{counted.genes[3]}.5"))
    layout.tokens = np.array([[*range(29, 4, -1), 30]])
    layout.save(lengths=np.array([26]))
    (text,) = texts(opened(model, layout.path)).values()
    assert text == "2 " + " ".join(map(str, range(4, 22))) + " 3"  # 20 tokens with <cls> and <eos>
    layout.save(tokens=np.array([[30, 26, 25]]), lengths=np.array([3]))
    assert list(texts(opened(model, layout.path)).values()) == ["2 7 8 3"]


def test_cells_without_a_known_gene_are_named_or_left_out(layout: Layout, model: Path) -> None:
    layout.save(lengths=np.array([4, 0, 1]), tokens=np.where(layout.tokens == 20, 30, layout.tokens))
    layout.metadata.write_text(layout.metadata.read_text().replace("\t8\n", "\t0\n"))
    with pytest.raises(InputError, match=r"row 2: the cell .*:2' has no gene that the encoder knows.*--skip-bad"):
        texts(opened(model, layout.path))
    source = opened(model, layout.path, metadata=layout.metadata, skip_bad=True)
    assert list(texts(source).values()) == EXPECTED[:1]
    assert remarks_of(source)[-1] == "cells    2 without a gene of the encoder are left out (--skip-bad)"


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["tokens", "lengths"])
def test_arrays_of_objects_are_refused_and_nothing_runs(layout: Layout, model: Path, tmp_path: Path, name: str) -> None:
    made = tmp_path / "made"
    layout.save(**{name: np.array([_Runs(made)] * 3, object)})
    with pytest.raises(InputError, match=f"{name} holds Python objects, which could run code"):
        texts(opened(model, layout.path))
    assert not made.exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"lengths": np.array([4, 9, 1])}, r"row 2: the length 9 is not from 0 to 8"),
        ({"lengths": np.array([4, -1, 1])}, r"row 2: the length -1 is not from 0 to 8"),
        ({"lengths": np.array([4, 8])}, r"tokens is \(3, 8\), and there are 2 lengths"),
        ({"lengths": np.array([[4, 8, 1]])}, r"lengths is \(1, 3\), and one number for each cell"),
        ({"lengths": np.array([4.0, 8.0, 1.0])}, r"lengths is float64; whole numbers"),
        ({"lengths": np.array([5, 8, 1])}, r"row 1: the token 31 is not among the 31 of the vocabulary"),
        ({"tokens": np.zeros((3, 8), "U3")}, r"tokens is <U3; whole numbers"),
        ({"tokens": np.full((3, 8), -4)}, r"row 1: the token -4 is not among"),
        ({"tokens": np.asfortranarray(np.zeros((3, 8), int))}, r"stored by columns"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    layout: Layout, model: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    layout.save(**arrays)
    with pytest.raises(InputError, match=message):
        texts(opened(model, layout.path))


def test_other_arrays_are_no_ranked_tokens(layout: Layout, model: Path) -> None:
    np.savez(layout.path, X=np.zeros((3, 8)), cells=np.array(["a", "b", "c"]))
    with pytest.raises(
        InputError, match="there is no array 'lengths'; arrays tokens and lengths are expected, it has X"
    ):
        opened(model, layout.path)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_that_was_cut_off_is_named(layout: Layout, model: Path, kept: float, compressed: bool) -> None:
    if compressed:
        np.savez_compressed(layout.path, tokens=layout.tokens, lengths=layout.lengths)
    content = layout.path.read_bytes()
    layout.path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match=r"tumor_gene_rank_tokens\.npz: the file is cut off or damaged"):
        texts(opened(model, layout.path))


def test_compressed_arrays_are_read(layout: Layout, model: Path) -> None:
    np.savez_compressed(layout.path, tokens=layout.tokens, lengths=layout.lengths)
    assert list(texts(opened(model, layout.path)).values()) == EXPECTED


def test_medians_are_not_needed(layout: Layout, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "gene_median_dictionary_gc104M.pkl").unlink()
    assert list(texts(opened(tmp_path / "model", layout.path)).values()) == EXPECTED


# Splits


def splits(folder: Path, **rows: Any) -> str:
    np.savez(folder / "splits_by_patient.npz", **rows)
    return str(folder / "splits_by_patient.npz")


def split_of(layout: Layout, model: Path, path: str) -> list[str | None]:
    options = InputOptions((str(layout.path),), metadata=str(layout.metadata), splits=path)
    source = open_records(options, str(model))
    assert source.columns[-1] == "split"
    found: list[str | None] = pa.Table.from_batches(source.batches())["split"].to_pylist()
    return found


def test_rows_of_a_split_become_its_column(layout: Layout, model: Path, tmp_path: Path) -> None:
    path = splits(tmp_path, train_idx=np.array([2]), val_idx=np.array([0]), test_idx=np.array([1]))
    assert split_of(layout, model, path) == ["val", "test", "train"]
    assert split_of(layout, model, splits(tmp_path, train_idx=np.array([1]))) == [None, "train", None]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"train_idx": [0, 1], "test_idx": [1, 2]}, "the row 1 is in train and in test"),
        ({"train_idx": [0, 3]}, r"has the row 3, and .* has 3, from 0"),
        ({"train_idx": [-1]}, "a list of rows from 0 is expected"),
        ({"train_idx": [0.5]}, "a list of rows from 0 is expected"),
        ({"train": np.array([], int)}, "has no rows of train_idx, val_idx or test_idx"),
        ({"folds": [1]}, "has no rows of train_idx.*it has folds"),
        ({"train_idx": np.array([None])}, "cannot be read as arrays of numbers.*allow_pickle=False"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(
    layout: Layout, model: Path, tmp_path: Path, rows: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        split_of(layout, model, splits(tmp_path, **rows))


def test_a_split_beside_a_column_of_that_name_is_refused(layout: Layout, model: Path, tmp_path: Path) -> None:
    layout.metadata.write_text(layout.metadata.read_text().replace("Sample", "split"))
    with pytest.raises(InputError, match="has a column 'split' already"):
        split_of(layout, model, splits(tmp_path, train_idx=[0]))
