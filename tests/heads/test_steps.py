"""Steps do what scikit-learn's transformers do, learn from the training rows only, and come back from disk the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from embedcache.errors import HeadError
from heads.data.features import ArrayRows
from heads.steps import FILE, SteppedRows, Steps, StepsOptions, fit_steps
from tests.heads.stores import planted

TRAIN, REST = np.arange(0, 600, 2), np.arange(1, 600, 2)


@pytest.fixture(scope="module")
def features():
    return planted(600, 24)[0]


def fitted(features, text: str, rows=TRAIN) -> Steps:
    return fit_steps(ArrayRows(features), rows, StepsOptions.parse(text))


def after(features, steps: Steps, rows=REST) -> np.ndarray:
    return SteppedRows(ArrayRows(features), steps).take(rows)


def signed(values, like) -> np.ndarray:
    """Columns turned to the sign of those of `like`."""
    return values * np.sign((values * like).sum(0))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        ("l2", make_pipeline(Normalizer())),
        ("standardise", make_pipeline(StandardScaler())),
        ("pca:5", make_pipeline(PCA(5))),
        ("pca:5,whiten", make_pipeline(PCA(5, whiten=True))),
        ("whiten", make_pipeline(PCA(whiten=True))),
        ("l2,standardise,pca:7", make_pipeline(Normalizer(), StandardScaler(), PCA(7))),
        ("standardise, pca:7, whiten, l2", make_pipeline(StandardScaler(), PCA(7, whiten=True), Normalizer())),
        ("pca:6,standardise", make_pipeline(PCA(6), StandardScaler())),
    ],
)
def test_agrees_with_scikit_learn(features, text, theirs, dtype):
    values = features.astype(dtype)
    expected = theirs.fit(values[TRAIN].astype(np.float64)).transform(values[REST].astype(np.float64))
    found = after(values, fitted(values, text))
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(signed(found, expected), expected, atol=2e-4 * expected.std())


def test_learns_from_the_given_rows_only(features):
    changed = features.copy()
    changed[REST] += 100
    for text in ("standardise", "pca:4", "whiten"):
        ours, other = fitted(features, text), fitted(changed, text)
        np.testing.assert_array_equal(after(features, ours), after(features, other))


def test_the_share_of_variance_that_is_kept_is_told(features):
    share = PCA(3).fit(features[TRAIN].astype(np.float64)).explained_variance_ratio_.sum()
    assert fitted(features, "pca:3").notes == (f"pca:3 keeps {100 * share:.1f} % of the variance of the training rows",)


def test_components_are_signed_the_same_way_every_time(features):
    axes_Dd = fitted(features, "pca:24").steps[0].tensors()["axes"]
    assert (axes_Dd.gather(0, axes_Dd.abs().argmax(0, keepdim=True)) > 0).all()


def test_whitening_leaves_out_directions_in_which_the_training_rows_do_not_vary(features):
    features = np.concatenate([features, features[:, :3], np.full((600, 1), 7.5)], 1)  # 4 directions without variance
    steps = fitted(features, "standardise,whiten")
    assert (steps.dim_in, steps.dim_out) == (28, 24)
    assert steps.notes == ("whiten leaves out 4 of 28 directions without variance in the training rows",)
    values = after(features, steps, TRAIN)
    np.testing.assert_allclose(np.cov(values.T), np.eye(24), atol=1e-3)
    few = fitted(features, "whiten", TRAIN[:10])  # ten rows span nine directions
    assert few.dim_out == 9


def test_constant_features_become_zero_and_rows_of_zeros_stay_zero(features):
    features = features.copy()
    features[:, 3] = 40000.0
    features[1] = 0
    values = after(features, fitted(features, "standardise"), TRAIN)
    assert (values[:, 3] == 0).all()
    assert (after(features, fitted(features, "l2"))[0] == 0).all()


def test_one_row_is_standardised_to_zeros_and_has_no_components(features):
    assert (after(features, fitted(features, "standardise", TRAIN[:1]), TRAIN[:1]) == 0).all()
    with pytest.raises(HeadError, match="do not vary over the 1 training rows"):
        fitted(features, "whiten", TRAIN[:1])


def test_rows_are_gathered_into_a_given_array(features):
    steps = fitted(features, "pca:5")
    rows = SteppedRows(ArrayRows(features), steps)
    out = np.empty((len(REST), 5), np.float32)
    assert rows.take(REST, out=out) is out
    np.testing.assert_array_equal(out, rows.take(REST))
    assert (rows.dim, len(rows), rows.dtype) == (5, 600, np.float32)


@pytest.mark.parametrize("text", ["l2", "l2,standardise,pca:7,whiten", "standardise,pca:3,l2"])
def test_saved_steps_come_back_the_same(features, text, tmp_path):
    steps = fitted(features, text)
    settings = json.loads(json.dumps(steps.save(tmp_path)))
    again = Steps.load(tmp_path, settings)
    assert (again.dim_in, again.dim_out, again.notes) == (24, steps.dim_out, steps.notes)
    np.testing.assert_array_equal(after(features, again), after(features, steps))


def test_files_that_hold_no_sound_steps_are_refused(features, tmp_path):
    settings = fitted(features, "standardise,pca:7").save(tmp_path)
    tensors = load_file(tmp_path / FILE)
    for bad in (
        settings | {"steps": ["standardise", "pickle"]},
        settings | {"steps": ["project", "standardise"]},
        settings | {"dim": 23},
        settings | {"dim": "24"},
        settings | {"steps": ["standardise", "project", "project"]},
        {"dim": 24},
    ):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Steps.load(tmp_path, bad)
    for key, tensor in (("1.axes", torch.zeros(23, 7)), ("0.centre", torch.full((24,), torch.nan))):
        save_file(tensors | {key: tensor}, tmp_path / FILE)
        with pytest.raises(ValueError, match="fit each other|not finite"):
            Steps.load(tmp_path, settings)


@pytest.mark.parametrize("text", ["", "l3", "pca", "pca:0", "pca:-1", "pca:two", "l2:3", "l2,,whiten"])
def test_what_is_no_step_is_refused_with_the_list_of_those_that_are(text):
    with pytest.raises(HeadError, match="which is no step; the steps are l2, standardise, pca:K"):
        StepsOptions.parse(text)


def test_options_read_back_as_they_were_written():
    text = "l2,standardise,pca:128,whiten"
    assert str(StepsOptions.parse(text)) == text


def test_more_components_than_rows_or_features_are_refused(features):
    with pytest.raises(HeadError, match="more directions than 300 rows of 24 features"):
        fitted(features, "pca:25")
    with pytest.raises(HeadError, match="more directions than 10 rows of 24 features"):
        fitted(features, "pca:11", TRAIN[:10])


def test_values_that_are_not_finite_are_refused_by_name(features):
    broken = features.copy()
    broken[TRAIN[5], 2] = np.inf
    for text in ("standardise", "pca:3"):
        with pytest.raises(HeadError, match="feature 2 holds"):
            fitted(broken, text)
