from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.pipeline import Pipeline

from embedcache.errors import HeadError
from heads import neighbours
from heads.data.features import ArrayRows
from heads.data.target import Examples, Target
from heads.deciding.calibration import Calibrator, Curve, Line
from heads.deciding.decisions import DecisionOptions, Decisions, fit_decisions
from heads.deciding.prior import PriorShift
from heads.deciding.thresholds import Thresholds
from heads.fitting import Problem
from heads.linear import logistic, prototype, quantile, ridge
from heads.neighbours import KNNOptions
from heads.perceptron import mlp
from heads.perceptron.ensemble import EnsembleModel
from heads.perceptron.mlp_options import MLPOptions
from heads.saving.export import export_onnx, export_sklearn, to_sklearn
from heads.saving.saved import HeadCard, SavedHead
from heads.saving.sklearn_head import layout, load
from heads.steps import SteppedRows, StepsOptions, fit_steps
from heads.trees import boosting
from heads.trees.boosting import BoostingOptions
from tests.heads.stores import planted

N, TRAIN = 600, 400
KINDS = ["binary", "multiclass", "multilabel", "regression"]
OPTIONS = {
    "lr": (logistic.fit, logistic.LogisticOptions((0.01, 1.0))),
    "ridge": (ridge.fit, ridge.RidgeOptions((1.0, 100.0))),
    "quantile": (quantile.fit, quantile.QuantileOptions((0.1, 0.5, 0.9), (10.0,))),
    "median": (quantile.fit, quantile.QuantileOptions((0.5,), (10.0,))),
    "mlp": (mlp.fit, MLPOptions(hidden=(16, 8), epochs=3)),
    "prototype": (prototype.fit, prototype.PrototypeOptions()),
    "lightgbm": (boosting.fit, BoostingOptions(rounds=20, cache=None)),
}
QUANTITIES = ("quantile", "median", "ridge")


@pytest.fixture(scope="module")
def features():
    X, _ = planted(N)
    X[:, 5] = 0.1  # a constant feature
    return X


def target_of(kind, X):
    _, codes = planted(N, classes=3)
    names = {
        "binary": ("well", "sick"),
        "multiclass": ("c", "a", "b"),
        "multilabel": ("x", "y", "z"),
        "regression": ("q",),
    }
    values = {
        "binary": (codes > 0).astype(np.int64),
        "multiclass": codes,
        "multilabel": np.stack([codes == 0, codes == 1, codes > 0], axis=1).astype(np.int64),
        "regression": X[:, 0].astype(np.float64) - 20 * X[:, 1] + 100,
    }
    return Target(kind, names[kind], values[kind])


def saved_head(kind, target_kind, X, steps=None, decisions=None):
    """A head, with its outputs for the last rows as `heads predict` writes them."""
    target, source, rows = target_of(target_kind, X), ArrayRows(X), np.arange(N)
    fitted_steps = None if steps is None else fit_steps(source, rows[:TRAIN], StepsOptions.parse(steps))
    stepped = source if fitted_steps is None else SteppedRows(source, fitted_steps)
    fit, options = OPTIONS[kind]
    train, val = (Examples(part, target.take(part)) for part in (rows[:TRAIN], rows[TRAIN:]))
    metric = "r2" if target_kind == "regression" else "auroc"
    metric = "pinball" if kind in ("quantile", "median") else metric
    head = fit(Problem(stepped, train, val, metric), options).head
    if decisions is None:
        decisions = fit_decisions(
            target.take(val.rows), head(stepped, val.rows), DecisionOptions(), quantiles=head.quantiles
        )
    return as_saved(head, target, decisions, fitted_steps), head(stepped, rows)


def as_saved(head, target, decisions, steps=None):
    dim = head.dim if steps is None else steps.dim_in
    encoder = {"name": "kmer:4"}
    card = HeadCard(head.kind, dim, target.kind, target.names, ("label",), "fingerprint", encoder)
    return SavedHead(head, card, decisions, steps)


def onnx_outputs(file, X):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(["outputs"], {"features": X.astype(np.float32)})[0]


def sklearn_outputs(model, X, kind):
    outputs = model.predict(X) if kind == "regression" else model.predict_proba(X)
    return outputs.reshape(len(X), -1)


def expect_equal(found, expected, atol=1e-5):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=atol * max(1.0, np.abs(expected).max(initial=0)))


ALL = [
    (kind, target)
    for kind in OPTIONS
    for target in KINDS
    if ((target == "regression") == (kind in QUANTITIES) or kind in ("mlp", "lightgbm"))
    and (kind, target) != ("prototype", "multilabel")
]


@pytest.mark.parametrize(("kind", "target"), ALL)
def test_an_exported_head_gives_the_same_outputs_in_onnxruntime(tmp_path, features, kind, target):
    saved, outputs = saved_head(kind, target, features)
    export_onnx(saved, tmp_path / "head.onnx")
    expect_equal(onnx_outputs(tmp_path / "head.onnx", features), saved.decisions.apply(outputs).outputs)


@pytest.mark.parametrize(("kind", "target"), [pair for pair in ALL if pair[0] not in ("lightgbm", "quantile")])
def test_and_in_scikit_learn(features, kind, target):
    saved, outputs = saved_head(kind, target, features)
    decided = saved.decisions.apply(outputs)
    model = to_sklearn(saved)
    assert isinstance(model, Pipeline)
    expect_equal(sklearn_outputs(model, features, target), decided.outputs)
    if target in ("binary", "multiclass"):
        assert (model.predict(features) == np.array(saved.card.names)[decided.predictions]).all()


@pytest.mark.parametrize("steps", ["l2", "standardise,pca:7", "l2,whiten", "pca:5,whiten"])
@pytest.mark.parametrize("target", ["binary", "regression"])
def test_steps_are_part_of_what_is_exported(tmp_path, features, steps, target):
    saved, outputs = saved_head("lr" if target == "binary" else "ridge", target, features, steps)
    expected = saved.decisions.apply(outputs).outputs
    export_onnx(saved, tmp_path / "head.onnx")
    expect_equal(onnx_outputs(tmp_path / "head.onnx", features), expected, 2e-5)
    expect_equal(sklearn_outputs(to_sklearn(saved), features, target), expected, 2e-5)


LINES = (Line(1.7, -0.3), Line(0.6, 0.2), Line(3.0, 0.0))
CURVES = (Curve((0.1, 0.3, 0.30001, 0.8), (0.0, 0.2, 0.6, 1.0)), Curve((0.5,), (0.4,)), Curve((0.0, 1.0), (0.1, 0.7)))


def calibrated(target, method):
    alone = target == "binary" or (target == "multiclass" and method == "temperature")
    columns = (CURVES if method == "isotonic" else LINES)[: 1 if alone else 3]
    outputs = 2 if target == "binary" else 3
    thresholds = {"binary": Thresholds((0.37,), {}), "multilabel": Thresholds((0.2, 0.5, 0.6), {})}.get(target)
    prior = PriorShift((0.2, 4.0, 1.5)[:outputs])
    return Decisions(target, outputs, (), prior, Calibrator(method, columns), thresholds)


@pytest.mark.parametrize("target", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_so_are_prior_correction_and_calibration(tmp_path, features, target, method):
    for kind in ("lr", "mlp"):
        saved, outputs = saved_head(kind, target, features, decisions=calibrated(target, method))
        decided = saved.decisions.apply(outputs)
        export_onnx(saved, tmp_path / "head.onnx")
        # a steep stretch of a curve makes of a difference of 1e-7 one of 4e-3
        expect_equal(
            onnx_outputs(tmp_path / "head.onnx", features), decided.outputs, 0.01 if method == "isotonic" else 1e-5
        )
        if method == "isotonic" or (target, method) == ("multiclass", "platt"):
            with pytest.raises(HeadError, match=f"no twin of {method} calibration .* --to onnx"):
                to_sklearn(saved)
        else:
            expect_equal(to_sklearn(saved).predict_proba(features), decided.outputs)


@pytest.mark.parametrize("target", ["binary", "multiclass", "regression"])
def test_an_ensemble_is_the_mean_of_its_members(tmp_path, features, target):
    first, _ = saved_head("mlp", target, features)
    second, _ = saved_head("ridge" if target == "regression" else "lr", target, features)
    head = EnsembleModel((first.head, second.head))
    saved = as_saved(head, target_of(target, features), first.decisions)
    expected = saved.decisions.apply(head(ArrayRows(features), np.arange(N))).outputs
    export_onnx(saved, tmp_path / "head.onnx")
    expect_equal(onnx_outputs(tmp_path / "head.onnx", features), expected)
    expect_equal(sklearn_outputs(to_sklearn(saved), features, target), expected)


def test_the_mean_of_seeds_of_boosted_trees_is_exported_too(tmp_path, features):
    target = target_of("multiclass", features)
    rows = np.arange(N)
    train, val = (Examples(part, target.take(part)) for part in (rows[:TRAIN], rows[TRAIN:]))
    for objective in ("multiclass", "multiclassova"):
        options = BoostingOptions(rounds=5, seeds=(0, 1), cache=None, extra={"objective": objective})
        head = boosting.fit(Problem(ArrayRows(features), train, val, "auroc"), options).head
        export_onnx(as_saved(head, target, Decisions("multiclass", 3)), tmp_path / "head.onnx")
        expect_equal(onnx_outputs(tmp_path / "head.onnx", features), head(ArrayRows(features), rows))


def test_a_feature_that_lies_on_a_split_goes_the_way_that_it_went_in_training(tmp_path, features):
    """Thresholds of trees are float64; a float32 feature just above one must not be rounded onto it."""
    saved, _ = saved_head("lightgbm", "regression", features)
    edges = []
    for tree in saved.head.trees[0].booster.dump_model()["tree_info"]:
        edges += thresholds_of(tree["tree_structure"])
    single = np.float32(np.array(edges)[:, None]) * np.ones((1, features.shape[1]), np.float32)
    beside = [single, np.nextafter(single, np.float32(np.inf)), np.nextafter(single, np.float32(-np.inf))]
    X = np.concatenate(beside).astype(np.float32)
    export_onnx(saved, tmp_path / "head.onnx")
    expected = saved.head(ArrayRows(X), np.arange(len(X)))
    expect_equal(onnx_outputs(tmp_path / "head.onnx", X), expected)


def thresholds_of(node):
    if "leaf_value" in node:
        return []
    return [node["threshold"], *thresholds_of(node["left_child"]), *thresholds_of(node["right_child"])]


def test_what_is_not_in_the_graph_is_in_its_metadata(tmp_path, features):
    import onnx

    saved, _ = saved_head("lr", "binary", features)
    export_onnx(saved, tmp_path / "head.onnx")
    model = onnx.load(tmp_path / "head.onnx")
    said = {item.key: json.loads(item.value) for item in model.metadata_props}
    assert said["names"] == ["well", "sick"]
    assert said["thresholds"] == [saved.decisions.threshold]
    assert said["encoder"] == {"name": "kmer:4"}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]


def test_any_number_of_rows_runs(tmp_path, features):
    saved, outputs = saved_head("lr", "binary", features)
    export_onnx(saved, tmp_path / "head.onnx")
    for rows in (0, 1, 7):
        expect_equal(onnx_outputs(tmp_path / "head.onnx", features[:rows]), outputs[:rows])


PROGRAM = """
import sys, numpy as np
from sklearn_head import load, layout
features = np.load("features.npy")
np.save("outputs.npy", load().predict_proba(features))
assert not any(name.split(".")[0] in ("embedcache", "heads", "torch") for name in sys.modules), "ours was imported"
print(layout()["names"])
"""


def test_the_folder_for_scikit_learn_needs_nothing_of_ours_in_another_process(tmp_path, features):
    saved, outputs = saved_head("lr", "multiclass", features)
    export_sklearn(saved, tmp_path / "twin")
    np.save(tmp_path / "twin" / "features.npy", features)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path / "twin", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['c', 'a', 'b']"
    expect_equal(np.load(tmp_path / "twin" / "outputs.npy"), outputs)
    assert layout(tmp_path / "twin")["kind"] == "lr"


def test_float16_features_are_taken_as_they_are(features):
    saved, outputs = saved_head("lr", "binary", features)
    assert features.dtype == np.float16
    expect_equal(to_sklearn(saved).predict_proba(features), outputs)


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        KNNOptions(k=(7,)),
        KNNOptions(k=(7,), metric="euclidean", vote="similarity"),
        KNNOptions(k=(20,), vote="similarity"),
    ],
    ids=["count", "euclidean similarity", "cosine similarity"],
)
def test_neighbours_are_scikit_learns_own_fitted_on_the_stored_rows(tmp_path, features, target, options, monkeypatch):
    monkeypatch.setitem(OPTIONS, "knn", (neighbours.fit, options))
    for steps in (None, "standardise,pca:7"):
        saved, outputs = saved_head("knn", target, features, steps)
        decided = saved.decisions.apply(outputs)
        export_sklearn(saved, tmp_path / "twin")
        model = load(tmp_path / "twin")
        expect_equal(sklearn_outputs(model, features, target), decided.outputs)
        if target in ("binary", "multiclass"):
            assert (model.predict(features) == np.array(saved.card.names)[decided.predictions]).all()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (KNNOptions(k=(7,), class_weight="balanced"), "weighted by class or by row"),
        (KNNOptions(k=(7,), index="hnsw"), "found by an approximate index"),
    ],
)
def test_neighbours_that_scikit_learn_would_poll_otherwise_are_refused(features, options, why, monkeypatch):
    monkeypatch.setitem(OPTIONS, "knn", (neighbours.fit, options))
    with pytest.raises(HeadError, match=f"no twin of neighbours .*{why}.*`heads predict` gives the scores"):
        to_sklearn(saved_head("knn", "binary", features)[0])


def test_heads_without_a_form_are_refused_in_one_sentence(tmp_path, features):
    trees, _ = saved_head("lightgbm", "binary", features)
    with pytest.raises(HeadError, match=r"model.txt .* --to onnx makes one file"):
        to_sklearn(trees)
    quantiles, _ = saved_head("quantile", "regression", features)
    with pytest.raises(HeadError, match="no twin of several quantiles"):
        export_sklearn(quantiles, tmp_path / "twin")
    odd = as_saved(
        SimpleNamespace(kind="odd", dim=3, outputs=2, quantiles=()),
        target_of("binary", features),
        Decisions("binary", 2),
    )
    with pytest.raises(HeadError, match="an? odd head has no form in ONNX"):
        export_onnx(odd, tmp_path / "head.onnx")
    with pytest.raises(HeadError, match="no twin of a odd head here"):
        to_sklearn(odd)
    odd.head.kind = "knn"
    with pytest.raises(HeadError, match="a knn head has no form in ONNX: its neighbours .* --to sklearn"):
        export_onnx(odd, tmp_path / "head.onnx")
    zeros, _ = saved_head("lightgbm", "binary", features)
    fit, _ = OPTIONS["lightgbm"]
    target, rows = target_of("binary", features), np.arange(N)
    problem = Problem(ArrayRows(features), Examples(rows, target), Examples(rows, target), "auroc")
    head = fit(problem, BoostingOptions(rounds=3, cache=None, extra={"zero_as_missing": True})).head
    with pytest.raises(HeadError, match="zeros as missing"):
        export_onnx(as_saved(head, target, zeros.decisions), tmp_path / "head.onnx")


def test_a_place_that_cannot_be_written_is_named(tmp_path, features):
    saved, _ = saved_head("lr", "binary", features)
    with pytest.raises(HeadError, match="cannot be written: No such file"):
        export_onnx(saved, tmp_path / "missing" / "head.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(HeadError, match="cannot be written"):
        export_sklearn(saved, tmp_path / "file")


def test_features_in_float64_keep_their_precision_far_from_zero(tmp_path):
    X, codes = planted(N, classes=2)
    far = X.astype(np.float64) + 1000
    target = Target("binary", (0, 1), codes)
    rows = np.arange(N)
    problem = Problem(ArrayRows(far), Examples(rows, target), Examples(rows, target), "auroc")
    head = logistic.fit(problem, logistic.LogisticOptions((1.0,), ("none",))).head
    assert head.standardisation.centre.dtype == torch.float64
    saved = as_saved(head, target, Decisions.fixed(0.5))
    single = far.astype(np.float32)
    export_onnx(saved, tmp_path / "head.onnx")
    expect_equal(onnx_outputs(tmp_path / "head.onnx", single), head(ArrayRows(single.astype(np.float64)), rows))
