"""The focal loss of boosted trees, with the derivatives that LightGBM asks for.

-(1 - p)^gamma log p, p being the probability of a row's own class (Lin et al. 2017, arXiv:1708.02002, without its alpha,
which is a class weight here). With gamma 0 it is the log loss.

Axes: n rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_softmax

from heads.data.target import Codes, Doubles

_LEAST = 1e-12
"""Probabilities are kept this far from 0 and 1, where the derivatives divide by them."""


@dataclass(frozen=True)
class FocalLoss:
    """Loss of raw scores (n,) of two classes, or (n, K), for classes `codes` (n,)."""

    gamma: float
    codes: Codes

    def value(self, scores: Doubles) -> Doubles:
        """Loss of each row, (n,)."""
        p = _own(self._probabilities(scores), self.codes)
        return np.asarray(-((1 - p) ** self.gamma) * np.log(p))

    def derivatives(self, scores: Doubles) -> tuple[Doubles, Doubles]:
        """First and second derivative of a row's loss by each of its scores, both shaped as `scores`."""
        slope, curvature, _ = self._derivatives(scores)
        return slope, curvature

    def newton(self, scores: Doubles) -> tuple[Doubles, Doubles]:
        """Derivatives for Newton steps: the second is kept above that of the log loss times (1 - p)^gamma.

        The loss is not convex: for a row that is far on the wrong side, such as every rare positive at the start, the
        second derivative is below zero, and a leaf of such rows would step away from its minimum.
        """
        slope, curvature, least = self._derivatives(scores)
        return slope, np.maximum(curvature, least)

    def _derivatives(self, scores: Doubles) -> tuple[Doubles, Doubles, Doubles]:
        probabilities = self._probabilities(scores)
        p = _own(probabilities, self.codes)
        gamma, log_p = self.gamma, np.log(p)
        # by the chain rule over p: dp/dz_k = p (own_k - p_k), and first = p dL/dp, second = p d(first)/dp
        first = gamma * p * (1 - p) ** (gamma - 1) * log_p - (1 - p) ** gamma
        second = gamma * p * (1 - p) ** (gamma - 2) * ((1 - gamma * p) * log_p + 2 * (1 - p))
        if scores.ndim == 1:
            probabilities_nK, own_nK = probabilities[:, 1:], self.codes[:, None].astype(np.float64)
        else:
            probabilities_nK, own_nK = probabilities, np.eye(scores.shape[1])[self.codes]
        away_nK = own_nK - probabilities_nK
        spread_nK = probabilities_nK * (1 - probabilities_nK)
        slope_nK = first[:, None] * away_nK
        curvature_nK = second[:, None] * away_nK**2 - first[:, None] * spread_nK
        least_nK = (1 - p[:, None]) ** gamma * spread_nK
        return slope_nK.reshape(scores.shape), curvature_nK.reshape(scores.shape), least_nK.reshape(scores.shape)

    def _probabilities(self, scores: Doubles) -> Doubles:
        if scores.ndim == 1:
            found = np.stack([expit(-scores), expit(scores)], axis=1)
        else:
            found = np.exp(log_softmax(scores, axis=1))
        return np.asarray(found.clip(_LEAST, 1 - _LEAST), np.float64)


def _own(probabilities_nK: Doubles, codes: Codes) -> Doubles:
    return np.asarray(np.take_along_axis(probabilities_nK, codes[:, None], axis=1)[:, 0])
