"""Where TensorBoard, MLflow and W&B write: beside the training, asking no server, unless the environment says otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def trackers_at(folder: Path) -> Iterator[None]:
    """Have them write into a folder, in the block."""
    wanted = {
        "TENSORBOARD_LOGGING_DIR": str(folder),
        "MLFLOW_TRACKING_URI": (folder / "mlruns").absolute().as_uri(),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
    }
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
