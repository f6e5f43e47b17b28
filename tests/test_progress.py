"""The bar, the lines where there is no terminal, and a prefetching thread that hands its errors on."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedcache import progress
from embedcache.exchange.exporting import WRITERS, export_store
from embedcache.prefetch import prefetched
from embedcache.progress import Progress, duration, size
from tests.stores import make_store, random_reads, write_fasta


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_rows_and_tokens_a_second() -> None:
    screen = Terminal()
    shown = Progress(stream=screen)
    shown.start(1000)
    for _ in range(4):
        shown.advance(250, 5)
    shown.stop()
    assert "100%" in screen.getvalue()
    assert "tokens/s" in screen.getvalue()
    assert "rows/s" in screen.getvalue()


@pytest.mark.parametrize("form", WRITERS)
def test_an_export_shows_how_many_rows_have_left(tmp_path: Path, form: str) -> None:
    store, screen = make_store(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", random_reads(50))), Terminal()
    export_store(store, form, tmp_path / "x", progress=Progress(stream=screen))
    assert "100%" in screen.getvalue()
    assert "50.0/50.0" in screen.getvalue()
    assert screen.getvalue().count("rows/s") == screen.getvalue().count("%")


def test_a_log_file_gets_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    shown = Progress(stream=log)
    shown.start(1000)
    shown.advance(100, 2)
    assert log.getvalue() == ""
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    shown.advance(400, 8)
    assert log.getvalue().startswith(" 50%  ")
    assert "left" in log.getvalue()


def test_rows_have_one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    log = io.StringIO()
    shown = Progress(stream=log)
    shown.start(10, "rows")
    shown.advance(5, 5)
    assert log.getvalue().startswith(" 50%  ")
    assert log.getvalue().count("rows/s") == 1


def test_quiet_says_nothing() -> None:
    screen = Terminal()
    shown = Progress(quiet=True, stream=screen)
    shown.start(10)
    shown.advance(10, 1)
    shown.say("hello")
    shown.stop()
    assert screen.getvalue() == ""


def test_seconds_and_bytes_read_as_people_write_them() -> None:
    assert [duration(s) for s in (0.26, 12, 200, 18_120)] == ["0.3 s", "12 s", "3 min 20 s", "5 h 02 min"]
    assert [size(b) for b in (42, 1500, 2.56e9)] == ["42 B", "1.5 kB", "2.6 GB"]


def test_a_prefetched_iterator_hands_on_items_and_errors() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the file ends here")

    with prefetched(numbers()) as items:
        ahead = iter(items)
        assert [next(ahead), next(ahead)] == [1, 2]
        with pytest.raises(ValueError, match="the file ends here"):
            next(ahead)


def test_leaving_early_ends_the_thread() -> None:
    def forever() -> Iterator[int]:
        while True:
            yield 1

    with prefetched(forever()) as items:
        assert next(iter(items)) == 1
    assert not any(thread.name == "reader" for thread in threading.enumerate())
