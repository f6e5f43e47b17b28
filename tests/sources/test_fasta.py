"""FASTA files: what is read, and every error with its line."""

from __future__ import annotations

import gzip
import random
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from embedcache.errors import InputError
from embedcache.sources import Records, open_source

Write = Callable[[str, bytes], str]


def records(source: Records) -> list[tuple[str, str]]:
    return [
        (name, sequence)
        for batch in source.batches()
        for name, sequence in zip(batch["id"].to_pylist(), batch["sequence"].to_pylist(), strict=True)
    ]


def bgzip(data: bytes, block: int = 60_000) -> bytes:
    """Compress into BGZF blocks (SAM specification, section 4.1), with the empty block at the end."""
    packed = b""
    for start in [*range(0, len(data), block), len(data)]:
        part = data[start : start + block]
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = deflate.compress(part) + deflate.flush()
        header = struct.pack("<4BI2BH2BHH", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, len(body) + 25)
        packed += header + body + struct.pack("<II", zlib.crc32(part), len(part))
    return packed


def many(n: int) -> tuple[list[tuple[str, str]], bytes]:
    rng = random.Random(0)
    made = [(f"read_{i}", "".join(rng.choices("ACGT", k=rng.randint(1, 200)))) for i in range(n)]
    return made, b"".join(f">{name} text\n{sequence}\n".encode() for name, sequence in made)


def test_multi_line_records_with_blank_lines_and_windows_line_ends_are_joined(write: Write) -> None:
    path = write("a.fa", b"\xef\xbb\xbf\r\n>a first > one\r\nAC GT\t\r\n\r\nacgt\r\n>b\nMK*-.\n\n>c\nA")
    source = open_source([path])
    assert records(source) == [("a", "ACGTacgt"), ("b", "MK*-."), ("c", "A")]
    assert source.locate([2, 0]) == [f"{path}, line 9", f"{path}, line 2"]


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, bgzip])
def test_compression_is_told_by_content_not_by_name(write: Write, pack: Callable[[bytes], bytes]) -> None:
    made, text = many(20_000)
    for name in ("a.fa", "b.fa.gz", "c.fna.bgz"):
        source = open_source([write(name, pack(text))])
        assert records(source) == made
        assert source.locate([19_999]) == [f"{source.name}, line 39999"]


def test_batches_are_bounded_and_a_second_pass_yields_the_same(write: Write) -> None:
    made, text = many(40_000)
    source = open_source([write("a.fa", text)])
    first = list(source.batches())
    assert [len(batch) for batch in first] == [16_384, 16_384, 40_000 - 2 * 16_384]
    assert list(source.batches()) == first
    assert source.size_bytes == len(text)
    assert len(made) == sum(map(len, first))


def test_records_longer_than_a_block_are_whole(write: Write) -> None:
    letters = b"ACGTTGCA" * 1_500_000
    lines = b"\n".join(letters[at : at + 61] for at in range(0, len(letters), 61))
    source = open_source([write("a.fa", b">s\nA\n>chr1\n" + lines + b"\n>chr2\n" + lines + b"\n>t\nC\n")])
    got = records(source)
    assert [name for name, _ in got] == ["s", "chr1", "chr2", "t"]
    assert got[1][1].encode() == got[2][1].encode() == letters
    per_chromosome = 1 + len(range(0, len(letters), 61))
    assert source.locate([3]) == [f"{source.name}, line {2 + 2 * per_chromosome + 1}"]


def test_the_real_contigs_are_read_to_the_last_letter(shared_data: Path) -> None:
    path = shared_data / "pprmeta_example" / "sequences.fa.gz"
    got = records(open_source([str(path)]))
    text = gzip.decompress(path.read_bytes()).decode()
    expected = [(part.split("\n", 1)[0], part.split("\n", 1)[1].replace("\n", "")) for part in text[1:].split("\n>")]
    assert len(got) == 300
    assert got == expected


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"", 1, "empty"),
        (b"\n\n \n", 1, "empty"),
        (b"\nhello\n>a\nACGT\n", 2, "no FASTA header.*'hello'"),
        (b">a\nAC\n>b\n\n>c\nA\n", 3, "'b' has no sequence"),
        (b">a\nAC\n>b", 3, "'b' has no sequence"),
        (b">a\nAC\n> \nA\n", 3, "no id"),
        (b">a\nAC\n>\xff\nA\n", 3, "not text"),
        (b">a\nAC\n\nA\x00C\n>b\nA\n", 4, "byte 0x00 in the sequence of 'a'"),
        (b">a\nAC\n>b\nAA\n\xc3\xa9\n", 5, "byte 0xc3 in the sequence of 'b'"),
        (b">a\nAC\n>b\nAA\nA7A\n", 5, "'7' in the sequence of 'b'"),
        (b">a\nAC\n+\nTT\n", 3, r"'\+' in the sequence of 'a'"),
        (b">a\nAC\n#TT\n", 3, "'#' in the sequence of 'a'"),
    ],
)
def test_bad_fasta_is_an_error_with_file_and_line(write: Write, content: bytes, line: int, says: str) -> None:
    for name, packed in (("bad.fa", content), ("bad.fa.gz", gzip.compress(content))):
        path = write(name, packed)
        with pytest.raises(InputError, match=rf"{re.escape(path)}, line {line}: .*{says}"):
            records(open_source([path]))


def test_the_first_of_several_faults_is_the_one_named(write: Write) -> None:
    with pytest.raises(InputError, match="line 3: 'b' has no sequence"):
        records(open_source([write("a.fa", b">a\nAC\n>b\n>c\n7\n>\nA\n")]))


@pytest.mark.parametrize("pack", [gzip.compress, bgzip])
def test_truncated_gzip_is_an_error_not_an_end_of_file(write: Write, pack: Callable[[bytes], bytes]) -> None:
    made, text = many(20_000)
    packed = pack(text)
    path = write("a.fa.gz", packed[: len(packed) // 2])
    with pytest.raises(InputError, match=rf"{re.escape(path)}, line \d+: .*cut off") as caught:
        records(open_source([path]))
    reached = int(re.findall(r"line (\d+)", str(caught.value))[0])
    assert 0.4 < reached / (2 * len(made)) < 0.6


def test_a_gzip_with_a_wrong_checksum_is_an_error(write: Write) -> None:
    packed = bytearray(gzip.compress(many(20_000)[1]))
    packed[-6] ^= 1
    with pytest.raises(InputError, match=r"line \d+: the gzip data is damaged"):
        records(open_source([write("a.fa.gz", bytes(packed))]))


def test_gzip_damaged_anywhere_is_an_error_or_reads_as_before(write: Write) -> None:
    made, text = many(2_000)
    whole = gzip.compress(text, mtime=0)
    rng = random.Random(0)
    for _ in range(60):
        packed = bytearray(whole)
        packed[rng.randrange(2, len(packed))] ^= 1 << rng.randrange(8)
        path = write("a.fa.gz", bytes(packed))
        with suppress(InputError):
            assert records(open_source([path])) == made, "a bit of the gzip header that means nothing"


def test_a_bgzip_file_without_its_last_empty_block_is_read(write: Write) -> None:
    made, text = many(5_000)
    assert records(open_source([write("a.fa.gz", bgzip(text)[:-28])])) == made


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_memory_does_not_grow_with_the_file(write: Write) -> None:
    program = """
import sys
from embedcache.sources import open_source
def peak(path):
    rows = sum(map(len, open_source([path]).batches()))
    lines = open("/proc/self/status").read().split("\\n")
    return rows, int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1e3
small, large = peak(sys.argv[1]), peak(sys.argv[2])
print(small[0], large[0], large[1] - small[1])
"""
    thousand = b"".join(b">r%d\n%s\n" % (i, b"ACGT" * 250) for i in range(1_000))
    paths = [write("small.fa", thousand * 20), write("large.fa", thousand * 150)]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True)
    small, large, growth = map(float, done.stdout.split())
    assert (small, large) == (20_000, 150_000)
    assert growth < 65, "megabytes for 130 MB more of input: what the allocator keeps varies by some tens"
