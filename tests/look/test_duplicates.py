"""`embedcache duplicates`: every planted repeat is found, once, under its own name."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from embedcache.errors import InputError, StoreError
from embedcache.look.repeats import find_repeats
from tests.exchange.files import imported, program, vectors
from tests.stores import make_store, random_reads, write_fasta

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def test_identical_and_reversed_sequences_and_near_vectors_are_told_apart(tmp_path: Path) -> None:
    reads = random_reads(300, shortest=400, longest=401)
    reads[50] = reads[200] = reads[10]
    reads[60] = reads[20][::-1].translate(COMPLEMENT)
    reads[70] = (
        reads[30][:200] + "A" + reads[30][201:] if reads[30][200] != "A" else reads[30][:200] + "C" + reads[30][201:]
    )
    table = tmp_path / "split.csv"
    table.write_text("id,split\n" + "".join(f"r{row},{'test' if row in (50, 70) else 'train'}\n" for row in range(300)))
    fasta = write_fasta(tmp_path / "r.fa", reads)
    store = make_store(tmp_path / "s.zarr", fasta, model="kmer:3:stranded", metadata=table)
    said = program("duplicates", store.path, "--threshold", 0.95, "-o", tmp_path / "pairs.tsv")
    rows = list(csv.DictReader((tmp_path / "pairs.tsv").read_text().splitlines(), delimiter="\t"))
    found = {(row["id_a"], row["id_b"]): row["kind"] for row in rows}
    assert found == {
        ("r10", "r50"): "identical", ("r10", "r200"): "identical", ("r20", "r60"): "reverse complement",
        ("r30", "r70"): "near",
    }  # fmt: skip
    assert {row["cluster"] for row in rows if row["id_a"] == "r10"} == {"1"}
    assert len({row["cluster"] for row in rows}) == 3
    assert "3 of 7 rows, the largest of 3" in said
    assert "2 rows of test have a repeat in train" in said
    assert "3 rows of train have a repeat in test" in said
    with pytest.raises(InputError, match="is there already"):
        program("duplicates", store.path, "-o", tmp_path / "pairs.tsv")


def test_without_sequences_only_vectors_are_compared_and_it_is_said(tmp_path: Path) -> None:
    values = vectors(50)
    values[7] = values[3]
    values[9] = values[3] + 1e-3
    np.savez(tmp_path / "x.npz", embeddings=values, ids=[f"r{row}" for row in range(50)])
    store = imported(tmp_path / "s.zarr", tmp_path / "x.npz")
    assert "50 rows (all) have no sequences: not checked for identical ones" in program("duplicates", store.path)
    found = find_repeats(store, 0.99)
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs == {(3, 7), (3, 9), (7, 9)}
    assert found.sizes.tolist() == [3]


def test_rows_set_aside_and_stores_of_tokens_are_not_compared(tmp_path: Path, shared_data: Path) -> None:
    values = vectors(20)
    values[3] = np.nan
    np.savez(tmp_path / "x.npz", embeddings=values, ids=[f"r{row}" for row in range(20)])
    store = imported(tmp_path / "s.zarr", tmp_path / "x.npz", "--on-bad-row", "quarantine")
    assert len(find_repeats(store, 0.99).first) == 0
    tokens = imported(tmp_path / "t.zarr", shared_data / "bio_embeddings_reference" / "esm1b.npz")
    with pytest.raises(StoreError, match="keeps every token"):
        program("duplicates", tokens.path)
