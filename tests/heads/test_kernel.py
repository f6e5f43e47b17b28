"""The compiled kernel: the sums of a pass in float64 for every kind of rows, and a cache that survives kills and rivals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from embedcache.search.standardising import standardise
from heads.data.features import ArrayRows, Design
from heads.linear.kernel import Kernel, NoKernel, find_kernel, load_kernel
from heads.linear.kernel_pass import CHUNK_ROWS, Columns, sweep
from heads.linear.objective import _products
from tests.processes import Program

KERNEL = find_kernel()
needs_compiler = pytest.mark.skipif(isinstance(KERNEL, NoKernel), reason="there is no C compiler")


def case(rows=300, dim=37, heads=5, classes=2, labels=1, dtype=np.float16, real=torch.float32, **design):
    """Arguments of a pass over made-up rows."""
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((rows, dim)) * rng.lognormal(0, 1, dim) + 5).astype(dtype)
    outputs = 1 if classes == 2 else classes
    source, everything = ArrayRows(X), np.arange(rows)
    made = Design(source, everything, standardise(source, everything), **design)
    columns = Columns(
        torch.from_numpy(rng.standard_normal((heads * outputs, dim))).to(real) / dim**0.5,
        torch.from_numpy(rng.standard_normal(heads * outputs)).to(real),
        torch.from_numpy(rng.uniform(0.5, 2, (heads, classes))).to(real),
        torch.from_numpy(rng.integers(labels, size=heads)),
        torch.from_numpy(np.linalg.qr(rng.standard_normal((heads, outputs, outputs)))[0]).to(real),
    )
    codes = torch.from_numpy(rng.integers(classes, size=(rows, labels)).astype(np.int32))
    weights = torch.from_numpy(rng.uniform(0, 3, rows)).to(real)
    return made, codes, weights, columns


def assert_same(found, expected, rtol):
    """Sums agree, to `rtol` of the largest of each."""
    for name in ("losses_k", "slopes_CD", "intercept_slopes_C", "curvatures_C"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == torch.float64
        assert float((one - other).abs().max()) <= rtol * float(other.abs().max()), name


@needs_compiler
@pytest.mark.parametrize("real", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"rows": 1},
        {"rows": 2 * CHUNK_ROWS + 77, "dim": 16, "heads": 16},  # a tail of rows
        {"dim": 1, "heads": 1},
        {"dim": 129, "heads": 33, "dtype": np.float32},
        {"dim": 2050, "heads": 3, "rows": 70},  # tiles of fewer rows
        {"dtype": np.float64},
        {"labels": 4, "heads": 11},
        {"classes": 3},
        {"classes": 7, "heads": 3, "dtype": np.float64},
        {"classes": 20, "heads": 2, "rows": 130},
    ],
)
def test_a_sweep_sums_what_products_by_torch_sum(shape, real):
    design, *arguments = case(**shape, real=real)
    found = sweep(KERNEL, design, *arguments)
    assert_same(found, _products(design, *arguments), 1e-12 if real == torch.float64 else 2e-5)


@needs_compiler
@pytest.mark.parametrize("classes", [2, 3])
def test_scores_of_any_size_keep_their_digits(classes):
    design, codes, weights, columns = case(classes=classes, real=torch.float64)
    for size in (1e-6, 30.0, 1e4):
        far = Columns(size * columns.weights_CD, *[getattr(columns, name) for name in Columns.__annotations__][1:])
        found = sweep(KERNEL, design, codes, weights, far)
        assert_same(found, _products(design, codes, weights, far), 1e-11)


@needs_compiler
def test_a_score_that_is_not_a_number_is_not_hidden():
    design, codes, weights, columns = case()
    columns.weights_CD[0] = torch.nan
    sums = sweep(KERNEL, design, codes, weights, columns)
    assert torch.isnan(sums.losses_k[0])
    assert torch.isfinite(sums.losses_k[1:]).all()


@needs_compiler
def test_sums_are_the_same_to_the_last_bit_for_any_number_of_threads_and_wherever_rows_are_read_from():
    shape = {"rows": 5 * CHUNK_ROWS + 3, "dim": 20}
    whole = sweep(KERNEL, *case(**shape))
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            for memory in (0, 1 << 30):
                assert_same(sweep(KERNEL, *case(**shape, memory_bytes=memory)), whole, 0)
    finally:
        torch.set_num_threads(threads)


@needs_compiler
def test_a_row_that_cannot_be_read_ends_the_pass_with_its_error():
    class Broken(ArrayRows):
        def take(self, indices, out=None):
            if indices[0] >= CHUNK_ROWS:
                raise OSError("no such shard")
            return super().take(indices, out)

    design, *arguments = case(rows=9 * CHUNK_ROWS, dim=4, memory_bytes=0)
    design.source = Broken(design.source.array)
    with pytest.raises(OSError, match="no such shard"):
        sweep(KERNEL, design, *arguments)


LOAD = (
    "import shutil, sys; from pathlib import Path; from heads.linear.kernel import Kernel, load_kernel\n"
    "assert isinstance(load_kernel(shutil.which('cc'), Path(sys.argv[1])), Kernel)"
)


@needs_compiler
def test_processes_that_compile_at_once_leave_one_library_for_each_precision(tmp_path):
    rivals = [Program("", (tmp_path,), before=LOAD) for _ in range(2)]
    assert [rival.wait() for rival in rivals] == [0, 0]
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".so", ".so"]


@needs_compiler
def test_a_second_program_compiles_nothing(tmp_path):
    compiler = script(tmp_path, 'echo "$@" >> "$0.log"; exec cc "$@"')
    for _ in range(2):
        assert isinstance(load_kernel(str(compiler), tmp_path / "cache"), Kernel)
    log = (tmp_path / "compiler.log").read_text().splitlines()
    assert sum("-DREAL" in line for line in log) == 2


@needs_compiler
def test_what_a_killed_compiler_left_is_not_loaded(tmp_path):
    killed = script(
        tmp_path, 'case "$*" in *--version*) exec cc --version;; esac; printf half > "${@: -2:1}"; kill -9 $$'
    )
    cache = tmp_path / "cache"
    assert isinstance(load_kernel(str(killed), cache), NoKernel)
    assert list(cache.iterdir()) == []
    assert isinstance(load_kernel("cc", cache), Kernel)


@pytest.mark.parametrize(
    ("says", "reason"),
    [('case "$*" in *--version*) exit 0;; esac; echo no room >&2; exit 1', "failed: no room"), ("exit 3", "failed")],
)
def test_a_compiler_that_fails_gives_one_reason_and_no_kernel(tmp_path, says, reason):
    found = load_kernel(str(script(tmp_path, says)), tmp_path / "cache")
    assert isinstance(found, NoKernel)
    assert reason in found.reason
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_compiler_there_is_a_reason(tmp_path):
    assert load_kernel(None, tmp_path) == NoKernel("there is no C compiler (cc, gcc, clang)")


@needs_compiler
def test_the_kernel_does_without_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert isinstance(load_kernel("cc", tmp_path / "file" / "cache"), Kernel)


def script(folder: Path, text: str) -> Path:
    """A compiler made of a few words of shell."""
    file = folder / "compiler"
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)
    return file
