"""Small arrays to the device and vectors back, without waiting for it.

On a GPU both ways go through pinned memory, the way in on a stream of its own, so that the copies of one batch run
beside the computation of another. On a CPU nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(arrays: Sequence[NDArray[np.int32] | NDArray[np.float32]], device: torch.device) -> list[Tensor]:
    """Copy arrays of 4-byte numbers to a device in one transfer that the host does not wait for.

    torch's pinned allocator keeps a buffer until its copy is done and then hands it out again, so that two or three
    buffers serve a whole run.
    """
    if device.type != "cuda":
        return [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]
    flat = [np.ascontiguousarray(array).view(np.int32).ravel() for array in arrays]
    pinned = torch.empty(sum(map(len, flat)), dtype=torch.int32, pin_memory=True)
    np.concatenate(flat, out=pinned.numpy())
    computing = torch.cuda.current_stream(device)
    with torch.cuda.stream(_copies(device)):
        sent = pinned.to(device, non_blocking=True)
    computing.wait_stream(_copies(device))
    sent.record_stream(computing)
    parts = torch.split(sent, [len(part) for part in flat])
    types = {"i": torch.int32, "f": torch.float32}
    return [part.view(types[a.dtype.kind]).view(a.shape) for part, a in zip(parts, arrays, strict=True)]


def from_device(vectors: Tensor) -> Callable[[], NDArray[np.float32]]:
    """Begin to copy vectors to the host; the function returned waits for them."""
    if vectors.device.type != "cuda":
        result: NDArray[np.float32] = vectors.numpy()
        return lambda: result
    pinned = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
    pinned.copy_(vectors, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(vectors.device))

    def wait() -> NDArray[np.float32]:
        arrived.synchronize()
        return pinned.numpy().copy()

    return wait


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    """The stream of the copies to a device."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
