"""scikit-learn takes the perceptrons for its own."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from heads.linear.linear_estimators import LogisticHead
from heads.perceptron.mlp_estimators import MLPClassifierHead, MLPRegressorHead
from tests.heads.stores import planted


def expected_to_fail(estimator):
    """Shuffled batches of a row twice and of a row with weight two are not the same batches."""
    reason = "rows are standardised and drawn whatever their weight"
    return {f"check_sample_weight_equivalence_on_{layout}_data": reason for layout in ("dense", "sparse")}


@parametrize_with_checks(
    [MLPClassifierHead(hidden=(16,), epochs=15, lr=1e-2), MLPRegressorHead(hidden=(16,), epochs=15, lr=3e-2)],
    expected_failed_checks=expected_to_fail,
)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_validation_rows_stop_the_fit_and_choose_the_epoch():
    X, codes = planted(400, 12)
    head = MLPClassifierHead(epochs=60, patience=3, lr=3e-2, select="auroc", schedule="constant")
    head.fit(X[:200], codes[:200], X_val=X[200:], y_val=codes[200:])
    values = [record["val_auroc"] for record in head.history_]
    assert len(values) < 60
    assert head.n_epochs_ == int(np.argmax(values)) + 1 == len(values) - 3
    everything = clone(head).fit(X[:200], codes[:200])
    assert len(everything.history_) == everything.n_epochs_ == 60
    with pytest.raises(ValueError, match="belong together"):
        head.fit(X, codes, X_val=X)
    with pytest.raises(ValueError, match="y_val holds a class"):
        head.fit(X, codes, X_val=X, y_val=codes + 1)


def test_several_labels_are_learned_at_once():
    X, codes = planted(600, 12, 3)
    labels = np.stack([codes == 0, codes == 1], axis=1).astype(int)
    head = MLPClassifierHead(epochs=20).fit(X, labels)
    assert head.predict_proba(X).shape == (600, 2)
    theirs = OneVsRestClassifier(LogisticHead()).fit(X, labels)
    assert (head.predict(X) == labels).mean() > (theirs.predict(X) == labels).mean() - 0.02


def test_quantiles_are_columns_in_rising_order():
    X, _ = planted(300, 6)
    y = X[:, 0].astype(float) + np.random.default_rng(0).standard_normal(300)
    said = MLPRegressorHead(quantiles=(0.9, 0.1)).fit(X, y).predict(X)
    assert said.shape == (300, 2)
    assert (said[:, 0] <= said[:, 1]).all()
    assert MLPRegressorHead(quantiles=(0.5,), epochs=1).fit(X, y).predict(X).shape == (300,)


def test_seeds_repeat_a_fit_and_no_seed_does_not():
    X, codes = planted(100, 6)

    def fitted(seed):
        return MLPClassifierHead(epochs=2, random_state=seed).fit(X, codes).predict_proba(X)

    assert (fitted(3) == fitted(3)).all()
    assert (fitted(np.random.RandomState(3)) == fitted(np.random.RandomState(3))).all()
    assert (fitted(None) != fitted(None)).any()


def test_it_works_in_cross_validation():
    X, codes = planted(400, 12)
    ours, theirs = (
        cross_val_score(head, X, codes, cv=3, scoring="roc_auc").mean()
        for head in (MLPClassifierHead(epochs=10), LogisticHead())
    )
    assert ours > theirs - 0.03
