"""``embedcache windows``: FASTA with a table of origins, both whole or not there."""

from __future__ import annotations

import csv
import gzip
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.embedcache import cli
from embedcache.errors import InputError
from embedcache.storage.store import open_store


def run(*words: Any) -> str:
    """Run embedcache in this process; raises what it raises."""
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False).output


def read_fasta(path: Path) -> dict[str, str]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    lines = text.splitlines()
    return dict(zip((line[1:] for line in lines[::2]), lines[1::2], strict=True))


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    rng = random.Random(0)
    given = []
    for label, number in ((1, 52), (0, 48)):
        path = tmp_path / f"{label}.fa"
        path.write_text("".join(f">{label}_{i}\n{''.join(rng.choices('ACGT', k=900))}\n" for i in range(number)))
        given.append(f"{path}:label={label}")
    return given


@pytest.mark.parametrize("name", ["reads.fa", "deep/reads.fa.gz"])
def test_windows_and_their_origins_are_written(inputs: list[str], tmp_path: Path, name: str) -> None:
    said = run("windows", *inputs, "--windows", "random:150", "--about", "400", "-o", tmp_path / name)
    reads, origins = read_fasta(tmp_path / name), read_table((tmp_path / name).parent / "reads.tsv")
    assert list(reads) == [row["id"] for row in origins]
    assert list(origins[0]) == ["id", "label", "parent", "start", "stop", "group"]
    contigs = {name: letters for given in inputs for name, letters in read_fasta(Path(given.rsplit(":", 1)[0])).items()}
    assert all(reads[row["id"]] == contigs[row["parent"]][int(row["start"]) : int(row["stop"])] for row in origins)
    labels = Counter(row["label"] for row in origins)
    assert labels == {"1": pytest.approx(208, abs=12), "0": pytest.approx(192, abs=12)}
    assert f"label    1 {labels['1']}, 0 {labels['0']}" in said
    assert "next     embedcache extract" in said
    assert sorted(path.name for path in (tmp_path / name).parent.glob("reads*")) == sorted(
        [Path(name).name, "reads.tsv"]
    )


def test_what_is_written_and_what_extract_makes_itself_are_the_same(inputs: list[str], tmp_path: Path) -> None:
    options = (*inputs, "--windows", "random:150x1-3", "--translate", "longest-orf")
    run("windows", *options, "-o", tmp_path / "orfs.faa")
    run("extract", "--model", "kmer:1:protein", *options, "--output", tmp_path / "a.zarr")
    written = ("--input", tmp_path / "orfs.faa", "--metadata", tmp_path / "orfs.tsv")
    run("extract", "--model", "kmer:1:protein", *written, "--output", tmp_path / "b.zarr")
    one, other = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")
    assert one.column("id").to_pylist() == other.column("id").to_pylist()
    assert (one.read(0, len(one)) == other.read(0, len(other))).all()
    for name in ("label", "parent", "frame", "start", "stop", "group"):
        assert one.column(name).to_pylist() == other.column(name).to_pylist()
    assert "made by     random windows of 150" in run("info", tmp_path / "a.zarr")


def test_files_that_are_there_are_kept_unless_asked(inputs: list[str], tmp_path: Path) -> None:
    words = ("windows", *inputs, "--windows", "300:300", "-o", tmp_path / "reads.fa")
    (tmp_path / "reads.tsv").write_text("mine")
    with pytest.raises(InputError, match=r"reads.tsv is there already: .*--overwrite"):
        run(*words)
    assert not (tmp_path / "reads.fa").exists()
    run(*words, "--overwrite")
    assert len(read_fasta(tmp_path / "reads.fa")) == 300


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b">z\nAC7T\n", r"bad.fa, line 2: '7' in the sequence of 'z'"),
        (b">1_0\nACGT\n", r"the id '1_0:0-4' occurs twice, at .*1.fa, line 1 and at .*bad.fa, line 1"),
    ],
)
def test_bad_input_leaves_nothing(inputs: list[str], tmp_path: Path, bad: bytes, says: str) -> None:
    (tmp_path / "bad.fa").write_bytes(bad)
    (tmp_path / "1.fa").write_bytes(b">1_0\nACGT\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=says):
        run("windows", *inputs, tmp_path / "bad.fa", "--windows", "300:300", "-o", tmp_path / "out" / "reads.fa")
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [p for p in before if p.is_file()]


def test_ids_that_would_not_come_back_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,seq\nx,ACGT\na b,ACGT\n")
    with pytest.raises(InputError, match="line 3: the id 'a b:0-2' holds a blank"):
        run("windows", path, "--windows", "2:2", "-o", tmp_path / "reads.fa")


def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["windows", "a.fa", "-o", str(tmp_path / "reads.fa")])
    assert result.exit_code == 2
    assert "--windows RULE, --translate HOW or --reverse-complement add" in result.output
