"""Viral or not from short reads: from contigs to a head on merged DNA and protein features of random windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from cli.embedcache import cli
from cli.heads import heads
from embedcache.storage.store import open_store

WINDOWS = ("--windows", "random:150x1-3", "--window-seed", "3")


def run(program: Any, *words: Any) -> str:
    """Run a program in this process; raises what it raises."""
    return CliRunner().invoke(program, [str(word) for word in words], catch_exceptions=False).output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """Stores of the same windows: their DNA, their longest ORFs, and the proteins of their six frames."""
    folder = tmp_path_factory.mktemp("b")
    data = shared_data / "pprmeta_example"
    words = ("extract", "--input", data / "sequences.fa.gz", "--metadata", data / "labels.tsv", *WINDOWS)
    protein = (*words, "--model", "kmer:2:protein", "--min-length", "12")
    run(cli, *words, "--model", "kmer:4", "--output", folder / "dna.zarr")
    run(cli, *protein, "--translate", "longest-orf", "--output", folder / "orf.zarr")
    run(cli, *protein, "--translate", "six-frame", "--output", folder / "frames.zarr")
    return folder


def parts(run_directory: Path) -> dict[str, set[str]]:
    """The parents of the rows in each part of a run's split."""
    table = pq.read_table(run_directory / "predictions.parquet")
    found: dict[str, set[str]] = {}
    for name, part in zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True):
        found.setdefault(part, set()).add(name.split(":")[0])
    return found


def test_windows_of_a_contig_have_its_label_its_split_and_its_group(folder: Path) -> None:
    dna = open_store(folder / "dna.zarr")
    assert 500 < len(dna) < 700
    assert dna.column("group").to_pylist() == dna.column("parent").to_pylist()
    viral = np.array(dna.column("viral").to_pylist())
    assert viral.mean() == pytest.approx(1 / 3, abs=0.05), "the ratio of the contigs"
    by_parent = dict(zip(dna.column("parent").to_pylist(), dna.column("split").to_pylist(), strict=True))
    assert sum(part == "test" for part in by_parent.values()) == 60


def test_proteins_of_windows_are_merged_with_their_dna_and_a_missing_one_shifts_nothing(folder: Path) -> None:
    said = run(cli, "merge", folder / "dna.zarr", folder / "orf.zarr", "-o", folder / "merged.zarr")
    merged, dna, orf = (open_store(folder / f"{name}.zarr") for name in ("merged", "dna", "orf"))
    both = set(dna.column("id").to_pylist()) & set(orf.column("id").to_pylist())
    assert len(merged) == len(both) <= len(dna), said
    assert merged.dim == dna.dim + orf.dim
    row_of = {store: {name: row for row, name in enumerate(store.column("id").to_pylist())} for store in (dna, orf)}
    for row in (0, len(merged) // 2, len(merged) - 1):
        name = merged.column("id")[row].as_py()
        expected = np.concatenate([dna[row_of[dna][name]], orf[row_of[orf][name]]])
        np.testing.assert_array_equal(merged[row], expected)


def test_six_frames_are_merged_by_their_parent(folder: Path) -> None:
    words = ("merge", folder / "dna.zarr", folder / "frames.zarr", "--on", "frames=parent", "--aggregate", "mean")
    run(cli, *words, "-o", folder / "six.zarr")
    frames, six = open_store(folder / "frames.zarr"), open_store(folder / "six.zarr")
    assert len(six) == len(set(frames.column("parent").to_pylist()))
    name = six.column("id")[7].as_py()
    own = [row for row, parent in enumerate(frames.column("parent").to_pylist()) if parent == name]
    np.testing.assert_allclose(six[7][-frames.dim :], frames.take(np.array(own)).mean(0), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("split", [("--split", "none"), ("--split", "split")])
def test_windows_of_a_test_parent_never_train(folder: Path, tmp_path: Path, split: tuple[str, str]) -> None:
    run(cli, "merge", folder / "dna.zarr", folder / "orf.zarr", "-o", tmp_path / "merged.zarr")
    words = ("train", "--features", tmp_path / "merged.zarr", "--label", "viral", "--bootstrap", "0", *split)
    said = run(heads, *words, "--c", "0.01,0.1,1", "--output", tmp_path / "run")
    assert "column 'group'" in said or "column 'split'" in said
    found = parts(tmp_path / "run")
    assert set(found) == {"train", "val", "test"}
    assert sum(map(len, found.values())) == len(set().union(*found.values())), "no contig is in two parts"
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["auroc"] > 0.6, "k-mers of such windows reach 0.79"


def test_a_head_cuts_encodes_and_votes_over_new_contigs_in_one_command(
    folder: Path, tmp_path: Path, shared_data: Path
) -> None:
    words = ("train", "--features", folder / "dna.zarr", "--label", "viral", "--bootstrap", "0", "--c", "0.1")
    run(heads, *words, "--class-weight", "none", "--output", tmp_path / "run")
    voted = ("predict", tmp_path / "run", "--aggregate", "mean", "-o")
    run(heads, *voted, tmp_path / "store.parquet", "--features", folder / "dna.zarr")
    contigs = shared_data / "pprmeta_example" / "sequences.fa.gz"
    run(heads, *voted, tmp_path / "raw.parquet", "--input", contigs, *WINDOWS)
    store, raw = (pq.read_table(tmp_path / f"{name}.parquet").to_pydict() for name in ("store", "raw"))
    assert len(raw["id"]) == 300
    assert raw == store
    said = run(heads, *voted, tmp_path / "no.parquet", "--features", folder / "dna.zarr", *WINDOWS[:2])
    assert "--windows is for --input" in said
