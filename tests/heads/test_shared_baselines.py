"""The runs of a sweep share the baselines that they have in common, and each is as if it had been trained alone."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from embedcache import open_store
from heads.baselines import shared_baselines
from heads.baselines.fit_baselines import baselines
from heads.baselines.shared_baselines import SharedBaselines
from heads.splitting.task import Columns, load_task, split_task
from tests.heads.program import run
from tests.heads.stores import ROWS, planted, write_store

QUICK = ("--bootstrap", "0", "--epochs", "2")


@pytest.fixture(scope="module")
def task(store):
    opened = open_store(store)
    return opened, split_task(opened, load_task(opened, Columns(stratum="context")), 0)[0]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, store):
    """The folder of a sweep, what it said, the options of its runs, and how often baselines were fitted for them."""
    folder, fitted = tmp_path_factory.mktemp("swept"), []
    words = ("--features", store, "--strata", "context", "--split", "none", "--head", "mlp", *QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_baselines, "baselines", lambda *args, **more: fitted.append(1) or baselines(*args, **more))
        said = run(folder, "sweep", *words, "--vary", "split-seed=0,1", "--vary", "lr=0.01,0.1", "--output", "s").stdout
    return folder / "s", said, words, len(fitted)


def test_what_is_the_same_is_fitted_once(task):
    shared = SharedBaselines()
    first, missing = shared(*task)
    assert [baseline.name for baseline in first] == ["prior only", "stratum only", "kmer:4 lr", "onehot:50 lr"]
    again = shared(*task, kind="mlp")
    assert all(one is other for one, other in zip(first, again[0], strict=True))
    assert again[1] == missing


@pytest.mark.parametrize("changed", ["rows", "labels", "split", "strata", "weights", "sequences"])
def test_what_differs_is_fitted_again(task, columns, tmp_path, changed):
    store, other = task
    if changed == "rows":
        other = other.take(np.arange(len(other.rows) - 10))
    elif changed == "labels":
        other = replace(other, target=replace(other.target, values=other.target.values[::-1].copy()))
    elif changed == "split":
        other = replace(other, parts=np.roll(other.parts, 10))
    elif changed == "strata":
        other = replace(other, strata=None)
    elif changed == "weights":
        other = replace(other, weights=np.linspace(1, 2, len(other.rows)))
    else:
        texts = columns["sequence"][::-1]
        store = open_store(write_store(tmp_path / "s.zarr", planted(ROWS)[0], columns | {"sequence": texts}))
    shared = SharedBaselines()
    before = {baseline.name: baseline for baseline in shared(*task)[0]}
    found = shared(store, other)[0]
    assert not any(baseline is before.get(baseline.name) for baseline in found)
    alone = SharedBaselines()(store, other)[0]
    assert all((one.outputs == same.outputs).all() for one, same in zip(found, alone, strict=True))


def test_features_are_no_baseline_of_themselves_in_a_sweep_either(task, columns, tmp_path):
    store = open_store(write_store(tmp_path / "s.zarr", planted(ROWS)[0], columns, encoder="kmer:4"))
    shared = SharedBaselines()
    names = [[baseline.name for baseline in shared(store, task[1], kind=kind)[0]] for kind in ("mlp", "lr", "mlp")]
    assert [len(found) for found in names] == [4, 3, 4]
    assert "kmer:4 lr" not in names[1]


def test_baselines_beyond_the_memory_of_a_fit_are_let_go(task):
    store, whole = task
    shared, fewer = SharedBaselines(), whole.take(np.arange(len(whole.rows) - 10))
    first = shared(store, whole, memory_bytes=1)[0]
    shared(store, fewer, memory_bytes=1)
    assert shared(store, whole, memory_bytes=1)[0][0] is not first[0]


def test_runs_of_a_sweep_fit_once_for_each_split_and_are_those_of_single_trainings(swept, tmp_path):
    folder, _, words, fitted = swept
    assert fitted == 2
    for seed in (0, 1):
        for lr in ("0.01", "0.1"):
            run(
                tmp_path,
                "train",
                *words,
                "--head",
                "mlp",
                "--split-seed",
                seed,
                "--lr",
                lr,
                "--output",
                "r",
                "--overwrite",
            )
            of_sweep = folder / f"split-seed={seed},lr={lr}"
            assert (of_sweep / "metrics.json").read_bytes() == (tmp_path / "r" / "metrics.json").read_bytes()
            kept = sorted(path.relative_to(of_sweep) for path in (of_sweep / "baselines").rglob("*") if path.is_file())
            assert len(kept) > 4
            assert all((of_sweep / path).read_bytes() == (tmp_path / "r" / path).read_bytes() for path in kept)


def test_the_table_of_a_sweep_holds_the_baselines_of_its_runs(swept):
    folder, said, *_ = swept
    with (folder / "sweep.csv").open() as file:
        found = [line for line in csv.DictReader(file) if line["baseline"]]
    assert [(line["baseline"], line["lr"]) for line in found if line["split-seed"] == "1"] == [
        (name, "") for name in ("prior only", "stratum only", "kmer:4 lr", "onehot:50 lr")
    ]
    metrics = json.loads((folder / "split-seed=1,lr=0.1" / "metrics.json").read_text())
    for line in found[1::2]:
        for part in ("val", "test"):
            value = metrics["baselines"][line["baseline"]][part]["auprc"]
            assert float(line[f"{part}_auprc"]) == pytest.approx(value, rel=1e-5)
    assert "| baseline kmer:4 lr | 1 |  |" in said
    assert "The best point stands over the best baseline, " in said
