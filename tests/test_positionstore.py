"""Stores of positions: one row for each letter of the sequences of a store that keeps every token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedcache import open_store
from embedcache.combining.select import selection
from embedcache.errors import InputError, StoreError
from embedcache.extraction.preflight import Options
from embedcache.sequences.views import views_of
from embedcache.storage.positionstore import WINDOW, PositionStore
from embedcache.storage.store import Store
from tests.encoders.golden import golden_folder
from tests.letter_encoder import LetterEncoder
from tests.stores import random_reads, run_extract, write_fasta

NONE = Options(poolings=("none",), dtype="float32")


def tokens_of(folder: Path, reads: Sequence[str], model: Any = None, options: Options = NONE, **columns: Any) -> Store:
    """A store without pooling of reads that have the given columns."""
    table = pa.table({"id": [f"r{i}" for i in range(len(reads))], "sequence": list(reads), **columns})
    pq.write_table(table, folder / "t.parquet")
    run_extract(folder / "t.zarr", folder / "t.parquet", model=model or LetterEncoder(), options=options)
    return open_store(folder / "t.zarr")


def values(column: Any, *reads: str) -> list[Any]:
    """What a column of records is for each letter."""
    from embedcache.storage.positionvalues import values_by_letter

    ids = pa.chunked_array([[f"r{i}" for i in range(len(reads))]])
    column = column if isinstance(column, pa.Array) else pa.array(column)
    return values_by_letter(pa.chunked_array([column]), np.array([*map(len, reads)]), ids, "label").to_pylist()


def test_where_tokens_are_letters_the_rows_are_the_tokens_themselves(tmp_path: Path) -> None:
    reads = random_reads(40, shortest=1)
    tokens = tokens_of(tmp_path, reads)
    store = PositionStore(tokens)
    assert (len(store), store.dim, store.per_token) == (sum(map(len, reads)), 32, False)
    assert store.embeddings is tokens.embeddings, "nothing is copied"
    row = int(tokens.offsets[8]) - 1
    np.testing.assert_array_equal(store[row], tokens[7][-1])
    np.testing.assert_array_equal(store.take([row, 0]), np.stack([tokens[7][-1], tokens[0][0]]))
    assert store.read_rows(["id", "record", "position", "row"]).slice(row, 1).to_pylist() == [
        {"id": f"r7:{len(reads[7]) - 1}", "record": "r7", "position": len(reads[7]) - 1, "row": row}
    ]


@pytest.mark.parametrize("family", ["dna_bert_6", "ntv1", "dnabert2"])
def test_a_letter_has_what_the_pooling_at_its_place_gives(tmp_path: Path, family: str) -> None:
    model = str(golden_folder(family, tmp_path))
    reads = [*random_reads(12, shortest=2, longest=40), "ACGTNNACGTACGTT", "ACGTA"]
    tokens = tokens_of(tmp_path, reads, model)
    store = PositionStore(tokens)
    bare = set(store.quarantined.tolist())
    places = [(record, place) for record, read in enumerate(reads) for place in range(len(read))]
    wanted = [(row, record, place) for row, (record, place) in enumerate(places) if row not in bare]
    table = {"id": [f"p{row}" for row, *_ in wanted], "sequence": [reads[record] for _, record, _ in wanted]}
    pq.write_table(pa.table(table | {"pos": [place for *_, place in wanted]}), tmp_path / "at.parquet")
    run_extract(
        tmp_path / "at.zarr",
        tmp_path / "at.parquet",
        model=model,
        options=Options(poolings=("at:pos",), dtype="float32"),
    )
    expected = np.asarray(open_store(tmp_path / "at.zarr").embeddings)
    np.testing.assert_allclose(store.take([row for row, *_ in wanted]), expected, atol=1e-5)
    short = {row for row, (record, _) in enumerate(places) if family == "dna_bert_6" and len(reads[record]) < 6}
    assert bare == short, "of overlapping 6-mers sequences of fewer letters have none"
    assert np.isnan(store.take(sorted(bare))).all()


def test_rows_are_the_means_of_their_tokens_by_hand_in_any_order_and_through_a_selection(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path, random_reads(30, shortest=6), str(golden_folder("dna_bert_6", tmp_path)))
    records = np.array([20, 3, 11])
    store = PositionStore(selection(tokens, records))
    lengths = np.asarray(tokens.column("length"))[records]
    expected = []
    for record, length in zip(records, lengths, strict=True):
        states = tokens[record]
        for place in range(length):
            covers = [token for token in range(len(states)) if token <= place < token + 6]
            expected.append(states[covers].mean(0))
    np.testing.assert_allclose(np.asarray(store.embeddings), expected, atol=1e-6)
    order = np.random.default_rng(0).permutation(len(store))
    np.testing.assert_allclose(store.take(order), np.stack(expected)[order], atol=1e-6)
    out = np.empty((5, 32), np.float32)
    np.testing.assert_array_equal(store.take(order[:5], out), store.take(order)[:5])
    assert store.column("record").to_pylist()[: lengths[0]] == ["r20"] * lengths[0]


def test_letters_whose_tokens_were_cut_off_and_records_set_aside_have_no_row(tmp_path: Path) -> None:
    model = str(golden_folder("dna_bert_6", tmp_path))
    reads = ["ACGTAC" * 5, "ACGGT" * 110]
    for policy, first in (("truncate", 510), ("skip", 0)):
        (folder := tmp_path / policy).mkdir()
        options = Options(poolings=("none",), dtype="float32", overlong=policy)
        store = PositionStore(tokens_of(folder, reads, model, options))
        # tokens 0 to 509 were kept: letter 510 is the first that one of the others covers too
        assert store.quarantined.tolist() == list(range(30 + first, 30 + 550)), policy
    (folder := tmp_path / "window").mkdir()
    assert not len(PositionStore(tokens_of(folder, reads, model)).quarantined)


def test_columns_are_repeated_and_lists_and_named_texts_are_taken_apart(tmp_path: Path) -> None:
    reads = ["ACG", "TT"]
    columns: dict[str, Any] = {
        "position": [40, 41], "donor": ["a", None], "hand": ["+-+", None], "score": [[0.5, None, 2], [1, 3]],
    }  # fmt: skip
    store = PositionStore(tokens_of(tmp_path, reads, **columns), ["hand"])
    assert store.column_names == store.schema.names
    assert "group" not in store.tokens.column_names
    table = store.rows.to_pydict()
    assert {name: table[name] for name in ("id", "position", "position_of_record", "donor", "hand", "score")} == {
        "id": ["r0:0", "r0:1", "r0:2", "r1:0", "r1:1"],
        "position": [0, 1, 2, 0, 1],
        "position_of_record": [40, 40, 40, 41, 41],
        "donor": ["a", "a", "a", None, None],
        "hand": ["+", None, "+", None, None],
        "score": [0.5, None, 2.0, 1.0, 3.0],
    }
    assert table["group"] == table["record"] == ["r0"] * 3 + ["r1"] * 2
    assert store.schema.field("score").type == pa.float64()
    around = ["N" * 20 + "ACG" + "N" * 18, "N" * 19 + "ACG" + "N" * 19, "N" * 18 + "ACG" + "N" * 20]
    assert store.column("sequence").to_pylist()[:3] == around
    assert [part.to_pylist() for part in store.sequences(np.array([4, 2]))] == [["N" * 19 + "TT" + "N" * 20, around[2]]]
    assert {len(text) for text in store.column("sequence").to_pylist()} == {WINDOW}


def test_all_forms_of_the_same_values_are_the_same() -> None:
    reads = ("ACGT", "AC", "GG")
    for column in (["01-1", None, "10"], ["0,1,-,1", None, "1,0"], [[0, 1, None, 1], None, [1, 0]],
                   [["0", "1", "-", "1"], None, ["1", "0"]]):  # fmt: skip
        assert values(column, *reads) == [0, 1, None, 1, None, None, 1, 0]
    for column in (["0.5,-1,,2e3", "", "1,NA"], [[0.5, -1, None, 2000], None, [1, None]]):
        assert values(column, *reads) == [0.5, -1.0, None, 2000.0, None, None, 1.0, None]
    assert values(["H.E ", "--", "ÄH"], *reads) == ["H", ".", "E", None, None, None, "Ä", "H"]
    assert values(["up, down,-,up", "up,up", None], *reads) == ["up", "down", None, "up", "up", "up", None, None]
    assert values(pa.array([0, 1, 2]), "A", "C", "G") == [0, 1, 2], "one letter, one value"


def test_another_number_of_values_than_letters_is_refused_with_the_record_and_both_numbers() -> None:
    for column in (["0101", "01"], ["0,1,1,0", "0,1"], [[0, 1, 1, 0], [0, 1]]):
        with pytest.raises(InputError, match=r"'r1' has 2 values in column 'label' and a sequence of 3 letters: give"):
            values(column, "ACGT", "ACG")
    with pytest.raises(InputError, match="'r0' has 4 values .* 2 letters, and 1 more records differ"):
        values(["0101", "01"], "AC", "ACG")
    with pytest.raises(InputError, match="column 'label' holds struct.*: a value for each letter is a list, or text"):
        values([{"a": 1}], "A")


def test_what_has_no_positions_is_refused_with_a_way_out(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(4, shortest=20))
    run_extract(tmp_path / "mean.zarr", fasta, model=LetterEncoder())
    options = Options(poolings=("none",), views=views_of("5", "both"))
    run_extract(tmp_path / "views.zarr", fasta, model=LetterEncoder(), options=options)
    for name, sentence in (("mean", "keeps one vector .*--pool none"), ("views", "around a site.*without --context")):
        with pytest.raises(StoreError, match=sentence):
            PositionStore(open_store(tmp_path / f"{name}.zarr"))
    run_extract(
        tmp_path / "pairs.zarr", fasta, model=LetterEncoder(2), options=Options(poolings=("none",), drop_sequence=True)
    )
    unknown = PositionStore(open_store(tmp_path / "pairs.zarr"))
    with pytest.raises(StoreError, match="not one token for each letter, and it keeps no sequences"):
        unknown.take([0])
