"""The other strand as records of their own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from Bio.Seq import reverse_complement

from embedcache.errors import InputError
from embedcache.input_options import InputOptions
from embedcache.records import remarks_of
from embedcache.sources import open_records
from tests.transforms.conftest import Open, rows

LETTERS = "ACGTRYSWKMBDHVNacgtryswkmbdhvn-"


def test_every_record_is_followed_by_its_reverse_complement_as_biopython_writes_it(opened: Open) -> None:
    rng = random.Random(0)
    records = {f"r{i}": "".join(rng.choices(LETTERS, k=rng.randint(1, 60))) for i in range(100)}
    made = rows(opened(records, ":label=1", reverse_complement="add"))
    assert [(row["id"], row["strand"]) for row in made[:4]] == [
        ("r0", "+"),
        ("r0/rc", "-"),
        ("r1", "+"),
        ("r1/rc", "-"),
    ]
    assert [row["sequence"] for row in made[::2]] == list(records.values())
    assert [row["sequence"] for row in made[1::2]] == [reverse_complement(letters) for letters in records.values()]
    assert all(row["label"] == "1" and row["group"] == row["id"].removesuffix("/rc") for row in made)


def test_u_is_paired_with_a_and_both_strands_are_counted(opened: Open) -> None:
    source = opened({"a": "ACGUu"}, reverse_complement="add")
    assert rows(source)[1]["sequence"] == "aACGT"
    assert remarks_of(source) == ("strands  1 record and its reverse complement, 2 in all",)


def test_strand_and_group_of_the_input_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,seq,strand,group\nx,ACC,-,donor\n")
    made = rows(open_records(InputOptions((str(path),), reverse_complement="add")))
    assert [(row["strand_in"], row["strand"], row["group"]) for row in made] == [
        ("-", "+", "donor"),
        ("-", "-", "donor"),
    ]


def test_windows_come_before_strands_and_keep_their_contig_as_the_group(opened: Open) -> None:
    source = opened({"a": "AACCGGTTAC"}, windows="6:4", reverse_complement="add")
    assert [(row["id"], row["sequence"], row["parent"], row["group"]) for row in rows(source)] == [
        ("a:0-6", "AACCGG", "a", "a"),
        ("a:0-6/rc", "CCGGTT", "a", "a"),
        ("a:4-10", "GGTTAC", "a", "a"),
        ("a:4-10/rc", "GTAACC", "a", "a"),
    ]
    assert source.locate([3, 0]) == [f"{source.name}, line 1"] * 2


def test_proteins_have_no_other_strand(opened: Open) -> None:
    protein = "MKLVFFAEDVGSNKGAIIGLMVGGVVIATVIVITLVMLKKKQYTSIHHGVVEVDAAVTPEERHLSK"
    with pytest.raises(InputError, match=r"'a' .* letters of 66 that are no nucleotides \(such as .*leave it out"):
        rows(opened({"a": protein}, reverse_complement="add"))
