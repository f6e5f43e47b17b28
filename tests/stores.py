"""Small inputs and stores for the tests of extraction, store and heads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from embedcache import load_encoder, open_store
from embedcache.encoders.encoder import Encoder
from embedcache.extraction.extract import extract
from embedcache.extraction.preflight import Options
from embedcache.extraction.throughput import Throughput
from embedcache.progress import Progress
from embedcache.records import Source
from embedcache.sources import open_source
from embedcache.storage.store import Store

THROUGHPUT = "embeddings/throughput.json"
PEAK_OF_EXTRACT = """
import sys
from cli.embedcache import cli
cli(sys.argv[1:], standalone_mode=False)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
"""Prints the peak of its own memory in kB; ru_maxrss would count the process that started it too."""


def peak_of_extract(*arguments: object) -> float:
    """Run `embedcache extract --quiet` in a process of its own; its peak of memory in bytes."""
    words = [sys.executable, "-c", PEAK_OF_EXTRACT, "extract", "--quiet", *map(str, arguments)]
    return 1024.0 * int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def random_reads(count: int, seed: int = 0, shortest: int = 20, longest: int = 120) -> list[str]:
    """Random DNA of mixed lengths."""
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGT"), length)) for length in rng.integers(shortest, longest, count)]


def write_fasta(file: Path, reads: list[str], first: int = 0) -> Path:
    """Write reads with the ids r0, r1, ..."""
    file.write_text("".join(f">r{first + i}\n{read}\n" for i, read in enumerate(reads)))
    return file


def run_extract(
    output: Path,
    *inputs: Path | str,
    model: str | Encoder = "kmer:3",
    metadata: Path | None = None,
    options: Options | None = None,
    random_weights: bool = False,
) -> Throughput:
    """Extract as the command does, saying nothing."""
    return extract(
        open_source([str(file) for file in inputs], metadata=str(metadata) if metadata else None),
        load_encoder(model, random_weights=random_weights) if isinstance(model, str) else model,
        output,
        options or Options(shard_rows=1024),
        Progress(quiet=True),
    )


def run_extract_source(source: Source, model: str, output: Path, options: Options | None = None) -> Throughput:
    """Extract records that are open already."""
    return extract(source, load_encoder(model), output, options or Options(), Progress(quiet=True))


def make_store(output: Path, *inputs: Path | str, model: str = "kmer:3", metadata: Path | None = None) -> Store:
    """Extract into a new store and open it."""
    run_extract(output, *inputs, model=model, metadata=metadata)
    return open_store(output)


def store_bytes(store: Path) -> dict[str, bytes]:
    """All files of a store but its throughput report, by relative name."""
    files = sorted(file for file in store.rglob("*") if file.is_file())
    return {str(f.relative_to(store)): f.read_bytes() for f in files if str(f.relative_to(store)) != THROUGHPUT}
