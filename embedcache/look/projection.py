"""Two coordinates for each row: principal components of all rows, or UMAP of those that are drawn.

Axes: n rows that are drawn, D values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.storage.store import Store

Method = Literal["pca", "umap"]
MOST_POINTS = 20_000
_BLOCK = 2048
_UMAP_COMPONENTS, _UMAP_NEIGHBOURS, _UMAP_LEAST = 50, 15, 5


@dataclass(frozen=True)
class Projection:
    """Where the drawn rows lie."""

    rows: NDArray[np.int64]
    """(n,) rising."""
    places: NDArray[np.float64]
    """(n, 2)."""
    axes: tuple[str, str]
    """Names of the two axes."""
    usable: int
    """Rows that have an embedding."""


def project(store: Store, method: Method, *, seed: int = 0, points: int = MOST_POINTS) -> Projection:
    """Place at most `points` rows, drawn at random, in the plane.

    The principal components are those of all rows, by their covariance, which is summed block by block in float64.

    Raises
    ------
    InputError : fewer than three rows have an embedding, all are equal, or umap-learn is not installed.
    StoreError : the store keeps every token.
    """
    store.read(0, 0)  # raises where every token is kept
    usable = np.setdiff1d(np.arange(len(store)), store.quarantined)
    if len(usable) < 3:
        raise InputError(f"{store.path} has {counted(len(usable), 'row')} with an embedding, and a map needs three")
    rows = usable
    if len(usable) > points:
        rows = np.sort(np.random.default_rng(seed).choice(usable, points, replace=False))
    umap = _umap(seed, len(rows)) if method == "umap" else None
    components = 2 if umap is None else min(_UMAP_COMPONENTS, store.dim, len(rows) - 1)
    mean_D, directions_Dc, shares = _principal(store, usable, components)
    blocks = (store.take(rows[at : at + _BLOCK]).astype(np.float64) for at in range(0, len(rows), _BLOCK))
    places = np.concatenate([(block - mean_D) @ directions_Dc for block in blocks])
    if umap is not None:
        return Projection(rows, np.asarray(umap.fit_transform(places), np.float64), ("UMAP 1", "UMAP 2"), len(usable))
    if places.shape[1] == 1:
        places = np.column_stack([places, np.zeros(len(places))])
    names = [f"PC {at + 1} ({share:.1%} of the variance)" for at, share in enumerate(shares[:2])]
    return Projection(rows, places, (names[0], names[1] if len(names) > 1 else "none"), len(usable))


def _umap(seed: int, rows: int):  # type: ignore[no-untyped-def]
    if rows < _UMAP_LEAST:
        raise InputError(f"--method umap needs {_UMAP_LEAST} rows, and {rows} are to be drawn: take --method pca")
    try:
        from umap import UMAP
    except ImportError:
        raise InputError("--method umap needs umap-learn: pip install umap-learn, or take --method pca") from None
    return UMAP(n_components=2, n_neighbors=min(_UMAP_NEIGHBOURS, rows - 1), random_state=seed, n_jobs=1)


def _principal(
    store: Store, rows: NDArray[np.int64], components: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean (D,), the first directions (D, c) and their shares of the variance (c,)."""
    from scipy.linalg import eigh
    from scipy.sparse.linalg import eigsh

    shift = store.take(rows[:_BLOCK]).mean(0, dtype=np.float64)
    sums, products = np.zeros(store.dim), np.zeros((store.dim, store.dim))
    for at in range(0, len(rows), _BLOCK):
        shifted = store.take(rows[at : at + _BLOCK]).astype(np.float64) - shift
        sums += shifted.sum(0)
        products += shifted.T @ shifted
    offset = sums / len(rows)
    covariance = products / len(rows) - np.outer(offset, offset)
    total = float(np.trace(covariance))
    if not total > 1e-12 * max(float((shift**2).sum()), 1e-30):
        raise InputError(f"all rows of {store.path} are equal: there is nothing to draw")
    components = min(components, store.dim)
    if components < store.dim // 4:
        values, vectors = eigsh(covariance, k=components, v0=np.ones(store.dim))
    else:
        values, vectors = eigh(covariance)
    order = np.argsort(-values)[:components]
    directions = vectors[:, order]
    # a direction has no sign: the largest part points up, so that the same rows give the same picture
    directions *= np.sign(directions[np.abs(directions).argmax(0), np.arange(directions.shape[1])])
    return shift + offset, directions, np.clip(values[order], 0, None) / total
