"""The cosine to float32 that a run in low precision reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from cli.embedcache import cli
from embedcache import load_encoder
from embedcache.encoders.encoder import Encoder
from embedcache.encoders.fidelity import Fidelity, Witnesses, fidelity
from embedcache.encoders.linear import product_type
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.errors import EmbedcacheError
from embedcache.extraction.throughput import read_throughput
from embedcache.sequences.tokens import Tokens
from tests.encoders.golden import golden_folder
from tests.stores import write_fasta

PROTEINS = ["MKTAYIAKQRQISFVK", "GVSERTIDPKQNFYMHWCAG", "MKTAYIAKQRQISFVK", "MVLSPADKTNVKAAW" * 9, "MLPGLALLLLAAW"] * 3


def extracted(folder: Path, model: object, precision: str, *options: str) -> tuple[dict[str, object] | None, str]:
    """Extract PROTEINS; what throughput.json says of the precision, and what the screen says."""
    fasta, store = write_fasta(folder / "p.fa", PROTEINS), folder / f"{precision}.zarr"
    words = ["--model", str(model), "--input", str(fasta), "--output", str(store), "--device", "cpu"]
    done = CliRunner().invoke(cli, ["extract", *words, "--precision", precision, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, object] | None = read_throughput(store)[0]["fidelity"]
    return found, done.output


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("pool", ["mean", "mean,max", "center:4", "none"])
def test_a_run_in_low_precision_reports_how_close_it_comes_to_float32(
    tmp_path: Path, precision: str, pool: str
) -> None:
    found, said = extracted(tmp_path, golden_folder("esm2", tmp_path), precision, "--pool", pool)
    assert found is not None
    assert 2 <= found["sequences"] <= 4  # type: ignore[operator]
    assert 0.99 < found["lowest"] <= found["median"] < 1  # type: ignore[operator]
    assert f"cosine of {precision} to float32: {found['lowest']:.6f} lowest, {found['median']:.6f} median" in said
    assert "random weights" not in said


def test_a_run_in_float32_reports_none(tmp_path: Path) -> None:
    found, said = extracted(tmp_path, golden_folder("esm2", tmp_path), "float32")
    assert found is None
    assert "cosine" not in said


def test_the_cosine_is_that_of_the_vectors_of_the_run(tmp_path: Path) -> None:
    folder = str(golden_folder("esm2", tmp_path))
    low, full = (load_encoder(folder, device="cpu", precision=precision) for precision in ("bfloat16", "float32"))
    chosen = PROTEINS[:2]
    a, b = (encoder.encode(chosen).astype(np.float64) for encoder in (low, full))
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    found = measured(low, low.tokenize(chosen))
    assert found.lowest == pytest.approx(cosines.min(), abs=1e-7)
    assert found.median == pytest.approx(np.median(cosines), abs=1e-7)
    assert cosines.min() < 1


def measured(encoder: Encoder, tokens: Tokens) -> Fidelity:
    witnesses = Witnesses(encoder)
    for row in range(len(tokens)):
        witnesses.see(tokens.take(np.asarray([row])))
    found = fidelity(encoder, encoder.readout(), witnesses, 0.0)
    assert found is not None
    return found


def test_witnesses_are_few_distinct_short_and_spread_over_the_run() -> None:
    encoder = load_encoder("kmer:3")
    witnesses = Witnesses(encoder)
    rng = np.random.default_rng(0)
    for shard in range(100):
        reads = ["ACGT"[shard % 4] * 3 + "".join(rng.choice(list("ACGT"), length)) for length in range(20, 120)]
        witnesses.see(encoder.tokenize(reads))
    chosen = witnesses.tokens()
    assert chosen is not None
    assert len(chosen) == 8
    assert len({chosen[row].tobytes() for row in range(8)}) == 8
    assert chosen.lengths.max() <= 3 + 70
    assert len({chr(chosen[row][0]) for row in range(8)}) > 1
    assert len(witnesses._seen) <= 64


def test_random_weights_certify_nothing(tmp_path: Path) -> None:
    found, said = extracted(tmp_path, "esm2-8m", "bfloat16", "--random-weights")
    assert found is not None
    assert "random weights, which cannot certify a checkpoint" in said


def test_too_dear_a_comparison_is_left_out_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedcache.encoders.fidelity._ALWAYS_SECONDS", 0.0)
    monkeypatch.setattr("embedcache.encoders.fidelity._SHARE", 1e-9)
    found, said = extracted(tmp_path, "esm2-8m", "bfloat16", "--random-weights")
    assert found is not None
    assert found["lowest"] is None
    assert "one sequence alone would take longer than" in str(found["note"])
    assert "not computed: one sequence alone" in said


def test_weights_that_are_gone_leave_the_run_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(str(golden_folder("esm2", tmp_path)), device="cpu", precision="bfloat16")
    (tmp_path / "esm2" / "model.safetensors").unlink()
    found = measured(encoder, encoder.tokenize(PROTEINS[:2]))
    assert found.lowest is None
    assert found.note


def test_a_precision_that_brings_no_speed_on_this_processor_is_remarked_on(tmp_path: Path) -> None:
    folder = golden_folder("esm2", tmp_path)
    native = product_type(torch.bfloat16, torch.device("cpu")) == torch.bfloat16
    for precision, remarked in (("float16", True), ("bfloat16", not native), ("float32", False)):
        said = extracted(tmp_path, folder, precision)[1]
        assert (f"this processor has no fast {precision}" in said) == remarked


def test_a_vector_that_float16_could_not_hold_names_the_wider_precisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = TransformerEncoder.start

    def overflowing(self: TransformerEncoder, *arguments: object) -> object:
        vectors: NDArray[np.float32] = start(self, *arguments)()  # type: ignore[arg-type]
        return lambda: vectors * np.inf

    monkeypatch.setattr(TransformerEncoder, "start", overflowing)
    folder = golden_folder("esm2", tmp_path)
    with pytest.raises(EmbedcacheError, match="NaN or infinite.*--precision bfloat16 or float32.*quarantine"):
        extracted(tmp_path, folder, "float16")
