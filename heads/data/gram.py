"""Second moments of standardised rows, exact to float64, and their eigenvectors: what ridge regression and PCA follow from.

A Gram matrix of float32 products misses a ridge optimum by 1e-4 of its objective (measured/heads.md, section 6). In
float64 it takes twice the time once, and then every strength and every target has its solution in closed form.

Axes: N rows, n rows of a block, D features, T targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from embedcache.errors import HeadError
from heads.data.features import Block, Design
from heads.data.moments import one_thread

WIDEST = 16_384
"""Features at most: their eigenvectors take 2 GB and some hours."""
PANEL = 512
"""Columns of the Gram matrix computed at once; what lies below the diagonal is mirrored, which halves the products."""


@dataclass(frozen=True)
class Spectrum:
    """Weighted second moments about the weighted mean, sum_i s_i (z_i - mean)(z_i - mean)', and their eigenvectors.

    All in float64: `gram` (D, D) = vectors diag(values) vectors', `values` (D,) rising and none below zero, `mean` (D,).
    """

    mass: float
    """Sum of the weights s: the number of rows where every row counts alike."""
    mean: torch.Tensor
    gram: torch.Tensor
    values: torch.Tensor
    vectors: torch.Tensor


def spectrum(design: Design, weights_N: torch.Tensor | None = None) -> Spectrum:
    """Return the moments of all rows of a design in one pass; `weights_N` in float64, none negative, not all zero.

    Raises `HeadError` where there are more than `WIDEST` features.
    """
    if design.dim > WIDEST:
        raise HeadError(
            f"{design.dim:,} features are too many for an eigenvalue decomposition (at most {WIDEST:,}): choose some of "
            "the blocks with --blocks"
        )
    gram_DD = torch.zeros((design.dim, design.dim), dtype=torch.float64, device=design.device)
    sum_D = torch.zeros_like(gram_DD[0])
    for block in _doubles(design):
        values_nD = block.values_nD
        weighted_nD = values_nD if weights_N is None else values_nD * weights_N[block.start : block.stop, None]
        sum_D += weighted_nD.sum(0)
        for start in range(0, design.dim, PANEL):
            panel = slice(start, start + PANEL)
            gram_DD[panel, start:] += weighted_nD[:, panel].T @ values_nD[:, start:]
    gram_DD = gram_DD.triu() + gram_DD.triu(1).T
    mass = float(len(design)) if weights_N is None else float(weights_N.sum())
    mean_D = sum_D / mass
    # the rows are standardised, so the mean is small beside their deviation and nothing cancels
    gram_DD -= torch.outer(sum_D, mean_D)
    with one_thread():
        values_D, vectors_DD = torch.linalg.eigh(gram_DD)
    return Spectrum(mass, mean_D, gram_DD, values_D.clamp_(min=0), vectors_DD)


def cross_products(design: Design, weighted_TN: torch.Tensor) -> torch.Tensor:
    """Return Y Z (T, D) in float64 for weighted targets Y (T, N), in one pass."""
    products_TD = weighted_TN.new_zeros((len(weighted_TN), design.dim))
    for block in _doubles(design):
        products_TD += weighted_TN[:, block.start : block.stop] @ block.values_nD
    return products_TD


def _doubles(design: Design) -> Iterator[Block]:
    """Blocks in float64, in one reused buffer: a fresh one for each block takes three times as long."""
    buffer_nD = torch.empty(
        (min(design.block_rows, len(design)), design.dim), dtype=torch.float64, device=design.device
    )
    for block in design.blocks():
        yield Block(block.start, block.stop, buffer_nD[: block.stop - block.start].copy_(block.values_nD))
