"""Poolings: of whole sequences, of windows joined again, and around the places that are looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from embedcache.encoders.encoder import Budget
from embedcache.errors import InputError
from embedcache.sequences.alphabet import Letters
from embedcache.sequences.pooling import join_windows, parts_of, pool, token_focus
from embedcache.sequences.tokens import Tokens
from tests.letter_encoder import FIRST, ID, LAST, PLACE, WINDOW, LetterEncoder
from tests.stores import random_reads

POOLINGS = ("mean", "mean:all", "mean:inner", "max", "cls", "last", "center:7", "center:1000", "at:site")


def covering(encoder: LetterEncoder, read: str, first: int, stop: int) -> list[int]:
    """The tokens of a sequence that cover any of letters [first, stop), one letter at a time."""
    spans = encoder.spans(Letters.of([read])).tolist()
    return [t for t, (begin, end) in enumerate(spans) if any(begin <= letter < end for letter in range(first, stop))]


def place_of(pooling: str, length: int, site: int) -> tuple[int, int]:
    """The letters that a pooling looks at."""
    if pooling.startswith("at:"):
        return site, site + 1
    width = min(int(pooling.removeprefix("center:")), length)
    return length // 2 - width // 2, length // 2 - width // 2 + width


@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_tokens_of_a_place_are_those_that_cover_any_of_its_letters(k: int) -> None:
    rng, encoder = np.random.default_rng(k), LetterEncoder(k)
    reads = random_reads(300, seed=k, shortest=1, longest=40)
    first = np.asarray([rng.integers(len(read)) for read in reads])
    stop = np.asarray([rng.integers(begin, len(read)) + 1 for begin, read in zip(first, reads, strict=True)])
    letters = Letters.of(reads)
    found = token_focus(encoder.spans(letters), encoder.tokenize(letters).offsets, np.stack((first, stop), axis=1))
    for read, begin, end, tokens in zip(reads, first, stop, found.tolist(), strict=True):
        assert list(range(*tokens)) == covering(encoder, read, begin, end)


def test_letters_without_a_token_have_none_and_a_gap_between_covered_letters_does_not_cut_them_apart() -> None:
    spans = np.asarray([(-1, -1), (0, 3), (-1, -1), (5, 6), (-1, -1)] * 3)
    places = np.asarray([(3, 5), (0, 6), (4, 6)])
    assert token_focus(spans, np.asarray([0, 5, 10, 15]), places).tolist() == [[0, 0], [1, 4], [3, 4]]


def test_the_middle_of_a_sequence_is_as_wide_as_asked_for_and_whole_where_it_is_shorter() -> None:
    encoder = LetterEncoder()
    for length in range(1, 12):
        letters = Letters.of(["A" * length])
        for width in range(1, 15):
            readout = encoder.readout((f"center:{width}",))
            tokens = encoder.with_focus(encoder.tokenize(letters), letters, readout)
            first, stop = tokens.focus[f"center:{width}"][0].tolist()
            assert stop - first == min(width, length)
            assert abs((first - 1) - (length - (stop - 1))) <= 1


@pytest.mark.parametrize("how", ["mean", "max"])
def test_pooling_a_range_equals_numpy_and_a_mean_of_nothing_is_no_number(how: str) -> None:
    states = torch.randn(20, 6)
    lengths, ranges = np.asarray([3, 7, 4, 6]), np.asarray([(1, 2), (1, 6), (0, 4), (2, 2)])
    pooled = pool(states, torch.from_numpy(parts_of(ranges, lengths)), how).numpy()
    for row, part in enumerate(np.split(states.numpy(), [3, 10, 14])[:3]):
        first, stop = ranges[row]
        np.testing.assert_allclose(pooled[row], getattr(part[first:stop], how)(axis=0), rtol=1e-6)
    assert not np.isfinite(pooled[3]).any()


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("layer", [0, None])
def test_a_pooling_equals_numpy_on_the_hidden_states_of_each_sequence(pooling: str, layer: int | None) -> None:
    encoder = LetterEncoder(3)
    reads = random_reads(40, shortest=1, longest=60)
    sites = np.asarray([len(read) * 2 // 3 for read in reads])
    readout = encoder.readout((pooling,), None if layer is None else (layer,))
    found = encoder.encode_readout(reads, readout, "window", {"site": sites})
    for row, states in enumerate(encoder.hidden_states(reads)):
        state = states[-1 if layer is None else layer]
        expected = {
            "mean": lambda s: s[1:-1].mean(axis=0),
            "mean:inner": lambda s: s[1:-1].mean(axis=0),
            "mean:all": lambda s: s.mean(axis=0),
            "max": lambda s: s[1:-1].max(axis=0),
            "cls": lambda s: s[0],
            "last": lambda s: s[-1],
        }
        if pooling in expected:
            wanted = expected[pooling](state)
        else:
            tokens = covering(encoder, reads[row], *place_of(pooling, len(reads[row]), int(sites[row])))
            wanted = state[tokens].mean(axis=0)
        np.testing.assert_allclose(found[row], wanted, rtol=2e-6, atol=1e-6)


def windows_of(encoder: LetterEncoder, read: str) -> tuple[list[int], list[NDArray[np.float32]]]:
    """Where each window of a sequence begins, in tokens without specials, and its states: full, a quarter overlapping."""
    assert encoder.token_limit is not None
    ids = encoder.tokenize([read]).ids[1:-1]
    room = encoder.token_limit - 2
    starts = [*range(0, len(ids) - room, room * 3 // 4), len(ids) - room]
    windows = [np.concatenate(([FIRST], ids[start : start + room], [LAST])) for start in starts]
    lengths = np.asarray([0, encoder.token_limit])
    return starts, [encoder.states(Tokens(window, lengths), encoder.layers) for window in windows]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("k", [1, 3])
def test_an_over_long_sequence_is_joined_from_its_windows_as_documented(pooling: str, k: int) -> None:
    encoder = LetterEncoder(k, limit=14)
    reads = [read for read in random_reads(60, seed=3, shortest=14 * k, longest=80 * k) if len(read) > 14 * k]
    reads.insert(5, "ACGT")
    sites = np.random.default_rng(0).integers(0, [len(read) for read in reads])
    found = encoder.encode_readout(reads, encoder.readout((pooling,)), "window", {"site": sites})
    alone = encoder.encode_readout(["ACGT"], encoder.readout((pooling,)), "window", {"site": sites[5:6]})
    np.testing.assert_array_equal(found[5], alone[0])
    for row, read in enumerate(reads):
        if row != 5:
            wanted = joined(encoder, read, pooling, int(sites[row]))
            np.testing.assert_allclose(found[row], wanted, rtol=3e-6, atol=1e-6)


def joined(encoder: LetterEncoder, read: str, pooling: str, site: int) -> NDArray[np.float32]:
    """The vector of an over-long sequence, from its windows one after another."""
    starts, windows = windows_of(encoder, read)
    if pooling in ("mean", "mean:inner"):
        return np.mean([window[1:-1].mean(axis=0) for window in windows], axis=0)
    if pooling == "mean:all":
        return np.mean([window.mean(axis=0) for window in windows], axis=0)
    if pooling == "max":
        return np.max([window[1:-1].max(axis=0) for window in windows], axis=0)
    if pooling == "cls":
        return np.mean([window[0] for window in windows], axis=0)
    if pooling == "last":
        return windows[-1][-1]
    tokens = [token - 1 for token in covering(encoder, read, *place_of(pooling, len(read), site))]
    room = len(windows[0]) - 2
    middle = (tokens[0] + tokens[-1] + 1) / 2
    whole = [w for w, start in enumerate(starts) if start <= tokens[0] and tokens[-1] < start + room]
    if whole:
        best = min(whole, key=lambda w: abs(starts[w] + room / 2 - middle))
        return windows[best][[1 + token - starts[best] for token in tokens]].mean(axis=0)
    parts = [
        window[1 + token - start]
        for start, window in zip(starts, windows, strict=True)
        for token in tokens
        if start <= token < start + room
    ]
    return np.mean(parts, axis=0)


@pytest.mark.parametrize("limit", [14, 15, 4])
def test_tokens_stitched_from_windows_are_every_token_once_from_the_window_whose_border_is_farthest(limit: int) -> None:
    encoder = LetterEncoder(2, limit=limit)
    reads = ["A", *random_reads(50, seed=4, shortest=2, longest=150)]
    for read, states in zip(reads, encoder.encode_tokens(reads), strict=True):
        ids = encoder.tokenize([read]).ids[1:-1]
        np.testing.assert_array_equal(states[:, ID], ids)
        if len(ids) + 2 <= limit:
            continue
        starts, _ = windows_of(encoder, read)
        room = limit - 2
        assert (states[:, WINDOW] == limit).all()
        for token, place in enumerate(states[:, PLACE] - 1):
            to_border = [min(token - start, start + room - 1 - token) for start in starts]
            assert min(place, room - 1 - place) == max(to_border)


def test_tokens_of_sequences_within_the_limit_are_the_hidden_states_without_the_special_ones() -> None:
    encoder = LetterEncoder(3, limit=100)
    reads = random_reads(30, shortest=1, longest=200)
    for layer in (0, 2):
        expected = [states[layer][1:-1] for states in encoder.hidden_states(reads)]
        for found, wanted in zip(encoder.encode_tokens(reads, layer), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_sequence_without_tokens_has_no_rows() -> None:
    encoder = LetterEncoder(3, limit=10)
    readout = encoder.readout(("none",), (0, -1))
    tokens = encoder.tokenize(["", "ACG" * 30, "", "ACGT"])
    found: dict[int, NDArray[np.float32]] = {}
    for rows, states in encoder.token_vectors(tokens, readout, Budget(5)):
        found |= dict(zip(rows.tolist(), states, strict=True))
    assert [found[row].shape for row in range(4)] == [(0, 64), (30, 64), (0, 64), (2, 64)]


def test_one_window_keeps_its_vector_bit_for_bit_and_windows_without_weight_are_left_out() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    vectors[2] = np.nan
    joined_3D = join_windows(vectors, np.asarray([4, 2, 0, 6, 9]), np.asarray([1, 3, 1]), "at:site")
    np.testing.assert_array_equal(joined_3D[[0, 2]], vectors[[0, 4]])
    np.testing.assert_allclose(joined_3D[1], (2 * vectors[1] + 6 * vectors[3]) / 8, rtol=1e-6)


def test_positions_outside_a_sequence_and_missing_ones_are_refused() -> None:
    encoder = LetterEncoder()
    readout = encoder.readout(("at:site", "center:3"))
    with pytest.raises(InputError, match="at:site needs the position"):
        encoder.encode_readout(["ACGT"], readout, "window")
    for site in (4, -1):
        with pytest.raises(InputError, match="lies outside sequence 1, which has 4 letters"):
            encoder.encode_readout(["ACGT", "ACGT"], readout, "window", {"site": np.asarray([3, site])})


@pytest.mark.parametrize(
    ("poolings", "layers", "said"),
    [
        (("median",), None, "no pooling 'median'"),
        (("center:0",), None, "no pooling 'center:0'"),
        (("at:",), None, "no pooling 'at:'"),
        (("none", "mean"), None, "two stores"),
        (("mean",), (7,), "no layer 7"),
        (("mean",), ("top",), "'top' is no layer"),
        (("mean", "mean"), None, "twice"),
        (("mean",), (-1, 2), "twice"),
    ],
)
def test_impossible_readouts_are_refused(
    poolings: tuple[str, ...], layers: tuple[str | int, ...] | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        LetterEncoder().readout(poolings, layers)
