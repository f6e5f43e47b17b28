"""The benchmark of the logistic grid runs, and its heads pass its gate."""

from __future__ import annotations

from benchmarks.logistic import run


def test_the_quick_benchmark_measures_both_and_stays_within_the_gate():
    found = run(quick=True)
    assert found["within_gate"]
    assert found["largest_gap"] < 1e-6
    assert found["seconds_peer"] > 0
    assert found["ratio_warm"] > 0
