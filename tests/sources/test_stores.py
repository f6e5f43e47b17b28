"""A store as an input: what was read once need not be found again."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from embedcache import load_encoder, open_store
from embedcache.errors import InputError, StoreError
from embedcache.extraction.preflight import Options
from embedcache.sequences.alphabet import CELL
from embedcache.sources import open_source
from embedcache.storage.layout import StorePaths
from tests.letter_encoder import LetterEncoder
from tests.processes import command
from tests.stores import make_store, random_reads, run_extract, write_fasta

TABLE = "id\tlabel\tdonor\tscore\tlength\nr1\t1\t007\t0.5\t9\nr0\t0\t012\t\t8\nr2\t0\t9\t1e-3\t7\n"


def first_store(folder: Path, rows: int = 3) -> Path:
    (folder / "m.tsv").write_text(TABLE)
    fasta = write_fasta(folder / "r.fa", random_reads(rows))
    make_store(folder / "first.zarr", fasta, metadata=folder / "m.tsv")
    return folder / "first.zarr"


def test_a_store_is_encoded_again_by_another_encoder_and_its_columns_travel(tmp_path: Path) -> None:
    first = first_store(tmp_path)
    again = make_store(tmp_path / "again.zarr", first, model="kmer:2")
    before = open_store(first)
    kept = ["id", "sequence", "digest", "length", "label", "donor", "score", "length_in"]
    assert again.read_rows(kept).equals(before.read_rows(kept))
    assert str(again.schema.field("donor").type) == "string"
    expected = load_encoder("kmer:2").encode(before.column("sequence").to_pylist()).astype(np.float16)
    np.testing.assert_array_equal(np.asarray(again.embeddings), expected)


def test_a_store_of_several_shards_is_read_shard_by_shard(tmp_path: Path) -> None:
    reads = random_reads(2500)
    first = make_store(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads)).path
    source = open_source([str(first)])
    batches = list(source.batches())
    assert [len(batch) for batch in batches] == [1024, 1024, 452]
    assert pa.Table.from_batches(batches).column("sequence").to_pylist() == reads
    assert source.locate([2000]) == [f"{first}, row 2000"]


def test_stores_files_and_attached_columns_go_together(tmp_path: Path) -> None:
    first = first_store(tmp_path)
    more = write_fasta(tmp_path / "more.fa", ["ACGT"], first=9)
    store = make_store(tmp_path / "both.zarr", f"{first}:origin=lab", f"{more}:origin=web")
    assert store.column("origin").to_pylist() == ["lab"] * 3 + ["web"]
    assert store.column("label").to_pylist() == [0, 1, 0, None]


def test_cells_travel_too(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("id,input_ids\na,2 144 3\nb,7 8\n")
    encoder = LetterEncoder()
    encoder.alphabet = CELL
    run_extract(tmp_path / "s.zarr", tmp_path / "cells.csv", model=encoder)
    source = open_source([str(tmp_path / "s.zarr")])
    assert [batch["sequence"].to_pylist() for batch in source.batches()] == [["2 144 3", "7 8"]]


def test_a_store_without_sequences_cannot_be_encoded_again(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(3))
    run_extract(tmp_path / "s.zarr", fasta, options=Options(drop_sequence=True))
    with pytest.raises(InputError, match="keeps no sequences, so they cannot be encoded again: give the files"):
        open_source([str(tmp_path / "s.zarr")])


def test_an_unfinished_store_is_no_input(tmp_path: Path) -> None:
    first = first_store(tmp_path)
    StorePaths(first).commit(0).unlink()
    with pytest.raises(StoreError, match="is not finished"):
        open_source([str(first)])


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    first = make_store(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", random_reads(2500))).path
    source = open_source([str(first)])
    StorePaths(first).part(1).write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"00000001\.parquet cannot be read .* see `embedcache verify"):
        list(source.batches())


def test_other_folders_and_options_of_tables_are_refused(tmp_path: Path) -> None:
    first = first_store(tmp_path)
    with pytest.raises(InputError, match="is a folder"):
        open_source([str(tmp_path)])
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(StoreError, match="is not an embedcache store"):
        open_source([str(tmp_path)])
    with pytest.raises(InputError, match="--sequence-column names a column of a table"):
        open_source([str(first)], sequence_column="sequence")


def test_the_program_reads_stores(tmp_path: Path) -> None:
    first = first_store(tmp_path)
    said = command("extract", "--model", "kmer:2", "--input", first, "--output", tmp_path / "t.zarr", check=True).stderr
    assert re.search(r"input    .*first\.zarr: 3 records", said)
    said = command("extract", "--model", "kmer:2:protein", "--input", first, "--output", tmp_path / "p.zarr").stderr
    assert "looks like DNA" in said
