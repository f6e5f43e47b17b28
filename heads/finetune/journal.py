"""What a training has seen so far: written beside each checkpoint, so that it goes on as if it had never stopped.

In folds each training has a folder of its own within that of the run.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from embedcache.errors import HeadError
from embedcache.storage.commit import to_json, write_durably
from heads.fitting import Record
from heads.perceptron.early_stopping import EarlyStopping

JOURNAL, BEST, FITTED = "journal.json", "best.safetensors", "fitted.json"


@dataclass(frozen=True)
class Judgement:
    """A model on the validation rows, and on those that stop."""

    value: float
    """The metric that selects, NaN without rows."""
    loss: float
    stop_value: float | None = None
    """The metric on the rows that stop; None where these are the validation rows."""


@dataclass
class Journal:
    """The epochs that are over, and the losses of the one in work."""

    metric: str
    patience: int
    records: list[Record] = field(default_factory=list)
    loss: float = 0.0
    """Sum over the batches of this epoch."""
    batches: int = 0

    def add_loss(self, loss: float) -> None:
        """Note a batch."""
        self.loss += loss
        self.batches += 1

    def mean_loss(self) -> float:
        """The mean loss of the epoch, which ends with that."""
        mean = self.loss / max(self.batches, 1)
        self.loss, self.batches = 0.0, 0
        return mean

    @property
    def stopping(self) -> EarlyStopping:
        """Which epoch is the best so far, and whether that is the end."""
        stopping = EarlyStopping(self.metric, self.patience)
        for record in self.records:
            value = record.get(f"stop_{self.metric}", record[f"val_{self.metric}"])
            stopping.update(int(record["epoch"] or 0), float(value or 0))
        return stopping

    def write(self, folder: Path) -> None:
        """Write it as the last file of a checkpoint: one without it does not count."""
        write_durably(folder / JOURNAL, [to_json(asdict(self))])

    @classmethod
    def read(cls, folder: Path) -> Journal:
        """Raises HeadError where it is damaged."""
        try:
            return cls(**json.loads((folder / JOURNAL).read_text()))
        except (OSError, ValueError, TypeError):
            raise HeadError(f"{folder / JOURNAL} is damaged: begin the training anew with --restart") from None


def last_checkpoint(work: Path) -> Path | None:
    """The last whole checkpoint of a training."""
    found = [folder for folder in work.glob("checkpoint-*") if (folder / JOURNAL).exists()]
    return max(found, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def forget_checkpoints(work: Path) -> None:
    """Remove the checkpoints of a training that is over, and its best epoch."""
    for folder in work.glob("checkpoint-*"):
        shutil.rmtree(folder)
    (work / BEST).unlink(missing_ok=True)


def check_same(work: Path, plan: dict[str, Any]) -> None:
    """Write down what is trained, or hold it against what a checkpoint is of, or a training that is over.

    Raises HeadError naming the first thing that differs.
    """
    file = work / "plan.json"
    plan = json.loads(json.dumps(plan, default=str))
    trainings = [work, *(folder for folder in work.glob("*") if folder.is_dir())]
    if not any(last_checkpoint(folder) or (folder / FITTED).exists() for folder in trainings):
        work.mkdir(parents=True, exist_ok=True)
        for folder in trainings:
            (folder / BEST).unlink(missing_ok=True)
        write_durably(file, [to_json(plan)])
        return
    try:
        before = json.loads(file.read_text())
    except (OSError, ValueError):
        raise HeadError(f"{file} is damaged: begin the training anew with --restart") from None
    for name in {**before, **plan}:
        if before.get(name) != plan.get(name):
            raise HeadError(
                f"{work} holds a training that was begun with {name} {_short(before.get(name))}, and this one has "
                f"{_short(plan.get(name))}: give the same options to go on, another --output, or --restart"
            )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
