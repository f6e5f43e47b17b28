"""The pairs of near-duplicates are those of faiss, whatever the features look like and however they are read."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from embedcache.errors import HeadError
from embedcache.search import near_duplicates as module
from embedcache.search.near_duplicates import Pairs, near_duplicates, nearest
from embedcache.search.standardising import standardise
from heads.data.features import ArrayRows

QUERIES = 300


def steep(rows=2500, dim=96, seed=0):
    """Features in a few directions, means far from zero."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return (rng.standard_normal((rows, dim)) * np.arange(1, dim + 1) ** -1.0) @ mixing + rng.normal(0, 0.3, dim)


def flat(rows=2500, dim=200, seed=0):
    """Features without dominant directions: no bound is worth much."""
    return np.random.default_rng(seed).standard_normal((rows, dim))


def planted(values, noise=0.01, count=40):
    """The same features with noisy copies of some of the first rows among the last ones."""
    rng = np.random.default_rng(1)
    values = values.copy()
    originals = rng.choice(len(values) - QUERIES, count, replace=False)
    copies = len(values) - 1 - rng.choice(QUERIES, count, replace=False)
    values[copies] = values[originals] + noise * values.std(0) * rng.standard_normal((count, values.shape[1]))
    return values, set(zip(copies.tolist(), originals.tolist(), strict=True))


def rows_of(values):
    return np.arange(len(values) - QUERIES, len(values)), np.arange(len(values) - QUERIES)


def by_faiss(values, threshold):
    """Pairs of faiss' range search over normalised float32 rows, in the same order as ours."""
    unit = np.ascontiguousarray(values, np.float32)
    faiss.normalize_L2(unit)
    queries, against = rows_of(values)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit[against])
    limits, cosines, others = index.range_search(unit[queries], threshold)
    asked = np.repeat(queries, np.diff(limits.astype(np.int64)))
    order = np.lexsort((others, asked))
    return Pairs(asked[order], others[order], cosines[order])


def same(found, expected):
    assert np.array_equal(found.query, expected.query)
    assert np.array_equal(found.against, expected.against)
    np.testing.assert_allclose(found.cosine, expected.cosine, atol=1e-6)


def cosines(pairs):
    """(query, other) -> cosine."""
    return dict(zip(zip(pairs.query.tolist(), pairs.against.tolist(), strict=True), pairs.cosine.tolist(), strict=True))


@pytest.mark.parametrize("make", [steep, flat], ids=["steep", "flat"])
@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_pairs_are_those_of_faiss(make, threshold, dtype):
    # at a low threshold and in flat features most blocks are multiplied as a whole
    values, _ = planted(make())
    values = values.astype(dtype)
    pairs = near_duplicates(ArrayRows(values), *rows_of(values), threshold)
    assert len(pairs) > 0
    same(pairs, by_faiss(values, threshold))


def test_every_planted_copy_is_found_and_nothing_else():
    values, expected = planted(steep())
    source = ArrayRows(values.astype(np.float16))
    queries, against = rows_of(values)
    pairs = near_duplicates(source, queries, against, 0.999, standardisation=standardise(source, against))
    assert cosines(pairs).keys() == expected
    assert np.array_equal(pairs.query, np.sort(pairs.query))


def test_features_narrower_than_a_sketch_are_screened():
    values, _ = planted(steep(dim=7))
    same(near_duplicates(ArrayRows(values), *rows_of(values), 0.9999), by_faiss(values, 0.9999))


def test_bad_directions_find_the_same_pairs(monkeypatch):
    values, _ = planted(steep())
    source, rows = ArrayRows(values), rows_of(values)
    expected = near_duplicates(source, *rows, 0.99)
    worst = module.torch.eye(values.shape[1])[:, : module.DIRECTIONS]
    monkeypatch.setattr(module, "_directions", lambda held: worst)
    same(near_duplicates(source, *rows, 0.99), expected)


def test_blocks_of_any_size_find_the_same_pairs(monkeypatch):
    values, _ = planted(steep())
    source, rows = ArrayRows(values), rows_of(values)
    expected = near_duplicates(source, *rows, 0.9)
    for block, tile, dense in ((300, 64, 1 / 64), (700, 333, 0.0), (1000, 500, 1.0)):
        monkeypatch.setattr(module, "BLOCK", block)
        monkeypatch.setattr(module, "TILE", tile)
        monkeypatch.setattr(module, "DENSE", dense)
        monkeypatch.setattr(module, "AT_ONCE", 1000)
        same(near_duplicates(source, *rows, 0.9), expected)


def test_a_pair_just_over_the_threshold_is_found_and_one_just_under_is_not():
    angles = np.arccos([0.999 + 2e-6, 0.999 - 2e-6])
    values = np.zeros((1200, 80))
    values[:2, 0], values[:2, 1] = np.cos(angles), np.sin(angles)
    values[2, 0] = 1
    values[3:] = flat(1197, 80) * [0, 0, *[1] * 78]
    pairs = near_duplicates(ArrayRows(values), np.array([2]), np.array([0, 1, *range(3, 1200)]), 0.999)
    assert (pairs.query.tolist(), pairs.against.tolist()) == ([2], [0])


def test_the_nearest_of_each_query_is_the_greatest_of_its_pairs():
    values, _ = planted(steep())
    source, rows = ArrayRows(values), rows_of(values)
    pairs = cosines(near_duplicates(source, *rows, 0.9))
    greatest = {}
    for (query, other), cosine in pairs.items():
        if cosine > greatest.get(query, (0, 0))[1]:
            greatest[query] = (other, cosine)
    found = cosines(nearest(source, *rows, 0.9))
    assert {query: (other, cosine) for (query, other), cosine in found.items()} == greatest


def test_rows_of_zeros_have_no_direction_and_no_pair():
    values = steep(600)
    values[[0, 5, 599]] = 0
    pairs = near_duplicates(ArrayRows(values), *rows_of(values), 0.01)
    assert not {0, 5, 599} & {*pairs.query.tolist(), *pairs.against.tolist()}
    assert len(near_duplicates(ArrayRows(np.zeros((10, 4))), np.arange(5), np.arange(5, 10), 0.5)) == 0


def test_a_row_is_no_pair_with_itself():
    values = np.repeat(steep(50), 2, axis=0)
    everyone = np.arange(100)
    pairs = near_duplicates(ArrayRows(values), everyone, everyone, 0.99999)
    assert cosines(pairs).keys() >= {(row, row ^ 1) for row in range(100)}
    assert (pairs.query != pairs.against).all()


@pytest.mark.parametrize(("queries", "against"), [(0, 10), (10, 0), (1, 1)])
def test_few_rows_have_few_pairs(queries, against):
    found = near_duplicates(ArrayRows(steep(20)), np.arange(queries), np.arange(10, 10 + against), 0.9999)
    assert (
        len(found) == len(nearest(ArrayRows(steep(20)), np.arange(queries), np.arange(10, 10 + against), 0.9999)) == 0
    )


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 1.5, float("nan")])
def test_a_threshold_that_is_no_cosine_between_0_and_1_is_refused(threshold):
    with pytest.raises(HeadError, match="must be between 0 and 1"):
        near_duplicates(ArrayRows(steep(20)), np.arange(5), np.arange(5, 20), threshold)


@pytest.mark.parametrize("row", [3, 17])
def test_a_value_that_is_not_finite_is_refused_by_its_row(row):
    values = steep(20)
    values[row, 2] = np.nan
    with pytest.raises(HeadError, match=f"features of row {row} are not finite"):
        near_duplicates(ArrayRows(values), np.arange(15, 20), np.arange(15), 0.9)


def test_a_flood_of_pairs_is_refused_and_has_a_nearest(monkeypatch):
    values = np.ones((200, 8))
    monkeypatch.setattr(module, "MOST_PAIRS", 5000)
    with pytest.raises(HeadError, match="more than 5,000 pairs"):
        near_duplicates(ArrayRows(values), np.arange(100), np.arange(100, 200), 0.9)
    assert len(nearest(ArrayRows(values), np.arange(100), np.arange(100, 200), 0.9)) == 100
