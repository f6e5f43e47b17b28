"""Compressed stores: the same values and the same safety in fewer bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from embedcache import open_store
from embedcache.errors import StoreError
from embedcache.extraction.preflight import Options
from embedcache.extraction.verify import check_files
from embedcache.storage.layout import StorePaths
from embedcache.storage.shardmap import DecodedRows
from embedcache.storage.store import Store
from tests.heads.program import run as run_heads
from tests.letter_encoder import LetterEncoder
from tests.processes import command
from tests.stores import make_store, random_reads, run_extract, store_bytes, write_fasta
from tests.test_recovery import Killed, killed_before

ZSTD = Options(shard_rows=1024, compress="zstd")
TOKENS = Options(shard_rows=16, poolings=("none",), compress="zstd")


def compressed(output: Path, fasta: Path, options: Options = ZSTD) -> Store:
    """Extract into a compressed store and open it."""
    run_extract(output, fasta, options=options, model="kmer:3" if options.poolings != ("none",) else LetterEncoder())
    return open_store(output)


def payload_bytes(store: Store) -> int:
    return sum(file.stat().st_size for file in (StorePaths(store.path).array / "c").rglob("0"))


def test_a_compressed_store_reads_as_the_plain_one_and_is_smaller(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(2500))
    plain, packed = make_store(tmp_path / "plain.zarr", fasta), compressed(tmp_path / "packed.zarr", fasta)
    assert isinstance(packed.embeddings, DecodedRows)
    assert payload_bytes(packed) < payload_bytes(plain) / 2
    np.testing.assert_array_equal(np.asarray(packed.embeddings), np.asarray(plain.embeddings))
    np.testing.assert_array_equal(packed.read(1000, 2100), plain.read(1000, 2100))
    rows = np.random.default_rng(0).integers(-2500, 2500, 200)
    np.testing.assert_array_equal(packed.take(rows), plain.take(rows))
    np.testing.assert_array_equal(packed[2499], plain[2499])
    np.testing.assert_array_equal(zarr.open_group(str(packed.path))["embeddings"][:], np.asarray(plain.embeddings))
    assert check_files(packed.path) == []


def test_a_compressed_store_keeps_every_token(tmp_path: Path) -> None:
    reads = random_reads(60, shortest=300, longest=900)
    packed = compressed(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads), TOKENS)
    for found, wanted in zip(packed, LetterEncoder().encode_tokens(reads), strict=True):
        np.testing.assert_array_equal(found, wanted.astype(np.float16))
    assert check_files(packed.path) == []


@pytest.mark.parametrize("options", [ZSTD, TOKENS])
def test_a_grown_input_appends_to_a_compressed_store(tmp_path: Path, options: Options) -> None:
    reads = random_reads(2500) if options is ZSTD else random_reads(60, shortest=300, longest=900)
    compressed(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads[: len(reads) // 2]), options)
    compressed(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads), options)
    compressed(tmp_path / "once.zarr", tmp_path / "r.fa", options)
    assert store_bytes(tmp_path / "s.zarr") == store_bytes(tmp_path / "once.zarr")


@pytest.mark.parametrize("options", [ZSTD, TOKENS])
def test_a_kill_before_any_write_of_a_compressed_store_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Options
) -> None:
    reads = random_reads(2500) if options is ZSTD else random_reads(40, shortest=300, longest=900)
    fasta, at, killed = write_fasta(tmp_path / "r.fa", reads), 0, True
    compressed(tmp_path / "once.zarr", fasta, options)
    once = store_bytes(tmp_path / "once.zarr")
    while killed:
        at += 1
        with monkeypatch.context() as patch:
            killed_before(patch, "/embeddings/", at)
            try:
                compressed(tmp_path / f"{at}.zarr", fasta, options)
                killed = False
            except Killed:
                pass
        compressed(tmp_path / f"{at}.zarr", fasta, options)
        assert store_bytes(tmp_path / f"{at}.zarr") == once
    assert at > 6


@pytest.mark.parametrize("where", ["chunk", "index", "cut off"])
def test_damage_to_a_compressed_file_is_found_and_made_good_by_the_same_command(tmp_path: Path, where: str) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(2500))
    store = compressed(tmp_path / "s.zarr", fasta)
    before, file = store_bytes(store.path), StorePaths(store.path).file(1)
    data = bytearray(file.read_bytes())
    data[{"chunk": len(data) // 2, "index": len(data) - 7, "cut off": 0}[where]] ^= 0 if where == "cut off" else 1
    file.write_bytes(data[:-1000] if where == "cut off" else data)
    assert str(file) in check_files(store.path)[0]
    if where == "chunk":
        StorePaths(store.path).commit(1).unlink()  # as `verify` says
    else:
        with pytest.raises(StoreError):
            open_store(store.path).read(1024, 2048)
    compressed(store.path, fasta)
    assert store_bytes(store.path) == before


def test_compression_is_part_of_the_plan(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(30))
    compressed(tmp_path / "s.zarr", fasta)
    with pytest.raises(StoreError, match="compression: zstd, now none.*--restart"):
        run_extract(tmp_path / "s.zarr", fasta)


def test_the_program_compresses_tells_so_and_trains_to_the_same_head(tmp_path: Path) -> None:
    reads = random_reads(300)
    fasta, table = write_fasta(tmp_path / "r.fa", reads), tmp_path / "labels.csv"
    labels = "".join(f"r{i},{int(read.count('G') > len(read) / 4)}\n" for i, read in enumerate(reads))
    table.write_text(f"id,label\n{labels}")
    extracted = ("extract", "--model", "kmer:3", "--input", fasta, "--metadata", table)
    command(*extracted, "--output", tmp_path / "plain.zarr", check=True)
    said = command(*extracted, "--compress", "zstd", "--output", tmp_path / "packed.zarr", check=True).stderr
    assert "before zstd compression" in said
    assert "compressed  zstd" in command("info", tmp_path / "packed.zarr", check=True).stdout
    assert "20 bit for bit" in command("verify", tmp_path / "packed.zarr", "--recompute", 20, check=True).stdout
    trained = [
        run_heads(tmp_path, "train", "--features", f"{name}.zarr", "--output", name, "--bootstrap", 0).output
        for name in ("plain", "packed")
    ]
    assert ["compressed (zstd)" in said for said in trained] == [False, True]
    predictions = [pq.read_table(tmp_path / name / "predictions.parquet") for name in ("plain", "packed")]
    assert predictions[0].equals(predictions[1])
