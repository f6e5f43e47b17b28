"""Which sequences share a batch, and how over-long ones are cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from embedcache.encoders.encoder import Budget, Encoder
from embedcache.encoders.loading import load_encoder
from embedcache.errors import ModelError
from embedcache.sequences.packing import cut_windows, pack, truncate
from embedcache.sequences.tokens import Tokens


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
    windows = cut_windows(tokens, 10, (1, 1))
    assert windows.counts.tolist() == [1, 7, 1]
    assert windows.tokens.lengths.tolist() == [8, *[10] * 7, 10]
    assert windows.starts.tolist() == [0, 0, 6, 12, 18, 24, 30, 35, 0]
    cut = [windows.tokens[i] for i in range(1, 8)]
    assert {int(ids[0]) for ids in cut} == {8}
    assert {int(ids[-1]) for ids in cut} == {52}
    assert set(np.concatenate([ids[1:-1] for ids in cut]).tolist()) == set(range(9, 52))
    assert [int(ids[1]) for ids in cut] == [9, 15, 21, 27, 33, 39, 44]


def test_what_is_looked_at_stays_the_same_tokens_in_one_window_or_in_all_that_have_some_of_it() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, 90, 300)
    first = 1 + rng.integers(0, lengths - 2)
    stop = rng.integers(first, lengths - 1) + 1
    tokens = replace(tokens_of(*lengths), focus={"at:x": np.stack((first, stop), axis=1)})
    windows = cut_windows(tokens, 12, (1, 1))
    window = 0
    for row, count in enumerate(windows.counts.tolist()):
        wanted = {*tokens[row][first[row] : stop[row]].tolist()}
        looked_at = [
            {*windows.tokens[w][slice(*windows.tokens.focus["at:x"][w])].tolist()}
            for w in range(window, window + count)
        ]
        assert set.union(*looked_at) == wanted
        held = [wanted & {*windows.tokens[w].tolist()} for w in range(window, window + count)]
        if wanted in held:
            assert sum(map(bool, looked_at)) == 1
        else:
            assert looked_at == held
        window += count


def test_truncation_keeps_the_last_special_token() -> None:
    cut = truncate(tokens_of(3, 8), 5, (1, 1))
    assert [cut[0].tolist(), cut[1].tolist()] == [[0, 1, 2], [3, 4, 5, 6, 10]]


def test_truncation_leaves_no_token_to_look_at_where_any_was_cut_off() -> None:
    focus = np.asarray([(1, 2), (3, 4), (3, 5), (6, 7)])
    cut = truncate(replace(tokens_of(5, 8, 8, 8), focus={"at:x": focus}), 5, (1, 1))
    assert cut.focus["at:x"].tolist() == [[1, 2], [3, 4], [0, 0], [0, 0]]


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
    start = type(encoder).start

    def small_memory(self: Encoder, part: Tokens, *others: object) -> object:
        if len(part.ids) > 300:
            raise torch.OutOfMemoryError("out of memory")
        return start(self, part, *others)  # type: ignore[arg-type]

    expected = encoder.encode(proteins)
    monkeypatch.setattr(type(encoder), "start", small_memory)
    budget = Budget(2000)
    out = np.full_like(expected, np.nan)
    for rows, vectors in encoder.vectors(tokens, readout, budget):
        out[rows] = vectors
    np.testing.assert_array_equal(out, expected)
    assert (budget.tokens, budget.halvings) == (250, 3)


def test_one_sequence_that_does_not_fit_is_an_error(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(type(encoder), "start", no_memory)
    with pytest.raises(ModelError, match="one sequence of 12 tokens does not fit"):
        encoder.encode(["MKTAYIAKQR"])
