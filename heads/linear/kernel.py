"""The C of `heads/linear/kernel.c`, compiled for this processor when it is first needed, and kept for the next program.

    CACHE/KEY.so              one precision; KEY is a digest of source, flags, compiler version and processor features
    CACHE/KEY-PROCESS.partial what a compiler is writing; it is renamed when it is whole, so that a kill leaves no half

A shared folder serves different processors and compilers, each under a key of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("kernel.c")
CACHE = Path("~/.cache/embedcache/kernels")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC")
PRECISIONS = {torch.float32: "float", torch.float64: "double"}
_COMPILER_SECONDS = 120
_FORGOTTEN_SECONDS = 3600
"""A partial file this old belongs to a compiler that was killed."""


@dataclass(frozen=True)
class Kernel:
    """The compiled sweep in both precisions."""

    float32: ctypes.CDLL
    float64: ctypes.CDLL

    def of(self, precision: torch.dtype) -> ctypes.CDLL:
        """The library whose arithmetic has this precision."""
        return self.float32 if precision == torch.float32 else self.float64

    @property
    def group(self) -> int:
        """Columns that it takes at once."""
        return ctypes.c_int32.in_dll(self.float32, "columns_of_group").value


@dataclass(frozen=True)
class NoKernel:
    """Why there is none: a clause for a note."""

    reason: str


@cache
def find_kernel() -> Kernel | NoKernel:
    """Return the kernel of this process, compiled now where the user's cache does not have it."""
    return load_kernel(next(filter(None, map(shutil.which, COMPILERS)), None), CACHE.expanduser())


def load_kernel(compiler: str | None, folder: Path) -> Kernel | NoKernel:
    """Load both precisions from `folder`, compiling what is not there; a folder that cannot be written is done without."""
    if compiler is None:
        return NoKernel(f"there is no C compiler ({', '.join(COMPILERS)})")
    try:
        with _writable(folder) as place:
            return Kernel(*(_load(compiler, place, real) for real in PRECISIONS.values()))
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        return NoKernel(f"{compiler} failed{f': {said[0]}' if said else ''}")
    except (OSError, subprocess.TimeoutExpired) as error:
        return NoKernel(f"{compiler} gave none: {error}")


@contextmanager
def _writable(folder: Path) -> Iterator[Path]:
    """The folder, or a passing one where it cannot be written: a loaded library needs its file no more."""
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.access(folder, os.W_OK | os.X_OK):
        yield folder
    else:
        with tempfile.TemporaryDirectory() as passing:
            yield Path(passing)


def _load(compiler: str, folder: Path, real: str) -> ctypes.CDLL:
    flags = (*FLAGS, f"-DREAL={real}")
    library = folder / f"{_key(compiler, flags)}.so"
    if not library.exists():
        _compile(compiler, flags, library)
    return ctypes.CDLL(str(library))


def _key(compiler: str, flags: tuple[str, ...]) -> str:
    asked = [compiler, "--version"]
    version = subprocess.run(asked, capture_output=True, timeout=_COMPILER_SECONDS, check=True, text=True).stdout
    digest = hashlib.blake2b(digest_size=16)
    for part in (SOURCE.read_bytes(), "\n".join(flags).encode(), version.encode(), _processor().encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _processor() -> str:
    """What this processor can do, as far as the system says."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())
    return f"{platform.machine()} {features}"


def _compile(compiler: str, flags: tuple[str, ...], library: Path) -> None:
    """Write the library whole or not at all; processes that do so at once write the same."""
    for file in library.parent.glob("*.partial"):
        with suppress(FileNotFoundError):  # another process was first
            if time.time() - file.stat().st_mtime > _FORGOTTEN_SECONDS:
                file.unlink()
    partial = library.with_name(f"{library.stem}-{platform.node()}-{os.getpid()}.partial")
    try:
        subprocess.run(
            [compiler, *flags, str(SOURCE), "-o", str(partial), "-lm"],
            capture_output=True,
            text=True,
            timeout=_COMPILER_SECONDS,
            check=True,
        )
        partial.replace(library)
    finally:
        partial.unlink(missing_ok=True)
