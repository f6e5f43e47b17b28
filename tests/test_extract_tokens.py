"""Stores without pooling (``--pool none``): record i has one row for each of its tokens, in its place of one array."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr
from numpy.typing import NDArray

from embedcache import open_store
from embedcache.errors import EmbedcacheError, HeadError, InputError, StoreError
from embedcache.extraction.plan import Plan
from embedcache.extraction.preflight import Options, _shard_rows
from embedcache.extraction.throughput import Throughput, read_throughput
from embedcache.sequences.alphabet import Letters
from embedcache.sequences.tokens import Tokens
from embedcache.storage.commit import StoreWriter, create_store
from embedcache.storage.layout import TOKEN_FILE_ROWS, Layout, StorePaths
from embedcache.storage.store import Commit, Store
from heads.data.feature_stores import Features
from tests.letter_encoder import LetterEncoder
from tests.stores import random_reads, run_extract, store_bytes, write_fasta
from tests.test_store import ATTRIBUTES

NONE = Options(poolings=("none",), shard_rows=16)


def extract_tokens(
    output: Path,
    *inputs: Path,
    options: Options = NONE,
    encoder: LetterEncoder | None = None,
    metadata: Path | None = None,
) -> Throughput:
    """Extract without pooling."""
    return run_extract(output, *inputs, model=encoder or LetterEncoder(), options=options, metadata=metadata)


def long_reads(count: int = 100, seed: int = 0) -> list[str]:
    """Reads of which a shard of 16 covers about half a file of tokens."""
    return random_reads(count, seed=seed, shortest=100, longest=1000)


def assert_holds(store: Store, reads: list[str], encoder: LetterEncoder | None = None) -> None:
    """Each record of a store has exactly the rows that the encoder gives for its sequence alone."""
    expected = [states.astype(np.float16) for states in (encoder or LetterEncoder()).encode_tokens(reads)]
    assert len(store) == len(reads)
    for found, wanted in zip(store, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_record_i_has_one_row_for_each_token_of_sequence_i(tmp_path: Path) -> None:
    reads = random_reads(500, shortest=1)
    extract_tokens(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads))
    store = open_store(tmp_path / "s.zarr")
    assert store.per_token
    assert_holds(store, reads)
    assert np.diff(store.offsets).tolist() == [len(read) for read in reads]
    np.testing.assert_array_equal(store[-1], store[499])
    assert store[7].base is not None  # a view of the files, no copy
    assert store.rows["n_tokens"].to_pylist() == [len(read) + 2 for read in reads]
    for index in (500, -501):
        with pytest.raises(IndexError, match="the store has 500"):
            store[index]


def test_zarr_python_reads_the_same_array_and_offsets_and_lists_nothing_else(tmp_path: Path) -> None:
    reads = long_reads(60)
    extract_tokens(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads))
    group, store = zarr.open_group(str(tmp_path / "s.zarr"), mode="r"), open_store(tmp_path / "s.zarr")
    assert sorted(name for name, _ in group.members()) == ["embeddings", "offsets"]
    assert group["embeddings"].metadata.dimension_names == ("token", "dim")
    assert group["offsets"].metadata.dimension_names == ("offset",)
    np.testing.assert_array_equal(group["offsets"][:], store.offsets)
    np.testing.assert_array_equal(group["embeddings"][:], np.asarray(store.embeddings))
    assert group["embeddings"].shape == (sum(map(len, reads)), 32)
    assert group["embeddings"].shape[0] > TOKEN_FILE_ROWS


def test_several_layers_are_blocks_of_the_same_rows(tmp_path: Path) -> None:
    reads = random_reads(20)
    options = Options(poolings=("none",), layers=(0, "mid", -1))
    extract_tokens(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads), options=options)
    store = open_store(tmp_path / "s.zarr")
    assert [(block.name, block.layer, block.pooling) for block in store.blocks] == [
        ("layer0.none", 0, "none"),
        ("layer1.none", 1, "none"),
        ("layer2.none", 2, "none"),
    ]
    expected = LetterEncoder().encode_tokens(reads, "mid")
    for found, wanted in zip(store, expected, strict=True):
        np.testing.assert_array_equal(found[:, store.block("layer1.none")], wanted.astype(np.float16))
    with pytest.raises(StoreError, match=r"no block 'layer9.none'; it has: layer0.none, layer1.none, layer2.none"):
        store.block("layer9.none")


def test_the_array_is_the_same_bytes_however_many_records_are_committed_together(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", long_reads())
    arrays = []
    for shard_rows in (16, 48, None):
        output = tmp_path / f"{shard_rows}.zarr"
        extract_tokens(output, fasta, options=Options(poolings=("none",), shard_rows=shard_rows))
        files = store_bytes(output)
        arrays.append({name: data for name, data in files.items() if name.startswith(("embeddings/c/", "offsets/"))})
    assert len(arrays[0]) == 4 + 2
    assert arrays[0] == arrays[1] == arrays[2]


def test_running_again_does_nothing_and_a_grown_input_appends_to_the_bytes_of_a_store_made_at_once(
    tmp_path: Path,
) -> None:
    reads = long_reads()
    for count in (30, 30, 32, 100):
        extract_tokens(tmp_path / "grown.zarr", write_fasta(tmp_path / "r.fa", reads[:count]))
        assert_holds(open_store(tmp_path / "grown.zarr"), reads[:count])
    assert [run["rows"] for run in read_throughput(tmp_path / "grown.zarr")] == [30, 16, 100 - 32]
    extract_tokens(tmp_path / "once.zarr", tmp_path / "r.fa")
    assert store_bytes(tmp_path / "grown.zarr") == store_bytes(tmp_path / "once.zarr")


def test_corrected_labels_rewrite_the_rows_and_encode_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = random_reads(50)
    fasta, table = write_fasta(tmp_path / "r.fa", reads), tmp_path / "labels.csv"
    for label in (0, 1):
        table.write_text("id,label\n" + "".join(f"r{i},{label}\n" for i in range(50)))
        extract_tokens(tmp_path / "s.zarr", fasta, metadata=table)
        monkeypatch.setattr(LetterEncoder, "start", None)
    monkeypatch.undo()
    assert set(open_store(tmp_path / "s.zarr").column("label").to_pylist()) == {1}
    assert_holds(open_store(tmp_path / "s.zarr"), reads)


def test_a_changed_sequence_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    reads = random_reads(50)
    extract_tokens(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads))
    before = store_bytes(tmp_path / "s.zarr")
    longer = [*reads[:20], f"{reads[20]}A", *reads[21:]]
    with pytest.raises(StoreError, match=r"have changed .* first at .*r\.fa, line 41, .* --restart"):
        extract_tokens(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", longer))
    other = [*reads[:20], reads[20][::-1], *reads[21:]]
    with pytest.raises(StoreError, match=r"first in shard 1 \(records 16 to 32\)"):
        extract_tokens(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", other))
    assert store_bytes(tmp_path / "s.zarr") == before


def test_equal_sequences_are_encoded_once(tmp_path: Path) -> None:
    reads = random_reads(5) * 6
    done = extract_tokens(
        tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads), options=Options(poolings=("none",))
    )
    assert (done.rows, done.distinct_sequences) == (30, 5)
    assert_holds(open_store(tmp_path / "s.zarr"), reads)


def test_over_long_sequences_are_stitched_cut_left_out_or_refused(tmp_path: Path) -> None:
    reads = ["ACGT" * 20, "ACGTT", "GATTACA" * 9]
    fasta, encoder = write_fasta(tmp_path / "r.fa", reads), LetterEncoder(2, limit=12)
    stores = {}
    for policy in ("window", "truncate", "skip"):
        options = Options(poolings=("none",), overlong=policy)
        assert extract_tokens(tmp_path / f"{policy}.zarr", fasta, options=options, encoder=encoder).overlong == 2
        stores[policy] = open_store(tmp_path / f"{policy}.zarr")
    assert_holds(stores["window"], reads, encoder)
    assert_holds(stores["truncate"], [read[:20] for read in reads], encoder)
    assert [len(rows) for rows in stores["skip"]] == [0, 3, 0]
    assert stores["skip"].quarantined.tolist() == [0, 2]
    np.testing.assert_array_equal(stores["skip"][1], stores["window"][1])
    options = Options(poolings=("none",), overlong="error")
    with pytest.raises(InputError, match="'r0' at .* has 42 tokens"):
        extract_tokens(tmp_path / "error.zarr", fasta, options=options, encoder=encoder)


class Silent(LetterEncoder):
    """Gives sequences that begin with N no token."""

    def tokenize(self, sequences: object) -> Tokens:
        letters = sequences if isinstance(sequences, Letters) else Letters.of(sequences)  # type: ignore[arg-type]
        reads = [letters[i : i + 1].bytes_.tobytes().decode() for i in range(len(letters))]
        return super().tokenize(["" if read.startswith("N") else read for read in reads])


@pytest.mark.parametrize("reads", [["NA", "ACGT", "NN", "NC", "AC", "NT"], ["N", "NN"]])
def test_a_sequence_without_tokens_has_no_rows(tmp_path: Path, reads: list[str]) -> None:
    extract_tokens(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads), encoder=Silent())
    store = open_store(tmp_path / "s.zarr")
    assert [rows.shape for rows in store] == [(0 if read.startswith("N") else len(read), 32) for read in reads]
    assert not len(store.quarantined)
    assert len(store.embeddings) == store.offsets[-1]


class Huge(LetterEncoder):
    """Gives letters G a value beyond float16."""

    def states(self, tokens: Tokens, layer: int) -> NDArray[np.float32]:
        states = super().states(tokens, layer)
        states[tokens.ids == ord("G"), 5] = 1e6
        return states


def test_a_value_beyond_float16_stops_with_the_id_or_sets_the_whole_record_aside(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", ["ACT", "ACGTT", "AC"])
    with pytest.raises(EmbedcacheError, match=r"'r1' \(.*r\.fa, line 3\) is beyond float16: store --dtype float32"):
        extract_tokens(tmp_path / "s.zarr", fasta, encoder=Huge())
    options = Options(poolings=("none",), shard_rows=16, on_bad_row="quarantine")
    extract_tokens(tmp_path / "s.zarr", fasta, encoder=Huge(), options=options)
    store = open_store(tmp_path / "s.zarr")
    assert store.quarantined.tolist() == [1]
    assert [bool(np.isfinite(rows).all()) for rows in store] == [True, False, True]
    assert np.isnan(store[1]).all()


def test_what_wants_one_vector_a_record_says_what_to_do(tmp_path: Path) -> None:
    extract_tokens(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", random_reads(5)))
    store = open_store(tmp_path / "s.zarr")
    for read in (lambda: store.take([0]), lambda: store.read(0, 2)):
        with pytest.raises(StoreError, match=r"keeps every token.*store\[i\].*--pool mean"):
            read()
    with pytest.raises(HeadError, match="extract the sequences with a pooling, such as --pool mean"):
        Features((str(tmp_path / "s.zarr"),)).open()


def test_records_of_missing_shards_read_as_nan_although_their_neighbours_share_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = random_reads(48)
    extract_tokens(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads))
    StorePaths(tmp_path / "s.zarr").commit(1).unlink()
    with pytest.raises(StoreError, match="2 of 3 shards"):
        open_store(tmp_path / "s.zarr")
    partial = open_store(tmp_path / "s.zarr", partial=True)
    whole = [states.astype(np.float16) for states in LetterEncoder().encode_tokens(reads)]
    for row, found in enumerate(partial):
        wanted = np.full_like(whole[row], np.nan) if 16 <= row < 32 else whole[row]
        np.testing.assert_array_equal(found, wanted)


def test_a_store_that_has_just_begun_to_grow_still_reads_what_is_there(tmp_path: Path) -> None:
    reads = long_reads(40)
    extract_tokens(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads[:32]))
    layout = Layout(40, 32, "float16", 16, np.concatenate(([0], np.cumsum([len(read) for read in reads]))))
    writer = StoreWriter(tmp_path / "s.zarr")
    writer.update(layout, writer.attributes)
    partial = open_store(tmp_path / "s.zarr", partial=True)
    for row, wanted in enumerate(LetterEncoder().encode_tokens(reads[:32])):
        np.testing.assert_array_equal(partial[row], wanted.astype(np.float16))
    assert np.isnan(partial[35]).all()


def test_many_writers_of_shards_that_share_files_lose_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    offsets = np.concatenate(([0], np.cumsum(rng.integers(0, 300, 16 * 24))))
    layout = Layout(16 * 24, 24, "float16", 16, offsets)
    values = rng.normal(size=(layout.length, 24)).astype(np.float16)
    create_store(tmp_path / "s.zarr", layout, ATTRIBUTES)

    def write(shards: list[int]) -> None:
        writer = StoreWriter(tmp_path / "s.zarr")
        for shard in shards:
            (start, stop), (first, last) = layout.bounds(shard), layout.span(shard)
            part = pa.table({"row": np.arange(start, stop), "id": [f"r{i}" for i in range(start, stop)]})
            writer.write_shard(values[first:last], part, Commit(shard, stop - start, "d", "m", 0, "", 0, ""))

    order = rng.permutation(24).tolist()
    threads = [threading.Thread(target=write, args=(order[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.asarray(open_store(tmp_path / "s.zarr").embeddings), values)
    assert not list((tmp_path / "s.zarr").rglob("*.lock"))


def test_shards_are_smaller_where_the_tokens_of_one_would_take_too_much_memory() -> None:
    readout = LetterEncoder(hidden=1280).readout(("none",))

    def records(tokens: int) -> int:
        offsets = np.arange(0, 100_000 * tokens + 1, tokens)
        plan = Plan(rows=100_000, unit_rows=16, unit_letters=[16 * tokens] * 6250, offsets=offsets)
        return _shard_rows(plan, readout, Options(), 60.0)

    assert [records(tokens) for tokens in (1, 10, 100, 1000, 10_000)] == [16384, 2048, 256, 16, 16]
