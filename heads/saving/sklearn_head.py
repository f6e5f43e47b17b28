"""A trained head as a scikit-learn pipeline, made of arrays alone.

This file and ``weights.npz`` are all there is: numpy and scikit-learn are needed, nothing is unpickled::

    from sklearn_head import load
    probabilities = load().predict_proba(features)

`features` are (n, D) as the encoder gave them, one row a sequence. Of a measured quantity ``load().predict(features)`` gives
its values. Of two classes `predict` cuts at the threshold that was tuned on the validation rows; of several labels it cuts
at 0.5, and ``layout()["thresholds"]`` holds the tuned ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import VotingClassifier, VotingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, LabelBinarizer, LabelEncoder, Normalizer, StandardScaler

WEIGHTS = "weights.npz"
Arrays = Mapping[str, np.ndarray[Any, np.dtype[Any]]]


def layout(folder: Path = Path(__file__).parent) -> dict[str, Any]:
    """What the arrays are: steps, kind, classes, thresholds, and the encoder whose features the head expects."""
    with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
        values: dict[str, Any] = json.loads(str(arrays["layout"]))
        return values


def load(folder: Path = Path(__file__).parent) -> Pipeline:
    """Return the fitted pipeline of the folder that this file lies in."""
    with np.load(folder / WEIGHTS, allow_pickle=False) as arrays:
        return pipeline(json.loads(str(arrays["layout"])), dict(arrays))


def pipeline(values: Mapping[str, Any], arrays: Arrays) -> Pipeline:
    """Put arrays together as `layout` says."""
    # float16 features would stay float16 in StandardScaler
    steps = [("float64", FunctionTransformer(np.asarray, kw_args={"dtype": "float64"}))]
    steps += [(f"{place}_{name}", _step(name, f"steps.{place}", arrays)) for place, name in enumerate(values["steps"])]
    head = _head(values["head"], values, "head", arrays)
    if values["target"] == "binary":
        tuned = FixedThresholdClassifier(
            FrozenEstimator(head),
            threshold=values["thresholds"][0],
            pos_label=values["names"][1],
            response_method="predict_proba",
        )
        tuned.estimator_ = tuned.estimator
        head = tuned
    return Pipeline([*steps, ("head", head)])


def _step(name: str, at: str, arrays: Arrays) -> Any:
    if name == "l2":
        return Normalizer()
    if name == "standardise":
        return _scaler(at, arrays)
    axes_Dd, pca = arrays[f"{at}.axes"], PCA()
    pca.mean_, pca.components_, pca.n_components_ = arrays[f"{at}.centre"], axes_Dd.T, axes_Dd.shape[1]
    pca.n_features_in_ = len(axes_Dd)
    return pca


def _scaler(at: str, arrays: Arrays) -> StandardScaler:
    factor, scaler = arrays[f"{at}.factor"], StandardScaler()
    with np.errstate(divide="ignore"):
        scaler.scale_ = 1 / factor  # infinite for a constant feature, which so becomes 0
    scaler.mean_, scaler.var_ = arrays[f"{at}.centre"], scaler.scale_**2
    scaler.n_features_in_, scaler.n_samples_seen_ = len(factor), 1
    return scaler


def _head(kind: str, values: Mapping[str, Any], at: str, arrays: Arrays) -> Any:
    if kind == "ensemble":
        return _ensemble(values, at, arrays)
    if kind == "neighbours":
        return _neighbours(values, at, arrays)
    estimator = {"linear": _ridge, "logistic": _logistic, "perceptron": _perceptron}[kind](values, at, arrays)
    return Pipeline([("standardise", _scaler(at, arrays)), (kind, estimator)])


def _ridge(values: Mapping[str, Any], at: str, arrays: Arrays) -> Ridge:
    weights_CD, ridge = arrays[f"{at}.weight0"].T, Ridge()
    ridge.coef_, ridge.intercept_, ridge.n_features_in_ = weights_CD[0], arrays[f"{at}.bias0"][0], weights_CD.shape[1]
    return ridge


def _logistic(values: Mapping[str, Any], at: str, arrays: Arrays) -> LogisticRegression | OneVsRestClassifier:
    weights_MD, intercepts_M = arrays[f"{at}.weight0"].T, arrays[f"{at}.bias0"]
    if values["target"] != "multilabel":
        return _regression(weights_MD, intercepts_M, np.array(values["names"]))
    estimators = [
        _regression(weights_1D[None], intercept_1[None], np.arange(2))
        for weights_1D, intercept_1 in zip(weights_MD, intercepts_M, strict=True)
    ]
    return _one_by_one(estimators, weights_MD.shape[1])


def _regression(weights_MD: Any, intercepts_M: Any, classes: Any) -> LogisticRegression:
    regression = LogisticRegression()
    regression.coef_, regression.intercept_, regression.classes_ = weights_MD, intercepts_M, classes
    regression.n_features_in_ = weights_MD.shape[1]
    return regression


def _perceptron(values: Mapping[str, Any], at: str, arrays: Arrays) -> MLPClassifier | MLPRegressor:
    layers = sum(name.startswith(f"{at}.weight") for name in arrays)
    weights = [arrays[f"{at}.weight{layer}"] for layer in range(layers)]
    target, widths = values["target"], tuple(weight.shape[1] for weight in weights)
    mlp = (MLPRegressor if target == "regression" else MLPClassifier)(widths[:-1], activation="relu")
    mlp.coefs_, mlp.intercepts_ = weights, [arrays[f"{at}.bias{layer}"] for layer in range(layers)]
    mlp.n_layers_, mlp.n_outputs_, mlp.n_features_in_ = layers + 1, widths[-1], len(weights[0])
    mlp.out_activation_ = {"regression": "identity", "multiclass": "softmax"}.get(target, "logistic")
    if target != "regression":
        classes = np.arange(widths[-1]) if target == "multilabel" else np.array(values["names"])
        binarizer = LabelBinarizer().fit(np.eye(len(classes), dtype=int) if target == "multilabel" else classes)
        # the columns have the order of the head, whose positive class need not be the last by name
        binarizer.classes_ = mlp.classes_ = classes
        mlp._label_binarizer = binarizer
    return mlp


def _neighbours(
    values: Mapping[str, Any], at: str, arrays: Arrays
) -> KNeighborsClassifier | KNeighborsRegressor | OneVsRestClassifier:
    rows_ND, values_NM = arrays[f"{at}.rows"].astype(np.float64), arrays[f"{at}.values"]
    votes: Any = "uniform"
    if values["temperature"] is not None:
        votes = partial(_nearness, temperature=values["temperature"], relative=values["metric"] == "euclidean")
    settings = {"weights": votes, "algorithm": "brute", "metric": values["metric"]}
    if values["target"] == "regression":
        return KNeighborsRegressor(values["k"], **settings).fit(rows_ND, values_NM[:, 0])
    several = [
        KNeighborsClassifier(values["k"], **settings).fit(rows_ND, codes_N) for codes_N in values_NM.astype(np.int64).T
    ]
    if values["target"] == "multilabel":
        return _one_by_one(several, rows_ND.shape[1])
    several[0].classes_ = np.array(values["names"])
    return several[0]


def _nearness(distances_nk: Any, temperature: float, relative: bool) -> Any:
    """What each neighbour counts, the nearest 1: by its cosine, or by its distance relative to that of the last."""
    if relative:
        distances_nk = distances_nk / np.maximum(distances_nk[:, -1:], 1e-30)
    return np.exp((distances_nk[:, :1] - distances_nk) / temperature)


def _one_by_one(estimators: list[Any], features: int) -> OneVsRestClassifier:
    several = OneVsRestClassifier(estimators[0])
    several.estimators_ = estimators
    several.label_binarizer_ = LabelBinarizer().fit(np.eye(len(estimators), dtype=int))
    several.n_features_in_ = features
    return several


def _ensemble(values: Mapping[str, Any], at: str, arrays: Arrays) -> VotingClassifier | VotingRegressor:
    members = [_head(kind, values, f"{at}.{place}", arrays) for place, kind in enumerate(values["members"])]
    named = [(str(place), member) for place, member in enumerate(members)]
    if values["target"] == "regression":
        mean = VotingRegressor(named)
    else:
        mean = VotingClassifier(named, voting="soft")
        mean.le_ = LabelEncoder().fit(values["names"])
        mean.le_.classes_ = mean.classes_ = np.array(values["names"])
    mean.estimators_ = members
    return mean
