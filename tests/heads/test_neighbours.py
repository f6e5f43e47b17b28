"""Nearest neighbours are found exactly, and their votes are counted as the options say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from embedcache.errors import HeadError
from embedcache.search.approximate import ApproximateSearch, recall
from embedcache.search.nearest import ExactSearch
from heads import neighbours
from heads.estimators import KNNClassifierHead, KNNRegressorHead
from heads.neighbours import KNNModel, KNNOptions, fit
from tests.heads.split_problem import split_problem
from tests.heads.stores import planted

X, CODES = planted(700)
QUANTITY = X.astype(np.float64) @ np.random.default_rng(3).standard_normal(24) / 5
LABELS = np.stack([CODES, 1 - CODES, X[:, 0] > np.median(X[:, 0])], axis=1).astype(np.int64)


def embeddings(rows=3000, dim=300, decay=1.0, seed=0, dtype=np.float16):
    """Rows whose variance lies in few directions, with means far from zero."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    values = (rng.standard_normal((rows, dim)) * np.arange(1, dim + 1) ** -decay) @ basis
    return torch.from_numpy((10 * values + rng.normal(0, 3, dim)).astype(dtype))


def brute_force(rows, queries, metric):
    """All similarities (n, N) in float64."""
    rows, queries = rows.double(), queries.double()
    if metric == "euclidean":
        return -torch.cdist(queries, rows, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    unit = torch.nn.functional.normalize
    return (unit(queries) @ unit(rows).T).numpy()


def assert_nearest(found, similarity, k, atol):
    """Each query has k different rows, as similar as the k most similar ones."""
    best = -np.sort(-similarity, axis=1)[:, :k]
    assert all(len(set(row)) == k for row in found.positions)
    np.testing.assert_allclose(np.take_along_axis(similarity, found.positions, 1), best, atol=atol)
    np.testing.assert_allclose(found.similarity, best, atol=atol)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    ("dim", "decay", "dtype"),
    [
        (300, 1.0, np.float16),  # bounds decide
        (300, 0.0, np.float32),  # no dominant directions: bounds rule out nothing
        (300, 1.0, np.float64),
        (40, 1.0, np.float16),  # too narrow for bounds
    ],
)
def test_exact_search_finds_what_brute_force_in_float64_finds(metric, dim, decay, dtype):
    values = embeddings(2600, dim, decay, dtype=dtype)
    rows, queries = values[:2500], values[2500:]
    search = ExactSearch(rows, metric)
    assert_nearest(search(queries, 20), brute_force(rows, queries, metric), 20, 1e-6 if metric == "cosine" else 2e-4)
    assert search._sketched == (dim == 300 and decay == 1.0)


def test_rows_that_all_point_the_same_way_are_told_apart():
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(400)
    values = torch.from_numpy(100 * direction + rng.standard_normal((1200, 400)) * np.arange(1, 401) ** -0.7).float()
    found = ExactSearch(values[:1000], "cosine")(values[1000:], 10)
    best = np.argsort(-brute_force(values[:1000], values[1000:], "cosine"), axis=1)[:, :10]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found.positions, best, strict=True)]) > 9.5


def test_a_row_of_zeros_is_like_no_other_and_a_row_is_nearest_to_itself():
    values = embeddings(500)
    values[7] = 0
    found = ExactSearch(values, "cosine")(values, 3)
    assert found.similarity[7].tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    others = np.delete(np.arange(500), 7)
    assert (found.positions[others, 0] == others).all()
    np.testing.assert_allclose(found.similarity[others, 0], 1, atol=1e-6)


def test_fewer_rows_than_k_are_all_neighbours():
    values = embeddings(10)
    found = ExactSearch(values, "euclidean")(values, 50)
    assert sorted(found.positions[0]) == list(range(10))
    problem = split_problem("binary", X[:12], CODES[:12] * 0 + np.arange(12) % 2, "auroc")
    fitted = fit(problem, KNNOptions(k=(1, 50)))
    assert [trial["k"] for trial in fitted.trials] == [1, 9]
    assert "more than the 9 training rows" in fitted.notes[0]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_approximate_search_says_how_much_it_finds_and_is_the_same_each_time(metric, kind):
    values = embeddings(1500, 60)
    search, exact = ApproximateSearch(values, metric, kind), ExactSearch(values, metric)
    share = recall(search, exact, values[:100], 10)
    assert 0.8 < share <= 1
    found, again = search(values[:100], 10), ApproximateSearch(values, metric, kind)(values[:100], 10)
    assert np.array_equal(found.positions, again.positions)
    similarity = np.take_along_axis(brute_force(values, values[:100], metric), found.positions, 1)
    np.testing.assert_allclose(found.similarity, similarity, atol=1e-2)


def outputs_of(fitted, problem):
    return fitted.head(problem.source, problem.val.rows)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_votes_are_those_of_scikit_learn(metric):
    for kind, values in (("binary", CODES), ("multilabel", LABELS), ("regression", QUANTITY)):
        problem = split_problem(kind, X, values, "rmse" if kind == "regression" else "auroc")
        rows, held = X[problem.train.rows].astype(np.float64), X[problem.val.rows].astype(np.float64)
        theirs = (KNeighborsRegressor if kind == "regression" else KNeighborsClassifier)(
            7, metric=metric, algorithm="brute"
        )
        theirs.fit(rows, values[problem.train.rows])
        expected = theirs.predict(held)[:, None] if kind == "regression" else theirs.predict_proba(held)
        if kind == "multilabel":
            expected = np.stack([one[:, 1] for one in expected], axis=1)
        np.testing.assert_allclose(
            outputs_of(fit(problem, KNNOptions(k=(7,), metric=metric)), problem), expected, atol=1e-9
        )


def test_every_k_of_one_search_gives_what_it_gives_alone():
    problem = split_problem("binary", X, CODES, "auprc")
    together = fit(problem, KNNOptions(k=(3, 10, 30)))
    alone = [fit(problem, KNNOptions(k=(k,))).trials[0] for k in (3, 10, 30)]
    assert list(together.trials) == alone
    assert together.best == int(np.argmax([trial["val_auprc"] for trial in alone]))
    assert together.head.k == alone[together.best]["k"]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_votes_by_similarity_favour_the_nearest(metric):
    problem = split_problem("binary", X, CODES, "auroc")
    cold = fit(problem, KNNOptions(k=(30,), metric=metric, vote="similarity", temperature=(1e-6,)))
    nearest = fit(problem, KNNOptions(k=(1,), metric=metric))
    np.testing.assert_allclose(outputs_of(cold, problem), outputs_of(nearest, problem), atol=1e-6)
    hot = fit(problem, KNNOptions(k=(30,), metric=metric, vote="similarity", temperature=(1e6,)))
    count = fit(problem, KNNOptions(k=(30,), metric=metric))
    np.testing.assert_allclose(outputs_of(hot, problem), outputs_of(count, problem), atol=1e-5)
    assert len(fit(problem, KNNOptions(k=(5, 9), vote="similarity", temperature=(0.1, 1.0))).trials) == 4


def test_a_class_weight_multiplies_the_votes_of_its_rows():
    problem = split_problem("binary", X, CODES, "auroc")
    plain = outputs_of(fit(problem, KNNOptions(k=(20,))), problem)[:, 1]
    weighted = outputs_of(fit(problem, KNNOptions(k=(20,), class_weight={"b": 3.0})), problem)[:, 1]
    np.testing.assert_allclose(weighted, 3 * plain / (3 * plain + 1 - plain))
    by_row = split_problem("binary", X, CODES, "auroc", weights=np.where(CODES == 1, 3.0, 1.0))
    np.testing.assert_allclose(outputs_of(fit(by_row, KNNOptions(k=(20,))), problem)[:, 1], weighted)
    labels = split_problem("multilabel", X, LABELS, "auroc")
    plain = outputs_of(fit(labels, KNNOptions(k=(20,))), labels)
    weighted = outputs_of(fit(labels, KNNOptions(k=(20,), class_weight={"a": 3.0})), labels)
    np.testing.assert_allclose(weighted[:, 0], 3 * plain[:, 0] / (3 * plain[:, 0] + 1 - plain[:, 0]))
    np.testing.assert_allclose(weighted[:, 1:], plain[:, 1:])


def test_neighbours_whose_weights_are_all_zero_count_alike():
    weights = np.where(np.arange(700) < 690, 0.0, 1.0)
    problem = split_problem("binary", X, CODES, "auroc", weights=weights)
    found = outputs_of(fit(problem, KNNOptions(k=(5,))), problem)
    np.testing.assert_allclose(found.sum(1), 1)


def test_quantiles_of_neighbours_rise_and_are_numpys():
    problem = split_problem("regression", X, QUANTITY, "pinball")
    levels = (0.05, 0.5, 0.95)
    fitted = fit(problem, KNNOptions(k=(21,), quantiles=levels))
    found = outputs_of(fitted, problem)
    assert fitted.head.quantiles == levels
    assert (np.diff(found, axis=1) >= 0).all()
    nearest = ExactSearch(fitted.head.rows, "cosine")(torch.from_numpy(X[problem.val.rows]), 21).positions
    values = problem.train.target.values[nearest]
    np.testing.assert_allclose(found, np.quantile(values, levels, axis=1, method="inverted_cdf").T)


def test_large_polls_are_counted_in_parts_with_the_same_result(monkeypatch):
    problem = split_problem("binary", X, CODES, "auroc")
    head = fit(problem, KNNOptions(k=(20,))).head
    whole = head(problem.source, problem.val.rows)
    monkeypatch.setattr(neighbours, "POLLED", 400)
    np.testing.assert_array_equal(head(problem.source, problem.val.rows), whole)


@pytest.mark.parametrize(
    ("kind", "values", "given"),
    [
        ("binary", CODES, {}),
        ("multiclass", np.arange(700) % 3, {"vote": "similarity", "class_weight": "balanced"}),
        ("multilabel", LABELS, {"metric": "euclidean", "class_weight": "balanced"}),
        ("regression", QUANTITY, {"quantiles": (0.1, 0.9)}),
        ("binary", CODES, {"index": "ivf"}),
        ("binary", CODES, {"index": "hnsw", "metric": "euclidean"}),
    ],
)
def test_a_saved_head_gives_the_same_scores(kind, values, given, tmp_path):
    problem = split_problem(kind, X, values, "pinball" if kind == "regression" else "auroc")
    fitted = fit(problem, KNNOptions(k=(9,), **given))
    settings = json.loads(json.dumps(fitted.head.save(tmp_path)))
    again = KNNModel.load(tmp_path, settings)
    assert again.rows.dtype == torch.float16
    assert (again.dim, again.outputs) == (24, fitted.head.outputs)
    assert np.array_equal(again(problem.source, problem.val.rows), outputs_of(fitted, problem))
    if "index" in given:
        assert "% of the 9 rows nearest" in fitted.notes[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": 0},
        {"k": "5"},
        {"metric": "manhattan"},
        {"index": "pq"},
        {"target": "x"},
        {"quantiles": [0.5]},
        {"temperature": 0},
    ],
)
def test_settings_that_make_no_head_are_refused(wrong, tmp_path):
    settings = dict(fit(split_problem("binary", X, CODES, "auroc"), KNNOptions(k=(5,))).head.save(tmp_path))
    assert KNNModel.load(tmp_path, settings).k == 5
    with pytest.raises((ValueError, TypeError)):
        KNNModel.load(tmp_path, settings | wrong)


def test_tensors_that_do_not_fit_each_other_are_refused(tmp_path):
    head = fit(split_problem("binary", X, CODES, "auroc"), KNNOptions(k=(5,))).head
    for changed in ({"values": head.values[1:]}, {"votes": head.votes.float()}, {"rows": head.rows.long()}):
        settings = replace(head, **changed).save(tmp_path)
        with pytest.raises(ValueError, match="do not fit"):
            KNNModel.load(tmp_path, settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": (0,)}, "--k"),
        ({"k": ()}, "--k"),
        ({"temperature": (0.0,)}, "--temperature"),
        ({"metric": "manhattan"}, "choose from cosine, euclidean"),
        ({"vote": "loudly"}, "choose from count, similarity"),
        ({"index": "pq"}, "choose from exact, ivf, hnsw"),
        ({"quantiles": (0.5,)}, "measured quantity"),
        ({"quantiles": (0.9, 0.5)}, "rising"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(given, message):
    with pytest.raises(HeadError, match=message):
        fit(split_problem("binary", X, CODES, "auroc"), KNNOptions(**given))


def test_features_that_are_not_finite_are_refused_by_row():
    broken = X.copy()
    broken[[5, 8], 3] = np.nan
    with pytest.raises(HeadError, match="row 5 "):
        fit(split_problem("binary", broken, CODES, "auroc"), KNNOptions())
    broken[5] = 0
    with pytest.raises(HeadError, match="row 8 "):
        fit(split_problem("binary", broken, CODES, "auroc"), KNNOptions())


EXCEPTIONS = {
    "check_sample_weight_equivalence_on_dense_data": "a row of weight 2 is one of k neighbours, the same row twice is two",
    "check_classifiers_multilabel_output_format_predict_proba": "no neighbour, or every one, may have a label",
}


@parametrize_with_checks(
    [KNNClassifierHead(), KNNRegressorHead(), KNNClassifierHead(metric="euclidean")],
    expected_failed_checks=lambda _: EXCEPTIONS,
)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_estimators_take_several_labels_weights_and_quantiles():
    assert KNNClassifierHead(class_weight={0: 2.0}).fit(X, LABELS).predict(X).shape == (700, 3)
    assert KNNRegressorHead(quantiles=(0.1, 0.9)).fit(X, QUANTITY).predict(X).shape == (700, 2)
