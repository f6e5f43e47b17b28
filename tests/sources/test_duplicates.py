"""Ids that come again: refused, or numbered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from embedcache.errors import InputError
from embedcache.input_options import InputOptions
from embedcache.records import remarks_of
from embedcache.sources import open_records
from tests.stores import run_extract

Write = Callable[[str, bytes], str]


def ids(given: tuple[str, ...]) -> tuple[list[str], tuple[str, ...]]:
    source = open_records(InputOptions(given, duplicate_ids="suffix"))
    first, second = ([name for batch in source.batches() for name in batch["id"].to_pylist()] for _ in range(2))
    assert first == second
    return first, remarks_of(source)


def fasta(*names: str) -> bytes:
    return b"".join(b">%b\nACGT\n" % name.encode() for name in names)


def test_ids_that_come_again_get_a_number_over_all_inputs(write: Write) -> None:
    inputs = (
        write("a.fa", fasta("x", "y", "x")),
        write("b.fq", b"@x 2:N:0\nAC\n+\nII\n"),
        write("c.fa", fasta("z", "y")),
    )
    assert ids(inputs) == (
        ["x", "y", "x.2", "x.3", "z", "y.2"],
        ("ids      3 ids came again and got a number, such as x -> x.2",),
    )


def test_a_number_that_is_another_records_id_is_passed_over(write: Write) -> None:
    assert ids((write("a.fa", fasta("x", "x", "x.2", "x", "x.2")),))[0] == ["x", "x.3", "x.2", "x.4", "x.2.2"]


def test_nothing_is_said_where_every_id_is_there_once(write: Write) -> None:
    assert ids((write("a.fa", fasta("x", "x.2")),)) == (["x", "x.2"], ())


def test_without_the_option_both_places_are_named(write: Write, tmp_path: Path) -> None:
    one, two = write("a.fq", b"@x\nAC\n+\nII\n"), write("b.fa", fasta("y", "x"))
    with pytest.raises(InputError, match=r"'x' occurs twice, at .*a.fq, line 1 and at .*b.fa, line 3"):
        run_extract(tmp_path / "s.zarr", one, two)
