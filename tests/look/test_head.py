"""`embedcache head`: rows as a table for people, or whole for programs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from embedcache.errors import InputError
from tests.exchange.files import imported, program
from tests.stores import make_store, write_fasta


@pytest.fixture
def store(tmp_path: Path) -> Path:
    fasta = write_fasta(tmp_path / "r.fa", ["ACGT" * 30, "TTTTT", "ACGGGT"])
    table = tmp_path / "m.csv"
    table.write_text('id,label,note\nr0,1,"a, b"\nr1,0,\n')
    return make_store(tmp_path / "s.zarr", fasta, metadata=table).path


def test_rows_are_printed_in_columns(store: Path) -> None:
    lines = program("head", store).splitlines()
    assert lines[0].split() == ["id", "length", "label", "note", "[0]", "[1]", "[2]", "[3]"]
    assert lines[1].split()[:3] == ["r0", "120", "1"]
    assert lines[3].split()[:4] == ["r2", "6", "-", "-"]
    assert len({line.index(value) for line, value in zip(lines[:2], ["length", "120"], strict=True)}) == 2
    assert lines[-1] == "3 of 3 rows; 32 values"
    assert "..." in program("head", store, "--columns", "sequence")


def test_csv_and_json_have_whole_values(store: Path) -> None:
    rows = [
        json.loads(line)
        for line in program("head", store, "-n", 2, "--json", "--columns", "sequence,note").splitlines()
    ]
    assert [row["id"] for row in rows] == ["r0", "r1"]
    assert rows[0]["sequence"] == "ACGT" * 30
    parsed = list(csv.DictReader(io.StringIO(program("head", store, "--csv"))))
    assert parsed[0]["note"] == "a, b"
    assert float(parsed[0]["[0]"]) == rows[0]["[0]"]
    assert len(program("head", store, "--columns", "digest", "--json").splitlines()) == 3


def test_an_unknown_column_lists_the_known_ones_and_tokens_show_the_first(
    store: Path, shared_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no column 'nothing'; it has: row, id"):
        program("head", store, "--columns", "nothing")
    imported(tmp_path / "t.zarr", shared_data / "bio_embeddings_reference" / "esm1b.npz")
    assert "1,280 values a token, the first token is shown" in program("head", tmp_path / "t.zarr")
