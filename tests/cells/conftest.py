"""Fixtures of the tests about cells: one matrix, and a small encoder that knows most of its genes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cells.counted import Counted
from tests.cells.small_geneformer import write_geneformer


@pytest.fixture(scope="session")
def counted() -> Counted:
    return Counted()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, counted: Counted) -> Path:
    return write_geneformer(tmp_path_factory.mktemp("model"), counted.known, limit=20)
