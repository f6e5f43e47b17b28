"""A run keeps its baselines, and `heads evaluate` shows them beside the head on the rows that it judges."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from heads.baselines.saved_baselines import load
from tests.heads.program import refused, run
from tests.heads.stores import ROWS, planted, write_store

QUICK = ("--bootstrap", "0")


def evaluate(folder, outdir, features, *options):
    result = run(folder, "evaluate", outdir, "--features", features, *QUICK, "-o", folder / "m.json", *options)
    return json.loads((folder / "m.json").read_text()), result.stdout


def test_the_baselines_of_the_own_test_rows_are_those_of_the_training(trained, store, tmp_path):
    judged, said = evaluate(tmp_path, trained[0], store)
    written = json.loads((trained[0] / "metrics.json").read_text())
    assert list(judged["baselines"]) == ["prior only", "stratum only", "kmer:4 lr", "onehot:50 lr"]
    for name, found in judged["baselines"].items():
        for metric in ("auroc", "auprc", "mcc", "f1", "acc", "brier"):
            assert found[metric] == pytest.approx(written["baselines"][name]["test"][metric], abs=1e-6)
        assert name in said


def test_other_stores_are_judged_by_the_same_baselines(trained, data, columns, tmp_path):
    X, codes = planted(300, seed=4)
    new = {name: values[:300] for name, values in columns.items()}
    new |= {
        "label": np.array(["host", "viral"])[codes].tolist(),
        "sequence": [text[::-1] for text in columns["sequence"][:300]],
    }
    judged, _ = evaluate(tmp_path, trained[0], write_store(tmp_path / "new.zarr", X + 1, new))
    assert list(judged["baselines"]) == ["prior only", "stratum only", "kmer:4 lr", "onehot:50 lr"]
    assert judged["baselines"]["prior only"]["auroc"] == 0.5
    assert 0.4 < judged["baselines"]["kmer:4 lr"]["auroc"] < 0.6  # these sequences are random


def test_what_a_store_does_not_allow_is_said(trained, columns, tmp_path):
    X, codes = planted(300, seed=4)
    labels = np.array(["host", "viral"])[codes].tolist()
    bare = write_store(tmp_path / "bare.zarr", X + 1, {"label": labels})
    judged, said = evaluate(tmp_path, trained[0], bare)
    assert list(judged["baselines"]) == ["prior only"]
    assert f"no baseline of the stratum: {bare} has no strata 'context'" in said
    assert said.count("keeps none (it was extracted with --drop-sequence)") == 1
    short = {"label": labels, "sequence": [text[:40] for text in columns["sequence"][:300]]}
    judged, said = evaluate(tmp_path, trained[0], write_store(tmp_path / "short.zarr", X + 1, short))
    assert list(judged["baselines"]) == ["prior only", "kmer:4 lr"]
    assert "fitted to sequences of 50 letters, and there are some of 40" in said


def test_a_run_without_baselines_is_judged_alone_and_says_so(trained, store, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "baselines")
    judged, said = evaluate(tmp_path, "run", store)
    assert judged["baselines"] == {}
    assert "the run keeps no baselines" in said


@pytest.mark.parametrize(
    "damage",
    [
        lambda card: card.write_text("{"),
        lambda card: card.write_text(card.read_text().replace('"kmer:4"', '"hf:someone/model"')),
        lambda card: card.write_text(card.read_text().replace('"kmer:4"', '"kmer:5"')),
        lambda card: card.write_text(card.read_text().replace('"sequences"', '"os"')),
        lambda card: (card.parent / "0" / "head.safetensors").write_bytes(b"x" * 100),
        lambda card: (card.parent / "0" / "head.safetensors").unlink(),
    ],
)
def test_a_damaged_baseline_is_refused_and_runs_nothing(trained, store, tmp_path, damage):
    shutil.copytree(trained[0], tmp_path / "run")
    damage(tmp_path / "run" / "baselines" / "2" / "baseline.json")
    assert "is damaged and was not loaded" in refused(tmp_path, "evaluate", "run", "--features", store)


def test_the_baselines_of_folds_are_averaged(store, data, columns, tmp_path):
    quick = (*QUICK, "--c", "0.1", "--class-weight", "none", "--near", "0", "--group", "none")
    run(tmp_path, "train", "--features", store, "--split", "kfold:3", *quick, "--output", "folds")
    found = load(tmp_path / "folds")
    assert [(baseline.name, len(baseline.members)) for baseline in found] == [
        ("prior only", 3),
        ("kmer:4 lr", 3),
        ("onehot:50 lr", 3),
    ]
    other = write_store(tmp_path / "other.zarr", data[0] + 1, columns)
    judged, _ = evaluate(tmp_path, "folds", other)
    assert judged["rows"] == ROWS
    assert list(judged["baselines"]) == [baseline.name for baseline in found]


def test_cells_and_quantiles_keep_theirs(tmp_path):
    rng = np.random.default_rng(0)
    X, codes = planted(600)
    genes = [" ".join(map(str, rng.permutation(40)[:20] + 40 * kind)) for kind in codes]
    cells = {"label": codes.tolist(), "sequence": genes}
    write_store(tmp_path / "cells.zarr", X, cells, alphabet="cell")
    run(tmp_path, "train", "--features", "cells.zarr", *QUICK, "--c", "0.1", "--output", "cells")
    judged, _ = evaluate(tmp_path, "cells", "cells.zarr")
    written = json.loads((tmp_path / "cells" / "metrics.json").read_text())["baselines"]
    assert {name: found["auroc"] for name, found in judged["baselines"].items()} == pytest.approx(
        {name: found["test"]["auroc"] for name, found in written.items()}
    )
    values = {"label": (X.astype(float)[:, 0] + rng.normal(size=600)).tolist(), "sequence": ["ACGT"] * 600}
    write_store(tmp_path / "values.zarr", X, values)
    quantiles = ("--head", "quantile", "--quantiles", "0.1,0.9", "--alpha", "1")
    run(tmp_path, "train", "--features", "values.zarr", *QUICK, *quantiles, "--output", "values")
    judged, _ = evaluate(tmp_path, "values", "values.zarr")
    written = json.loads((tmp_path / "values" / "metrics.json").read_text())["baselines"]
    name = "quantiles of train only"
    assert judged["baselines"][name]["pinball"] == pytest.approx(written[name]["test"]["pinball"])
