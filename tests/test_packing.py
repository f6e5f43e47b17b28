"""Batches, windows of over-long sequences, and pooling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedcache.encoders.encoder import Budget, Encoder
from embedcache.encoders.loading import load_encoder
from embedcache.errors import InputError, ModelError
from embedcache.packing import cut_windows, pack, truncate
from embedcache.pooling import pool
from embedcache.tokens import Tokens


def tokens_of(*lengths: int) -> Tokens:
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return Tokens(np.arange(offsets[-1], dtype=np.int32), offsets)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("esm2-8m", random_weights=True)


def test_batches_keep_the_budget_and_hold_every_sequence_once() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 1000)
    batches = list(pack(lengths, 1024))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert max(lengths[batch].sum() for batch in batches) <= 1024
    assert all((np.diff(lengths[batch]) <= 0).all() for batch in batches)


def test_a_sequence_over_the_budget_is_a_batch_of_its_own() -> None:
    assert [batch.tolist() for batch in pack(np.asarray([10, 5000, 10]), 100)] == [[1], [0, 2]]


def test_windows_are_full_overlap_by_a_quarter_and_cover_every_token() -> None:
    tokens = tokens_of(8, 45, 10)
    windows, counts = cut_windows(tokens, 10, (1, 1))
    assert counts.tolist() == [1, 7, 1]
    assert windows.lengths.tolist() == [8, *[10] * 7, 10]
    cut = [windows[i] for i in range(1, 8)]
    assert {int(ids[0]) for ids in cut} == {8}
    assert {int(ids[-1]) for ids in cut} == {52}
    assert set(np.concatenate([ids[1:-1] for ids in cut]).tolist()) == set(range(9, 52))
    assert [int(ids[1]) for ids in cut] == [9, 15, 21, 27, 33, 39, 44]


def test_truncation_keeps_the_last_special_token() -> None:
    cut = truncate(tokens_of(3, 8), 5, (1, 1))
    assert [cut[0].tolist(), cut[1].tolist()] == [[0, 1, 2], [3, 4, 5, 6, 10]]


@pytest.mark.parametrize("how", ["mean", "max", "cls"])
def test_pooling_equals_numpy_on_each_sequence(how: str) -> None:
    states = torch.randn(14, 6)
    pooled = pool(states, torch.tensor([3, 7, 4]), how, (1, 1)).numpy()
    for row, part in enumerate(np.split(states.numpy(), [3, 10])):
        inner = part[1:-1]
        expected = {"mean": inner.mean(0), "max": inner.max(0), "cls": part[0]}[how]
        np.testing.assert_allclose(pooled[row], expected, rtol=1e-6)


def test_the_mean_of_an_over_long_sequence_is_the_token_weighted_mean_of_its_windows(encoder: Encoder) -> None:
    rng = np.random.default_rng(2)
    long = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 1500))
    short = long[:40]
    for how, join in (("mean", np.mean), ("max", np.max), ("cls", np.mean)):
        windows = encoder.encode([long[0:1022], long[478:1500]], pool=how)
        both = encoder.encode([short, long, short], pool=how)
        np.testing.assert_allclose(both[1], join(windows, axis=0), atol=1e-5)
        np.testing.assert_array_equal(both[0], encoder.encode([short], pool=how)[0])
        np.testing.assert_array_equal(both[0], both[2])


def test_running_out_of_memory_halves_the_budget_and_changes_nothing(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    proteins = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), n)) for n in rng.integers(5, 120, 50)]
    tokens, readout = encoder.tokenize(proteins), encoder.readout()
    embed = type(encoder).embed

    def small_memory(self: Encoder, part: Tokens, what: object) -> object:
        if len(part.ids) > 300:
            raise torch.OutOfMemoryError("out of memory")
        return embed(self, part, what)  # type: ignore[arg-type]

    expected = encoder.encode(proteins)
    monkeypatch.setattr(type(encoder), "embed", small_memory)
    budget = Budget(2000)
    out = np.full_like(expected, np.nan)
    for rows, vectors in encoder.vectors(tokens, readout, budget):
        out[rows] = vectors
    np.testing.assert_array_equal(out, expected)
    assert (budget.tokens, budget.halvings) == (250, 3)


def test_one_sequence_that_does_not_fit_is_an_error(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(type(encoder), "embed", no_memory)
    with pytest.raises(ModelError, match="one sequence of 12 tokens does not fit"):
        encoder.encode(["MKTAYIAKQR"])


@pytest.mark.parametrize(
    ("poolings", "layers", "said"),
    [
        (("median",), (-1,), "no pooling 'median'"),
        (("mean",), (7,), "no layer 7"),
        (("mean",), ("top",), "'top' is no layer"),
        (("mean", "mean"), (-1,), "twice"),
        (("mean",), (-1, 6), "twice"),
    ],
)
def test_impossible_readouts_are_refused(
    encoder: Encoder, poolings: tuple[str, ...], layers: tuple[str | int, ...], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        encoder.readout(poolings, layers)
