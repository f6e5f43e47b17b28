"""Peak memory of an extraction, against the bound that it promises: model + 700 MB + 16 bytes a row.

A process of its own encodes 40,000 short reads (three shards) with the first two layers of the Nucleotide Transformer
500m at their real width. The bound is independent of depth, since one layer's activations are there at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.simulate import simulate_dna
from embedcache.encoders.families import recognise
from embedcache.encoders.registry import REGISTRY
from embedcache.encoders.tokenizers import NT_V1_VOCABULARY

_PROCESS = """
import sys
from cli.embedcache import cli
cli(sys.argv[1:], standalone_mode=False)
print(1024 * int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))))
"""
"""Prints the peak of its own memory in bytes; ru_maxrss would count the process that started it too."""


def run(quick: bool = False) -> dict[str, float]:
    """Measure.

    Returns
    -------
    Rows, bytes of the model, peak and bound in bytes, and peak over bound.
    """
    rows = 2000 if quick else 40_000
    config = dict(REGISTRY["nt500m"].config()) | {"num_hidden_layers": 2}
    if quick:
        config |= {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4}
    family, trunk = recognise(config, "nt500m")
    model = 4 * family.parameters(trunk)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "vocab.txt").write_text("\n".join(NT_V1_VOCABULARY))
        (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": None}))
        reads = simulate_dna(rows, (12, 18, 24), np.random.default_rng(0))
        fasta = directory / "reads.fa"
        fasta.write_text("".join(f">r{i}\n{read}\n" for i, read in enumerate(reads)))
        arguments = ["extract", "--quiet", "--model", directory, "--random-weights", "--input", fasta]
        words = [sys.executable, "-c", _PROCESS, *arguments, "--output", directory / "reads.zarr"]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
    peak, bound = float(done.stdout), model + 700e6 + 16 * rows
    return {"rows": rows, "model_bytes": model, "peak_bytes": peak, "bound_bytes": bound, "share": peak / bound}


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
