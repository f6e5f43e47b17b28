"""A shared folder of stores: what is in it, and that cleaning it never takes the last copy of anything."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedcache import open_store
from embedcache.errors import InputError
from embedcache.extraction.preflight import Options
from embedcache.reusing.cachecleaning import removable, remove, seconds_of
from embedcache.reusing.cachefolder import look, rows_elsewhere
from embedcache.storage.commit import ShardLock
from embedcache.storage.layout import StorePaths
from tests.letter_encoder import LetterEncoder
from tests.processes import command
from tests.stores import random_reads, run_extract, write_fasta
from tests.test_reuse import tree

SHARDS = Options(shard_rows=1024)
DEAD = 2**22 + 1
"""A process id that Linux does not give."""


def store_of(
    lab: Path, name: str, reads: list[str], options: Options = SHARDS, first: int = 0, label: str = "1"
) -> Path:
    """A store with a label of its own folder's making."""
    lab.mkdir(parents=True, exist_ok=True)
    fasta = write_fasta(lab.parent / f"{lab.name}-{name}.fa", reads, first)
    run_extract(lab / f"{name}.zarr", f"{fasta}:label={label}", options=options)
    return lab / f"{name}.zarr"


def aged(folder: Path, days: float = 2.0) -> None:
    """Make everything below a folder look so many days old."""
    then = time.time() - 86400 * days
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            os.utime(path, (then, then))


def candidates(lab: Path, **rules: object) -> dict[str, str]:
    """What could go, by name, and why."""
    found = removable(lab, look(lab, lambda line: None), **rules)  # type: ignore[arg-type]
    return {removal.path.name: removal.why for removal in found}


def unfinished(store: Path) -> Path:
    StorePaths(store).commit(0).unlink()
    return store


def test_the_list_says_what_is_there_and_what_is_there_twice(tmp_path: Path) -> None:
    reads, lab = random_reads(60), tmp_path / "lab"
    store_of(lab, "a", reads[:40])
    store_of(lab / "deep", "b", reads[30:], first=500)
    store_of(lab, "wide", reads[:10], replace(SHARDS, dtype="float32"))
    run_extract(lab / "other.zarr", write_fasta(tmp_path / "o.fa", reads), model=LetterEncoder(), options=SHARDS)
    unfinished(store_of(lab, "c", reads))
    (lab / "broken.zarr").mkdir()
    (lab / "broken.zarr" / "zarr.json").write_text("{")
    (lab / "link.zarr").symlink_to(lab / "a.zarr")
    before = tree(lab)
    done = command("cache", "list", lab, "--json", check=True)
    assert tree(lab) == before
    found = {Path(store["store"]).name: store for store in json.loads(done.stdout)}
    assert sorted(found) == ["a.zarr", "b.zarr", "c.zarr", "other.zarr", "wide.zarr"]
    assert {name: store["rows"] for name, store in found.items()} == {
        "a.zarr": 40, "b.zarr": 30, "c.zarr": 0, "other.zarr": 60, "wide.zarr": 10,
    }  # fmt: skip
    # what is stored as float32 can stand for float16, and not the other way
    assert {name: store["rows_elsewhere"] for name, store in found.items()} == {
        "a.zarr": 20, "b.zarr": 10, "c.zarr": 0, "other.zarr": 0, "wide.zarr": 0,
    }  # fmt: skip
    assert found["a.zarr"]["bytes"] == sum(f.stat().st_size for f in (lab / "a.zarr").rglob("*") if f.is_file())
    assert (found["a.zarr"]["state"], found["c.zarr"]["state"]) == ("complete", "not finished")
    assert "broken.zarr is not an embedcache store" in done.stderr
    printed = command("cache", "list", lab, check=True).stdout
    assert re.search(r"deep/b\.zarr +kmer:3 +30 +10 +[\d.]+ kB  \d{4}-\d\d-\d\dT\d\d:\d\d  complete\n", printed)


def test_a_dry_run_removes_nothing_and_yes_keeps_the_last_copy(tmp_path: Path) -> None:
    reads, lab = random_reads(50), tmp_path / "lab"
    for name in ("a", "b", "c"):
        store_of(lab, name, reads)
    store_of(lab, "part", reads[:20])
    values = np.array(open_store(lab / "a.zarr").embeddings)
    aged(lab)
    before = tree(lab)
    for words in ((), ("--dry-run",)):
        said = command("cache", "gc", lab, *words, check=True).stdout
        assert said.count("would remove") == 3
        assert "--yes removes them" in said
    assert tree(lab) == before
    said = command("cache", "gc", lab, "--yes", check=True).stdout
    assert len(re.findall(r"^removed  .*all of its rows are in ", said, re.MULTILINE)) == 3
    (left,) = lab.iterdir()
    np.testing.assert_array_equal(np.asarray(open_store(left).embeddings), values)
    assert command("cache", "gc", lab, "--yes", check=True).stdout == "0 B in 0 of 1 store or left-over\n"


@pytest.mark.parametrize("differs", ["id", "label", "sequence", "fewer sequences kept", "type"])
def test_a_row_is_in_another_store_only_with_all_that_it_has(tmp_path: Path, differs: str) -> None:
    reads, lab = random_reads(50), tmp_path / "lab"
    store_of(lab, "a", reads[:20], replace(SHARDS, dtype="float32") if differs == "type" else SHARDS)
    changed = [*reads[1:], "ACGT"] if differs == "sequence" else reads
    options = replace(SHARDS, drop_sequence=True) if differs == "fewer sequences kept" else SHARDS
    store_of(lab, "b", changed, options, first=1000 if differs == "id" else 0, label="0" if differs == "label" else "1")
    aged(lab)
    assert candidates(lab) == {}


def test_float32_stands_for_float16(tmp_path: Path) -> None:
    reads, lab = random_reads(50), tmp_path / "lab"
    store_of(lab, "a", reads[:20])
    store_of(lab, "b", reads, replace(SHARDS, dtype="float32"))
    aged(lab)
    assert [*candidates(lab)] == ["a.zarr"]


def test_unfinished_stores_and_left_overs_go_and_what_is_foreign_stays(tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    unfinished(store_of(lab, "half", random_reads(30)))
    store_of(lab, "whole", random_reads(30, seed=1))
    for left_over in (f"x.zarr.creating-{DEAD}/embeddings/c", f"deep/y.zarr.removing-{DEAD}/embeddings/rows"):
        (lab / left_over).mkdir(parents=True)
    for foreign in (f"thesis.creating-{DEAD}", "half.zarr.removed", f"z.zarr.removing-{os.getpid()}"):
        (lab / foreign).mkdir()
        (lab / foreign / "thesis.tex").write_text("x")
    outside = unfinished(store_of(tmp_path / "elsewhere", "out", random_reads(9, seed=2)))
    (lab / "link.zarr").symlink_to(outside)
    aged(lab)
    aged(outside)
    assert sorted(candidates(lab)) == ["half.zarr", f"x.zarr.creating-{DEAD}", f"y.zarr.removing-{DEAD}"]
    assert candidates(lab)["half.zarr"].startswith("not finished: 0 of 1 shard, last changed 48 h")
    command("cache", "gc", lab, "--yes", check=True)
    assert sorted(path.name for path in lab.iterdir()) == [
        "deep", "half.zarr.removed", "link.zarr", f"thesis.creating-{DEAD}", "whole.zarr", f"z.zarr.removing-{os.getpid()}",
    ]  # fmt: skip
    assert [*(lab / "deep").iterdir()] == []
    assert outside.exists()


def test_what_is_being_written_or_young_or_of_a_model_to_keep_stays(tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    store = unfinished(store_of(lab, "half", random_reads(30)))
    assert candidates(lab) == {}  # changed within the last hour
    aged(lab)
    assert [*candidates(lab)] == ["half.zarr"]
    assert [*candidates(lab, older_than=seconds_of("1d"))] == ["half.zarr"]
    assert candidates(lab, older_than=seconds_of("3d")) == {}
    assert candidates(lab, keep_models=("kmer:3",)) == {}
    (planned,) = removable(lab, look(lab, print))
    lock = ShardLock(StorePaths(store).lock(0))
    assert lock.acquire()
    aged(lab)
    assert candidates(lab) == {}
    assert remove(planned) == "a process writes it now"
    lock.release()
    run_extract(store, f"{lab.parent / 'lab-half.fa'}:label=1")
    assert remove(planned) == "it is finished now"
    assert open_store(store).quarantined.tolist() == []


def test_a_store_with_all_rows_in_a_damaged_one_stays(tmp_path: Path) -> None:
    reads, lab = random_reads(50), tmp_path / "lab"
    store_of(lab, "a", reads[:20])
    kept = store_of(lab, "b", reads)
    data = bytearray(StorePaths(kept).file(0).read_bytes())
    data[99] ^= 1
    StorePaths(kept).file(0).write_bytes(data)
    aged(lab)
    said = command("cache", "gc", lab, "--yes", check=True).stdout
    assert re.search(r"kept +.*a\.zarr: .*b\.zarr, which has its rows, is damaged: ", said)
    assert (lab / "a.zarr").exists()


def test_parts_of_a_virtual_store_stay(tmp_path: Path) -> None:
    reads, lab = random_reads(50), tmp_path / "lab"
    part = store_of(lab, "a", reads[:20])
    store_of(lab, "b", reads)
    run_extract(lab / "letters.zarr", f"{tmp_path / 'lab-a.fa'}:label=1", model=LetterEncoder(), options=SHARDS)
    command("merge", part, lab / "letters.zarr", "--output", lab / "merged.zarr", check=True)
    aged(lab)
    assert {store.path.name: store.state for store in look(lab, print)}["merged.zarr"] == "merged"
    assert candidates(lab) == {}
    assert rows_elsewhere(look(lab, print))[part] == 20


@pytest.mark.parametrize("age", ["90", "d", "-1d", "1y", ""])
def test_an_age_that_is_none_is_refused(age: str) -> None:
    with pytest.raises(InputError, match="is no age: write it as 12h, 90d or 2w"):
        seconds_of(age)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    for verb in ("list", "gc"):
        done = command("cache", verb, tmp_path / "no")
        assert done.returncode == 2
        assert "is no folder" in done.stderr
