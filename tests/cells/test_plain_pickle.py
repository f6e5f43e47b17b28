"""Pickles are read as plain values, and nothing that they name is ever run."""

from __future__ import annotations

import collections
import os
import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from embedcache.cells.plain_pickle import read_plain_pickle
from embedcache.errors import InputError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class _Runs:
    """Pickled, it asks for a call."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.arguments


@pytest.fixture
def dump(tmp_path: Path) -> Callable[..., Path]:
    def written(value: object, protocol: int = 4) -> Path:
        path = tmp_path / "dictionary.pkl"
        path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))
        return path

    return written


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_come_back_as_they_were(dump: Callable[..., Path], protocol: int) -> None:
    value = {"ENSG1": 4, "é": -1.5, "none": None, "list": [True, 2**70, ("a", "b")]}
    assert read_plain_pickle(dump(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int64, np.int32, np.uint16])
def test_numbers_of_numpy_become_plain_ones(dump: Callable[..., Path], protocol: int, kind: type[np.generic]) -> None:
    found = read_plain_pickle(dump({"g": kind(3), "h": kind(300)}, protocol))  # type: ignore[call-arg]
    assert found == {"g": 3, "h": 300}
    assert {type(value) for value in found.values()} <= {int, float}  # type: ignore[attr-defined]


def test_numbers_from_older_numpy_and_big_endian_machines_are_read(dump: Callable[..., Path]) -> None:
    content = pickle.dumps({"g": np.float64(1.25)}, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert read_plain_pickle(dump(content)) == {"g": 1.25}
    assert read_plain_pickle(dump({"g": np.array([1.25], ">f8")[0]})) == {"g": 1.25}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_that_would_run_a_command_runs_nothing(
    dump: Callable[..., Path], tmp_path: Path, protocol: int
) -> None:
    made = tmp_path / "made"
    for call in (_Runs(os.mkdir, str(made)), _Runs(eval, f"__import__('os').mkdir({str(made)!r})")):
        with pytest.raises(InputError, match=r"is no pickle of plain values \(\w+\.\w+\).*save the dictionary as JSON"):
            read_plain_pickle(dump({"ENSG1": call}, protocol))
    assert not made.exists()


@pytest.mark.parametrize(
    "value", [collections.OrderedDict(a=1), Fraction(1, 2), np.arange(3), {1, 2}.__class__, _Runs(dict), getattr]
)
def test_anything_but_plain_values_is_refused(dump: Callable[..., Path], value: object) -> None:
    with pytest.raises(InputError, match="is no pickle of plain values"):
        read_plain_pickle(dump(value))


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\ndtype\n(S'O8'\ntR.",  # a numpy type that holds Python objects
        b"cnumpy\ndtype\n(S'V8'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\nS'x'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n}S'__call__'\nI1\nsb.",  # sets an attribute of what stands for numpy's function
        b"cnumpy\ndtype\n(S'f8'\ntR}S'format'\nS'Z'\nsb.",
        b"c_codecs\nencode\n(Vabc\nVrot13\ntR.",
        b"\x80\x02\x82\x01.",  # an extension code
        b"P0\n.",  # a persistent id
    ],
)
def test_what_stands_for_numpy_cannot_be_bent(dump: Callable[..., Path], content: bytes) -> None:
    with pytest.raises(InputError, match=r"dictionary\.pkl is"):
        read_plain_pickle(dump(content))
    assert read_plain_pickle(dump({"g": np.float64(2.5)})) == {"g": 2.5}


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"ENSG1": 4})[:-3], b"\x80\x04N"])
def test_a_damaged_pickle_is_refused_by_name(dump: Callable[..., Path], content: bytes) -> None:
    with pytest.raises(InputError, match=r"dictionary\.pkl is (a damaged|no) pickle"):
        read_plain_pickle(dump(content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pkl cannot be read"):
        read_plain_pickle(tmp_path / "none.pkl")
