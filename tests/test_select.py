"""Selected stores: the rows that were asked for, drawn again the same, and the blocks that were named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli.embedcache import cli
from embedcache import open_store
from embedcache.combining.select import SelectOptions, select
from embedcache.combining.where import matching
from embedcache.errors import InputError, StoreError
from embedcache.extraction.preflight import Options
from embedcache.progress import Progress
from embedcache.storage.store import Store
from tests.heads.stores import write_store
from tests.letter_encoder import LetterEncoder
from tests.stores import random_reads, run_extract, write_fasta

ROWS = 3000
RNG = np.random.default_rng(0)
SPLITS = RNG.choice(["train", "val", "test"], ROWS, p=[0.6, 0.2, 0.2]).tolist()
LABELS = (RNG.random(ROWS) < 0.1).astype(int).tolist()
LENGTHS = RNG.integers(50, 1000, ROWS).tolist()
SCORES = [None if i % 7 == 0 else i / 10 for i in range(ROWS)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    values = np.random.default_rng(1).standard_normal((ROWS, 6)).astype(np.float16)
    columns = {"split": SPLITS, "label": LABELS, "length": LENGTHS, "score": SCORES, "a b": [True, False] * (ROWS // 2)}
    return open_store(write_store(tmp_path_factory.mktemp("s") / "reads.zarr", values, columns))


def selected(store: Store, output: Path, **options: object) -> Store:
    return select(store.path, output, SelectOptions(**options), Progress(quiet=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("split == 'train' and length >= 500", lambda i: SPLITS[i] == "train" and LENGTHS[i] >= 500),
        ("100 <= length < 200 or label == 1", lambda i: 100 <= LENGTHS[i] < 200 or LABELS[i] == 1),
        ("split in ['val', 'test']", lambda i: SPLITS[i] != "train"),
        ("split not in ('val',) and not label == 1", lambda i: SPLITS[i] != "val" and LABELS[i] != 1),
        ("score is None", lambda i: i % 7 == 0),
        ("score is not null and score != 1.1", lambda i: i % 7 != 0 and i != 11),
        ("score > 5", lambda i: i % 7 != 0 and i > 50),
        ("not score > 5", lambda i: i % 7 != 0 and i <= 50),
        ("length / 2 - 10 > 300", lambda i: LENGTHS[i] / 2 - 10 > 300),
        ("col('a b') and length > -1", lambda i: i % 2 == 0),
        ("label in [1]", lambda i: LABELS[i] == 1),
    ],
)
def test_conditions_mean_what_they_say(store: Store, where: str, holds: object) -> None:
    assert matching(store, where).tolist() == [holds(i) for i in range(ROWS)]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("splitt == 'train'", r"no column 'splitt' to choose by .*it has row, id"),
        ("split == train", "no column 'train'"),
        ("split = 'train'", "write it as"),
        ("split == 1", "text is compared with numbers"),
        ("length > '500'", "text is compared with numbers"),
        ("length", "no condition"),
        ("split and label == 1", "neither true nor false"),
        ("__import__('os').system('touch hacked')", "is not understood"),
        ("length.__class__ == 1", "is not understood"),
        ("[x for x in length] == 1", "is not understood"),
        ("split in 'train'", "is no list"),
        ("1 == 1", "both no columns"),
        ("split == 'train", "write it as"),
        ("length ** 2 > 1", "is not understood"),
    ],
)
def test_what_is_no_condition_is_refused_and_never_run(store: Store, where: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        matching(store, where)


def test_a_selection_has_the_rows_of_its_condition_and_keeps_the_order(tmp_path: Path, store: Store) -> None:
    some = selected(store, tmp_path / "some.zarr", where="split == 'train' and length >= 500")
    rows = [i for i in range(ROWS) if SPLITS[i] == "train" and LENGTHS[i] >= 500]
    assert some.ids.tolist() == [f"r{i}" for i in rows]
    np.testing.assert_array_equal(some.read(0, len(some)), np.asarray(store.embeddings)[rows])
    np.testing.assert_array_equal(some.take([5, 3]), np.asarray(store.embeddings)[[rows[5], rows[3]]])
    assert some.column("row").to_pylist() == list(range(len(rows)))
    assert some.column("label").to_pylist() == [LABELS[i] for i in rows]
    assert some.fingerprint == store.fingerprint
    assert some.attrs["asked"] == {
        "where": "split == 'train' and length >= 500",
        "label": "label",
        "split": "split",
        "seed": 0,
    }


def test_draws_are_per_class_in_each_split_and_the_same_again_with_the_seed(tmp_path: Path, store: Store) -> None:
    def drawn(name: str, **options: object) -> list[str]:
        return selected(store, tmp_path / name, **options).ids.tolist()

    first = drawn("a.zarr", per_class=30)
    counts = Counter((SPLITS[int(i[1:])], LABELS[int(i[1:])]) for i in first)
    assert set(counts.values()) == {30}
    assert len(counts) == 6
    assert first == drawn("b.zarr", per_class=30)
    assert first != drawn("c.zarr", per_class=30, seed=1)
    assert first == sorted(first, key=lambda name: int(name[1:]))


def test_draws_per_split_keep_the_shares_of_the_classes(tmp_path: Path, store: Store) -> None:
    ids = selected(store, tmp_path / "a.zarr", per_split=256).ids.tolist()
    for split in ("train", "val", "test"):
        here = [i for i in ids if SPLITS[int(i[1:])] == split]
        share = np.mean([LABELS[i] for i in range(ROWS) if SPLITS[i] == split])
        assert len(here) == 256
        assert abs(sum(LABELS[int(i[1:])] for i in here) - 256 * share) <= 1
    both = selected(store, tmp_path / "b.zarr", per_class=50, per_split=60, where="split != 'val'").ids.tolist()
    assert Counter((SPLITS[int(i[1:])], LABELS[int(i[1:])]) for i in both) == {
        (split, label): 30 for split in ("train", "test") for label in (0, 1)
    }
    assert len(selected(store, tmp_path / "c.zarr", sample=17)) == 17


def test_ids_of_a_file_or_a_table_are_taken_in_the_order_of_the_store(tmp_path: Path, store: Store) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("r9\nr3\n\nnobody\nr2000\n")
    words = ["select", str(store.path), "--ids", str(listed), "-o", str(tmp_path / "a.zarr")]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert "1 of 4 ids of" in result.stderr
    assert "(nobody)" in result.stderr
    assert open_store(tmp_path / "a.zarr").ids.tolist() == ["r3", "r9", "r2000"]
    table = tmp_path / "ids.tsv"
    table.write_text("id\tx\nr5\t1\nr4\t2\n")
    assert selected(store, tmp_path / "b.zarr", ids=table).ids.tolist() == ["r4", "r5"]


def test_the_command_prints_rows_by_split_and_class(tmp_path: Path, store: Store) -> None:
    words = ["select", str(store.path), "--per-class", "30", "-o", str(tmp_path / "a.zarr")]
    lines = CliRunner().invoke(cli, words, catch_exceptions=False).stderr.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["split", "x", "label", "0", "1"], ["test", "30", "30"], ["train", "30", "30"], ["val", "30", "30"]
    ]  # fmt: skip


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    folder = tmp_path_factory.mktemp("b")
    fasta = write_fasta(folder / "r.fa", random_reads(200))
    run_extract(folder / "both.zarr", fasta, model=LetterEncoder(), options=Options(poolings=("mean", "max", "cls")))
    return open_store(folder / "both.zarr"), fasta


def test_blocks_are_taken_by_name_in_the_order_asked(tmp_path: Path, blocks: tuple[Store, Path]) -> None:
    store, fasta = blocks
    names = [block.name for block in store.blocks]
    some = selected(store, tmp_path / "some.zarr", blocks=(names[2], names[0]), where="length > 60")
    rows = np.flatnonzero(np.asarray(store.column("length")) > 60)
    every = np.asarray(store.embeddings)[rows]
    expected = np.concatenate([every[:, store.block(names[2])], every[:, store.block(names[0])]], axis=1)
    np.testing.assert_array_equal(some.take(np.arange(len(rows))), expected)
    np.testing.assert_array_equal(some.take([4, 2, 9]), expected[[4, 2, 9]])
    assert [(block.name, block.start) for block in some.blocks] == [(names[2], 0), (names[0], 32)]
    run_extract(tmp_path / "alone.zarr", fasta, model=LetterEncoder(), options=Options(poolings=("mean",)))
    alone = open_store(tmp_path / "alone.zarr")
    assert selected(store, tmp_path / "one.zarr", blocks=(names[0],)).fingerprint == alone.fingerprint
    assert some.fingerprint not in (store.fingerprint, alone.fingerprint)
    with pytest.raises(InputError, match=f"has no block 'meen'; it has: {names[0]}"):
        selected(store, tmp_path / "none.zarr", blocks=("meen",))
    with pytest.raises(InputError, match="named twice"):
        selected(store, tmp_path / "none.zarr", blocks=(names[0], names[0]))


def test_tokens_of_chosen_records_come_along(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(60, longest=40))
    run_extract(tmp_path / "t.zarr", fasta, model=LetterEncoder(), options=Options(poolings=("none",)))
    store = open_store(tmp_path / "t.zarr")
    some = selected(store, tmp_path / "some.zarr", where="length > 25")
    rows = np.flatnonzero(np.asarray(store.column("length")) > 25)
    assert some.offsets.tolist() == [0, *np.cumsum(np.diff(store.offsets)[rows])]
    for at in (0, 7, len(rows) - 1):
        np.testing.assert_array_equal(some[at], store[rows[at]])


def test_selections_that_leave_nothing_or_lack_a_column_are_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(StoreError, match="no row of .* is left"):
        selected(store, tmp_path / "a.zarr", where="length > 5000")
    with pytest.raises(InputError, match="--per-class draws by the column 'class'.*name it with --label"):
        selected(store, tmp_path / "a.zarr", per_class=3, label="class")
    assert not (tmp_path / "a.zarr").exists()
