"""An ensemble says the mean of what its members say, and loads only members of known kinds."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from heads.data.features import ArrayRows, Standardisation
from heads.head import Head
from heads.perceptron.ensemble import EnsembleModel
from heads.perceptron.mlp import MLPModel
from heads.perceptron.perceptrons import Perceptrons

DIM = 5
KINDS: dict[str, type[Head]] = {"mlp": MLPModel, "ensemble": EnsembleModel}
X = ArrayRows(np.random.default_rng(0).standard_normal((30, DIM)).astype(np.float32))
ROWS = np.arange(3, 30)


def member(seed: int, target: str = "multiclass", outputs: int = 3, dim: int = DIM, quantiles=()) -> MLPModel:
    drawn = Perceptrons.drawn((dim, 8, outputs), [torch.Generator().manual_seed(seed)])
    return MLPModel(Standardisation(torch.zeros(dim), torch.ones(dim)), drawn, target, quantiles)


def test_outputs_are_the_mean_of_the_members():
    members = [member(seed) for seed in range(3)]
    said = EnsembleModel(tuple(members))(X, ROWS)
    np.testing.assert_allclose(said, np.mean([one(X, ROWS) for one in members], axis=0))
    np.testing.assert_allclose(said.sum(1), 1)


def test_quantiles_of_an_ensemble_rise():
    members = tuple(member(seed, "regression", 3, quantiles=(0.1, 0.5, 0.9)) for seed in range(4))
    together = EnsembleModel(members)
    assert together.quantiles == (0.1, 0.5, 0.9)
    assert (np.diff(together(X, ROWS), axis=1) >= 0).all()


def test_members_of_different_shapes_are_refused():
    with pytest.raises(
        ValueError, match=r"the same features, outputs and quantiles: \(5, 3, \(\)\) and \(6, 3, \(\)\)"
    ):
        EnsembleModel((member(0), member(1, dim=DIM + 1)))
    with pytest.raises(ValueError, match="outputs"):
        EnsembleModel((member(0), member(1, outputs=4)))
    with pytest.raises(ValueError, match="there are none"):
        EnsembleModel(())


def test_a_saved_ensemble_says_the_same(tmp_path):
    together = EnsembleModel(tuple(member(seed) for seed in range(3)))
    settings = json.loads(json.dumps(together.save(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    again = EnsembleModel.load(tmp_path, settings, KINDS)
    assert (again.dim, again.outputs, len(again.members)) == (DIM, 3, 3)
    assert (again(X, ROWS) == together(X, ROWS)).all()


@pytest.mark.parametrize("kind", ["pickle", "ensemble", "os.system"])
def test_members_of_other_kinds_are_never_loaded(tmp_path, kind):
    settings = EnsembleModel((member(0), member(1))).save(tmp_path)
    settings["members"][1]["kind"] = kind
    with pytest.raises(ValueError, match=f"member 1 is of the kind '{kind}'"):
        EnsembleModel.load(tmp_path, settings, KINDS)


@pytest.mark.parametrize("members", [[], [{"kind": "mlp"}], "mlp", [{"kind": "mlp", "settings": {}}] * 3])
def test_settings_that_are_none_are_refused(tmp_path, members):
    EnsembleModel((member(0), member(1))).save(tmp_path)
    with pytest.raises((KeyError, TypeError, ValueError, OSError)):
        EnsembleModel.load(tmp_path, {"members": members}, KINDS)
