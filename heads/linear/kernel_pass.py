"""The passes of a fit by the compiled kernel: chunks of stored rows in as many threads as torch has.

A chunk's sums are added in the order of the chunks, whichever is done first: results are the same for any number of
threads, and whether rows are read from memory or from a store.

Axes as in `heads.linear.objective`; G groups of W columns, as many as the kernel takes at once.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
import torch
from torch.nn import functional

from heads.data.features import Design, Values
from heads.linear.kernel import Kernel

CHUNK_ROWS = 1024
"""Rows that are summed up in the precision of the products before they go into sums of float64."""
PADDED_TO = 16
"""Features are padded with zeros to a multiple of this, as kernel.c expects."""


class _Sweep(ctypes.Structure):
    """``struct sweep`` of kernel.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("bytes", "dim", "padded_dim", "groups", "heads", "outputs", "labels")),
        *((name, ctypes.c_void_p) for name in ("centre", "single_centre", "factor", "weights", "intercepts")),
        *((name, ctypes.c_void_p) for name in ("class_weights", "label_of", "axes")),
    )


class _Sums(ctypes.Structure):
    """``struct sums`` of kernel.c."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("slopes", "losses", "intercept_slopes", "curvatures"))


@dataclass(frozen=True)
class Sums:
    """What a pass over the rows gives, all float64: losses (k,), slopes by weights (C, D) and by intercepts (C,), and
    sums of the losses' second derivatives (C,)."""

    losses_k: torch.Tensor
    slopes_CD: torch.Tensor
    intercept_slopes_C: torch.Tensor
    curvatures_C: torch.Tensor


@dataclass(frozen=True)
class Columns:
    """Heads whose losses are wanted, k of them with M columns each; the arithmetic has the type of `weights_CD`."""

    weights_CD: torch.Tensor
    intercepts_C: torch.Tensor
    class_weights_kc: torch.Tensor
    labels_k: torch.Tensor
    """Which column of the class codes each head learns."""
    axes_kMM: torch.Tensor
    """Columns are the directions along which second derivatives are taken."""


class _Layout:
    """Columns as the kernel reads them, in groups and padded with zeros, and its sums back as they are asked for.

    All are tensors, since torch begins them where vectors may be loaded from.
    """

    def __init__(self, design: Design, labels: int, columns: Columns, group: int) -> None:
        self.real = columns.weights_CD.dtype
        self.columns, self.dim = columns.weights_CD.shape
        self.heads, self.outputs = columns.axes_kMM.shape[:2]
        self.groups, self.group = -(-self.columns // group), group
        self.padded_dim = -(-self.dim // PADDED_TO) * PADDED_TO
        # a two-class head is a column, and there are columns beyond the last; they weigh nothing
        spare_columns = self.groups * group - self.columns
        spare_heads = spare_columns if self.outputs == 1 else 0
        self.padded_heads = self.heads + spare_heads
        spare_dim = (0, self.padded_dim - self.dim)
        weights = functional.pad(columns.weights_CD, (*spare_dim, 0, spare_columns))
        scale = design.standardisation
        self._held = (
            functional.pad(scale.centre.double(), spare_dim),
            functional.pad(scale.centre.float(), spare_dim),
            functional.pad(scale.factor, spare_dim),
            weights.view(self.groups, group, self.padded_dim).mT.contiguous(),
            functional.pad(columns.intercepts_C, (0, spare_columns)),
            functional.pad(columns.class_weights_kc.to(self.real), (0, 0, 0, spare_heads)).T.contiguous(),
            functional.pad(columns.labels_k.int(), (0, spare_heads)),
            columns.axes_kMM.to(self.real).contiguous(),
        )
        sizes = (self.dim, self.padded_dim, self.groups, self.padded_heads, self.outputs, labels)
        self.sweep = _Sweep(design.source.dtype.itemsize, *sizes, *(tensor.data_ptr() for tensor in self._held))

    def zeros(self, slopes: torch.dtype) -> tuple[torch.Tensor, ...]:
        """Sums of no rows, in the order of `_Sums`; those of the kernel have slopes in its own precision."""
        columns = self.groups * self.group
        sizes = (self.padded_heads, columns, columns)
        return (
            torch.zeros((self.groups, self.padded_dim, self.group), dtype=slopes),
            *(torch.zeros(size, dtype=torch.float64) for size in sizes),
        )

    def read(self, slopes: torch.Tensor, losses: torch.Tensor, *others: torch.Tensor) -> Sums:
        """Leave the padding out."""
        slopes_CD = slopes.mT.reshape(-1, self.padded_dim)[: self.columns, : self.dim]
        return Sums(losses[: self.heads], slopes_CD, *(other[: self.columns] for other in others))


def sweep(
    kernel: Kernel, design: Design, codes_NL: torch.Tensor, row_weights_N: torch.Tensor, columns: Columns
) -> Sums:
    """Sum losses and derivatives of all rows.

    Parameters
    ----------
    codes_NL : int32, one column of class codes for each label
    row_weights_N : of the type of the columns' weights

    Raises MemoryError where there is no room for a tile of rows.
    """
    layout = _Layout(design, codes_NL.shape[1], columns, kernel.group)
    add_rows = kernel.of(layout.real).add_rows
    threads = torch.get_num_threads()
    buffers: SimpleQueue[Values] = SimpleQueue()
    for _ in range(threads):
        buffers.put(np.empty((CHUNK_ROWS, design.dim), design.source.dtype))

    def of_chunk(start: int) -> tuple[torch.Tensor, ...]:
        stop = min(start + CHUNK_ROWS, len(design))
        sums = layout.zeros(layout.real)
        buffer = buffers.get()
        try:
            failed = add_rows(
                ctypes.byref(layout.sweep),
                ctypes.c_int64(stop - start),
                ctypes.c_void_p(design.stored(start, stop, buffer).ctypes.data),
                ctypes.c_void_p(codes_NL[start:].data_ptr()),
                ctypes.c_void_p(row_weights_N[start:].data_ptr()),
                ctypes.byref(_Sums(*(tensor.data_ptr() for tensor in sums))),
            )
        finally:
            buffers.put(buffer)
        if failed:
            raise MemoryError("there is no memory for a tile of rows")
        return sums

    design.keep_stored()
    totals = layout.zeros(torch.float64)
    with ThreadPoolExecutor(threads) as pool:
        for sums in pool.map(of_chunk, range(0, len(design), CHUNK_ROWS)):
            for total, part in zip(totals, sums, strict=True):
                total += part
    return layout.read(*totals)
