"""The processes of a training under torchrun: who writes, who waits, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """This process among all of the training; alone without torchrun."""

    index: int
    count: int
    device: torch.device

    @classmethod
    def join(cls, device: torch.device) -> Processes:
        """Meet the other processes, if there are any."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(0, 1, device)
        from accelerate import PartialState

        state = PartialState(**({"cpu": True, "backend": "gloo"} if device.type == "cpu" else {}))
        return cls(state.process_index, state.num_processes, state.device)

    @property
    def first(self) -> bool:
        """Whether this one reads, writes and talks for all."""
        return self.index == 0

    @contextmanager
    def first_does(self) -> Iterator[bool]:
        """The first process does the block, the others wait until it is done; True in the first."""
        yield self.first
        self.wait()

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            torch.distributed.barrier()

    def gather(self, own: Any) -> list[Any]:
        """What each process has, in their order, in all of them."""
        if self.count == 1:
            return [own]
        gathered: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(gathered, own)
        return gathered


def over_processes(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in each of them, with gradients; itself where there is one."""
    if not torch.distributed.is_initialized():
        return values
    summed: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return summed


class _Sum(torch.autograd.Function):
    """What each process makes of a sum adds to the gradient of every part of it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.clone()
        torch.distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradients[0].contiguous())
