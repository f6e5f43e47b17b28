"""The same claims on a GPU; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embedcache import load_encoder
from embedcache.encoders.encoder import Budget
from embedcache.encoders.transformer import TransformerEncoder
from tests.encoders.golden import FAMILIES, Golden, read_golden

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module", params=FAMILIES)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return read_golden(request.param, tmp_path_factory.mktemp("golden"))


def load(golden: Golden, precision: str) -> TransformerEncoder:
    encoder = load_encoder(str(golden.directory), device="cuda", precision=precision)
    assert isinstance(encoder, TransformerEncoder)
    encoder.batch_tokens = 2048
    return encoder


def readable(golden: Golden) -> list[str]:
    return [sequence.upper() for sequence in golden.sequences if len(sequence) > 5]


def test_every_hidden_state_equals_the_original_in_float32(golden: Golden) -> None:
    for row, ours in enumerate(load(golden, "float32").hidden_states(golden.sequences)):
        theirs = golden.hidden_states[:, row, golden.mask[row] == 1]
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_close_to_float32(golden: Golden, precision: str) -> None:
    exact, rough = load(golden, "float32").encode(readable(golden)), load(golden, precision).encode(readable(golden))
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.999


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_sequence_gives_the_same_bits_alone_and_among_others(golden: Golden, precision: str) -> None:
    encoder = load(golden, precision)
    sequences = readable(golden)
    together = encoder.encode(sequences * 8)[: len(sequences)]
    for row, sequence in enumerate(sequences):
        np.testing.assert_array_equal(encoder.encode([sequence])[0].view(np.uint32), together[row].view(np.uint32))


def test_running_out_of_memory_halves_the_batch_and_gives_the_same_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load(read_golden("esm2", tmp_path), "float32")
    sequences = ["MKTAYIAKQR" * n for n in range(1, 60)]
    expected = encoder.encode(sequences)
    start, refusals = encoder.start, []

    def too_small(tokens, readout, batch_tokens):  # type: ignore[no-untyped-def]
        if batch_tokens > 1024:
            refusals.append(batch_tokens)
            torch.empty(1 << 50, device="cuda")
        return start(tokens, readout, batch_tokens)

    monkeypatch.setattr(encoder, "start", too_small)
    budget = Budget(2048)
    got = np.empty_like(expected)
    for rows, vectors in encoder.vectors(encoder.tokenize(sequences), encoder.readout(), budget):
        got[rows] = vectors
    assert refusals == [2048]
    assert budget.tokens == 1024
    np.testing.assert_allclose(got, expected, atol=1e-5, rtol=0)


def test_the_loop_never_waits_for_the_device(tmp_path: Path) -> None:
    """torch raises at any call that makes the host wait for the GPU, until the vectors are fetched."""
    encoder = load(read_golden("dnabert2", tmp_path), "bfloat16")
    sequences = ["ACGTACGGTTCA" * n for n in range(1, 20)]
    tokens, readout = encoder.tokenize(sequences), encoder.readout(("mean", "max", "cls", "last"))
    encoder.start(tokens, readout, 2048)()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        wait = encoder.start(tokens, readout, 2048)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert np.isfinite(wait()).all()
