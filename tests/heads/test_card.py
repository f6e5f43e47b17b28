from __future__ import annotations

import numpy as np
import pytest
import yaml

from heads.data.features import ArrayRows
from heads.data.target import Target
from heads.deciding.calibration import Calibrator, Line
from heads.deciding.conformal import Sets
from heads.deciding.decisions import Decisions
from heads.deciding.thresholds import Thresholds
from heads.judging.metrics import evaluate
from heads.running.card import CARD, write_card
from heads.running.runs import write_json
from heads.saving.profile import RowFacts, profile_of_rows


def target_of(kind, rows=200, seed=0):
    rng = np.random.default_rng(seed)
    names = {
        "binary": ("host", "viral"),
        "multiclass": ("a", "b|c", "d"),
        "multilabel": ("x", "y"),
        "regression": ("q",),
    }[kind]
    values = {
        "binary": lambda: rng.integers(0, 2, rows),
        "multiclass": lambda: rng.integers(0, 3, rows),
        "multilabel": lambda: rng.integers(0, 2, (rows, 2)),
        "regression": lambda: rng.standard_normal(rows),
    }[kind]()
    outputs = rng.random((rows, len(names)))
    return Target(kind, names, values), outputs / outputs.sum(1, keepdims=True) if kind in (
        "binary",
        "multiclass",
    ) else outputs


def decisions_of(kind):
    return {
        "binary": Decisions(
            "binary", 2, calibrator=Calibrator("platt", (Line(),)), thresholds=Thresholds((0.31,), {"CG": (0.2,)})
        ),
        "multiclass": Decisions("multiclass", 3, conformal=Sets(0.1, (0.5, 0.5, 0.5))),
        "multilabel": Decisions("multilabel", 2, thresholds=Thresholds((0.4, 0.6), {})),
        "regression": Decisions("regression", 1),
    }[kind]


def run_of(kind, folder, **encoder):
    """Metrics and manifest as a run has them."""
    target, outputs = target_of(kind)
    decisions = decisions_of(kind)
    decided = decisions.apply(outputs)
    part = evaluate(target, decided.outputs, decided.predictions, resamples=100).to_json()
    judged = {"train": part, "val": part, "test": part}
    metrics = {
        "n_rows": 600,
        "decisions": decisions.to_json(),
        **judged,
        "select": "r2" if kind == "regression" else "auprc",
        "target": kind,
        "classes": list(target.names),
        "label": "label",
        "split": "column 'split'",
        "notes": ["5 rows without a label take no part"],
        "baselines": {"prior only": judged, "kmer:4 lr": judged},
    }
    encoder = {"name": "nt500m", "alphabet": "dna", "licence": "CC BY-NC-SA 4.0", "repo_id": "Insta/nt", **encoder}
    manifest = {
        "git_commit_sha": "abc123",
        "command": "heads train --features reads.zarr --head lr",
        "args": {"kind": "lr"},
        "dataset_path": "/data/reads.zarr",
        "outdir": str(folder / "reads-lr"),
        "device": "cpu",
        "finished_at_utc": "2026-11-24T10:00:00",
        "python_version": "3.11.9",
        "package_versions": {"torch": "2.13"},
        "resolved_tokenization": {"overlong": "window", "blocks": [{"name": "layer24.mean"}]},
        "store_fingerprint": "f" * 32,
        "split_certificate": "cafe",
        "encoder": encoder,
    }
    return metrics, manifest


def card_of(kind, folder, **encoder):
    write_card(folder, *run_of(kind, folder, **encoder))
    text = (folder / CARD).read_text()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_every_kind_of_run_has_a_card_with_its_metrics_beside_the_baselines(tmp_path, kind):
    metrics, _ = run_of(kind, tmp_path)
    front, body = card_of(kind, tmp_path)
    first = "pearson" if kind == "regression" else "auroc"
    value, (low, high) = metrics["test"][first], metrics["test"][f"{first}_ci"]
    assert f"| **this head** | {value:.4f} [{low:.4f}, {high:.4f}] |" in body
    assert body.count("| prior only |") == body.count("| kmer:4 lr |") == 2
    assert "Test, 200 rows" in body
    assert front["model-index"][0]["results"][0]["metrics"][0]["type"] == first
    assert front["pipeline_tag"] == ("tabular-regression" if kind == "regression" else "tabular-classification")
    for section in ("Data and split", "Metrics", "Limits", "Use", "Repeat"):
        assert f"\n## {section}\n" in body


def test_it_says_what_the_head_is_and_how_it_decides(tmp_path):
    _, body = card_of("binary", tmp_path)
    assert "A head (`lr`) on frozen embeddings of `nt500m` (layer24.mean): it tells two classes apart" in body
    assert "`label`: `viral` (positive) or `host`" in body
    assert "Threshold, tuned on validation rows: `viral` from 0.31 on" in body
    assert "Thresholds of their own: 1 strata" in body
    assert "Calibration on validation rows: platt" in body
    _, body = card_of("multiclass", tmp_path)
    assert "The most probable class is predicted" in body
    assert "not calibrated" in body
    assert "sets of classes that miss 10%" in body
    _, body = card_of("multilabel", tmp_path)
    assert "`x` from 0.4 on, `y` from 0.6 on" in body


def test_it_says_where_the_head_ends(tmp_path):
    rng = np.random.default_rng(0)
    source = ArrayRows(rng.standard_normal((500, 3)))
    facts = RowFacts(rng.integers(500, 3001, 500).astype(float), rng.uniform(0.4, 0.5, 500))
    profile = profile_of_rows(source, np.arange(500), facts)
    model = tmp_path / "model"
    model.mkdir()
    write_json(model / "head.json", {"profile": profile.save(model)})
    front, body = card_of("binary", tmp_path)
    assert "Length in letters: 5" in body
    assert "Share of G and C: 40% to 50%" in body
    assert "licensed CC BY-NC-SA 4.0" in body
    assert "- 5 rows without a label take no part" in body
    assert front["license"] == "cc-by-nc-sa-4.0"
    assert front["base_model"] == "Insta/nt"


def test_random_weights_are_called_meaningless_and_claim_no_metrics(tmp_path):
    front, body = card_of("binary", tmp_path, meaningless=True)
    assert "> **MEANINGLESS**" in body
    assert "model-index" not in front
    _, body = card_of("binary", tmp_path)
    assert "MEANINGLESS" not in body


def test_it_repeats_the_run(tmp_path):
    _, body = card_of("binary", tmp_path)
    assert "```sh\nheads train --features reads.zarr --head lr\n```" in body
    assert "torch 2.13, at commit `abc123`" in body
    assert 'open_run(pathlib.Path("reads-lr"))' in body


def test_a_run_of_folds_has_one_table(tmp_path):
    metrics, manifest = run_of("binary", tmp_path)
    for held in (metrics, *metrics["baselines"].values()):
        held.pop("train", None)
        held.pop("val", None)
    write_card(tmp_path, metrics, manifest)
    body = (tmp_path / CARD).read_text()
    assert body.count("| prior only |") == 1
    assert "(test 200)" in body


def test_metrics_that_are_not_known_are_dashes(tmp_path):
    metrics, manifest = run_of("binary", tmp_path)
    metrics["test"] = metrics["test"] | {"auroc": None, "auroc_ci": None, "mcc_ci": [None, None]}
    write_card(tmp_path, metrics, manifest)
    line = next(line for line in (tmp_path / CARD).read_text().splitlines() if line.startswith("| **this head**"))
    assert line.split("|")[2].strip() == "-"
    assert "None" not in line


def test_a_name_with_a_bar_does_not_break_the_tables(tmp_path):
    metrics, manifest = run_of("multiclass", tmp_path)
    metrics["baselines"]["kmer|4"] = metrics["baselines"]["prior only"]
    write_card(tmp_path, metrics, manifest)
    lines = [line for line in (tmp_path / CARD).read_text().splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
