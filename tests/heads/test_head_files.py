"""A saved head comes back as it was, in another process too; a damaged or hostile file gives an error and runs nothing."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from embedcache.errors import HeadError
from heads.data.features import ArrayRows
from heads.data.target import Examples, Target
from heads.deciding.decisions import Decisions
from heads.head import TENSORS
from heads.linear.linear_estimators import LogisticHead
from heads.linear.logistic import LogisticOptions
from heads.linear.prototype import PrototypeOptions
from heads.linear.quantile import QuantileOptions
from heads.linear.ridge import RidgeOptions
from heads.neighbours import KNNOptions
from heads.perceptron.mlp import MLPOptions
from heads.running.fit import Recipe, fit_head
from heads.saving.profile import RowFacts, profile_of_rows
from heads.saving.saved import CARD, HeadCard, SavedHead, load, save
from heads.steps import StepsOptions
from heads.trees.boosting import BoostingOptions
from tests.heads.stores import planted
from tests.processes import run_code

OPTIONS = {
    "lr": LogisticOptions(strengths=(0.1,), class_weights=("none",)),
    "mlp": MLPOptions(hidden=(8,), epochs=2),
    "lightgbm": BoostingOptions(rounds=5, cache=None),
    "knn": KNNOptions(k=(5,)),
    "prototype": PrototypeOptions(shrinkages=(0.1,)),
    "ridge": RidgeOptions(alphas=(1.0,)),
    "quantile": QuantileOptions(alphas=(1.0,)),
}


def card(head, target, dim=24):
    return HeadCard(head.kind, dim, target.kind, target.names, ("label",), "fingerprint", {"name": "made-up"})


@pytest.fixture(params=[2, 3])
def saved(request, tmp_path):
    """A folder with a logistic regression of two or three classes, its features, and its outputs before saving."""
    X, codes = planted(300, 24, request.param)
    head = LogisticHead(C=0.1).fit(X, codes).model_
    names = ("host", "viral", "phage")[: request.param]
    target = Target("binary" if request.param == 2 else "multiclass", names, codes)
    decisions = Decisions.fixed(0.3 if request.param == 2 else None, request.param)
    save(tmp_path, SavedHead(head, card(head, target), decisions))
    np.save(tmp_path / "X.npy", X)
    return tmp_path, X, head(ArrayRows(X), np.arange(300))


class Malice:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [None, "standardise,pca:6"])
def test_every_kind_of_head_gives_identical_scores_in_a_new_process(tmp_path, steps):
    X, codes = planted(400, 24)
    values = (X @ np.arange(24)).astype(np.float64)
    np.save(tmp_path / "X.npy", X)
    rows, before = np.arange(400), {}
    facts = RowFacts(np.full(400, 50.0), None)
    for kind, options in OPTIONS.items():
        regression = kind in ("ridge", "quantile")
        target = Target("regression", ("label",), values) if regression else Target("binary", (0, 1), codes)
        train, val = (Examples(part, target.take(part)) for part in (rows[:300], rows[300:]))
        chosen = None if steps is None else StepsOptions.parse(steps)
        recipe = Recipe(kind, options, chosen, "r2" if regression else "auprc", 0, 1 << 30)
        fit = fit_head(ArrayRows(X), train, val, recipe, device=torch.device("cpu"))
        head = fit.fitted.head
        decisions = Decisions(target.kind, head.outputs, head.quantiles)
        profile = profile_of_rows(ArrayRows(X), rows[:300], RowFacts(facts.lengths[:300], None))
        saved = SavedHead(head, card(head, target), decisions, fit.steps, profile)
        save(tmp_path / kind, saved)
        before[kind] = saved.outputs(ArrayRows(X), rows)
    script = (
        "import sys, numpy as np; from pathlib import Path; from heads.data.features import ArrayRows\n"
        "from heads.saving.saved import load; folder = Path(sys.argv[1]); X = np.load(folder / 'X.npy')\n"
        "for kind in sys.argv[2:]:\n"
        "    np.save(folder / f'{kind}.npy', load(folder / kind).outputs(ArrayRows(X), np.arange(400)))"
    )
    run_code(script, tmp_path, *OPTIONS)
    for kind, outputs in before.items():
        after = np.load(tmp_path / f"{kind}.npy")
        if torch.get_num_threads() == 1:
            assert (after == outputs).all(), kind
        np.testing.assert_allclose(after, outputs, rtol=1e-6)


def test_the_card_comes_back_as_it_was(saved):
    folder, X, before = saved
    back = load(folder)
    assert (back.card.label, back.card.fingerprint, back.card.dim) == (("label",), "fingerprint", 24)
    assert len(back.card.names) == back.head.outputs
    assert (back.outputs(ArrayRows(X), np.arange(300)) == before).all()


def test_a_head_of_format_1_is_read_and_decides_as_it_did(saved):
    folder, X, before = saved
    values = json.loads((folder / CARD).read_text())["card"]
    threshold = 0.3 if len(values["names"]) == 2 else None
    old = {
        "kind": "lr",
        "dim": 24,
        "classes": values["names"],
        "threshold": threshold,
        "label": "label",
        "fingerprint": "fingerprint",
        "encoder": "made-up",
        "format_version": 1,
    }
    (folder / CARD).write_text(json.dumps(old))
    back = load(folder)
    assert (back.outputs(ArrayRows(X), np.arange(300)) == before).all()
    expected = before.argmax(1) if threshold is None else (before[:, 1] >= threshold).astype(int)
    assert (back.decide(before).predictions == expected).all()
    (folder / CARD).write_text(json.dumps(old | {"extra": 1}))
    with pytest.raises(HeadError, match="is damaged"):
        load(folder)


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
@pytest.mark.parametrize("name", [TENSORS, CARD])
def test_a_truncated_file_is_refused(saved, name, share):
    folder, *_ = saved
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(HeadError, match="is damaged"):
        load(folder)


@pytest.mark.parametrize("name", [TENSORS, CARD])
def test_a_pickle_in_place_of_a_file_is_refused_and_not_run(saved, name):
    folder, *_ = saved
    (folder / name).write_bytes(pickle.dumps(Malice(folder / "ran")))
    with pytest.raises(HeadError, match="is damaged"):
        load(folder)
    torch.save({"weights": Malice(folder / "ran")}, folder / name)
    with pytest.raises(HeadError, match="is damaged"):
        load(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "os.system"}, "names the head kind 'os.system'; known here: lr"),
        ({"kind": ["lr"]}, "is damaged"),
        ({"kind": "ridge"}, "is damaged"),
        ({"names": 5}, "is damaged"),
        ({"names": ["a", "b", "c", "d"]}, "do not fit each other"),
        ({"dim": 23}, "do not fit each other"),
        ({"target": "regression"}, "do not fit each other"),
        ({"target": "fate"}, "is damaged"),
        ({"encoder": "made-up"}, "is damaged"),
        ({"strata": 3}, "is damaged"),
        ({"extra": 1}, "is damaged"),
    ],
)
def test_a_card_with_wrong_fields_is_refused(saved, change, message):
    folder, *_ = saved
    values = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(values | {"card": values["card"] | change}))
    with pytest.raises(HeadError, match=message):
        load(folder)


def test_a_head_of_a_later_format_asks_for_an_update(saved):
    folder, *_ = saved
    values = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(values | {"format_version": 99}))
    with pytest.raises(HeadError, match="update embedcache"):
        load(folder)


def test_tensors_of_wrong_shape_or_value_are_refused(saved):
    folder, *_ = saved
    tensors = load_file(folder / TENSORS)
    for name, tensor in (
        ("weights", torch.zeros(5)),
        ("centre", torch.zeros(3)),
        ("factor", torch.full((24,), torch.nan)),
    ):
        save_file({**tensors, name: tensor}, folder / TENSORS)
        with pytest.raises(HeadError, match="is damaged"):
            load(folder)


def test_a_folder_without_a_head_is_named(tmp_path):
    with pytest.raises(HeadError, match="does not hold a saved head"):
        load(tmp_path)
