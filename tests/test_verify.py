"""Verify finds what has changed since it was written, and encodes rows again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from embedcache import open_store
from embedcache.errors import StoreError
from embedcache.extraction.preflight import Options
from embedcache.extraction.recompute import recompute_rows
from embedcache.extraction.verify import check_files
from embedcache.storage.commit import crc32c
from embedcache.storage.layout import TOKEN_FILE_ROWS, StorePaths
from tests.letter_encoder import LetterEncoder
from tests.processes import command
from tests.stores import make_store, random_reads, run_extract, write_fasta


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", random_reads(2500))).path


def test_a_fresh_store_is_as_recorded(store: Path) -> None:
    assert check_files(store) == []


def test_one_flipped_bit_is_found(store: Path) -> None:
    file = StorePaths(store).file(1)
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    (problem,) = check_files(store)
    assert "checksum" in problem
    assert str(file) in problem


def test_a_truncated_shard_is_found(store: Path) -> None:
    file = StorePaths(store).file(0)
    file.write_bytes(file.read_bytes()[:-8])
    assert "were written" in check_files(store)[0]


def test_a_lost_shard_and_a_changed_part_are_found(store: Path) -> None:
    StorePaths(store).file(0).unlink()
    part = StorePaths(store).part(2)
    table = pq.read_table(part)
    pq.write_table(table.slice(1), part)
    problems = check_files(store)
    assert "is missing" in problems[0]
    assert str(part) in problems[1]


def test_following_the_way_out_repairs_the_store(store: Path, tmp_path: Path) -> None:
    before = np.array(open_store(store).embeddings)
    file = StorePaths(store).file(1)
    file.write_bytes(file.read_bytes()[:100])
    assert f"remove {StorePaths(store).commit(1)}" in check_files(store)[0]
    StorePaths(store).commit(1).unlink()
    assert check_files(store) == [
        "1 of 3 shards is not there (the first is 1); run the same extraction again to make them"
    ]
    assert run_extract(store, tmp_path / "r.fa").rows == 1024
    assert check_files(store) == []
    np.testing.assert_array_equal(np.asarray(open_store(store).embeddings), before)


@pytest.mark.parametrize(("model", "random_weights"), [("kmer:3", False), ("esm2-8m", True)])
def test_rows_encoded_again_agree_bit_for_bit(tmp_path: Path, model: str, random_weights: bool) -> None:
    fasta = write_fasta(tmp_path / "r.fa", [f"{read}" for read in random_reads(60)])
    run_extract(
        tmp_path / "s.zarr", fasta, model=model, random_weights=random_weights,
        options=Options(any_alphabet=True, layers=("mid", -1) if random_weights else None),
    )  # fmt: skip
    result = recompute_rows(tmp_path / "s.zarr", 40)
    assert (result.rows, result.identical, result.agrees, result.note) == (40, 40, True, "")


def test_rows_that_do_not_come_from_the_encoder_are_found(store: Path) -> None:
    file = StorePaths(store).file(0)
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


@pytest.fixture
def token_store(tmp_path: Path) -> Path:
    """A store without pooling: five shards, the third of which has rows in the first and in the second file."""
    reads = random_reads(75, shortest=330, longest=620)
    encoder, options = LetterEncoder(limit=200), Options(poolings=("none",), layers=(1, -1), shard_rows=16)
    run_extract(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads), model=encoder, options=options)
    return tmp_path / "s.zarr"


def test_of_shards_that_share_a_file_only_those_whose_rows_have_changed_are_named(token_store: Path) -> None:
    assert check_files(token_store) == []
    last = open_store(token_store).layout.span(1)[1]
    assert last < TOKEN_FILE_ROWS < open_store(token_store).layout.span(2)[1]
    file = StorePaths(token_store).file(0)
    data = bytearray(file.read_bytes())
    data[(last - 5) * 64 * 2] ^= 1
    file.write_bytes(data)
    (problem,) = check_files(token_store)
    assert "checksum" in problem
    assert f"remove {StorePaths(token_store).commit(1)}" in problem
    data[last * 64 * 2] ^= 1
    file.write_bytes(data)
    assert len(check_files(token_store)) == 2


def test_a_token_without_a_number_is_told_with_its_record(token_store: Path) -> None:
    store, paths = open_store(token_store), StorePaths(token_store)
    values = np.memmap(paths.file(0), np.float16, "r+", shape=(TOKEN_FILE_ROWS, 64))
    values[store.offsets[20] + 3, 7] = np.inf
    values.flush()
    first, last = store.layout.span(1)
    checksum = crc32c([np.array(values[first:last]).reshape(-1).view(np.uint8).data])
    commit = json.loads(paths.commit(1).read_text()) | {"payload_crc32c": checksum}
    paths.commit(1).write_text(json.dumps(commit))
    assert "row 20 of the store is not finite" in check_files(token_store)[0]


def test_tokens_encoded_again_agree_bit_for_bit(token_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedcache.extraction.recompute.load_encoder", lambda *_, **__: LetterEncoder(limit=200))
    result = recompute_rows(token_store, 30)
    assert (result.rows, result.identical, result.agrees) == (30, 30, True)
    file = StorePaths(token_store).file(0)
    values = np.memmap(file, np.float16, "r+", shape=(TOKEN_FILE_ROWS, 64))
    values[500, 3:] += 1
    values.flush()
    result = recompute_rows(token_store, 75)
    assert (result.identical, result.agrees) == (74, False)


@pytest.mark.parametrize("one_based", [False, True])
def test_rows_that_look_at_a_place_are_encoded_again_at_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_based: bool
) -> None:
    table = tmp_path / "t.csv"
    records = (f"r{i},{read},{i % 20 + one_based}\n" for i, read in enumerate(random_reads(60)))
    table.write_text("id,sequence,pos\n" + "".join(records))
    options = Options(poolings=("at:pos", "max"), layers=("mid", -1), one_based=one_based)
    run_extract(tmp_path / "s.zarr", table, model=LetterEncoder(3), options=options)
    monkeypatch.setattr("embedcache.extraction.recompute.load_encoder", lambda *_, **__: LetterEncoder(3))
    result = recompute_rows(tmp_path / "s.zarr", 60)
    assert (result.rows, result.identical, result.agrees) == (60, 60, True)


def test_a_store_of_format_1_is_read_and_checked(tmp_path: Path) -> None:
    store = open_store(Path(__file__).parent / "fixtures" / "store-v1.zarr")
    assert store.attrs["format_version"] == 1
    assert [(block.name, block.layer, block.pooling) for block in store.blocks] == [("kmer:1", 0, "mean")]
    assert store.ids.tolist() == ["a", "b", "c"]
    assert store.column("label").to_pylist() == [1, 0, 1]
    np.testing.assert_array_equal(store.take([0, 2]), np.asarray([(0.6, 0.4), (1, 0)], np.float16))
    assert check_files(store.path) == []


@pytest.mark.slow
def test_the_command_line_makes_shows_and_checks_stores_of_places_and_of_tokens(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id,sequence,site\na,MKTAYIAKQR,10\nb,GVSERTIDPK,1\nc,MKTAYIAKQR,3\n")
    arguments = ["extract", "--model", "esm2-8m", "--random-weights", "--quiet", "--input", table, "--output"]
    command(*arguments, tmp_path / "t.zarr", "--pool", "none", "--layer", "3,6", check=True)
    command(*arguments, tmp_path / "p.zarr", "--pool", "at:site,center:5", "--one-based", check=True)
    for store, lines in (
        ("t.zarr", ("tokens      30, none pooled", "640 float16 a token", "block       layer3.none: columns 0 to 320")),
        ("p.zarr", ("640 float16 a row", "block       layer6.at:site: columns 0 to 320")),
    ):
        shown = command("info", tmp_path / store, check=True).stdout
        assert all(line in shown for line in lines)
        assert "complete, 1 of 1 shard, 3 of 3 rows" in command("status", tmp_path / store, check=True).stdout
        again = command("verify", tmp_path / store, "--recompute", 3, check=True).stdout
        assert "3 rows encoded again agree: 3 bit for bit" in again
