"""Where TensorBoard, MLflow and W&B write: beside the training, asking no server, unless the environment says otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from embedcache.errors import HeadError

PACKAGES = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy"), "wandb": ("wandb",)}
"""What each needs; mlflow-skinny has no sqlalchemy, and newer MLflow keeps local runs in SQLite alone."""
MLFLOW_PLACE = "MLFLOW_TRACKING_URI"


def check_trackers(names: tuple[str, ...]) -> None:
    """Raise HeadError for a tracker that is not known or not installed."""
    for name in names:
        if name not in PACKAGES:
            raise HeadError(f"--report-to {name}: choose from none, {', '.join(PACKAGES)}")
        needed = PACKAGES[name][:1] if MLFLOW_PLACE in os.environ else PACKAGES[name]
        if any(find_spec(package) is None for package in needed):
            raise HeadError(f"--report-to {name} needs a package that is not here: pip install {name}")


@contextmanager
def trackers_at(folder: Path, names: tuple[str, ...], title: str) -> Iterator[None]:
    """Have them write into a folder, in the block, and be done at its end: the next training has runs of its own."""
    if names:
        folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        "TENSORBOARD_LOGGING_DIR": str(folder),
        MLFLOW_PLACE: f"sqlite:///{(folder / 'mlflow.db').absolute()}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    before = _open_runs()
    try:
        if "wandb" in names and "wandb" not in before:
            # WANDB_DIR is read once in a process, and each fold has a folder of its own
            import_module("wandb").init(dir=folder, name=title, project=os.environ.get("WANDB_PROJECT", "embedcache"))
        yield
    finally:
        for name in _open_runs() - before:
            if name == "wandb":
                sys.modules[name].finish()
            else:
                sys.modules[name].end_run()
        for name in ours:
            os.environ.pop(name, None)


def _open_runs() -> set[str]:
    """The trackers that have a run in this process."""
    wandb, mlflow = sys.modules.get("wandb"), sys.modules.get("mlflow")
    found = {"wandb"} if wandb is not None and wandb.run is not None else set()
    return found | ({"mlflow"} if mlflow is not None and mlflow.active_run() is not None else set())
