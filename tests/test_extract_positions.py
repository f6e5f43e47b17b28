"""Poolings that look at a place: where the positions come from, what is refused, and what they are part of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedcache import open_store
from embedcache.encoders.encoder import Encoder
from embedcache.errors import EmbedcacheError, InputError, StoreError
from embedcache.extraction.preflight import Options
from embedcache.extraction.throughput import Throughput
from tests.letter_encoder import LetterEncoder
from tests.stores import random_reads, run_extract, store_bytes, write_fasta

AT = Options(poolings=("at:pos",), shard_rows=1024)


def write_table(file: Path, reads: Sequence[str], positions: Sequence[object], label: str = "x") -> Path:
    """Write records with a column ``pos`` as CSV."""
    rows = (f"r{i},{read},{at},{label}\n" for i, (read, at) in enumerate(zip(reads, positions, strict=True)))
    file.write_text("id,sequence,pos,label\n" + "".join(rows))
    return file


def extract_at(output: Path, file: Path, options: Options = AT, encoder: Encoder | None = None) -> Throughput:
    """Extract with a small encoder that has tokens of three letters."""
    return run_extract(output, file, model=encoder or LetterEncoder(3), options=options)


@pytest.fixture
def reads() -> list[str]:
    return random_reads(50)


@pytest.fixture
def places(reads: list[str]) -> list[int]:
    return np.random.default_rng(0).integers(0, [len(read) for read in reads]).tolist()


def test_all_poolings_of_several_layers_are_blocks_of_one_store(
    tmp_path: Path, reads: list[str], places: list[int]
) -> None:
    poolings = ("mean", "mean:all", "mean:inner", "max", "cls", "last", "center:20", "at:pos")
    options = Options(poolings=poolings, layers=("mid", -1))
    extract_at(tmp_path / "s.zarr", write_table(tmp_path / "t.csv", reads, places), options)
    store, encoder = open_store(tmp_path / "s.zarr"), LetterEncoder(3)
    assert [(block.layer, block.pooling) for block in store.blocks] == [(n, how) for n in (1, 2) for how in poolings]
    for block in store.blocks:
        assert block.pooling is not None
        readout = encoder.readout((block.pooling,), (block.layer,))
        expected = encoder.encode_readout(reads, readout, "window", {"pos": np.asarray(places)})
        found = store.take(np.arange(50))[:, store.block(block.name)]
        np.testing.assert_array_equal(found, expected.astype(np.float16))


@pytest.mark.parametrize(
    "kind", [pa.int32(), pa.uint64(), pa.float64(), pa.string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_positions_may_be_numbers_or_text_and_count_from_0_or_1(
    tmp_path: Path, reads: list[str], places: list[int], kind: pa.DataType
) -> None:
    extract_at(tmp_path / "csv.zarr", write_table(tmp_path / "t.csv", reads, places))
    expected = np.asarray(open_store(tmp_path / "csv.zarr").embeddings)
    text = isinstance(kind, pa.DictionaryType) or pa.types.is_string(kind)
    for base in (0, 1):
        column = pa.array([place + base for place in places])
        column = column.cast(pa.string()).cast(kind) if text else column.cast(kind)
        ids = [f"r{i}" for i in range(50)]
        pq.write_table(pa.table({"id": ids, "sequence": reads, "pos": column}), tmp_path / "t.parquet")
        options = Options(poolings=("at:pos",), one_based=bool(base))
        extract_at(tmp_path / f"{base}.zarr", tmp_path / "t.parquet", options)
        np.testing.assert_array_equal(np.asarray(open_store(tmp_path / f"{base}.zarr").embeddings), expected)


@pytest.mark.parametrize("bad", ["", "x", "1.5", "-1", "10", "99999999999999999999"])
def test_a_record_without_a_position_in_its_sequence_is_named_before_anything_is_made(tmp_path: Path, bad: str) -> None:
    file = write_table(tmp_path / "t.csv", ["ACGTACGTAC"] * 3, [9, bad, 0])
    said = (
        rf"'r1' at .*t\.csv, line 3 has {repr(bad) if bad else 'nothing'} in column 'pos'.* 10 letters, counted from 0"
    )
    with pytest.raises(InputError, match=said):
        extract_at(tmp_path / "s.zarr", file)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("bad", [0, 11])
def test_counting_from_1_the_first_letter_is_1_and_the_last_the_length(tmp_path: Path, bad: int) -> None:
    options = Options(poolings=("at:pos",), one_based=True)
    with pytest.raises(InputError, match=f"'r2' at .* has '{bad}' in column 'pos'.*counted from 1;"):
        extract_at(tmp_path / "s.zarr", write_table(tmp_path / "t.csv", ["ACGTACGTAC"] * 3, [1, 10, bad]), options)


@pytest.mark.parametrize("bad", [None, 2.5, float("nan"), 1e300])
def test_numbers_that_are_no_positions_are_refused_too(tmp_path: Path, bad: float | None) -> None:
    pq.write_table(pa.table({"id": ["a", "b"], "sequence": ["ACGT"] * 2, "pos": [1.0, bad]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="'b' at .* in column 'pos'"):
        extract_at(tmp_path / "s.zarr", tmp_path / "t.parquet")


def test_a_missing_column_is_told_with_the_columns_there_are(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", ["ACGT"], [1])
    with pytest.raises(InputError, match="no column 'site' for at:site: its columns are pos, label; .*--metadata"):
        extract_at(tmp_path / "s.zarr", table, Options(poolings=("at:site",)))
    with pytest.raises(InputError, match="no column 'site' for at:site: it has no columns; .*--metadata"):
        extract_at(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", ["ACGT"]), Options(poolings=("at:site",)))
    with pytest.raises(InputError, match="--one-based says how .* --pool at:COLUMN"):
        extract_at(tmp_path / "s.zarr", table, Options(one_based=True))


def test_equal_sequences_with_other_positions_are_other_sequences(tmp_path: Path) -> None:
    done = extract_at(tmp_path / "s.zarr", write_table(tmp_path / "t.csv", ["ACGTTTGGG"] * 4, [0, 8, 0, 1]))
    assert done.distinct_sequences == 3
    store = open_store(tmp_path / "s.zarr")
    np.testing.assert_array_equal(store[0], store[2])
    np.testing.assert_array_equal(store[0], store[3])  # the same token covers both letters
    assert (store[0] != store[1]).any()


def test_a_changed_position_is_a_changed_sequence_and_a_changed_label_is_not(
    tmp_path: Path, reads: list[str], places: list[int]
) -> None:
    extract_at(tmp_path / "s.zarr", write_table(tmp_path / "t.csv", reads, places))
    assert extract_at(tmp_path / "s.zarr", write_table(tmp_path / "t.csv", reads, places, label="y")).rows == 0
    assert set(open_store(tmp_path / "s.zarr").column("label").to_pylist()) == {"y"}
    before = store_bytes(tmp_path / "s.zarr")
    moved = [*places[:-1], (places[-1] + 1) % len(reads[-1])]
    with pytest.raises(StoreError, match="the ids, sequences or positions of .* have changed"):
        extract_at(tmp_path / "s.zarr", write_table(tmp_path / "t.csv", reads, moved))
    with pytest.raises(StoreError, match="the ids, sequences or positions of .* have changed"):
        extract_at(tmp_path / "s.zarr", write_table(tmp_path / "t.csv", [*reads, "ACGT"], [*moved, 1]))
    assert store_bytes(tmp_path / "s.zarr") == before
    assert (
        extract_at(tmp_path / "s.zarr", write_table(tmp_path / "t.csv", [*reads, "ACGT"], [*places, 1], "y")).rows == 51
    )


def test_counting_from_another_number_is_another_plan(tmp_path: Path) -> None:
    file = write_table(tmp_path / "t.csv", ["ACGTACGT"] * 2, [3, 4])
    extract_at(tmp_path / "s.zarr", file)
    with pytest.raises(StoreError, match="first letter is position: 0, now 1"):
        extract_at(tmp_path / "s.zarr", file, Options(poolings=("at:pos",), one_based=True))
    with pytest.raises(StoreError, match=r"blocks: \['layer2.at:pos'\], now \['layer2.center:5'\]"):
        extract_at(tmp_path / "s.zarr", file, Options(poolings=("center:5",)))


def test_a_place_that_is_cut_off_stops_with_the_way_out_or_is_set_aside(tmp_path: Path) -> None:
    file, encoder = write_table(tmp_path / "t.csv", ["ACGT" * 10] * 3, [0, 39, 23]), LetterEncoder(3, limit=10)
    cut = Options(poolings=("mean", "at:pos"), overlong="truncate")
    said = (
        r"'r1' \(.*t\.csv, line 3\) is empty, the letters that at:pos looks at are cut off: take --overlong window, or "
    )
    with pytest.raises(EmbedcacheError, match=said):
        extract_at(tmp_path / "s.zarr", file, cut, encoder)
    quarantine = Options(poolings=("mean", "at:pos"), overlong="truncate", on_bad_row="quarantine")
    assert extract_at(tmp_path / "s.zarr", file, quarantine, encoder).set_aside == 1
    store = open_store(tmp_path / "s.zarr")
    assert store.quarantined.tolist() == [1]
    assert [bool(np.isfinite(row).all()) for row in store] == [True, False, True]
    window = Options(poolings=("mean", "at:pos"))
    extract_at(tmp_path / "window.zarr", file, window, encoder)
    assert np.isfinite(np.asarray(open_store(tmp_path / "window.zarr").embeddings)).all()


def test_records_that_are_skipped_are_set_aside_and_stop_nothing(tmp_path: Path) -> None:
    file, encoder = (
        write_table(tmp_path / "t.csv", ["ACGT" * 10, "ACGT", "ACGT" * 11], [39, 2, 0]),
        LetterEncoder(limit=10),
    )
    done = extract_at(tmp_path / "s.zarr", file, Options(poolings=("at:pos",), overlong="skip"), encoder)
    assert (done.set_aside, done.encoded_tokens) == (2, 6)
    store = open_store(tmp_path / "s.zarr")
    assert store.quarantined.tolist() == [0, 2]
    assert [bool(np.isfinite(row).all()) for row in store] == [False, True, False]
