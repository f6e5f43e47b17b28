"""The benchmarks run, compare like with like, and write what they print. Nothing is timed here."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import peers
from benchmarks.__main__ import main
from benchmarks.job import SEQUENCES, sample
from benchmarks.lines import LINES, PEERS, REACHES, Line, extraction_lines, wrong_results
from benchmarks.published import DNA_BERT_6, ESM2_650M, NT_500M, Published
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
    assert "NOT REACHED" in str(Line("speed", 1.0, 1.5, most=1.6))
    assert "beyond this machine, whose products would allow 1.30x" in str(Line("speed", 1.0, 1.5, most=1.3))


@pytest.mark.parametrize("encoder", [DNA_BERT_6, NT_500M, ESM2_650M], ids=lambda encoder: encoder.name)
def test_no_program_is_charged_for_the_smallness_of_the_benchmark(encoder: Published) -> None:
    def padding(sequences: list[str], batch: int) -> float:
        lengths = np.array([len(sequence) for sequence in sequences]).reshape(-1, batch)
        return float(batch * lengths.max(axis=1).sum() / lengths.sum())

    few = sample(encoder, unsorted=32, batch=16, batches=3)
    whole = sample(encoder, unsorted=32, batch=16, batches=SEQUENCES // 16)
    assert padding(sorted(few.by_length, key=len), 16) < 1.01
    assert padding(sorted(whole.by_length, key=len), 16) < 1.02
    for unsorted in (few.unsorted, sample(encoder, unsorted=12, batch=16, batches=3).unsorted):
        assert padding(unsorted, len(unsorted)) == pytest.approx(padding(whole.by_length, 32), rel=0.05)
    assert np.mean([len(sequence) for sequence in few.by_length]) == pytest.approx(encoder.lengths[1], rel=0.1)


def test_a_peer_that_is_not_installed_is_named_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PACKAGES", tmp_path)
    with pytest.raises(ModuleNotFoundError, match="make bench") as missing:
        peers.OpenVino()
    figures = {"tokens_per_second": 1.0, "matrix_share": 1.0}
    programs = {program: figures for program in ("embedcache", *PEERS) if program != "openvino"}
    measured = {precision: {"programs": programs, "tokenizer_share": 0.01} for precision in ("float32", "bfloat16")}
    lines = extraction_lines({"encoders": dict.fromkeys(REACHES, measured), "openvino": str(missing.value)})
    assert sum("OpenVINO is not installed" in str(line) and "NOT REACHED" not in str(line) for line in lines) == 5


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What a quick run of all benchmarks writes, and what it prints."""
    pytest.importorskip("sentence_transformers")
    file = tmp_path_factory.mktemp("benchmarks") / "b.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = CliRunner().invoke(main, ["--quick", "--output", str(file)], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(file.read_text()), done.output


@pytest.mark.slow
def test_the_quick_benchmarks_write_a_table_and_its_figures(quick: tuple[dict[str, Any], str]) -> None:
    report, said = quick
    for encoder, precisions in REACHES.items():
        measured = report["extraction"]["encoders"][encoder]
        for precision, reaches in precisions.items():
            needed = {"embedcache", *reaches} - ({"openvino"} if report["extraction"]["openvino"] else set())
            assert needed <= set(measured[precision]["programs"])
            assert 0 < measured[precision]["tokenizer_share"] < 1
            for peer in reaches:
                assert f"{encoder} {precision} / {PEERS[peer]}" in said
            for figures in measured[precision]["programs"].values():
                assert figures["least_cosine"] >= figures["needed_cosine"] >= 0.999
    assert report["memory"]["share"] < 1
    assert set(LINES) <= set(report)
    for line in (line for name, of in LINES.items() for line in of(report[name])):
        assert line.what in said


def test_logistic_regression_is_measured_beside_its_peer_within_the_gate(quick: tuple[dict[str, Any], str]) -> None:
    found = quick[0]["logistic"]
    assert found["within_gate"]
    assert found["largest_gap"] < 1e-6
    assert found["multinomial"]["gap"] < 1e-6
    for measured in (found, found["multinomial"]):
        assert measured["seconds_peer"] > 0
        assert measured["ratio_warm"] > 0


def test_a_grid_fitted_from_a_store_stays_within_its_memory(quick: tuple[dict[str, Any], str]) -> None:
    found = quick[0]["outofcore"]
    assert found["share"] < 1
    assert found["largest_estimated_gap"] <= 2e-7
    assert found["gigabytes_per_second"] > 0


def test_boosted_trees_are_measured_beside_their_peer(quick: tuple[dict[str, Any], str]) -> None:
    found = quick[0]["boosting"]
    assert found["auprc"] > found["prevalence"]
    assert found["ratio_warm"] > 0


def test_all_neighbours_are_found_as_by_the_peer(quick: tuple[dict[str, Any], str]) -> None:
    found = quick[0]["neighbours"]
    assert found["within_gate"]
    assert found["recall_peer"] > 0.999
    assert found["ratio"] > 0


def test_a_result_that_is_wrong_ends_the_benchmark_whatever_its_speed() -> None:
    assert wrong_results({"quick": False, "ridge": {"within_gate": True}, "leakage": {"same_pairs": True}}) == []
    assert wrong_results({"quick": False, "leakage": {"same_pairs": False}}) == ["leakage: other pairs than faiss"]
    assert wrong_results({"quick": True, "mlp": {"same_metric": False}}) == []
