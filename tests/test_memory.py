"""What is said of the machine's memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from embedcache.memory import free_memory, peak_memory

CPU = torch.device("cpu")


def test_the_limit_of_a_batch_job_counts_and_not_the_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = free_memory(CPU)
    assert machine is not None
    assert machine > 0
    job = tmp_path / "cgroup" / "slurm" / "job_7"
    job.mkdir(parents=True)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/slurm/job_7\n")
    (job / "memory.max").write_text("max\n")
    (job.parent / "memory.max").write_text("5000000\n")
    (job.parent / "memory.stat").write_text("anon 2000000\nfile 9000000\n")
    monkeypatch.setattr("embedcache.memory._PROCESS", tmp_path / "self")
    monkeypatch.setattr("embedcache.memory._CGROUPS", tmp_path / "cgroup")
    assert free_memory(CPU) == 3_000_000
    (tmp_path / "self" / "cgroup").write_text("4:memory:/other\n")
    assert free_memory(CPU) == pytest.approx(machine, rel=0.5)


def test_the_peak_is_that_of_the_time_in_between() -> None:
    before = torch.ones(20_000_000)
    del before
    with peak_memory(CPU) as peak:
        during = torch.ones(10_000_000)
        del during
    assert peak.bytes_ is not None
    assert 35e6 < peak.bytes_ < 70e6
