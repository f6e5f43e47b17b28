"""Transforms through the program: what the stores hold and remember, and that the same command goes on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.embedcache import cli
from embedcache.errors import InputError
from embedcache.extraction.extract import extract
from embedcache.extraction.preflight import Options
from embedcache.input_options import InputOptions
from embedcache.progress import Progress
from embedcache.sources import open_records
from embedcache.storage.store import open_store
from tests.letter_encoder import LetterEncoder


def run(*words: Any) -> str:
    """Run embedcache in this process; raises what it raises."""
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False).output


@pytest.fixture
def contigs(tmp_path: Path) -> Path:
    rng = random.Random(0)
    path = tmp_path / "contigs.fa"
    path.write_text("".join(f">c{i}\n{''.join(rng.choices('ACGT', k=700))}\n" for i in range(30)))
    return path


def test_a_store_of_windows_says_what_was_done_and_its_fingerprint_is_that_of_the_encoder(
    contigs: Path, tmp_path: Path
) -> None:
    said = run("extract", "--model", "kmer:3", contigs, "--windows", "200:100", "--output", tmp_path / "w.zarr")
    run("extract", "--model", "kmer:3", contigs, "--output", tmp_path / "whole.zarr")
    windows, whole = open_store(tmp_path / "w.zarr"), open_store(tmp_path / "whole.zarr")
    assert "windows  180 of 200 letters every 100 from 30 records" in said
    assert len(windows) == 180
    assert windows.attrs["transforms"] == ["windows of 200 every 100, the last from 100, shorter records: keep"]
    assert windows.fingerprint == whole.fingerprint
    assert {"parent", "start", "stop", "group"} <= set(windows.column_names)
    assert set(windows.column("group").to_pylist()) == {f"c{i}" for i in range(30)}


def test_the_same_command_goes_on_and_other_windows_are_refused(contigs: Path, tmp_path: Path) -> None:
    words = ("extract", "--model", "kmer:3", contigs, "--output", tmp_path / "w.zarr", "--windows", "random:90x1-3")
    run(*words)
    rows = len(open_store(tmp_path / "w.zarr"))
    assert "nothing: all shards are there" in run(*words)
    with contigs.open("a") as file:
        file.write(">more\n" + "ACGTTGCA" * 40 + "\n")
    run(*words)
    assert rows < len(open_store(tmp_path / "w.zarr")) <= rows + 3
    with pytest.raises(Exception, match="have changed"):
        run(*words, "--window-seed", "1")


def test_a_protein_encoder_reads_translated_dna_and_refuses_it_as_it_is(contigs: Path, tmp_path: Path) -> None:
    words = ("extract", "--model", "kmer:2:protein", contigs, "--output", tmp_path / "p.zarr")
    with pytest.raises(InputError, match="looks like DNA"):
        run(*words)
    said = run(*words, "--translate", "six-frame")
    store = open_store(tmp_path / "p.zarr")
    assert f"proteins {len(store):,} of 30 records (six-frame, genetic code 1 Standard)" in said
    assert set(store.column("parent").to_pylist()) == {f"c{i}" for i in range(30)}
    with pytest.raises(InputError, match="looks like protein"):
        run("extract", "--model", "kmer:2", contigs, "--translate", "six-frame", "--output", tmp_path / "d.zarr")


def test_positions_of_the_input_and_cut_records_do_not_go_together(contigs: Path, tmp_path: Path) -> None:
    source = open_records(InputOptions((str(contigs),), windows="90:90"))
    options = Options(poolings=("at:start",))
    with pytest.raises(InputError, match="the column 'start' holds places .* and --windows makes others of them"):
        extract(source, LetterEncoder(), tmp_path / "x.zarr", options, Progress(quiet=True))
