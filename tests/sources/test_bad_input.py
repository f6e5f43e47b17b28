"""What every format of sequences makes of the files people have: byte order marks, line ends, cut ends, paths of Windows."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedcache.errors import InputError
from embedcache.sources import open_source
from tests.sources.test_fasta import bgzip, records
from tests.stores import run_extract

Write = Callable[[str, bytes], str]
Records = Mapping[str, str]


def as_fasta(made: Records) -> bytes:
    return "".join(f">{name} text\n{letters}\n" for name, letters in made.items()).encode()


def as_fastq(made: Records) -> bytes:
    return "".join(f"@{name} text\n{letters}\n+\n{'I' * len(letters)}\n" for name, letters in made.items()).encode()


def as_csv(made: Records) -> bytes:
    return "".join(["id,seq\n", *(f"{name},{letters}\n" for name, letters in made.items())]).encode()


def as_tsv(made: Records) -> bytes:
    return as_csv(made).replace(b",", b"\t")


TEXTS = {"a.fa": as_fasta, "a.fastq": as_fastq, "a.csv": as_csv, "a.tsv": as_tsv}
MADE = {"x": "ACGTACGT", "y": "acgtnnry", "z": "RYSWKMBDHVN"}


def as_parquet(made: Records) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": list(made), "seq": list(made.values())}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(
    "changed",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\r\n", 3),
        lambda text: text.removesuffix(b"\n"),
        gzip.compress,
        bgzip,
    ],
    ids=["byte order mark", "CRLF", "mixed line ends", "no last line end", "gzip", "bgzip"],
)
def test_what_means_nothing_changes_nothing_in_any_format(
    write: Write, name: str, changed: Callable[[bytes], bytes]
) -> None:
    assert records(open_source([write(name, changed(TEXTS[name](MADE)))])) == list(MADE.items())


def test_lower_case_and_iupac_letters_are_kept_as_they_are_in_parquet_too(write: Write) -> None:
    assert records(open_source([write("a.parquet", as_parquet(MADE))])) == list(MADE.items())


@pytest.mark.parametrize("name", [*TEXTS, "a.parquet"])
def test_a_cut_file_is_never_read_as_if_it_were_whole_or_short(write: Write, name: str) -> None:
    made = {f"r{i}": "ACGT" * (i % 9 + 1) for i in range(3000)}
    text = as_parquet(made) if name == "a.parquet" else gzip.compress(TEXTS[name](made))
    path = write(f"{name}.gz" if name != "a.parquet" else name, text[: len(text) // 2])
    with pytest.raises(InputError, match=rf"{re.escape(path)}.*(cut off|damaged)"):
        records(open_source([path]))


@pytest.mark.parametrize("name", [*TEXTS, "a.parquet"])
def test_a_duplicate_id_is_refused_with_both_places(write: Write, tmp_path: Path, name: str) -> None:
    write_as = TEXTS.get(name, as_parquet)
    one, two = write(f"1{name}", write_as(MADE)), write(f"2{name}", write_as({"w": "AC", "y": "GT"}))
    with pytest.raises(InputError, match=rf"'y' occurs twice, at {re.escape(one)}, .* and at {re.escape(two)}, "):
        run_extract(tmp_path / "s.zarr", one, two)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", b"id|seq\nx|ACGT\n", "column names with tabs, commas or semicolons"),
        ("a.tsv", b"id seq\nx ACGT\n", "column names with tabs, commas or semicolons"),
        ("a.tsv", b"id,seq\nx,ACGT\ny\n", "line 3: the row has 1 fields where the header has 2"),
        ("a.fa", as_csv(MADE), "line 1: no FASTA header"),
        ("a.fastq", as_csv(MADE), "line 1: no FASTQ header"),
        ("a.parquet", as_csv(MADE), "not parquet"),
    ],
)
def test_a_wrong_delimiter_or_another_format_is_said(write: Write, name: str, text: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        records(open_source([write(name, text)]))


def test_columns_attached_to_a_path_of_windows_are_told_from_its_colon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(r"C:\here.fa").write_text(">x\nAC\n")
    [batch] = open_source([r"C:\here.fa:label=1"]).batches()
    assert batch.to_pylist() == [{"id": "x", "sequence": "AC", "label": "1"}]
    for given in (r"C:\reads.fa:label=1", r"C:\runs\reads.fq.gz:label=1,group=a"):
        path = given.split(":label")[0]
        with pytest.raises(InputError, match=f"^{re.escape(path)} does not exist"):
            open_source([given])
