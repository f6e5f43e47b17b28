"""Metrics and thresholds equal scikit-learn's; intervals equal a slow loop over the same resamples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from heads.decisions import decide, tune_threshold
from heads.metrics import METRICS, evaluate, resample


def binary(rows=400, rate=0.1, digits=2, seed=0):
    """Labels, probabilities with many ties, and decisions."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < rate).astype(np.int64)
    labels[:2] = 0, 1
    scores = np.round(1 / (1 + np.exp(-labels - rng.standard_normal(rows))), digits)
    return labels, np.stack([1 - scores, scores], axis=1), (scores > 0.6).astype(np.int64)


def several(rows=500, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    scores = np.round(rng.dirichlet(np.ones(classes), rows) + 0.5 * np.eye(classes)[labels], 2)
    scores /= scores.sum(1, keepdims=True)
    return labels, scores, scores.argmax(1)


def scikit_learns(labels, probabilities, predictions, weights=None):
    """The five metrics by scikit-learn."""
    common = {"sample_weight": weights}
    if probabilities.shape[1] == 2:
        auroc = sk.roc_auc_score(labels, probabilities[:, 1], **common)
        auprc = sk.average_precision_score(labels, probabilities[:, 1], **common)
        f1 = sk.f1_score(labels, predictions, zero_division=0, **common)
    else:
        auroc = sk.roc_auc_score(labels, probabilities, multi_class="ovr", **common)
        auprc = sk.average_precision_score(np.eye(probabilities.shape[1])[labels], probabilities, **common)
        f1 = sk.f1_score(labels, predictions, average="macro", zero_division=0, **common)
    mcc = sk.matthews_corrcoef(labels, predictions, **common)
    return np.array([auroc, auprc, mcc, f1, sk.accuracy_score(labels, predictions, **common)])


def as_array(scores):
    return np.array([getattr(scores, name) for name in METRICS])


@pytest.mark.parametrize(("rate", "digits"), [(0.02, 1), (0.1, 2), (0.5, 3), (0.5, 15), (0.9, 1)])
def test_binary_metrics_equal_scikit_learns_with_and_without_ties(rate, digits):
    for seed in range(5):
        case = binary(rate=rate, digits=digits, seed=seed)
        found = as_array(evaluate(*case, resamples=0).scores)
        np.testing.assert_allclose(found, scikit_learns(*case), rtol=0, atol=1e-12)


@pytest.mark.parametrize("classes", [3, 6])
def test_multiclass_metrics_equal_scikit_learns(classes):
    case = several(classes=classes)
    np.testing.assert_allclose(as_array(evaluate(*case, resamples=0).scores), scikit_learns(*case), rtol=0, atol=1e-12)


def test_constant_scores_are_worth_half_and_the_prevalence():
    labels = np.array([0, 0, 0, 1])
    found = evaluate(labels, np.tile([0.7, 0.3], (4, 1)), np.zeros(4, np.int64), resamples=0).scores
    assert (found.auroc, found.auprc, found.mcc, found.f1) == (0.5, 0.25, 0, 0)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("case", [binary(), several()])
def test_intervals_equal_a_scikit_learn_loop_over_the_same_resamples(case, grouped):
    labels = case[0]
    groups = np.arange(len(labels)) // 7 if grouped else None
    found = evaluate(*case, resamples=60, groups=groups, seed=3)
    assert found.intervals is not None
    counts = np.concatenate(list(resample(len(labels), 60, groups, 3)))
    loop = []
    for weights in counts:
        drawn = np.repeat(np.arange(len(labels)), weights)
        loop.append(scikit_learns(*(part[drawn] for part in case)))
    low, high = np.quantile(loop, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(
        [getattr(found.intervals, name) for name in METRICS], np.stack([low, high], 1), atol=1e-12
    )


def test_grouped_resamples_draw_whole_groups_and_lone_rows_alone():
    groups = np.array([0, 0, 0, 1, 1, -1, -1])
    for counts in resample(7, 50, groups, 0):
        assert (counts[:, 0] == counts[:, 1]).all()
        assert (counts[:, 3] == counts[:, 4]).all()
        assert (counts[:, 5] != counts[:, 6]).any()


def test_resamples_without_positives_are_left_out_of_the_intervals():
    labels, probabilities, predictions = binary(rows=40, rate=0.0)
    found = evaluate(labels, probabilities, predictions, resamples=200)
    assert found.intervals is not None
    assert np.isfinite(found.intervals.auroc).all()


@pytest.mark.parametrize("metric", ["f1", "mcc"])
@pytest.mark.parametrize("digits", [1, 15])
def test_the_threshold_is_the_best_of_all_cuts(metric, digits):
    score = sk.f1_score if metric == "f1" else sk.matthews_corrcoef
    for seed in range(5):
        labels, probabilities, _ = binary(rows=120, rate=0.2, digits=digits, seed=seed)
        threshold = tune_threshold(labels == 1, probabilities[:, 1], metric)
        cuts = [score(labels, probabilities[:, 1] >= cut) for cut in np.unique(probabilities[:, 1])]
        assert score(labels, decide(probabilities, threshold.value)) == pytest.approx(max(cuts), abs=1e-12)
        assert threshold.score == pytest.approx(max(cuts), abs=1e-12)


def test_a_threshold_lies_between_scores():
    threshold = tune_threshold(np.array([False, True, True]), np.array([0.2, 0.4, 0.9]), "f1")
    assert threshold.value == pytest.approx(0.3)


def test_one_group_gets_no_interval_and_few_groups_a_note():
    case = binary(rows=60, rate=0.5)
    one = evaluate(*case, groups=np.zeros(60, np.int64))
    assert one.intervals is None
    assert one.to_json()["auprc_ci"] is None
    assert one.notes == ("has 1 group: it gets no intervals",)
    three = evaluate(*case, groups=np.arange(60) % 3)
    assert three.intervals is not None
    assert three.notes == ("has 3 groups: its intervals are rough",)
    assert evaluate(*case, groups=np.arange(60) % 10).notes == ()
    assert evaluate(*case).notes == ()


def test_resamples_that_lack_a_class_are_counted():
    labels, probabilities, predictions = binary(rows=40, rate=0.0)
    counts = np.concatenate(list(resample(40, 200, None, 0)))
    lacking = int(((counts[:, labels == 1].sum(1) == 0) | (counts[:, labels == 0].sum(1) == 0)).sum())
    assert lacking
    (note,) = evaluate(labels, probabilities, predictions, resamples=200).notes
    assert note == f"lacks a class in {lacking} of 200 resamples: its AUROC interval does without them"
