"""Every metric equals scikit-learn's or scipy's; every interval equals a slow loop over the same resamples."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from embedcache.errors import HeadError
from heads.data.target import Target
from heads.judging.bootstrap import distance_interval, resample
from heads.judging.class_metrics import Calibration
from heads.judging.metrics import METRICS_OF, better, check_metric, evaluate, score

QUANTILES = (0.1, 0.5, 0.9)
OF_DECISIONS = {
    "f1": sk.f1_score,
    "mcc": sk.matthews_corrcoef,
    "acc": sk.accuracy_score,
    "balanced_acc": sk.balanced_accuracy_score,
}


def binary(rows=400, rate=0.1, digits=2, seed=0):
    """A target, probabilities with many ties, and decisions."""
    rng = np.random.default_rng(seed)
    codes = (rng.random(rows) < rate).astype(np.int64)
    codes[:2] = 0, 1
    scores = np.round(1 / (1 + np.exp(-codes - rng.standard_normal(rows))), digits)
    return Target("binary", ("no", "yes"), codes), np.stack([1 - scores, scores], 1), (scores > 0.6).astype(np.int64)


def multiclass(rows=500, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.integers(classes, size=rows)
    scores = np.round(rng.dirichlet(np.ones(classes), rows) + 0.5 * np.eye(classes)[codes], 2) + 0.01
    scores /= scores.sum(1, keepdims=True)
    return Target("multiclass", tuple("abcdef"[:classes]), codes), scores, scores.argmax(1)


def multilabel(rows=400, labels=3, seed=0):
    rng = np.random.default_rng(seed)
    values = (rng.random((rows, labels)) < [0.1, 0.3, 0.7]).astype(np.int64)
    scores = np.round(np.clip(0.3 * values + 0.7 * rng.random((rows, labels)), 0.01, 0.99), 2)
    return Target("multilabel", ("x", "y", "z"), values), scores, (scores > 0.45).astype(np.int64)


def quantity(rows=300, digits=1, seed=0, quantiles=QUANTILES):
    """Values far from zero with ties, and quantiles of them."""
    rng = np.random.default_rng(seed)
    values = np.round(1000 + rng.standard_normal(rows), digits)
    outputs = np.sort(np.round(values[:, None] + rng.standard_normal((rows, len(quantiles) or 1)), digits), axis=1)
    return Target("regression", ("psi",), values), outputs, outputs[:, len(quantiles) // 2]


def of_two(codes, p, decided):
    """The metrics of two classes by scikit-learn."""
    found = {
        "auroc": sk.roc_auc_score(codes, p),
        "auprc": sk.average_precision_score(codes, p),
        "mcc": sk.matthews_corrcoef(codes, decided),
        "f1": sk.f1_score(codes, decided, zero_division=0),
        "acc": sk.accuracy_score(codes, decided),
        "balanced_acc": sk.balanced_accuracy_score(codes, decided),
        "precision": sk.precision_score(codes, decided, zero_division=0),
        "recall": sk.recall_score(codes, decided),
        "brier": sk.brier_score_loss(codes, p),
        "log_loss": sk.log_loss(codes, p),
    }
    return {name: float(value) for name, value in found.items()}


def of_more(codes, probabilities, decided):
    """The metrics of several classes by scikit-learn."""
    wanted = {"average": "macro", "zero_division": 0}
    one_hot = np.eye(probabilities.shape[1])[codes]
    return {
        "auroc": sk.roc_auc_score(codes, probabilities, multi_class="ovr"),
        "auprc": sk.average_precision_score(one_hot, probabilities),
        "mcc": sk.matthews_corrcoef(codes, decided),
        "f1": sk.f1_score(codes, decided, **wanted),
        "acc": sk.accuracy_score(codes, decided),
        "balanced_acc": sk.balanced_accuracy_score(codes, decided),
        "precision": sk.precision_score(codes, decided, **wanted),
        "recall": sk.recall_score(codes, decided, **wanted),
        "brier": ((probabilities - one_hot) ** 2).sum(1).mean(),
        "log_loss": sk.log_loss(codes, probabilities),
    }


def of_quantity(values, outputs, point, quantiles=QUANTILES):
    """The metrics of a quantity by scipy and scikit-learn."""
    pearson, spearman = stats.pearsonr(values, point), stats.spearmanr(values, point)
    losses = {
        f"pinball_{q}": sk.mean_pinball_loss(values, outputs[:, i], alpha=q) for i, q in enumerate(quantiles)
    } or {"pinball": sk.mean_absolute_error(values, point) / 2}
    return {
        "pearson": pearson.statistic,
        "pearson_p": pearson.pvalue,
        "spearman": spearman.statistic,
        "spearman_p": spearman.pvalue,
        "r2": sk.r2_score(values, point),
        "rmse": sk.mean_squared_error(values, point) ** 0.5,
        "mae": sk.mean_absolute_error(values, point),
        **losses,
        "pinball": float(np.mean(list(losses.values()))),
    }


def reference(target, outputs, predictions, quantiles=QUANTILES):
    """All metrics but the calibration error, by others."""
    if target.kind == "binary":
        return of_two(target.values, outputs[:, 1], predictions)
    if target.kind == "multiclass":
        return of_more(target.values, outputs, predictions)
    if target.kind == "regression":
        return of_quantity(target.values, outputs, predictions, quantiles)
    by_label = [of_two(*columns) for columns in zip(target.values.T, outputs.T, predictions.T, strict=True)]
    return {name: float(np.mean([found[name] for found in by_label])) for name in by_label[0]}


def calibration_error(positive, p, rows=None):
    """Fifteen bins of equal count, border by border; `rows` may name some rows several times."""
    rising = np.sort(p)
    borders = np.unique([rising[i * len(p) // 15] for i in range(15)])
    rows = np.arange(len(p)) if rows is None else rows
    bins = np.array([np.flatnonzero(borders <= value)[-1] for value in p[rows]])
    inside = [rows[bins == one] for one in np.unique(bins)]
    return sum(len(part) / len(rows) * abs(positive[part].mean() - p[part].mean()) for part in inside)


@pytest.mark.parametrize(("rate", "digits"), [(0.02, 1), (0.1, 2), (0.5, 3), (0.5, 15), (0.9, 1)])
def test_binary_metrics_equal_scikit_learns_with_and_without_ties(rate, digits):
    for seed in range(5):
        case = binary(rate=rate, digits=digits, seed=seed)
        found = evaluate(*case, resamples=0).values
        assert {**found} == pytest.approx(reference(*case) | {"ece": found["ece"]}, abs=1e-12)


@pytest.mark.parametrize("case", [multiclass(classes=3), multiclass(classes=6), multilabel()])
def test_metrics_of_several_classes_and_labels_equal_scikit_learns(case):
    found = evaluate(*case, resamples=0).values
    assert {**found} == pytest.approx(reference(*case) | {"ece": found["ece"]}, abs=1e-12)


@pytest.mark.parametrize("digits", [0, 1, 15])
@pytest.mark.parametrize("quantiles", [QUANTILES, ()])
def test_metrics_of_a_quantity_equal_scipys_and_scikit_learns(digits, quantiles):
    target, outputs, point = quantity(digits=digits, quantiles=quantiles)
    found = evaluate(target, outputs, point, quantiles=quantiles, resamples=0).values
    assert {**found} == pytest.approx(reference(target, outputs, point, quantiles), rel=1e-9)


def test_classes_that_are_never_predicted_or_never_true_count_as_scikit_learn_counts_them():
    codes, decided = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 3, 1, 1, 1, 0])
    target = Target("multiclass", tuple("abcde"), codes)
    found = evaluate(target, np.full((6, 5), 0.2), decided, resamples=0)
    wanted = {"average": "macro", "zero_division": 0}
    assert found.values["f1"] == pytest.approx(sk.f1_score(codes, decided, **wanted))
    assert found.values["precision"] == pytest.approx(sk.precision_score(codes, decided, **wanted))
    assert found.values["recall"] == pytest.approx(sk.recall_score(codes, decided, **wanted))
    assert found.values["balanced_acc"] == pytest.approx(np.mean([0.5, 1, 0]))  # scikit-learn warns of class 3
    assert "has no rows of class d, e: mean AUROC and AUPRC do without" in found.notes


@pytest.mark.parametrize("digits", [1, 2, 15])
def test_the_calibration_error_is_that_of_fifteen_bins_of_equal_count(digits):
    target, outputs, _ = binary(rows=600, digits=digits)
    p = outputs[:, 1]
    assert evaluate(target, outputs, resamples=0).values["ece"] == pytest.approx(calibration_error(target.values, p))
    if digits == 15:
        share, mean = calibration_curve(target.values, p, n_bins=15, strategy="quantile")
        assert calibration_error(target.values, p) == pytest.approx(np.abs(share - mean).mean())


def test_the_calibration_error_of_classes_and_labels_is_the_mean_of_theirs():
    target, outputs, _ = multilabel()
    labels = [calibration_error(*pair) for pair in zip(target.values.T, outputs.T, strict=True)]
    assert evaluate(target, outputs, resamples=0).values["ece"] == pytest.approx(np.mean(labels))
    target, outputs, _ = multiclass()
    classes = [calibration_error(target.values == one, outputs[:, one]) for one in range(4)]
    assert evaluate(target, outputs, resamples=0).values["ece"] == pytest.approx(np.mean(classes))


def test_tied_probabilities_share_a_bin_whatever_the_order_of_the_rows():
    target, outputs, _ = binary(digits=1)
    order = np.random.default_rng(0).permutation(len(target))
    again = evaluate(target.take(order), outputs[order], resamples=0).values["ece"]
    assert again == pytest.approx(evaluate(target, outputs, resamples=0).values["ece"], abs=1e-14)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("case", [binary(), multiclass(), multilabel(), quantity(), quantity(digits=15)])
def test_intervals_equal_a_loop_over_repeated_rows(case, grouped):
    target = case[0]
    quantiles = QUANTILES if target.kind == "regression" else ()
    groups = np.arange(len(target)) // 7 if grouped else None
    found = evaluate(*case, quantiles=quantiles, resamples=9, groups=groups, seed=3)
    loop = []
    for counts in np.concatenate(list(resample(len(target), 9, groups, 3))):
        rows = np.repeat(np.arange(len(target)), counts)
        loop.append(reference(target.take(rows), case[1][rows], case[2][rows]))
    for name in set(found.intervals) - {"ece"}:
        ends = np.quantile([values[name] for values in loop], [0.025, 0.975])
        assert found.intervals[name] == pytest.approx(ends, rel=1e-9, abs=1e-12), name


def test_the_calibration_error_of_a_resample_is_that_of_its_rows_in_the_same_bins():
    target, outputs, _ = binary()
    counts = np.concatenate(list(resample(len(target), 5, None, 0)))
    found = Calibration([(target.values == 1, outputs[:, 1])])(counts)[:, 0]
    rows = np.arange(len(target))
    assert found == pytest.approx(
        [calibration_error(target.values, outputs[:, 1], np.repeat(rows, times)) for times in counts]
    )


def test_the_interval_of_a_calibration_error_holds_the_true_one_and_reaches_0_where_it_is_chance():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.6, 4000)
    yes = rng.random(4000) < p
    target = Target("binary", (0, 1), yes.astype(np.int64))
    sound = evaluate(target, np.stack([1 - p, p], 1), resamples=200)
    assert sound.intervals["ece"][0] == 0
    assert "has a calibration error (ECE) no larger than chance gives calibrated scores" in sound.notes
    off = evaluate(target, np.stack([0.8 - p, p + 0.2], 1), resamples=200)
    assert 0.15 < off.intervals["ece"][0] < 0.2 < off.intervals["ece"][1]
    assert off.notes == ()


def test_the_ends_of_a_distance_are_mirrored_at_its_value():
    assert distance_interval(np.linspace(0.9, 1.3, 101), 1.0) == pytest.approx((0.71, 1.09))
    assert distance_interval(np.array([np.nan]), 1.0) is None


def test_the_same_seed_draws_the_same_resamples_for_other_outputs():
    target, outputs, predictions = binary()
    one, again, other = (evaluate(target, outputs, predictions, seed=seed, resamples=50) for seed in (1, 1, 2))
    assert one == again
    assert one.intervals != other.intervals
    alone = evaluate(target, outputs, predictions, seed=1, resamples=50, intervals_of=("auprc",))
    assert alone.intervals["auprc"] == one.intervals["auprc"]
    assert alone.intervals["auroc"] is None
    assert alone.values == one.values


def test_grouped_resamples_draw_whole_groups_and_lone_rows_alone():
    groups = np.array([0, 0, 0, 1, 1, -1, -1])
    for counts in resample(7, 50, groups, 0):
        assert (counts[:, 0] == counts[:, 1]).all()
        assert (counts[:, 3] == counts[:, 4]).all()
        assert (counts[:, 5] != counts[:, 6]).any()


def test_constant_scores_are_worth_half_and_the_prevalence():
    target = Target("binary", (0, 1), np.array([0, 0, 0, 1]))
    found = evaluate(target, np.tile([0.7, 0.3], (4, 1)), resamples=0).values
    assert [found[name] for name in ("auroc", "auprc", "mcc", "f1", "recall", "precision")] == [0.5, 0.25, 0, 0, 0, 0]


@pytest.mark.parametrize(("code", "missing"), [(0, "yes"), (1, "no")])
def test_rows_of_one_class_have_no_ranking_metrics_and_say_so(code, missing):
    target = Target("binary", ("no", "yes"), np.full(30, code))
    p = np.linspace(0.1, 0.9, 30)
    found = evaluate(target, np.stack([1 - p, p], 1), resamples=50)
    assert math.isnan(found.values["auroc"])
    assert math.isnan(found.values["auprc"])
    assert found.intervals["auroc"] is None
    assert found.values["acc"] == 0.5
    assert f"has no rows of class {missing}: AUROC and AUPRC are not defined" in found.notes
    saved = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert saved["auroc"] is None
    assert saved["detection_by_class"][missing] is None
    assert saved["mean_score_by_class"][missing] is None


def test_a_label_of_one_value_is_left_out_of_the_mean_areas():
    target, outputs, predictions = multilabel()
    values = target.values.copy()
    values[:, 1] = 0
    found = evaluate(Target("multilabel", target.names, values), outputs, predictions, resamples=0)
    areas = [sk.roc_auc_score(values[:, one], outputs[:, one]) for one in (0, 2)]
    assert found.values["auroc"] == pytest.approx(np.mean(areas))
    assert "has one value only of label y: mean AUROC and AUPRC do without" in found.notes


def test_constant_values_or_predictions_have_no_correlation():
    target, outputs, _ = quantity()
    flat = Target("regression", ("psi",), np.full(len(target), 0.1))
    found = evaluate(flat, outputs, quantiles=QUANTILES, resamples=20)
    assert all(math.isnan(found.values[name]) for name in ("pearson", "spearman", "r2", "pearson_p", "spearman_p"))
    assert found.intervals["pearson"] is None
    assert found.values["mae"] > 0
    assert found.notes == ("has one true value only: correlations and R2 are not defined",)
    found = evaluate(target, np.full((len(target), 1), 1000.1), resamples=20)
    assert math.isnan(found.values["pearson"])
    assert math.isnan(found.values["spearman"])
    assert found.values["r2"] == pytest.approx(sk.r2_score(target.values, np.full(len(target), 1000.1)))


def test_two_rows_have_a_correlation_but_no_p_value():
    target = Target("regression", ("psi",), np.array([1.0, 2.0]))
    found = evaluate(target, np.array([[1.0], [5.0]]), resamples=50)
    assert found.values["pearson"] == pytest.approx(1)
    assert math.isnan(found.values["pearson_p"])
    assert found.notes[0] == "has few rows (2): its metrics are rough"
    assert found.notes[1].startswith("lacks a second value in ")


def test_one_row_is_evaluated_without_intervals():
    found = evaluate(Target("binary", (0, 1), np.array([1])), np.array([[0.2, 0.8]]))
    assert found.values["acc"] == 1
    assert set(found.intervals.values()) == {None}
    assert "has 1 row: it gets no intervals" in found.notes


def test_one_group_gets_no_interval_and_few_groups_a_note():
    case = binary(rows=60, rate=0.5, seed=1)
    wanted = {"intervals_of": ("auroc", "auprc"), "resamples": 50}
    one = evaluate(*case, groups=np.zeros(60, np.int64), **wanted)
    assert one.to_json()["auprc_ci"] is None
    assert one.notes == ("has 1 group: it gets no intervals",)
    three = evaluate(*case, groups=np.arange(60) % 3, **wanted)
    assert three.intervals["auprc"] is not None
    assert three.notes == ("has 3 groups: its intervals are rough",)
    assert evaluate(*case, groups=np.arange(60) % 10, **wanted).notes == ()
    assert evaluate(*case, **wanted).notes == ()


def test_resamples_that_lack_a_class_are_left_out_and_counted():
    target, outputs, predictions = binary(rows=40, rate=0.0)
    counts = np.concatenate(list(resample(40, 200, None, 0)))
    yes = target.values == 1
    lacking = int(((counts[:, yes].sum(1) == 0) | (counts[:, ~yes].sum(1) == 0)).sum())
    assert lacking
    found = evaluate(target, outputs, predictions, resamples=200, intervals_of=("auroc",))
    assert np.isfinite(found.intervals["auroc"]).all()
    assert found.notes == (
        "has few rows of class yes (1): its metrics are rough",
        f"lacks a class in {lacking} of 200 resamples: its AUROC interval does without them",
    )


def test_two_classes_are_counted_by_class():
    target, outputs, predictions = binary()
    found = evaluate(target, outputs, predictions, resamples=0)
    yes, p = target.values == 1, outputs[:, 1]
    assert found.confusion == tuple(map(tuple, sk.confusion_matrix(target.values, predictions)))
    assert found.class_rows == (int((~yes).sum()), int(yes.sum()))
    assert found.prevalence == yes.mean()
    assert found.positive_rate == predictions.mean()
    assert found.mean_score_by_class == pytest.approx({"no": p[~yes].mean(), "yes": p[yes].mean()})
    assert found.detection_by_class == pytest.approx({"no": predictions[~yes].mean(), "yes": predictions[yes].mean()})


def test_more_classes_and_labels_are_counted_by_class_and_label():
    target, outputs, predictions = multiclass()
    found = evaluate(target, outputs, predictions, resamples=0)
    assert found.confusion == tuple(map(tuple, sk.confusion_matrix(target.values, predictions)))
    assert found.positive_rate is None
    assert found.detection_by_class["b"] == pytest.approx((predictions == 1)[target.values == 1].mean())
    assert found.mean_score_by_class["b"] == pytest.approx(outputs[target.values == 1, 1].mean())
    target, outputs, predictions = multilabel()
    found = evaluate(target, outputs, predictions, resamples=0)
    matrices = sk.multilabel_confusion_matrix(target.values, predictions).reshape(-1, 4)
    assert found.confusion == tuple(map(tuple, matrices))
    assert found.class_rows == tuple(target.values.sum(0))
    assert found.prevalence == pytest.approx(target.values.mean())
    assert found.positive_rate == pytest.approx(predictions.mean())
    assert found.detection_by_class["y"] == pytest.approx(predictions[target.values[:, 1] == 1, 1].mean())


def test_the_file_has_the_names_that_comparison_scripts_read():
    saved = json.loads(json.dumps(evaluate(*binary(), resamples=20).to_json(), allow_nan=False))
    for name in ("auroc", "auprc", "mcc", "f1", "acc"):
        low, high = saved[f"{name}_ci"]
        assert low <= saved[name] <= high
    assert saved["rows"] == sum(saved["class_rows"]) == 400
    target, outputs, _ = quantity()
    saved = json.loads(json.dumps(evaluate(target, outputs, quantiles=QUANTILES, resamples=20).to_json()))
    assert saved["pinball_0.9"] > 0
    assert "pearson_p_ci" not in saved


@pytest.mark.parametrize("metric", list(OF_DECISIONS))
@pytest.mark.parametrize("digits", [1, 15])
def test_a_head_of_two_classes_is_chosen_at_its_best_cut(metric, digits):
    for seed in range(2):
        target, outputs, _ = binary(rows=40, rate=0.3, digits=digits, seed=seed)
        p = outputs[:, 1]
        cuts = [OF_DECISIONS[metric](target.values, p >= cut) for cut in (*np.unique(p), 2)]
        assert score(target, outputs, metric) == pytest.approx(max(cuts), abs=1e-12)


@pytest.mark.parametrize("metric", list(OF_DECISIONS))
def test_a_head_of_labels_is_chosen_at_the_best_cut_of_each(metric):
    target, outputs, _ = multilabel(rows=30)
    best = []
    for yes, p in zip(target.values.T, outputs.T, strict=True):
        best.append(max(OF_DECISIONS[metric](yes, p >= cut) for cut in (*np.unique(p), 2)))
    assert score(target, outputs, metric) == pytest.approx(np.mean(best), abs=1e-12)


@pytest.mark.parametrize("case", [binary(), multiclass(), multilabel(), quantity()])
def test_a_head_is_chosen_by_the_metric_that_the_table_shows(case):
    target, outputs, _ = case
    quantiles = QUANTILES if target.kind == "regression" else ()
    at_cut = () if target.kind in ("multiclass", "regression") else OF_DECISIONS
    shown = evaluate(target, outputs, quantiles=quantiles, resamples=0).values
    for metric in set(METRICS_OF[target.kind]) - set(at_cut):
        assert score(target, outputs, metric, quantiles) == pytest.approx(shown[metric], abs=1e-12)


def test_logits_rank_like_probabilities():
    target, outputs, _ = binary()
    logits = np.log(outputs[:, 1] / outputs[:, 0])
    assert score(target, np.stack([-logits, logits], 1), "auprc") == score(target, outputs, "auprc")


def test_outputs_that_are_not_finite_are_never_the_better_ones():
    target, outputs, _ = binary()
    broken = outputs.copy()
    broken[3, 1] = np.nan
    found = score(target, broken, "auprc")
    assert math.isnan(found)
    assert better("auprc", 0.1, found)
    assert not better("auprc", found, 0.1)
    assert not better("auprc", found, found)


def test_losses_are_better_where_they_are_lower():
    assert better("auroc", 0.9, 0.8)
    assert not better("auroc", 0.8, 0.8)
    for metric in ("brier", "log_loss", "ece", "rmse", "mae", "pinball"):
        assert better(metric, 0.1, 0.2)
        assert not better(metric, 0.2, 0.1)


def test_a_metric_of_another_kind_is_refused_with_those_there_are():
    with pytest.raises(HeadError, match="'rmse' is no metric of a binary target; it has auroc, auprc"):
        check_metric("binary", "rmse")
    with pytest.raises(HeadError, match="it has pearson, spearman"):
        score(quantity()[0], quantity()[1], "auroc", QUANTILES)
    with pytest.raises(HeadError, match="'rmse' is no metric"):
        evaluate(*binary(), intervals_of=("auroc", "rmse"))


def test_parts_that_do_not_fit_are_refused():
    target, outputs, predictions = binary(rows=50)
    with pytest.raises(HeadError, match="no rows to evaluate"):
        evaluate(target.take(np.arange(0)), outputs[:0])
    with pytest.raises(HeadError, match=r"need outputs of shape \(50, 2\), and these have \(50,\)"):
        evaluate(target, outputs[:, 1])
    with pytest.raises(HeadError, match=r"need the shape \(50,\), and these have \(49,\)"):
        evaluate(target, outputs, predictions[1:])
    with pytest.raises(HeadError, match="codes from 0 to 1"):
        evaluate(target, outputs, predictions + 1)
    with pytest.raises(HeadError, match="1 rows have outputs that are not finite"):
        evaluate(target, np.where(np.arange(50)[:, None] == 7, np.inf, outputs))
    with pytest.raises(HeadError, match="one group each"):
        evaluate(target, outputs, groups=np.zeros(3, np.int64))
    with pytest.raises(HeadError, match="-1 bootstrap resamples"):
        evaluate(target, outputs, resamples=-1)
    target, outputs, point = quantity()
    with pytest.raises(HeadError, match=r"outputs of shape \(300, 2\)"):
        evaluate(target, outputs, quantiles=(0.1, 0.9))
    with pytest.raises(HeadError, match="predictions hold values that are not finite"):
        evaluate(target, outputs, np.where(point > 1001, np.nan, point), quantiles=QUANTILES)
