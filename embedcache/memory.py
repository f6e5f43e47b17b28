"""The memory of the process, and what is left on its machine."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_PROCESS, _CGROUPS = Path("/proc/self"), Path("/sys/fs/cgroup")


def give_freed_pages_back() -> None:
    """Return freed heap pages to the system, where the C library can (glibc).

    Packing a layer frees tensors of tens of megabytes between blocks that stay, which glibc keeps for itself: 450 MB for
    a model of 500 million parameters.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def free_memory(device: torch.device) -> int | None:
    """Bytes that may still be taken on a device; on a CPU also under the limit of a batch job or container.

    None where the system does not say.
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    found = [_field(Path("/proc/meminfo"), "MemAvailable:", 1024), *_limits()]
    return min((room for room in found if room is not None), default=None)


def _limits() -> Iterator[int]:
    """What each control group (v2) around the process leaves to it."""
    with suppress(OSError, ValueError):
        own = _PROCESS.joinpath("cgroup").read_text().rpartition("0::/")[2].split("\n")[0]
        for group in (_CGROUPS / own, *(_CGROUPS / own).parents):
            if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()) != "max":
                yield int(limit) - (_field(group / "memory.stat", "anon", 1) or 0)


def _field(file: Path, name: str, unit: int) -> int | None:
    with suppress(OSError, ValueError):
        fields = {line.split()[0]: line.split()[1] for line in file.read_text().splitlines() if len(line.split()) > 1}
        return unit * int(fields[name]) if name in fields else None
    return None


@dataclass
class Peak:
    """Bytes taken at the most while something ran, beyond what was taken before; None where the system does not say."""

    bytes_: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the peak of memory on a device."""
    peak = Peak()
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes_ = torch.cuda.max_memory_allocated(device) - before
        return
    give_freed_pages_back()
    with suppress(OSError):
        _PROCESS.joinpath("clear_refs").write_text("5")  # sets the high-water mark to what is taken now
    status = _PROCESS / "status"
    taken = _field(status, "VmRSS:", 1024)
    yield peak
    highest = _field(status, "VmHWM:", 1024)
    if taken is not None and highest is not None:
        peak.bytes_ = max(highest - taken, 0)
