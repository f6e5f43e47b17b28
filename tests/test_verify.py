"""Verify finds what has changed since it was written, and encodes rows again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedcache import open_store
from embedcache.errors import StoreError
from embedcache.preflight import Options
from embedcache.store import StorePaths
from embedcache.verify import check_files, recompute_rows
from tests.stores import make_store, random_reads, run_extract, write_fasta


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", random_reads(2500))).path


def test_a_fresh_store_is_as_recorded(store: Path) -> None:
    assert check_files(store) == []


def test_one_flipped_bit_is_found(store: Path) -> None:
    file = StorePaths(store).shard(1)
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    (problem,) = check_files(store)
    assert "checksum" in problem
    assert str(file) in problem


def test_a_truncated_shard_is_found(store: Path) -> None:
    file = StorePaths(store).shard(0)
    file.write_bytes(file.read_bytes()[:-8])
    assert "were written" in check_files(store)[0]


def test_a_lost_shard_and_a_changed_part_are_found(store: Path) -> None:
    StorePaths(store).shard(0).unlink()
    part = StorePaths(store).part(2)
    table = pq.read_table(part)
    pq.write_table(table.slice(1), part)
    problems = check_files(store)
    assert "is missing" in problems[0]
    assert str(part) in problems[1]


def test_following_the_way_out_repairs_the_store(store: Path, tmp_path: Path) -> None:
    before = np.array(open_store(store).embeddings)
    file = StorePaths(store).shard(1)
    file.write_bytes(file.read_bytes()[:100])
    assert f"remove {StorePaths(store).commit(1)}" in check_files(store)[0]
    StorePaths(store).commit(1).unlink()
    assert check_files(store) == [
        "1 of 3 shards are not there (the first is 1); run the same extraction again to make them"
    ]
    assert run_extract(store, tmp_path / "r.fa").rows == 1024
    assert check_files(store) == []
    np.testing.assert_array_equal(np.asarray(open_store(store).embeddings), before)


@pytest.mark.parametrize(("model", "random_weights"), [("kmer:3", False), ("esm2-8m", True)])
def test_rows_encoded_again_agree_bit_for_bit(tmp_path: Path, model: str, random_weights: bool) -> None:
    fasta = write_fasta(tmp_path / "r.fa", [f"{read}" for read in random_reads(60)])
    run_extract(
        tmp_path / "s.zarr", fasta, model=model, random_weights=random_weights,
        options=Options(any_alphabet=True, layers=("mid", -1) if random_weights else (-1,)),
    )  # fmt: skip
    result = recompute_rows(tmp_path / "s.zarr", 40)
    assert (result.rows, result.identical, result.agrees, result.note) == (40, 40, True, "")


def test_rows_that_do_not_come_from_the_encoder_are_found(store: Path) -> None:
    file = StorePaths(store).shard(0)
    values = np.memmap(file, np.float16, "r+", shape=(1024, 32))
    values[:] = values[::-1].copy()
    values.flush()
    assert not recompute_rows(store, 200).agrees


def test_another_encoder_cannot_recompute(store: Path) -> None:
    with pytest.raises(StoreError, match="is not the encoder"):
        recompute_rows(store, 5, model="kmer:4")


def test_without_sequences_there_is_nothing_to_recompute(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(5))
    run_extract(tmp_path / "s.zarr", fasta, options=Options(drop_sequence=True))
    assert "sequence" not in open_store(tmp_path / "s.zarr").column_names
    with pytest.raises(StoreError, match="--drop-sequence"):
        recompute_rows(tmp_path / "s.zarr", 5)
