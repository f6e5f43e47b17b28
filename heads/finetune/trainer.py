"""transformers' Trainer on packed batches: it steps, accumulates, scales, writes checkpoints, shares work and reports.

What is ours: the order of the rows, the optimiser's groups, the schedule, the judgement by the metric that selects, which
epoch is kept, and when it is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from embedcache.errors import HeadError
from heads.finetune.batch import Batch
from heads.finetune.journal import BEST, Journal, Judgement
from heads.finetune.model import FinetuneModel
from heads.finetune.order import EpochLoader, Identity, Order, Ticket, Tickets
from heads.finetune.rates import ParameterGroup
from heads.fitting import Record
from heads.judging.metrics import better
from heads.perceptron.adamw import BETAS, EPSILON


@dataclass(frozen=True)
class Course:
    """How a training goes, beside what transformers' own arguments say."""

    order: Order
    batch: Callable[[Ticket], Batch]
    judge: Callable[[], Judgement]
    ids: Callable[[np.ndarray[Any, np.dtype[np.int64]]], Sequence[str]]
    """The ids of training rows, for messages."""
    groups: Sequence[ParameterGroup]
    share: Callable[[int, int], float]
    """Of the peak rates at a step of so many."""
    dropout_seed: int
    save_steps: int
    told: Callable[[int, int, str], None]


class FinetuneTrainer(Trainer):  # type: ignore[misc]
    """Trains a `FinetuneModel`; `run` returns when it is over."""

    optimizer: torch.optim.Optimizer | None

    def __init__(self, model: FinetuneModel, arguments: TrainingArguments, course: Course, journal: Journal) -> None:
        self.course, self.journal = course, journal
        self.work = Path(arguments.output_dir)
        super().__init__(model=model, args=arguments, train_dataset=Identity(course.order.rows))
        for noisy in (PrinterCallback, ProgressCallback):
            self.remove_callback(noisy)
        self.add_callback(_Rhythm(course, arguments))

    def run(self, checkpoint: Path | None) -> None:
        """Train from the start, or go on from a checkpoint; the best epoch is in `best` then."""
        if checkpoint is not None:
            self.journal = Journal.read(checkpoint)
        if not self.journal.stopping.stopped:
            self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    # what the Trainer asks for

    def get_train_dataloader(self) -> EpochLoader:
        """The batches of an epoch, in this process."""
        rows = Identity(self.course.order.rows)
        # with a generator of its own it draws nothing from the one that the dropout comes from
        return EpochLoader(
            rows, batch_sampler=Tickets(self.course.order), collate_fn=self._laid_out, generator=torch.Generator()
        )

    def _laid_out(self, tickets: list[Ticket]) -> dict[str, Batch]:
        return {"batch": self.course.batch(tickets[0])}

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with a rate and a decay for each group."""
        if self.optimizer is None:
            groups = [{"params": group.parameters, "lr": group.lr, "weight_decay": group.weight_decay} for group in
                      self.course.groups]  # fmt: skip
            self.optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=EPSILON, fused=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """All rates rise and fall together."""
        self._created_lr_scheduler = True
        assert self.optimizer is not None
        last = num_training_steps - 1
        self.lr_scheduler = LambdaLR(
            self.optimizer, lambda step: self.course.share(min(step, last), num_training_steps)
        )
        return self.lr_scheduler

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Batch], return_outputs: bool = False, **_: Any
    ) -> Tensor:
        """The loss of a batch; raises HeadError naming its rows where it is not a finite number."""
        batch = inputs["batch"]
        loss: Tensor = model(batch)
        value = float(loss.detach())
        if not np.isfinite(value):
            names = list(self.course.ids(batch.positions))
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            raise HeadError(
                f"the training loss is not a finite number in step {self.state.global_step + 1}, a batch of "
                f"{', '.join(names[:8])}{more}: look at these rows, or give lower --lr and --head-lr"
            )
        self.journal.add_loss(value)
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Judge the epoch that is over, keep it where it is the best, and stop where no better one came for long."""
        judged = self.course.judge()
        epoch = round(self.state.epoch or 0)
        record: Record = {
            "trial": 0,
            "epoch": epoch,
            "train_loss": self._mean_over_processes(self.journal.mean_loss()),
            "val_loss": judged.loss,
            f"val_{self.journal.metric}": judged.value,
            **({} if judged.stop_value is None else {f"stop_{self.journal.metric}": judged.stop_value}),
            "lr": self.course.groups[0].lr * self.course.share(self.state.global_step - 1, self.state.max_steps),
        }
        before = self.journal.stopping.epoch
        self.journal.records.append(record)
        stopping = self.journal.stopping
        if stopping.epoch == epoch or before is None:
            self._keep(epoch, judged.value if judged.stop_value is None else judged.stop_value)
        if stopping.stopped:
            self.control.should_training_stop = True
        shown = {
            f"eval_{name.removeprefix('val_')}": float(value or 0)
            for name, value in record.items()
            if name.startswith(("val_", "stop_"))
        }
        self.log(shown)
        metric = self.journal.metric.upper()
        text = f"epoch {epoch}, train loss {record['train_loss']:.4f}, val {metric} {judged.value:.4f}"
        if judged.stop_value is not None:
            text += f", stop {metric} {judged.stop_value:.4f}"
        self.course.told(self.state.global_step, self.state.max_steps, text)
        return shown

    def _mean_over_processes(self, value: float) -> float:
        processes = int(self.args.world_size)
        if processes == 1:
            return value
        means = torch.tensor([value], dtype=torch.float64, device=self.args.device)
        torch.distributed.all_reduce(means)
        return float(means) / processes

    # what is kept

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, learned(self.model))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        # also waits for all, so that the journal is the last file
        self.journal.loss = self._mean_over_processes(self.journal.loss)
        if self.args.should_save:
            self.journal.write(self.work / f"checkpoint-{self.state.global_step}")

    def _keep(self, epoch: int, value: float) -> None:
        """Write the weights of the best epoch; one that is there is only replaced by a better one."""
        there = best_of(self.work)
        if not self.args.should_save:
            return
        if there is not None and np.isfinite(there[1]) and not better(self.journal.metric, value, there[1]):
            return
        new = self.work / f"{BEST}.partial"
        save_file(learned(self.model), new, metadata={"epoch": str(epoch), "value": repr(value)})
        new.replace(self.work / BEST)


def learned(model: torch.nn.Module) -> dict[str, Tensor]:
    """The parameters that a training changes."""
    return {name: tensor.detach().contiguous() for name, tensor in model.named_parameters() if tensor.requires_grad}


def best_of(work: Path) -> tuple[int, float] | None:
    """Epoch and value, on the rows that stop, of the best epoch that is kept; None where there is none yet."""
    file = work / BEST
    if not file.exists():
        return None
    with safe_open(file, framework="pt") as tensors:
        said = tensors.metadata()
    return int(said["epoch"]), float(said["value"])


def load_best(model: torch.nn.Module, work: Path) -> None:
    """Put the weights of the best epoch into the model."""
    model.load_state_dict(load_file(work / BEST), strict=False)


class _Rhythm(TrainerCallback):  # type: ignore[misc]
    """Judges and saves at the end of each epoch, and saves every so many steps in between."""

    def __init__(self, course: Course, arguments: TrainingArguments) -> None:
        self.course, self.accumulate = course, arguments.gradient_accumulation_steps

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        torch.manual_seed(self.course.dropout_seed + args.process_index)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        steps = -(-self.course.order.batches // self.accumulate)
        self.course.told(state.global_step, state.max_steps, "")
        within = state.global_step % steps != 0
        control.should_save = bool(
            self.course.save_steps and state.global_step % self.course.save_steps == 0 and within
        )

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_evaluate = control.should_save = True
