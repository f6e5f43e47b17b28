"""Cells are read from text, and what is no cell is refused by name."""

from __future__ import annotations

import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedcache.encoders.tokenizers import GeneTokenizer, tokenizer
from embedcache.errors import InputError
from embedcache.sequences.alphabet import CELL, DNA, PROTEIN, LetterCounts, Letters, normalise
from tests.conftest import shared_folder

V1 = GeneTokenizer(25426, cls=None, eos=None)
V2 = GeneTokenizer(20275, cls=2, eos=3)


def ids_of(ours: GeneTokenizer, cells: list[str]) -> list[list[int]]:
    tokens = ours(cells)
    return [tokens[cell].tolist() for cell in range(len(cells))]


def test_cells_have_the_ids_that_are_written_in_them() -> None:
    assert ids_of(V1, ["5 17 25425", "0", "", "  7   8 ", "007"]) == [[5, 17, 25425], [0], [], [7, 8], [7]]


def test_the_tokens_around_a_cell_are_added_where_they_are_lacking() -> None:
    cells = ["5 6", "2 5 6", "5 6 3", "2 5 6 3", "", "2", "3"]
    framed = [[2, 5, 6, 3]] * 4
    assert ids_of(V2, cells) == [*framed, [2, 3], [2, 3], [2, 3]]
    assert (V1.special, V2.special) == ((0, 0), (1, 1))


def test_real_cells_are_read_as_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pq.read_table(shared_folder("data") / "geneformer_tokens_500" / "genecorpus_500_samples.parquet")
    cells = table["input_ids"].to_pylist()
    texts = [" ".join(map(str, cell)) for cell in cells]
    assert ids_of(V1, texts) == cells
    monkeypatch.setattr(tokenizer, "SLICE", 1000)
    assert ids_of(V1, texts[:20]) == cells[:20]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("5 ENSG00000139618 7", "'ENSG00000139618' is no token id"),
        ("5 -7", "'-7' is no token id"),
        ("1.5", "'1.5' is no token id"),
        ("5,7,9", "'5,7,9' is no token id"),
        ("5\t7", "'5\t7' is no token id"),
        ("5 20275", "'20275' is beyond the encoder's 20,275 token ids"),
        ("5 99999999999999999999 7", "'99999999999999999999' is too long for a token id"),
        ("7 " + "x" * 50, "'xxxxxxxxxxxxxxxxxxxx...' is no token id"),
    ],
)
def test_what_is_no_token_is_named_with_its_cell(cell: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for slice_ in (1 << 18, 8):
        monkeypatch.setattr(tokenizer, "SLICE", slice_)
        with pytest.raises(InputError, match=f"^cell 3: {re.escape(said)}.*such as '144 1486 1256'"):
            V2(["5 6", "", "7", cell, "8"])


def test_the_fingerprint_tells_versions_apart() -> None:
    assert V1.fingerprint != GeneTokenizer(25426, cls=2, eos=3).fingerprint
    assert V1.fingerprint != GeneTokenizer(25427, cls=None, eos=None).fingerprint
    assert V1.name_of(17) == "17"


def counts_of(text: str) -> LetterCounts:
    counts = LetterCounts.none()
    counts.add(Letters.of([text]))
    return counts


def test_cells_hold_digits_and_blanks_and_nothing_else() -> None:
    counts_of("144 1486 1256").check(CELL, "geneformer")
    counts_of("").check(CELL, "geneformer")
    for text in ("ACGTACGT", "MKTAYIAK", "144 1486 ENSG0001", "144,1486"):
        with pytest.raises(InputError, match="geneformer encodes cells.*'144 1486 1256'"):
            counts_of(text).check(CELL, "geneformer")


@pytest.mark.parametrize(("alphabet", "kind"), [(DNA, "DNA"), (PROTEIN, "proteins")])
def test_cells_are_no_sequences(alphabet: str, kind: str) -> None:
    with pytest.raises(InputError, match=f"token ids of cells.*encodes {kind}.*Geneformer"):
        counts_of("144 1486 1256").check(alphabet, "an encoder")


def test_nothing_in_a_cell_is_changed_before_it_is_read() -> None:
    letters = Letters.of(["12 u7a"])
    np.testing.assert_array_equal(normalise(letters, CELL).bytes_, letters.bytes_)
    assert counts_of("12 u7a").outside(CELL) == {"a": 1, "u": 1}
