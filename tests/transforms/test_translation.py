"""Translation: equal to Biopython's in every genetic code, with places on the parent and ids that lead back to it."""

from __future__ import annotations

import random
import re
import warnings
from pathlib import Path

import pytest
from Bio import BiopythonWarning
from Bio.Data.CodonTable import unambiguous_dna_by_id
from Bio.Seq import reverse_complement, translate

from embedcache.errors import InputError
from embedcache.input_options import InputOptions
from embedcache.records import provenance_of, remarks_of
from embedcache.sources import open_records
from embedcache.transforms import remade
from tests.transforms.conftest import Open, rows

IUPAC = "ACGTRYSWKMBDHVN"


def by_biopython(letters: str, frame: str, table: int = 1) -> str:
    strand = letters if frame[0] == "F" else reverse_complement(letters)
    shift = int(frame[1]) - 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BiopythonWarning)
        return str(translate(strand[shift : shift + (len(strand) - shift) // 3 * 3], table=table))


def random_dna(number: int, letters: str, longest: int = 200) -> dict[str, str]:
    rng = random.Random(0)
    return {f"r{i}": "".join(rng.choices(letters, k=rng.randint(1, longest))) for i in range(number)}


@pytest.mark.parametrize("table", sorted(unambiguous_dna_by_id))
def test_every_frame_is_translated_as_biopython_does_in_every_genetic_code(opened: Open, table: int) -> None:
    records = random_dna(40, IUPAC + 30 * "ACGT")
    made = rows(opened(records, translate="six-frame", stops="keep", genetic_code=table, min_length=1))
    got = {(row["parent"], row["frame"]): row["sequence"] for row in made}
    expected = {
        (name, frame): protein
        for name, letters in records.items()
        for frame in ("F1", "F2", "F3", "R1", "R2", "R3")
        if (protein := by_biopython(letters, frame, table))
    }
    assert got == expected


def test_lower_case_and_u_are_read_as_dna_and_other_letters_as_unknown(opened: Open) -> None:
    [row] = rows(opened({"a": "augGCN-aaRAYMTHNNN"}, translate="frame:1"))
    assert row["sequence"] == "MAXBJX", "Asp or Asn is B, Ile or Leu J"


@pytest.mark.parametrize("table", [1, 2, 11])
def test_stretches_between_stops_are_those_of_split_and_lie_where_they_say(opened: Open, table: int) -> None:
    records = random_dna(60, "ACGTN", 400)
    made = rows(opened(records, translate="six-frame", genetic_code=table, min_length=7))
    for row in made:
        letters = records[row["parent"]][row["start"] : row["stop"]]
        strand = letters if row["frame"][0] == "F" else reverse_complement(letters)
        assert translate(strand, table=table) == row["sequence"]
    expected = [
        (name, frame, stretch)
        for name, letters in records.items()
        for frame in ("F1", "F2", "F3", "R1", "R2", "R3")
        for stretch in by_biopython(letters, frame, table).split("*")
        if len(stretch) >= 7
    ]
    assert [(row["parent"], row["frame"], row["sequence"]) for row in made] == expected


def test_cut_takes_what_is_before_the_first_stop(opened: Open) -> None:
    records = random_dna(60, "ACGT", 300)
    made = rows(opened(records, translate="six-frame", stops="cut", min_length=1))
    expected = [
        (f"{name}{frame}", protein)
        for name, letters in records.items()
        for frame in ("F1", "F2", "F3", "R1", "R2", "R3")
        if (protein := by_biopython(letters, frame).split("*")[0])
    ]
    assert [(row["id"], row["sequence"]) for row in made] == expected


def test_ids_carry_the_frame_and_from_the_second_protein_on_a_number(opened: Open) -> None:
    letters = "ATGGCC" * 5 + "TAA" + "ATGGTC" * 5 + "TAG" + "ATGATC" * 5
    made = rows(opened({"x": letters}, ":label=1", translate="six-frame", min_length=10))
    forward = [row for row in made if row["frame"] == "F1"]
    assert [row["id"] for row in forward] == ["xF1", "xF1.2", "xF1.3"]
    assert [(row["start"], row["stop"]) for row in forward] == [(0, 30), (33, 63), (66, 96)]
    assert all(re.fullmatch(r"x[FR][123](\.\d+)?", row["id"]) and row["group"] == "x" for row in made)
    assert len({row["id"] for row in made}) == len(made)


def test_the_frames_are_those_of_virnucpro(shared_data: Path) -> None:
    folder = shared_data / "virnucpro_fixtures"

    def fasta(name: str) -> dict[str, str]:
        parts = (folder / name).read_text()[1:].split("\n>")
        return {part.split("\n", 1)[0]: part.split("\n", 1)[1].replace("\n", "") for part in parts}

    proteins, frames = fasta("test_with_orfs_protein.fa"), fasta("test_with_orfs_nucleotide.fa")
    source = open_records(InputOptions((str(folder / "test_with_orfs.fa"),), translate="six-frame", min_length=50))
    made = {row["id"].replace("F", "_chunk_1F").replace("R", "_chunk_1R"): row for row in rows(source)}
    for name, protein in proteins.items():
        assert made[name]["sequence"] == protein
        assert translate(frames[name][: len(protein) * 3]) == protein


@pytest.mark.parametrize("orf", [None, "start"])
def test_the_longest_orf_of_six_frames_keeps_the_id_of_its_record(opened: Open, orf: str | None) -> None:
    records = random_dna(80, "ACGT", 500)
    source = opened(records, translate="longest-orf", orf=orf, min_length=15)
    made = rows(source)
    starts = unambiguous_dna_by_id[1].start_codons
    expected = {}
    for name, letters in records.items():
        best = ""
        for frame in ("F1", "F2", "F3", "R1", "R2", "R3"):
            strand = (letters if frame[0] == "F" else reverse_complement(letters))[int(frame[1]) - 1 :]
            codons = [strand[at : at + 3] for at in range(0, len(strand) // 3 * 3, 3)]
            protein = translate("".join(codons))
            for stretch in re.finditer(r"[^*]+", protein):
                begin, end = stretch.span()
                if orf == "start":
                    begin = next((at for at in range(begin, end) if codons[at] in starts), end)
                orf_letters = (
                    protein[begin:end] if orf is None else "M" + protein[begin + 1 : end] if begin < end else ""
                )
                best = max(best, orf_letters, key=len)
        if len(best) >= 15:
            expected[name] = best
    assert {row["id"]: row["sequence"] for row in made} == expected
    assert all(row["parent"] == row["id"] == row["group"] for row in made)
    left_out = len(records) - len(expected)
    assert f"; {left_out:,} records have no protein of 15 amino acids and are left out (" in remarks_of(source)[0]


def test_a_single_frame_keeps_the_id_and_stops_at_the_first_stop(opened: Open) -> None:
    records = {"a": "ATGGCCTAAATG", "b": "TAAATG"}
    source = opened(records, translate="frame:1")
    assert [(row["id"], row["sequence"], row["start"], row["stop"]) for row in rows(source)] == [("a", "MA", 0, 6)]
    assert "1 record has no protein of 1 amino acid and is left out (b)" in remarks_of(source)[0]
    [row] = rows(opened({"a": "CCATGGCC"}, translate="frame:-1", stops="keep"))
    assert (row["frame"], row["sequence"], row["start"], row["stop"]) == ("R1", "GH", 2, 8)
    split = rows(opened(records, translate="frame:1", stops="split"))
    assert [row["id"] for row in split] == ["aF1", "aF1.2", "bF1"]


def test_long_records_and_small_portions_give_the_same(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    records = random_dna(50, "ACGT", 900)
    options = {"translate": "six-frame", "min_length": 5}
    whole = rows(opened(records, **options))
    monkeypatch.setattr(remade, "PORTION_LETTERS", 1)
    source = opened(records, **options)
    assert rows(source) == whole
    places = source.locate([len(whole) - 1, 0])
    assert places == [f"{source.name}, line {1 + 2 * int(whole[at]['parent'][1:])}" for at in (-1, 0)]


def test_windows_are_translated_in_their_own_letters_and_keep_their_contig_as_the_group(opened: Open) -> None:
    source = opened(random_dna(20, "ACGT", 900), windows="random:150x1-3", translate="longest-orf", min_length=10)
    assert source.columns == ("parent_in", "start_in", "stop_in", "parent", "frame", "start", "stop", "group")
    for row in rows(source):
        assert row["parent"] == row["id"]
        assert row["group"] == row["parent_in"] == row["id"].split(":")[0]
        assert 0 <= row["start"] < row["stop"] <= 150
    assert provenance_of(source)["transforms"] == [
        "random windows of 150 letters, 1-3 a record, seed 0, shorter records: keep",
        "translated longest-orf, genetic code 1, stops split, at least 10 amino acids",
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"translate": "six"}, "six-frame, longest-orf, or frame:N"),
        ({"translate": "frame:4"}, "six-frame, longest-orf, or frame:N"),
        ({"translate": "longest-orf", "stops": "keep"}, "does not go with --translate longest-orf"),
        ({"translate": "six-frame", "orf": "start"}, "--orf is for --translate longest-orf"),
        ({"translate": "six-frame", "genetic_code": 7}, "no genetic code 7: take one of 1, 2, 3"),
        ({"translate": "six-frame", "reverse_complement": "add"}, "those of both strands already"),
    ],
)
def test_options_that_make_no_sense_are_refused(opened: Open, options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        opened({"a": "ACGT"}, **options)


def test_proteins_are_not_translated(opened: Open) -> None:
    with pytest.raises(InputError, match="looks like protein: --translate is for DNA"):
        rows(opened({"a": "MKLVFFAEDVGSNKGAIIGLMVGGVVIATVIVITLVMLKKKQYTSIHHGVVEVD"}, translate="six-frame"))


def test_a_record_of_unknown_letters_gives_no_error(opened: Open) -> None:
    [row] = rows(opened({"a": "N" * 90}, translate="longest-orf"))
    assert row["sequence"] == "X" * 30
