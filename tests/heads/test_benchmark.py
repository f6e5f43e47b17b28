"""The benchmarks of logistic regression run, and their heads pass the gate."""

from __future__ import annotations

from benchmarks import logistic, outofcore


def test_the_quick_benchmark_measures_both_and_stays_within_the_gate():
    found = logistic.run(quick=True)
    assert found["within_gate"]
    assert found["largest_gap"] < 1e-6
    assert found["multinomial"]["gap"] < 1e-6
    for measured in (found, found["multinomial"]):
        assert measured["seconds_peer"] > 0
        assert measured["ratio_warm"] > 0


def test_a_grid_fitted_from_a_store_stays_within_its_memory():
    found = outofcore.run(quick=True)
    assert found["share"] < 1
    assert found["largest_estimated_gap"] <= 2e-7
    assert found["gigabytes_per_second"] > 0
