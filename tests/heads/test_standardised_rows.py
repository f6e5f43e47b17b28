"""Rows for a training that shuffles: the same however they are kept, in the type of the products."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from heads.data.features import ArrayRows, Standardisation
from heads.data.standardised_rows import StandardisedRows

CPU = torch.device("cpu")
ROWS, DIM = 300, 24


def rows_of(stored: str, dtype: torch.dtype, memory_bytes: int) -> StandardisedRows:
    rng = np.random.default_rng(0)
    values = ArrayRows((5 * rng.standard_normal((ROWS, DIM)) + 3).astype(stored))
    standardisation = Standardisation(torch.full((DIM,), 3.0), torch.full((DIM,), 0.2))
    return StandardisedRows(values, np.arange(ROWS)[::-2].copy(), standardisation, CPU, memory_bytes, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
def test_rows_are_the_same_kept_and_read_at_each_draw(stored: str, dtype: torch.dtype) -> None:
    drawn = np.array([3, 0, 149, 3])
    kept, read = rows_of(stored, dtype, 1 << 20), rows_of(stored, dtype, 0)
    assert kept.kept_bytes
    assert not read.kept_bytes
    assert kept.take(drawn).dtype == dtype
    assert torch.equal(kept.take(drawn), read.take(drawn))
    assert torch.equal(torch.cat(list(kept.blocks(64))), torch.cat(list(read.blocks(64))))
    assert torch.equal(kept.take(drawn), kept.take(drawn)), "drawing changes nothing that is kept"


def test_rows_for_bfloat16_products_are_those_of_float32_rounded_once() -> None:
    exact, rounded = (rows_of("float16", dtype, 1 << 20) for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(exact.take(np.arange(150)).bfloat16(), rounded.take(np.arange(150)))


@pytest.mark.parametrize(("stored", "value_bytes"), [("float16", 2), ("float32", 2), ("float64", 2)])
def test_rows_are_kept_in_the_smaller_of_both_types(stored: str, value_bytes: int) -> None:
    held = ROWS // 2 * DIM
    assert rows_of(stored, torch.bfloat16, value_bytes * held).kept_bytes == value_bytes * held
    assert rows_of(stored, torch.bfloat16, value_bytes * held - 1).kept_bytes == 0
