"""Windows: what is cut, what it is called, which group it belongs to, and that a record decides alone."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from embedcache.errors import InputError
from embedcache.input_options import InputOptions
from embedcache.records import remarks_of
from embedcache.sources import open_records
from embedcache.transforms import remade
from tests.transforms.conftest import Open, rows


def dna(length: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=length))


def test_sliding_windows_have_parents_places_and_the_parent_as_group(opened: Open) -> None:
    long, short = dna(25), dna(7, 1)
    source = opened({"a": long, "b": short}, ":label=1", windows="10:5")
    assert source.columns == ("label", "parent", "start", "stop", "group")
    assert [(row["id"], row["sequence"]) for row in rows(source)] == [
        ("a:0-10", long[:10]), ("a:5-15", long[5:15]), ("a:10-20", long[10:20]), ("a:15-25", long[15:25]), ("b:0-7", short)
    ]  # fmt: skip
    assert rows(source)[1] == {
        "id": "a:5-15", "sequence": long[5:15], "label": "1", "parent": "a", "start": 5, "stop": 15, "group": "a"
    }  # fmt: skip
    assert remarks_of(source) == ("windows  5 of 10 letters every 5 from 2 records; 1 shorter record is taken whole",)


@pytest.mark.parametrize(
    ("length", "rule", "least", "places"),
    [
        (28, "10:10", None, ["0-10", "10-20", "20-28"]),
        (24, "10:10", None, ["0-10", "10-20"]),
        (24, "10:10", 4, ["0-10", "10-20", "20-24"]),
        (21, "10:5", None, ["0-10", "5-15", "10-20", "15-21"]),
        (20, "10:5", 1, ["0-10", "5-15", "10-20"]),
        (40, "10:15", None, ["0-10", "15-25", "30-40"]),
        (36, "10:15", None, ["0-10", "15-25", "30-36"]),
        (10, "10:3", None, ["0-10"]),
    ],
)
def test_the_last_window_is_kept_from_half_a_window_on_where_it_holds_something_new(
    opened: Open, length: int, rule: str, least: int | None, places: list[str]
) -> None:
    made = rows(opened({"a": dna(length)}, windows=rule, min_window=least))
    assert [row["id"].removeprefix("a:") for row in made] == places


def test_short_records_can_be_dropped_and_the_first_are_named(opened: Open) -> None:
    for rule in ("10:5", "random:10x2"):
        source = opened({"a": dna(30), "b": "ACGT", "c": "AC"}, windows=rule, short="drop")
        assert {row["parent"] for row in rows(source)} == {"a"}
        assert "2 records are left out (b, c)" in remarks_of(source)[0]


def test_nothing_left_is_an_error_that_says_why(opened: Open) -> None:
    with pytest.raises(InputError, match=r"nothing is left of the 2 records of .*records.fa: .*left out \(a, b\)"):
        rows(opened({"a": "ACGT", "b": "AC"}, windows="10:5", short="drop"))


def test_random_windows_lie_in_their_parent_and_have_the_lengths_asked_for(opened: Open) -> None:
    records = {f"r{i}": dna(4000, i) for i in range(600)}
    made = rows(opened(records, windows="random:30%:100-200,40%:201-500,30%:501-3000x1-3"))
    lengths = np.array([len(row["sequence"]) for row in made])
    assert all(row["sequence"] == records[row["parent"]][row["start"] : row["stop"]] for row in made)
    assert lengths.min() >= 100
    assert lengths.max() <= 3000
    shares = [np.mean((lengths >= low) & (lengths <= high)) for low, high in ((100, 200), (201, 500), (501, 3000))]
    assert shares == pytest.approx([0.3, 0.4, 0.3], abs=0.05)
    counts = Counter(Counter(row["parent"] for row in made).values())
    assert set(counts) == {1, 2, 3}
    assert all(150 < number < 250 for number in counts.values())
    assert {row["parent"] for row in made} == set(records)


def test_random_windows_begin_everywhere_alike(opened: Open) -> None:
    starts = [row["start"] for row in rows(opened({f"r{i}": dna(109, i) for i in range(4000)}, windows="random:100"))]
    counts = Counter(starts)
    assert set(counts) == set(range(10))
    assert all(320 < count < 480 for count in counts.values())


def test_a_record_gives_the_same_windows_whatever_comes_before_it(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {f"r{i}": dna(400 + i, i) for i in range(50)}
    rule = "random:60%:50,40%:100-150x1-4"
    both = rows(opened(records, windows=rule))
    turned = rows(opened(dict(reversed(records.items())), windows=rule))
    assert sorted(row["id"] for row in both) == sorted(row["id"] for row in turned)
    monkeypatch.setattr(remade, "PORTION_LETTERS", 1000)
    assert rows(opened(records, windows=rule)) == both
    assert [row["id"] for row in rows(opened(records, windows=rule, window_seed=1))] != [row["id"] for row in both]


def test_the_windows_of_a_seed_never_change(opened: Open) -> None:
    made = rows(opened({"a": dna(500), "b": dna(300, 1)}, windows="random:50-60x2", window_seed=7))
    assert [row["id"] for row in made] == ["a:144-201", "a:337-396", "b:40-90", "b:64-114"]


def test_the_same_stretch_is_taken_once(opened: Open) -> None:
    source = opened({"a": "ACGTA"}, windows="random:4x10")
    assert [row["id"] for row in rows(source)] == ["a:0-4", "a:1-5"]
    assert "8 drawn twice are there once" in remarks_of(source)[0]


@pytest.mark.parametrize("rule", ["random:50", "random:50x1-3"])
@pytest.mark.parametrize("each", [0.5, 1.7, 2.5])
def test_about_so_many_windows_are_drawn_and_the_classes_keep_their_ratio(
    tmp_path: Path, rule: str, each: float
) -> None:
    files = []
    for label, number, length in ((0, 2000, 500), (1, 1000, 3000)):
        path = tmp_path / f"{label}.fa"
        path.write_text("".join(f">{label}_{i}\n{dna(length, i % 7)}\n" for i in range(number)))
        files.append(f"{path}:label={label}")
    made = rows(open_records(InputOptions(tuple(files), windows=rule, about=round(3000 * each))))
    labels = Counter(row["label"] for row in made)
    assert len(made) == pytest.approx(3000 * each, rel=0.06)
    assert labels["0"] / labels["1"] == pytest.approx(2, rel=0.1)


def test_more_windows_than_the_count_allows_are_refused(opened: Open) -> None:
    with pytest.raises(InputError, match="asks for 5.0 windows a record, and --windows allows 3"):
        rows(opened({"a": dna(100)}, windows="random:10x1-3", about=5))


def test_a_group_of_the_input_stays_the_group_and_columns_of_such_names_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,seq,group,start,label\nx,ACGTACGT,donor,7,1\ny,ACGTACGT,,8,0\n")
    source = open_records(InputOptions((str(path),), windows="8:8"))
    assert source.columns == ("start_in", "label", "parent", "start", "stop", "group")
    made = rows(source)
    assert [(row["group"], row["start_in"], row["start"]) for row in made] == [("donor", "7", 0), ("y", "8", 0)]


def test_errors_of_windows_name_the_line_of_their_parent(opened: Open) -> None:
    source = opened({f"r{i}": dna(100, i) for i in range(20)}, windows="random:10x1-3")
    made = rows(source)
    wanted = [len(made) - 1, 0, 7]
    lines = [int(place.rsplit(" ", 1)[1]) for place in source.locate(wanted)]
    assert lines == [1 + 2 * int(made[row]["parent"][1:]) for row in wanted]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"windows": "150"}, "LENGTH:STEP, as in 500:250"),
        ({"windows": "0:5"}, "at least 1"),
        ({"windows": "500:0"}, "at least 1"),
        ({"windows": "random:"}, "random:LENGTHxCOUNT"),
        ({"windows": "random:axb"}, "random:LENGTHxCOUNT"),
        ({"windows": "random:30%:100,40%:200"}, "70 % together"),
        ({"windows": "random:100,200"}, "without saying how much"),
        ({"windows": "random:200-100"}, "smaller end"),
        ({"windows": "random:100x3-1"}, "smaller end"),
        ({"windows": "random:100x0"}, "begin with 1"),
        ({"windows": "random:100", "min_window": 5}, "--min-window is for windows side by side"),
        ({"windows": "100:50", "min_window": 500}, "not between 1 and the length"),
        ({"windows": "100:50", "about": 5}, "write --windows random"),
        ({"about": 5}, "give --windows too"),
        ({"short": "drop"}, "give --windows too"),
        ({"stops": "cut"}, "give --translate too"),
    ],
)
def test_rules_that_make_no_sense_are_refused(opened: Open, options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        opened({"a": "ACGT"}, **options)


def test_cells_have_no_windows(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    path.write_text("id,tokens\nx,2 144 7\n")
    with pytest.raises(InputError, match="line 2: --windows is for sequences, and this is a cell"):
        rows(open_records(InputOptions((str(path),), windows="10:5")))


def test_long_records_come_in_batches_of_bounded_size(opened: Open) -> None:
    source = opened({"a": dna(3_000_000)}, windows="1000:100")
    sizes = [sum(map(len, batch["sequence"].to_pylist())) for batch in source.batches()]
    assert len(sizes) > 5
    assert max(sizes) <= remade.PORTION_LETTERS
