"""`embedcache search`: the nearest rows, by every index, and an index that is never taken for another store's."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedcache.errors import EmbedcacheError, InputError, StoreError
from embedcache.search.kept import KeptIndex
from embedcache.search.lookup import StoreSearch
from embedcache.storage.store import Store
from tests.exchange.files import imported, program, vectors
from tests.stores import make_store, random_reads, write_fasta


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write(tmp_path / "s.zarr", vectors(300, 24))


def write(path: Path, values: Any, *options: object) -> Store:
    file = path.with_suffix(".npz")
    np.savez(file, embeddings=values, ids=[f"r{row}" for row in range(len(values))], label=np.arange(len(values)) % 2)
    return imported(path, file, "--encoder", "made-up", "--overwrite", *options)


def hits(tmp_path: Path, *arguments: object) -> list[dict[str, str]]:
    program("search", *arguments, "-o", tmp_path / "hits.tsv", "--overwrite")
    return list(csv.DictReader((tmp_path / "hits.tsv").read_text().splitlines(), delimiter="\t"))


@pytest.mark.parametrize("index", ["exact", "ivf", "hnsw"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_hits_are_the_nearest_rows_in_order(tmp_path: Path, store: Store, index: str, metric: str) -> None:
    queries = vectors(300, 24)[:20] + 0.01
    other = write(tmp_path / "q.zarr", queries)
    found = hits(tmp_path, store.path, "-q", other.path, "-k", 3, "--index", index, "--metric", metric)
    held = np.asarray(store.embeddings, np.float64)
    differences = np.linalg.norm(queries[:, None] - held, axis=2)
    similarity = (queries @ held.T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(held, axis=1)
    keys = -similarity if metric == "cosine" else differences
    assert [hit["rank"] for hit in found] == ["1", "2", "3"] * 20
    right = 0
    for at, hit in enumerate(found):
        row = int(np.argsort(keys[at // 3])[at % 3])
        right += hit["id"] == f"r{row}"
        assert hit["query"] == f"r{at // 3}"
        assert hit["label"] == str(int(hit["id"][1:]) % 2)
        value = float(hit["similarity" if metric == "cosine" else "distance"])
        place = int(hit["id"][1:])
        expected = similarity[at // 3, place] if metric == "cosine" else differences[at // 3, place]
        assert value == pytest.approx(expected, abs=1e-4)
    assert right == 60 if index == "exact" else right >= 55


def test_no_row_is_its_own_hit_where_a_store_searches_itself(tmp_path: Path, store: Store) -> None:
    found = hits(tmp_path, store.path, "-q", store.path, "-k", 2)
    assert len(found) == 600
    assert all(hit["query"] != hit["id"] for hit in found)


def test_sequences_are_encoded_as_those_of_the_store_were(tmp_path: Path) -> None:
    reads = random_reads(200, shortest=100, longest=120)
    store = make_store(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads), model="kmer:4")
    queries = write_fasta(tmp_path / "q.fa", reads[50:60], first=50)
    found = hits(tmp_path, store.path, "--query", queries, "-k", 1)
    assert [(hit["query"], hit["id"]) for hit in found] == [(f"r{row}", f"r{row}") for row in range(50, 60)]
    assert "r50" in program("search", store.path, "--query", queries, "-k", 1)
    proteins = write_fasta(tmp_path / "p.fa", ["MKLVFFAEDVGSNKQWERTY"] * 5)
    with pytest.raises(InputError, match="looks like protein"):
        program("search", store.path, "--query", proteins)


def test_an_index_is_kept_and_made_anew_when_the_store_has_changed(tmp_path: Path, store: Store) -> None:
    StoreSearch(store, "ivf", "cosine")
    file = store.path / "embeddings" / "index-ivf-cosine.faiss"
    made = file.stat().st_mtime_ns
    assert StoreSearch(store, "ivf", "cosine").index == "kept from an earlier search"
    assert file.stat().st_mtime_ns == made
    program("verify", store.path)
    changed = write(tmp_path / "s.zarr", vectors(300, 24, seed=5))
    assert KeptIndex(changed, "ivf", "cosine").load() is None


def test_a_damaged_or_foreign_index_is_never_read(store: Store) -> None:
    first = StoreSearch(store, "hnsw", "cosine")
    assert first.index is not None
    file = store.path / "embeddings" / "index-hnsw-cosine.faiss"
    whole, record = file.read_bytes(), file.with_suffix(".json")
    for damaged in (whole[:-4], b"\x80\x04" + whole[2:], b""):
        file.write_bytes(damaged)
        assert KeptIndex(store, "hnsw", "cosine").load() is None
    file.write_bytes(whole)
    assert KeptIndex(store, "hnsw", "cosine").load() is not None
    said = json.loads(record.read_text())
    record.write_text(json.dumps(said | {"fingerprint": "another"}))
    assert KeptIndex(store, "hnsw", "cosine").load() is None
    assert "made" in str(StoreSearch(store, "hnsw", "cosine").index)


def test_the_index_of_a_folder_that_may_not_be_written_is_kept_in_the_cache(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # a file where the index would go stands for a folder without write permission, which root would have
    (store.path / "embeddings" / "index-ivf-cosine.faiss").mkdir()
    assert str(tmp_path / "cache") in str(StoreSearch(store, "ivf", "cosine").index)
    assert StoreSearch(store, "ivf", "cosine").index == "kept from an earlier search"


def test_rows_without_an_embedding_are_no_hits_and_no_queries(tmp_path: Path) -> None:
    values = vectors(60, 24)
    values[[3, 40]] = np.nan
    store = write(tmp_path / "s.zarr", values, "--on-bad-row", "quarantine")
    for index in ("exact", "ivf"):
        found = hits(tmp_path, store.path, "-q", store.path, "-k", 57, "--index", index)
        assert {"r3", "r40"}.isdisjoint({hit["id"] for hit in found} | {hit["query"] for hit in found})
        assert len({hit["query"] for hit in found}) == 58


def test_what_cannot_be_compared_is_refused(tmp_path: Path, store: Store, shared_data: Path) -> None:
    np.savez(tmp_path / "o.npz", embeddings=vectors(5, 24), ids=list("abcde"))
    other = imported(tmp_path / "o.zarr", tmp_path / "o.npz", "--encoder", "another")
    with pytest.raises(InputError, match="not made by one encoder"):
        program("search", store.path, "-q", other.path, "--index", "ivf")
    assert not (store.path / "embeddings" / "index-ivf-cosine.faiss").exists()
    with pytest.raises(EmbedcacheError, match="were imported, so that no encoder here"):
        program("search", store.path, "-q", shared_data / "virnucpro_fixtures" / "test_sequences.fa")
    with pytest.raises(InputError, match="no column 'nothing'"):
        program("search", store.path, "-q", store.path, "--columns", "nothing")
    tokens = imported(tmp_path / "t.zarr", shared_data / "bio_embeddings_reference" / "esm1b.npz")
    with pytest.raises(StoreError, match="keeps every token"):
        program("search", tokens.path, "-q", tokens.path)
