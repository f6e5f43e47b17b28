"""The GPU benchmark runs to its end on a CPU, at a small size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks import gpu


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_gpu_benchmark_measures_every_model_and_says_what_it_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: run python -m benchmarks.gpu itself")
    monkeypatch.setattr(gpu, "QUICK", gpu.Size(sequences=4, repeats=1, layers=1, batch_tokens=512))
    done = CliRunner().invoke(gpu.main, ["--output", str(tmp_path / "gpu.json")], catch_exceptions=False)
    assert done.exit_code == 0
    written = json.loads((tmp_path / "gpu.json").read_text())
    figures = written["extraction"]
    assert [figure["model"] for figure in figures] == list(gpu.AIMS)
    for figure in figures:
        assert figure["batch_invariant"]
        assert figure["cosine_to_float32"] > 0.999
        assert figure["end_to_end"] > 0
        assert figure["mfu"] > 0
        assert f"{figure['model']}: forward" in done.output
        assert "same bits in any batch: yes" in done.output
    assert [step["way"] for step in written["finetune"]] == ["full", "full, recomputed", "top 1", "top 1, cached"]
    assert all(step["tokens_per_second"] > 0 for step in written["finetune"])
