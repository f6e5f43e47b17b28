"""FASTQ files: what is read and computed, and every error with its line."""

from __future__ import annotations

import gzip
import random
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import dnaio
import numpy as np
import pyarrow as pa
import pytest

from embedcache.errors import InputError
from embedcache.sources import Records, fastq, open_source
from tests.sources.test_fasta import bgzip, records

Write = Callable[[str, bytes], str]


def many(n: int, lengths: tuple[int, int] = (1, 300), end: bytes = b"\n") -> bytes:
    rng = random.Random(0)
    text = []
    for i in range(n):
        length = rng.randint(*lengths)
        letters = "".join(rng.choices("ACGTN", k=length)).encode()
        qualities = bytes(rng.randint(33, 126) for _ in range(length))
        text.append(end.join([b"@read_%d/1 1:N:0:ACGT" % i, letters, b"+", qualities, b""]))
    return b"".join(text)


def table(source: Records) -> pa.Table:
    return pa.Table.from_batches(source.batches())


def by_dnaio(path: Path) -> list[tuple[str, str, float]]:
    """Another program's reading, and the formula of expected errors written out."""
    with dnaio.open(path) as file:
        return [
            (read.id, read.sequence, sum(10 ** (-(ord(mark) - 33) / 10) for mark in read.qualities)) for read in file
        ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("block", [64, 1000, 1 << 22])
def test_reads_are_those_of_dnaio_with_the_formula_of_their_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes, block: int
) -> None:
    monkeypatch.setattr(fastq, "BLOCK_BYTES", block)
    path = tmp_path / "a.fastq"
    path.write_bytes(many(300, end=end))
    expected = by_dnaio(path)
    got = table(open_source([str(path)]))
    assert got["id"].to_pylist() == [name for name, _, _ in expected]
    assert got["sequence"].to_pylist() == [letters for _, letters, _ in expected]
    errors = np.array([errors for _, _, errors in expected])
    lengths = np.array([len(letters) for _, letters, _ in expected])
    np.testing.assert_allclose(got["expected_errors"], errors, rtol=1e-5)
    np.testing.assert_allclose(got["mean_quality"], -10 * np.log10(errors / lengths), rtol=1e-4, atol=1e-4)


def test_the_quality_columns_are_numbers_and_the_rest_of_the_header_is_dropped(write: Write) -> None:
    source = open_source([write("a.fq", b"@x/2 1:N:0 barcode=7\nACGT\n+x/2 again\n!+5?\n")])
    assert source.columns == ("mean_quality", "expected_errors")
    [row] = table(source).to_pylist()
    assert (row["id"], row["sequence"]) == ("x/2", "ACGT")
    assert row["expected_errors"] == pytest.approx(1 + 0.1 + 0.01 + 0.001)
    assert row["mean_quality"] == pytest.approx(-10 * np.log10(1.111 / 4))


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, bgzip])
def test_compression_is_told_by_content_and_a_second_pass_yields_the_same(
    write: Write, pack: Callable[[bytes], bytes]
) -> None:
    text = pack(many(5_000))
    for name in ("a.fastq", "b.fq.gz", "c.fastq.bgz", "d.reads"):
        source = open_source([write(name, text)])
        first = list(source.batches())
        assert max(map(len, first)) <= 16_384
        assert sum(map(len, first)) == 5_000
        assert list(source.batches()) == first
        assert source.locate([4_999, 0]) == [f"{source.name}, line 19997", f"{source.name}, line 1"]


def test_byte_order_mark_blank_lines_before_and_no_last_line_end_are_accepted(write: Write) -> None:
    source = open_source([write("a.fastq", b"\xef\xbb\xbf\r\n\n@a\nAC\n+\nII\n@b b\nacgtn\n+\nIIIII")])
    assert records(source) == [("a", "AC"), ("b", "acgtn")]
    assert source.locate([0, 1]) == [f"{source.name}, line 3", f"{source.name}, line 7"]
    assert records(open_source([write("b.fastq", b"@a\nAC\n+\nII\n\n\n")])) == [("a", "AC")]


def test_mixed_line_ends_and_quality_marks_that_look_like_headers_are_read(write: Write) -> None:
    source = open_source([write("a.fastq", b"@a\r\nACG\n+\n@+I\r\n@b\nRYK\n+b\n>>@\n")])
    assert records(source) == [("a", "ACG"), ("b", "RYK")]


def test_pairs_are_two_inputs_whose_ids_stay_apart(write: Write) -> None:
    one, two = write("r_1.fq", b"@x/1\nAC\n+\nII\n"), write("r_2.fq", b"@x/2\nGT\n+\nII\n")
    rows = table(open_source([f"{one}:mate=1", f"{two}:mate=2"])).select(["id", "mate"]).to_pylist()
    assert rows == [{"id": "x/1", "mate": "1"}, {"id": "x/2", "mate": "2"}]


def test_fastq_under_the_name_of_fasta_and_the_reverse_are_told_by_their_first_letter(write: Write) -> None:
    assert records(open_source([write("a.fa", b"@a\nAC\n+\nII\n")])) == [("a", "AC")]
    assert records(open_source([write("a.fq", b">a\nAC\n")])) == [("a", "AC")]


GOOD = b"@a x\nAC\n+\nII\n"


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"", 1, "empty"),
        (b"\nhello\n", 2, "no FASTQ header.*'hello'"),
        (b"@b\n", 1, "ends in the middle of 'b': it was cut off"),
        (GOOD + b"@b\nAC\n", 6, "ends in the middle of 'b': it was cut off"),
        (GOOD + b"@b\nAC\n+\n", 7, "ends in the middle of 'b': it was cut off"),
        (GOOD + b"@b\nACGT\n+\nII", 8, "'b' has 4 letters and 2 qualities"),
        (GOOD + b"@b\nAC\n+\nIII\n" + GOOD, 8, "'b' has 2 letters and 3 qualities"),
        (GOOD + b"@b\nAC\nII\n" + GOOD, 7, r"expected '\+' after the letters of 'b', found 'II'"),
        (GOOD + b"@b\nAC\nGT\n+\nIIII\n", 7, r"expected '\+' after the letters of 'b', found 'GT'; .*four lines"),
        (GOOD + b"b\nAC\n+\nII\n", 5, "starts with '@', found 'b'"),
        (GOOD + b"\n" + GOOD, 5, "starts with '@', found ''"),
        (GOOD + b"@b\n\n+\n\n" + GOOD, 6, "'b' has no sequence"),
        (GOOD + b"@\nAC\n+\nII\n", 5, "no id"),
        (GOOD + b"@ b\nAC\n+\nII\n", 5, "no id"),
        (GOOD + b"@\xff\nAC\n+\nII\n", 5, "not text"),
        (GOOD + b"@b\nA7\n+\nII\n", 6, "'7' in the sequence of 'b'"),
        (GOOD + b"@b\nA C\n+\nIII\n", 6, "' ' in the sequence of 'b'"),
        (GOOD + b"@b\nACG\n+\nI\x7fI\n", 8, "the byte 0x7f among the qualities of 'b'"),
        (GOOD + b"@b\nACG\n+\nI I\n", 8, "a blank among the qualities of 'b'"),
        (GOOD + b"@b\nACG\n+\nI\rI\n", 8, "a blank among the qualities of 'b'"),
        (b"@a\rAC\r+\rII\r", 1, "ends in the middle of 'a'"),
    ],
)
def test_bad_fastq_is_an_error_with_file_and_line(write: Write, content: bytes, line: int, says: str) -> None:
    for name, packed in (("bad.fastq", content), ("bad.fq.gz", gzip.compress(content))):
        path = write(name, packed)
        with pytest.raises(InputError, match=rf"{re.escape(path)}, line {line}: .*{says}"):
            records(open_source([path]))


def test_the_first_of_several_faults_is_the_one_named(write: Write) -> None:
    path = write("a.fq", GOOD + b"@b\nA7\n+\nII\n@c\nAC\n-\nII\n")
    with pytest.raises(InputError, match="line 6: '7' in the sequence of 'b'"):
        records(open_source([path]))


@pytest.mark.parametrize("pack", [gzip.compress, bgzip])
def test_truncated_gzip_is_an_error_not_an_end_of_file(write: Write, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(many(3_000))
    path = write("a.fq.gz", packed[: len(packed) // 2])
    with pytest.raises(InputError, match=rf"{re.escape(path)}, line \d+: .*cut off") as caught:
        records(open_source([path]))
    reached = int(re.findall(r"line (\d+)", str(caught.value))[0])
    assert 0.4 < reached / 12_000 < 0.6


def test_gzip_damaged_anywhere_is_an_error_or_reads_as_before(write: Write) -> None:
    text = many(300)
    made = records(open_source([write("whole.fq", text)]))
    whole = gzip.compress(text, mtime=0)
    rng = random.Random(0)
    for _ in range(20):
        packed = bytearray(whole)
        packed[rng.randrange(2, len(packed))] ^= 1 << rng.randrange(8)
        path = write("a.fq.gz", bytes(packed))
        with suppress(InputError):
            assert records(open_source([path])) == made, "a bit of the gzip header that means nothing"


def test_reads_longer_than_a_block_are_whole(write: Write) -> None:
    letters = b"ACGTTGCA" * 1_500_000
    path = write("a.fq", GOOD + b"@long\n" + letters + b"\n+\n" + b"5" * len(letters) + b"\n@z\nA\n+\nI\n")
    got = table(open_source([path])).to_pylist()
    assert [row["id"] for row in got] == ["a", "long", "z"]
    assert got[1]["sequence"].encode() == letters
    assert got[1]["expected_errors"] == pytest.approx(len(letters) / 100, rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_memory_does_not_grow_with_the_reads(tmp_path: Path) -> None:
    program = """
import sys
from embedcache.sources import open_source
rows = sum(map(len, open_source([sys.argv[1]]).batches()))
print(rows, next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    thousand = many(1_000, (150, 150))
    peaks = []
    for rows in (300_000, 1_200_000):
        path = tmp_path / f"{rows}.fastq"
        with path.open("wb") as file:
            for _ in range(rows // 1_000):
                file.write(thousand)
        done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        read, kilobytes = map(int, done.stdout.split())
        assert read == rows
        peaks.append(kilobytes / 1e3)
    assert peaks[1] - peaks[0] < 30, "megabytes, for 290 MB more of input"
