"""Dictionaries of genes: the same from pickle, JSON and tables, and refused where their values are of another kind."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedcache.cells.dictionary import read_names, read_numbers, read_tokens
from embedcache.errors import InputError

Write = Callable[[str, bytes], Path]
TOKENS = {"<pad>": 0, "ENSG00000000003": 4, "ENSG00000000005": 5}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return written


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pkl", pickle.dumps(TOKENS)),
        ("a.pickle", pickle.dumps({gene: np.int64(token) for gene, token in TOKENS.items()})),
        ("a.json", json.dumps(TOKENS).encode()),
        ("a.tsv", b"gene_symbol\ttoken_id\n<pad>\t0\nENSG00000000003\t4\nENSG00000000005\t5\n"),
        (
            "bom_and_crlf.tsv",
            b"\xef\xbb\xbfgene_symbol\ttoken_id\r\n<pad>\t0\r\nENSG00000000003\t4\r\nENSG00000000005\t5\r\n",
        ),
        ("without_header.csv", b"<pad>,0\nENSG00000000003,4\n\nENSG00000000005,5\n"),
        ("quoted.csv", b'"gene";"id"\n"<pad>";0\n"ENSG00000000003";4\n"ENSG00000000005";5\n'),
    ],
)
def test_every_form_gives_the_same_tokens(write: Write, name: str, content: bytes) -> None:
    assert read_tokens(write(name, content)) == TOKENS


def test_names_without_an_id_are_left_out(write: Write) -> None:
    names = {"TP53": "ENSG00000141510", "OLD": None, "NAN": float("nan")}
    assert read_names(write("a.pkl", pickle.dumps(names)), "names") == {"TP53": "ENSG00000141510"}
    table = b"name,id\nTP53,ENSG00000141510\nOLD,\n"
    assert read_names(write("a.csv", table), "names") == {"TP53": "ENSG00000141510"}
    assert read_names(write("b.csv", b"TP53,ENSG00000141510\n"), "names") == {"TP53": "ENSG00000141510"}


@pytest.mark.parametrize("value", [0, -1.5, "x", None, float("nan"), float("inf"), True, [1]])
def test_a_median_is_a_number_above_zero(write: Write, value: object) -> None:
    with pytest.raises(
        InputError, match=r"m\.pkl: 'B' has .* where a number above 0 belongs \(genes and their medians"
    ):
        read_numbers(write("m.pkl", pickle.dumps({"A": 1.0, "B": value})), "medians")


@pytest.mark.parametrize("value", [-1, 1.5, "x", 2**40])
def test_a_token_is_a_whole_number(write: Write, value: object) -> None:
    with pytest.raises(InputError, match=r"t\.json: 'B' has .* where a whole number from 0 belongs"):
        read_tokens(write("t.json", json.dumps({"A": 1, "B": value}).encode()))


def test_two_genes_with_one_token_are_named(write: Write) -> None:
    with pytest.raises(InputError, match=r"'B' and 'A' have the same token id 7.*--ensembl-mapping"):
        read_tokens(write("t.json", b'{"A": 7, "B": 7}'))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[1, 2]", "is no dictionary of genes and their token ids"),
        ("a.json", b"{", "is not readable JSON"),
        ("a.pkl", pickle.dumps([1]), "is no dictionary"),
        ("a.pkl", pickle.dumps({}), "is no dictionary"),
        ("a.pkl", pickle.dumps({1: 2}), "is no dictionary"),
        ("a.tsv", b"gene\n", "line 1: one column where two are expected"),
        ("a.tsv", b"", "is no dictionary"),
        ("a.tsv", b"A\t1\nA\t2\n", "'A' is there twice, with '1' and '2'"),
        ("a.npz", b"PK\x03\x04\xff", "is not UTF-8 text"),
    ],
)
def test_what_is_no_dictionary_is_refused(write: Write, name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_tokens(write(name, content))
