"""Reading FASTQ into record batches, beside dnaio alone, which makes an object of each read and no columns.

Five million generated reads of 150 letters, plain, and a fifth of them gzipped; both programs in turn, each in a process of
its own, which also tells its peak memory. Half the reads need the same memory as all.
"""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LENGTH, AT_ONCE = 150, 50_000
_HEADERS = """
import sys, time
peak = lambda: 1024 * int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
_PROGRAMS = {
    "embedcache": """
from embedcache.sources import open_source
source = open_source(sys.argv[1:])
start = time.perf_counter()
reads = sum(map(len, source.batches()))
""",
    "dnaio": """
import dnaio
start = time.perf_counter()
with dnaio.open(sys.argv[1]) as file:
    reads = sum(1 for read in file)
""",
}
_RESULT = """
print(reads, time.perf_counter() - start, peak())
"""


def write_reads(path: Path, reads: int, seed: int = 0) -> None:
    """Write random reads with qualities as of a sequencer that tells eight of them apart."""
    random = np.random.default_rng(seed)
    qualities = np.frombuffer(b"#,:FFFFF", np.uint8)
    with path.open("wb") as file:
        for first in range(0, reads, AT_ONCE):
            shape = (min(AT_ONCE, reads - first), LENGTH)
            letters = np.frombuffer(b"ACGT", np.uint8)[random.integers(0, 4, shape)]
            marks = qualities[random.integers(0, len(qualities), shape)]
            file.writelines(
                b"@A00123:45:HXXXX:1:1101:%d:1000 1:N:0:ACGT\n%b\n+\n%b\n"
                % (first + row, one.tobytes(), other.tobytes())
                for row, (one, other) in enumerate(zip(letters, marks, strict=True))
            )


def _measured(program: str, path: Path) -> tuple[int, float, float]:
    words = [sys.executable, "-c", _HEADERS + _PROGRAMS[program] + _RESULT, str(path)]
    reads, seconds, peak = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return int(reads), float(seconds), float(peak)


def run(quick: bool = False) -> dict[str, object]:
    """Time both programs in turn on a plain and on a gzipped file.

    Returns
    -------
    Of each file: reads, reads a second of each program (median), our share of dnaio's; and the bytes of memory that the
    whole file took more than half of it.
    """
    reads, rounds = (20_000, 1) if quick else (5_000_000, 5)
    found: dict[str, object] = {"reads": reads, "length": LENGTH}
    with tempfile.TemporaryDirectory() as folder:
        plain, packed, half = (Path(folder) / name for name in ("reads.fastq", "reads.fastq.gz", "half.fastq"))
        write_reads(plain, reads)
        write_reads(half, reads // 2)
        write_reads(Path(folder) / "fifth.fastq", reads // 5)
        with (Path(folder) / "fifth.fastq").open("rb") as letters, gzip.open(packed, "wb", compresslevel=4) as file:
            shutil.copyfileobj(letters, file, 1 << 20)
        peaks = {}
        for name, path in (("plain", plain), ("gzip", packed)):
            rates: dict[str, list[float]] = {program: [] for program in _PROGRAMS}
            for turn in range(rounds):
                for program in list(_PROGRAMS)[:: -1 if turn % 2 else 1]:
                    count, seconds, peaks[name, program] = _measured(program, path)
                    rates[program].append(count / seconds)
            medians = {program: statistics.median(values) for program, values in rates.items()}
            found[name] = {"reads_per_second": medians, "share": medians["embedcache"] / medians["dnaio"]}
        found["peak_bytes"] = peaks["plain", "embedcache"]
        found["growth_bytes"] = peaks["plain", "embedcache"] - _measured("embedcache", half)[2]
    return found


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
