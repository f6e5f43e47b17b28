"""The programs as processes of their own, begun as often as a test likes.

Each is forked from a server that has imported the large packages of others and nothing of ours: it starts at once, reads
its own environment, and can be killed, interrupted and limited as any process can. What must not have those packages, or
is measured from its first byte of memory, starts Python itself.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["cli", "torch", "pandas", "pyarrow.csv", "pyarrow.parquet", "sklearn.metrics", "matplotlib.backends.backend_agg",
     "tests.processes"]  # cli goes first: it says how torch's threads wait
)  # fmt: skip


class Program:
    """A program that has been started."""

    def __init__(
        self,
        name: str,
        words: Sequence[object],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        before: str = "",
    ) -> None:
        """Start `name` ("embedcache", "heads", or "" for no more than the statements `before`)."""
        pipes = [SERVER.Pipe(duplex=False) for _ in ("stdout", "stderr")]
        plan = ([name, *map(str, words)], str(cwd or Path.cwd()), dict(os.environ if env is None else env), before)
        self._process = SERVER.Process(target=_run, args=(*plan, [writer for _, writer in pipes]))
        self._process.start()
        for _, writer in pipes:
            writer.close()
        readers = ThreadPoolExecutor(len(pipes))
        self._said = [readers.submit(_text, reader) for reader, _ in pipes]
        readers.shutdown(wait=False)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, the negative number of the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 120) -> int:
        """Wait for its end; its exit code."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(str(self._process), timeout)
        return self._process.exitcode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Wait for its end; what it wrote to standard output and standard error."""
        self.wait(timeout)
        out, err = (said.result() for said in self._said)
        return out, err


def _text(reader: Connection) -> str:
    with reader, open(reader.fileno(), closefd=False) as file:
        return file.read()


def _run(words: list[str], cwd: str, environment: dict[str, str], before: str, streams: list[Connection]) -> None:
    """Become the program that `words` begin with, writing to `streams`."""
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate(streams, 1):
        os.dup2(stream.fileno(), number)
        stream.close()
    os.chdir(cwd)
    sys.argv = words
    exec(before, {"__name__": "__main__"})
    if words[0]:
        importlib.import_module(f"cli.{words[0]}").main()


def run_program(
    name: str, *words: object, check: bool = False, timeout: float = 120, **settings: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as `subprocess.run` does; `settings` as `Program` takes them."""
    program = Program(name, words, **settings)
    out, err = program.communicate(timeout)
    done = subprocess.CompletedProcess([name, *map(str, words)], program.wait(), out, err)
    assert done.returncode == 0 or not check, err
    return done


def start(*words: object, **settings: Any) -> Program:
    """Start `embedcache`; `settings` as `Program` takes them."""
    return Program("embedcache", words, **settings)


def command(*words: object, check: bool = False, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run `embedcache` to its end."""
    return run_program("embedcache", *words, check=check, **settings)


def run_code(code: str, *words: object, check: bool = True, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run statements in a process of their own, `words` as their arguments."""
    return run_program("", *words, check=check, before=code, **settings)


MAIN = "from cli.embedcache import main; main()"
"""The program, for the two below."""


def start_python(code: str, *words: object, **settings: Any) -> subprocess.Popen[str]:
    """Start a Python of its own with statements; `settings` as `subprocess.Popen` takes them."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], **pipes | settings)


def run_python(code: str, *words: object, text: str = "", **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run statements in a Python of its own, which reads `text`."""
    with start_python(code, *words, **settings) as python:
        out, err = python.communicate(text, timeout=120)
    return subprocess.CompletedProcess(python.args, python.returncode, out, err)
