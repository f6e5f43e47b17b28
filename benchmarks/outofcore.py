"""A logistic grid on more features than the memory it may take: 1,000,000 x 1,280 float16 read from a store at every pass.

The store (2.56 GB) is written to a temporary folder in the project's layout. A process of its own maps it and fits 16
heads, eight C by two class weights, with a bound on memory that the features do not fit. Two peaks are reported:

    peak_anonymous   what the process allocated, sampled: memory that nothing else can have
    peak_resident    VmHWM: the same and the mapped pages of the store, which the system takes back when it wants them

The first must stay below 1.5 GB. The store was just written, so its pages mostly come from the page cache.

    python -m benchmarks.outofcore [--quick]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedcache.storage.commit import StoreWriter, create_store
from embedcache.storage.layout import Layout
from embedcache.storage.store import FORMAT, FORMAT_VERSION, Commit

ROWS, DIM = 1_000_000, 1280
BOUND_BYTES = 1.5e9
MEMORY_BYTES = 256 << 20
"""What the features may take; less than they have, so that every pass reads the store."""
SAMPLED_SECONDS = 0.02


def write_rows(store: Path, rows: int, dim: int) -> None:
    """Write made-up embeddings with a falling spectrum, and a label that depends on them, 2.4 % positive."""
    layout = Layout(rows, dim, "float16")
    attributes = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "fingerprint": "benchmark", "blocks": [],
        "encoder": {"name": "benchmark"},
    }  # fmt: skip
    create_store(store, layout, attributes)
    writer, rng = StoreWriter(store), np.random.default_rng(0)
    factors, scale = 48, rng.lognormal(-1, 0.5, dim).astype(np.float32)
    mixing = (
        rng.standard_normal((factors, dim), np.float32) * np.arange(1, factors + 1, dtype=np.float32)[:, None] ** -0.5
    )
    mean, direction = (rng.normal(0, 3, dim) * scale).astype(np.float32), rng.standard_normal(factors, np.float32)
    for shard in range(layout.shards):
        start, stop = layout.bounds(shard)
        latent = rng.standard_normal((stop - start, factors), np.float32)
        values = (latent @ mixing + rng.standard_normal((stop - start, dim), np.float32)) * scale + mean
        score = latent @ direction / np.linalg.norm(direction) + rng.logistic(size=stop - start)
        label = (score > 4.1).astype(np.int64)
        part = pa.table({"row": np.arange(start, stop), "label": label})
        writer.write_shard(values.astype(np.float16), part, Commit(shard, stop - start, "", "", 0, "", 0, ""))


def status_bytes(field: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


class Peak(threading.Thread):
    """The most anonymous memory that this process had while the thread ran."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._done = threading.Event()

    def run(self) -> None:
        """Sample until `stop`."""
        while not self._done.wait(SAMPLED_SECONDS):
            self.bytes = max(self.bytes, status_bytes("RssAnon"))

    def stop(self) -> int:
        """Return the peak in bytes."""
        self._done.set()
        self.join()
        return self.bytes


def fit_store(path: Path) -> dict[str, float]:
    """Fit the grid on all rows of a store, and report seconds, passes, and this process's peaks of memory."""
    from embedcache import open_store
    from embedcache.search.standardising import standardise
    from heads.data.features import Design
    from heads.data.labels import read_labels
    from heads.data.moments import eigenbasis
    from heads.data.target import Target
    from heads.data.weights import class_weights
    from heads.linear.logistic import STRENGTHS
    from heads.linear.logistic_grid import fit_grid

    peak = Peak()
    peak.start()
    store = open_store(path)
    codes, rows = read_labels(store.column("label"), "label").codes, np.arange(len(store))
    balanced = class_weights(Target("binary", (0, 1), codes), "balanced")
    begun = time.perf_counter()
    standardisation = standardise(store, rows)
    standardised = time.perf_counter()
    design = Design(store, rows, standardisation, memory_bytes=MEMORY_BYTES)
    basis = eigenbasis(design)
    prepared = time.perf_counter()
    strengths = np.tile(STRENGTHS, 2)
    weights = np.repeat([np.ones(2), balanced], len(STRENGTHS), axis=0)
    grid = fit_grid(design, codes, strengths, weights, basis=basis)
    fitted = time.perf_counter()
    return {
        "seconds_standardising": standardised - begun,
        "seconds_basis": prepared - standardised,
        "seconds_fitting": fitted - prepared,
        "passes": int(grid.passes.max()),
        "largest_estimated_gap": float(grid.gaps.max()),
        "peak_anonymous_bytes": peak.stop(),
        "peak_resident_bytes": status_bytes("VmHWM"),
    }


_PROCESS = """
import json, sys
from pathlib import Path
import cli
from benchmarks.outofcore import fit_store
print(json.dumps(fit_store(Path(sys.argv[1]))))
"""


def run(quick: bool = False) -> dict[str, Any]:
    """Write a store, fit the grid in a process of its own, and compare its peak of memory with the bound.

    Rows and bytes per second are those of the passes of the fit, reading included.
    """
    rows, dim = (20_000, 64) if quick else (ROWS, DIM)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "rows.zarr"
        write_rows(store, rows, dim)
        words = [sys.executable, "-c", _PROCESS, str(store)]
        found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    rate = rows * found["passes"] / found["seconds_fitting"]
    return {
        "name": "16 logistic regressions from a store",
        "rows": rows,
        "dim": dim,
        **found,
        "rows_per_second": rate,
        "gigabytes_per_second": 2e-9 * rate * dim,
        "share": found["peak_anonymous_bytes"] / BOUND_BYTES,
    }


def main() -> None:
    """Print one run; ends with code 1 where it took more memory than it may."""
    found = run(quick="--quick" in sys.argv[1:])
    seconds = (
        f"{found['seconds_standardising']:.1f} s standardisation, {found['seconds_basis']:.1f} s basis, "
        f"{found['seconds_fitting']:.1f} s for {found['passes']} passes"
    )
    print(f"{found['name']}: {found['rows']:,} x {found['dim']:,} float16")
    print(f"  {seconds}; estimated gaps up to {found['largest_estimated_gap']:.0e}")
    print(f"  {found['rows_per_second']:,.0f} rows/s, {found['gigabytes_per_second']:.2f} GB/s in each pass")
    print(
        f"  peak memory {found['peak_anonymous_bytes'] / 1e6:,.0f} MB of its own, {found['share']:.0%} of the bound "
        f"({found['peak_resident_bytes'] / 1e6:,.0f} MB with the mapped pages of the store)"
    )
    if found["share"] > 1:
        sys.exit(f"more than {BOUND_BYTES / 1e9:g} GB of memory")


if __name__ == "__main__":
    main()
