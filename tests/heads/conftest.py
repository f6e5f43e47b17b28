"""A small labelled store and a run trained on it, shared by the tests of heads; none of them may change either."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.heads.program import run
from tests.heads.stores import ROWS, planted, write_store


@pytest.fixture
def exact_products(monkeypatch):
    """Perceptrons multiply in float32, also on a processor that is faster in bfloat16."""
    monkeypatch.setattr("heads.perceptron.mlp.product_type", lambda dtype, device: torch.float32)


@pytest.fixture(scope="session")
def data():
    X, codes = planted(ROWS)
    rng = np.random.default_rng(7)
    return X, codes, ["".join(letters) for letters in rng.choice(list("ACGT"), (ROWS, 50))]


@pytest.fixture(scope="session")
def columns(data):
    _, codes, sequences = data
    return {
        "sequence": sequences,
        "label": np.array(["host", "viral"])[codes].tolist(),
        "split": [("train", "train", "train", "dev", "test")[i // 10 % 5] for i in range(ROWS)],
        "group": [f"parent{i // 10}" for i in range(ROWS)],
        "context": [("CG", "CHG", "CHH")[i % 3] for i in range(ROWS)],
    }


@pytest.fixture(scope="session")
def store(tmp_path_factory, data, columns):
    return write_store(tmp_path_factory.mktemp("stores") / "reads.zarr", data[0], columns)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, store):
    """A run of the default command, with its output."""
    folder = tmp_path_factory.mktemp("trained")
    result = run(folder, "train", "--features", store, "--strata", "context", "--bootstrap", "100")
    return folder / "runs" / "reads-lr", result.stdout
