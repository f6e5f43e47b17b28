"""Fixtures shared by all tests: where the real data lies, and one BLAS thread for the processes that tests start."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def pytest_collection_finish() -> None:
    """What is imported by now stays: leave it out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


def shared_folder(name: str) -> Path:
    """Return ../shared/NAME; skip the test where it is absent, fail it there in CI."""
    folder = SHARED / name
    if not folder.exists():
        message = f"{folder} is not here: this test reads the project's shared data"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, ../shared/data."""
    return shared_folder("data")
