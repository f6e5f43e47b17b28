"""The program `heads` as the tests run it: in this process, or as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.heads import heads as program
from embedcache.errors import EmbedcacheError
from tests.processes import run_program

ROOT = Path(__file__).resolve().parents[2]


def run(folder, *arguments):
    """Run the program in a folder; raises what it raises."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(program, [str(word) for word in arguments], catch_exceptions=False)
    finally:
        os.chdir(before)


def refused(folder, *arguments) -> str:
    """Run the program, which must refuse, and leave the folder as it was; return its sentence."""
    before = sorted(Path(folder).rglob("*"))
    with pytest.raises(EmbedcacheError) as caught:
        run(folder, *arguments)
    assert sorted(Path(folder).rglob("*")) == before
    return str(caught.value)


def process(*arguments, cwd, before="") -> subprocess.CompletedProcess[str]:
    """Run the program as a process of its own, after the statements `before`."""
    return run_program("heads", *arguments, cwd=cwd, env=os.environ | {"TMPDIR": str(cwd)}, before=before)


def in_two_processes(folder, *arguments) -> None:
    """Run the program in two processes of torch's launcher, which finds a port."""
    (folder / "heads_program.py").write_text("from cli.heads import main\nmain()\n")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
             "heads_program.py", *map(str, arguments)]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
