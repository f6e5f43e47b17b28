"""What a look at the features gives every linear head: the basis that makes fits short.

Axes: D features, n rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from heads.data.features import Design

BASIS_ROWS = 20_000
"""Rows that the correlation matrix is estimated from: the basis changes the speed of a fit, never its optimum."""
BASIS_DIM = 6144
"""Above this width the eigenvectors (some minutes, 300 MB) cost more than they save; the features stay as they are."""


@dataclass(frozen=True)
class Basis:
    """Eigenvalues (D,) and eigenvectors (D, D) in float64 of the correlation matrix of a design.

    Without `vectors` the basis is the features themselves.
    """

    values: torch.Tensor
    vectors: torch.Tensor | None

    def to_features(self, coordinates_KD: torch.Tensor) -> torch.Tensor:
        """Weights per eigenvector -> weights per feature."""
        return coordinates_KD if self.vectors is None else coordinates_KD @ self.vectors.T

    def from_features(self, weights_KD: torch.Tensor) -> torch.Tensor:
        """Weights (or gradients) per feature -> per eigenvector."""
        return weights_KD if self.vectors is None else weights_KD @ self.vectors


def eigenbasis(design: Design) -> Basis:
    """Diagonalise X'X / n of at most `BASIS_ROWS` evenly spaced rows of a standardised design."""
    if design.dim > BASIS_DIM:
        return Basis(torch.ones(design.dim, dtype=torch.float64, device=design.device), None)
    sample_nD = design.sample(BASIS_ROWS)
    correlation_DD = (sample_nD.T @ sample_nD).double() / len(sample_nD)
    with one_thread():
        values, vectors_DD = torch.linalg.eigh(correlation_DD)
    return Basis(values.clamp_(min=0), vectors_DD)


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch to one thread, as a context or a decorator: many small parallel steps, such as LAPACK's, take a minute
    where another program has a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
