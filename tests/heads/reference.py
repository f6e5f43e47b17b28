"""The objective of logistic regression in float64 and its minimum by Newton's method, to judge the fast solver by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def standardised(X: npt.ArrayLike) -> Doubles:
    """What scikit-learn's StandardScaler makes of X in float64."""
    X = np.asarray(X, np.float64)
    scale = X.std(0)
    return (X - X.mean(0)) / np.where(scale < 1e-12 * np.abs(X.mean(0)) + 1e-300, 1, scale)


def objective(Z: Doubles, codes: npt.NDArray[np.int64], C: float, weights: Doubles, W: Doubles, b: Doubles) -> float:
    """|W|^2 / 2C + weighted cross-entropy; W is (M, D) with M = 1 for two classes, `weights` one per class."""
    scores = Z @ W.T + b
    if len(W) == 1:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    largest = scores.max(1, keepdims=True)
    total = largest[:, 0] + np.log(np.exp(scores - largest).sum(1))
    losses = total - scores[np.arange(len(Z)), codes]
    return float((weights[codes] * losses).sum() + 0.5 * (W**2).sum() / C)


def minimum(Z: Doubles, codes: npt.NDArray[np.int64], C: float, weights: Doubles) -> float:
    """Least value of `objective`, by damped Newton steps on all parameters at once."""
    classes = len(weights)
    M = 1 if classes == 2 else classes
    A = np.concatenate([Z, np.ones((len(Z), 1))], axis=1)
    D = A.shape[1]
    penalty = np.full(D, 1 / C)
    penalty[-1] = 0
    P = np.zeros((M, D))
    onehot = np.eye(classes)[codes][:, -M:] if M == 1 else np.eye(classes)[codes]
    s = weights[codes]

    def value(P: Doubles) -> float:
        return objective(Z, codes, C, weights, P[:, :-1], P[:, -1])

    now = value(P)
    for _ in range(100):
        scores = A @ P.T
        if M == 1:
            p = 1 / (1 + np.exp(-scores))
        else:
            p = np.exp(scores - scores.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
        gradient = ((p - onehot) * s[:, None]).T @ A + penalty * P
        hessian = np.zeros((M, D, M, D))
        for i in range(M):
            for j in range(M):
                curvature = s * p[:, i] * ((i == j) - p[:, j])
                hessian[i, :, j] = (A * curvature[:, None]).T @ A + (i == j) * np.diag(penalty)
        # the intercepts of a softmax may all shift by one number: the pseudo-inverse leaves that direction alone
        flat = hessian.reshape(M * D, M * D)
        step = (
            np.linalg.solve(flat, gradient.ravel()) if M == 1 else np.linalg.lstsq(flat, gradient.ravel())[0]
        ).reshape(M, D)
        decrement = float((step * gradient).sum()) / 2
        if decrement < 1e-13 * now:
            break
        length = 1.0
        while value(P - length * step) > now - 1e-4 * length * decrement and length > 1e-8:
            length /= 2
        P = P - length * step
        now = value(P)
    return now
