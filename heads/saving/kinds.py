"""The kinds of heads that can be trained: their options, how each is fitted, and what each can learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from embedcache.errors import HeadError
from heads.data.target import Kind
from heads.fitting import Fitted, Problem
from heads.linear.logistic import LogisticOptions
from heads.linear.logistic import fit as fit_logistic
from heads.linear.prototype import PrototypeOptions
from heads.linear.prototype import fit as fit_prototypes
from heads.linear.quantile import QuantileOptions
from heads.linear.quantile import fit as fit_quantiles
from heads.linear.ridge import RidgeOptions
from heads.linear.ridge import fit as fit_ridge
from heads.neighbours import KNNOptions
from heads.neighbours import fit as fit_neighbours
from heads.perceptron.mlp import MLPOptions
from heads.perceptron.mlp import fit as fit_perceptrons
from heads.trees.boosting import BoostingOptions
from heads.trees.boosting import fit as fit_trees


@dataclass(frozen=True)
class HeadKind:
    """A kind of head: `options` is the dataclass of its options, `fit` fits it with them."""

    options: type[Any]
    fit: Callable[[Problem, Any], Fitted]
    targets: tuple[Kind, ...]


_CLASSES: tuple[Kind, ...] = ("binary", "multiclass", "multilabel")
_ALL: tuple[Kind, ...] = (*_CLASSES, "regression")

HEAD_KINDS: Mapping[str, HeadKind] = {
    "lr": HeadKind(LogisticOptions, fit_logistic, _CLASSES),
    "ridge": HeadKind(RidgeOptions, fit_ridge, ("regression",)),
    "quantile": HeadKind(QuantileOptions, fit_quantiles, ("regression",)),
    "mlp": HeadKind(MLPOptions, fit_perceptrons, _ALL),
    "lightgbm": HeadKind(BoostingOptions, fit_trees, _ALL),
    "knn": HeadKind(KNNOptions, fit_neighbours, _ALL),
    "prototype": HeadKind(PrototypeOptions, fit_prototypes, ("binary", "multiclass")),
}

DEFAULT_METRICS: Mapping[Kind, str] = {
    "binary": "auprc",
    "multiclass": "auprc",
    "multilabel": "auprc",
    "regression": "r2",
}
"""What chooses a head on validation rows where nothing else is asked for; of quantiles it is ``pinball``."""


def check_kind(kind: str, target: Kind, label: str) -> HeadKind:
    """Return a kind of head; raises HeadError naming those that can learn the target where it cannot."""
    known = HEAD_KINDS[kind]
    if target not in known.targets:
        able = [name for name, other in HEAD_KINDS.items() if target in other.targets]
        what = {
            "regression": "a measured quantity",
            "multilabel": "several labels",
            "binary": "two classes",
            "multiclass": "classes",
        }[target]
        raise HeadError(
            f"--head {kind} cannot learn {what} ('{label}'): take --head {', '.join(able[:-1])} or {able[-1]}"
            + ("; or --task classes where its values are classes" if target == "regression" else "")
        )
    return known
