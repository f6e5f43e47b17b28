"""The program `heads` as the tests run it: in this process, or as a process of its own."""

from __future__ import annotations

import os
import subprocess
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
