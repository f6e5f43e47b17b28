"""The benchmarks run, compare like with like, and write what they print. Nothing is timed here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import Line, main
from benchmarks.reading import Memmap, Ours, ZarrPython, write_rows


def test_all_readers_return_the_same_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "s.zarr", tmp_path / "s.npy", 20_000, 64)
    rows = np.random.default_rng(0).choice(20_000, 500, replace=False)
    out = [np.empty((500, 64), np.float16) for _ in range(3)]
    readers = [Memmap(tmp_path / "s.npy"), Ours(tmp_path / "s.zarr"), ZarrPython(tmp_path / "s.zarr")]
    taken = [reader.take(rows, buffer) for reader, buffer in zip(readers, out, strict=True)]
    scanned = [reader.read(16_000, 17_000) for reader in readers]
    for other in (1, 2):
        np.testing.assert_array_equal(taken[0], taken[other])
        np.testing.assert_array_equal(scanned[0], scanned[other])


def test_a_line_says_whether_it_reached_its_aim() -> None:
    assert Line("speed", 2.0, 1.5).reached
    assert "NOT REACHED" in str(Line("speed", 1.0, 1.5))
    assert Line("gap", 1e-8, 1e-6, at_most=True).reached
    assert "NOT REACHED" in str(Line("gap", 1e-5, 1e-6, at_most=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_quick_benchmarks_write_a_table_and_its_figures(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    done = CliRunner().invoke(main, ["--quick", "--output", str(tmp_path / "b.json")], catch_exceptions=False)
    assert done.exit_code == 0
    report = json.loads((tmp_path / "b.json").read_text())
    for way in report["extraction"]["ways"].values():
        assert way["least_cosine"] > 0.999
    for precision in ("float32", "bfloat16"):
        assert f"extraction {precision} / sentence-transformers" in done.output
    assert report["memory"]["share"] < 1
