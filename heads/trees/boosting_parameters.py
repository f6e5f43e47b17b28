"""LightGBM's own parameters, as a user gives them: which name means what, and which are not his to give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from embedcache.errors import HeadError
from heads.data.target import Kind
from heads.fitting import Scalar

Link = Literal["identity", "exp", "sigmoid", "softmax"]
"""What makes outputs of raw scores."""

OBJECTIVES: Mapping[Kind, Mapping[str, Link]] = {
    "binary": {"binary": "sigmoid", "cross_entropy": "sigmoid"},
    "multilabel": {"binary": "sigmoid", "cross_entropy": "sigmoid"},
    "multiclass": {"multiclass": "softmax", "multiclassova": "sigmoid"},
    "regression": {
        "regression": "identity",
        "regression_l1": "identity",
        "huber": "identity",
        "fair": "identity",
        "mape": "identity",
        "quantile": "identity",
        "poisson": "exp",
        "gamma": "exp",
        "tweedie": "exp",
    },
}
"""Objectives that can learn a target, the default first."""

DATA_PARAMETERS = (
    "max_bin",
    "min_data_in_bin",
    "bin_construct_sample_cnt",
    "data_random_seed",
    "enable_bundle",
    "use_missing",
    "zero_as_missing",
    "max_bin_by_feature",
)
"""What shapes the binned features."""

_ALIASES: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("shrinkage_rate", "eta"),
    "num_leaves": ("num_leaf", "max_leaves", "max_leaf", "max_leaf_nodes"),
    "feature_fraction": ("sub_feature", "colsample_bytree"),
    "min_data_in_leaf": ("min_data_per_leaf", "min_data", "min_child_samples", "min_samples_leaf"),
    "max_bin": ("max_bins",),
    "bin_construct_sample_cnt": ("subsample_for_bin",),
    "enable_bundle": ("is_enable_bundle", "bundle"),
    "num_threads": ("num_thread", "nthread", "nthreads", "n_jobs"),
    "seed": ("random_seed", "random_state"),
    "objective": ("objective_type", "app", "application", "loss"),
    "force_col_wise": (),
    "deterministic": (),
    "verbosity": ("verbose",),
}
"""Of the parameters that this program sets: LightGBM takes the main name where it is given both."""

_REFUSED: Mapping[str, tuple[str, ...]] = {
    "--rounds says how many trees": (
        *("num_iterations", "num_iteration", "n_iter", "num_tree", "num_trees", "num_round", "num_rounds", "nrounds"),
        *("num_boost_round", "n_estimators", "max_iter"),
    ),
    "--patience says when to stop": (
        "early_stopping_round",
        "early_stopping_rounds",
        "early_stopping",
        "n_iter_no_change",
    ),
    "--select says which metric counts": ("metric", "metrics", "metric_types"),
    "--quantiles says which quantiles": ("alpha",),
    "the classes come from the labels": ("num_class", "num_classes"),
    "only plain gradient boosting is saved and read here": (
        "boosting",
        "boosting_type",
        "boost",
        "linear_tree",
        "linear_trees",
    ),
    "outputs would no longer be what they are taken for": ("sigmoid", "reg_sqrt"),
    "all features are numbers": ("categorical_feature", "cat_feature", "categorical_column", "cat_column"),
}


def main_names(parameters: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The parameters by the names that this program uses; raises HeadError for one that it cannot give to LightGBM."""
    found = {}
    for name, value in parameters.items():
        for reason, names in _REFUSED.items():
            if name in names:
                raise HeadError(f"--extra {name}={value} cannot be set: {reason}")
        main = next((main for main, others in _ALIASES.items() if name in others), name)
        # LightGBM does not read 31.0 as a whole number
        found[main] = int(value) if isinstance(value, float) and value.is_integer() else value
    return found


def link_of(target: Kind, objective: Scalar) -> Link:
    """What makes outputs of the raw scores of an objective; raises HeadError where it cannot learn the target."""
    known = OBJECTIVES[target]
    if objective not in known:
        raise HeadError(f"--extra objective={objective} cannot learn a {target} target here; take {', '.join(known)}")
    return known[str(objective)]
