"""From the class shares that a head was trained on to the shares it is to predict for.

Class weights and balanced sampling show a head other shares than the rows have, and its probabilities are for those.
Bayes' rule gives the probabilities for any other shares, without a fit (Elkan, 2001; Saerens, Latinne and Decaestecker,
2002).

Axes: n rows, C columns of the outputs (one per class, or one per label).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from embedcache.errors import HeadError
from heads.data.target import Doubles, Kind, Target
from heads.json_values import mapping, numbers

Prior = Literal["none", "train"] | float | Mapping[str, float]
"""No correction; the shares of the training rows; the share of the positive one of two classes; or the share of each class
(or label), by its name as text."""
SUM_TOLERANCE = 1e-3
"""Shares of classes that were typed with three decimals add up to 1 within this."""
LEAST_SHARE = 1e-9
"""No class of a billion rows or more is that rare."""


@dataclass(frozen=True)
class PriorShift:
    """What the odds of each column are multiplied by, (C,)."""

    factors: tuple[float, ...]

    def apply(self, kind: Kind, outputs: Doubles) -> Doubles:
        """Return the probabilities (n, C) for the wanted shares."""
        weighted = outputs * np.array(self.factors)
        total = weighted + 1 - outputs if kind == "multilabel" else weighted.sum(1, keepdims=True)
        return np.asarray(weighted / total, np.float64)

    def to_json(self) -> dict[str, Any]:
        """The factors, as a JSON object."""
        return {"factors": list(self.factors)}

    @classmethod
    def from_json(cls, values: Any, columns: int) -> Self:
        """Invert `to_json`; raises TypeError, ValueError or KeyError for anything else."""
        return cls(numbers(mapping(values, "factors")["factors"], np.finfo(np.float64).tiny, count=columns))


def parse_prior(given: str) -> Prior:
    """Read ``none``, ``train``, ``0.02`` or ``sick=0.02,well=0.98``; raises HeadError for anything else."""
    if given == "none":
        return "none"
    if given == "train":
        return "train"
    try:
        if "=" not in given:
            return check_prior(float(given))
        pairs = [part.rsplit("=", 1) for part in given.split(",")]
        return check_prior({name.strip(): float(share) for name, share in pairs})
    except ValueError:
        raise _not_a_prior(given) from None


def check_prior(prior: Prior) -> Prior:
    """Return a prior as it is; raises HeadError where a share is not above 0 and below 1."""
    if prior in ("none", "train"):
        return prior
    shares = list(prior.values()) if isinstance(prior, Mapping) else [prior]
    if not all(isinstance(share, float) and LEAST_SHARE <= share <= 1 - LEAST_SHARE for share in shares):
        raise _not_a_prior(_said(prior))
    return prior


def _not_a_prior(said: str) -> HeadError:
    return HeadError(
        f"--prior {said}: give none, train, the share of the positive class such as 0.02, or the share of each class such "
        "as sick=0.02,well=0.98, each above 0 and below 1"
    )


def prior_shift(target: Target, prior: Prior, natural: Doubles | None, trained: Doubles | None) -> PriorShift | None:
    """Return the correction from the shares that a head was trained on to the wanted ones; None where they are the same.

    ln[p1 (1 - r1) / ((1 - p1) r1)] is added to the log odds of two classes, for r1 the share of the positive class that
    the head saw and p1 the wanted one. Of more classes each probability is multiplied by wanted / seen, and the row is
    brought to 1 again, which is the same for two.

    Parameters
    ----------
    natural : (classes,) shares of the training rows as they are; of a multilabel target (L, 2), the shares of 0 and of 1.
    trained : the same as weights or a sampler made them; None where nothing did.

    Raises HeadError where shares are not known, or do not fit the target.
    """
    if prior == "none":
        return None
    if target.kind == "regression":
        raise HeadError(
            f"--prior {_said(prior)}: {target.names[0]} is a measured quantity and has no classes; leave it out"
        )
    if natural is None:
        raise HeadError(
            f"--prior {_said(prior)}: the shares of the classes in training are not known here; leave it out"
        )
    seen = natural if trained is None else trained
    wanted = natural if prior == "train" else _wanted(target, prior)
    if not ((seen > 0).all() and (wanted > 0).all()):
        raise HeadError(f"--prior {_said(prior)}: a class has no rows in training, and no share can be made of nothing")
    if np.allclose(wanted, seen, rtol=1e-9, atol=0):
        return None
    factors = wanted / seen
    if target.kind == "multilabel":
        factors = factors[:, 1] / factors[:, 0]
    return PriorShift(tuple(factors.tolist()))


def _wanted(target: Target, prior: float | Mapping[str, float] | str) -> Doubles:
    """The wanted shares, in the shape of the target's."""
    names = [str(name) for name in target.names]
    if isinstance(prior, float):
        if target.kind != "binary":
            raise HeadError(
                f"--prior {prior:g}: there are {len(names)} classes or labels; name each, as in {names[0]}=0.1"
            )
        return np.array([1 - prior, prior])
    if isinstance(prior, str) or set(prior) != set(names):
        raise HeadError(f"--prior {_said(prior)}: give a share to each of {', '.join(names)}, and to no other")
    shares = np.array([prior[name] for name in names])
    if target.kind == "multilabel":
        return np.stack([1 - shares, shares], axis=1)
    if abs(shares.sum() - 1) > SUM_TOLERANCE:
        raise HeadError(f"--prior {_said(prior)}: the shares add up to {shares.sum():g}, and must to 1")
    return np.asarray(shares / shares.sum(), np.float64)


def _said(prior: Prior | str) -> str:
    if isinstance(prior, Mapping):
        return ",".join(f"{name}={share:g}" for name, share in prior.items())
    return prior if isinstance(prior, str) else f"{prior:g}"
