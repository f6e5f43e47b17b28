"""CSV, TSV and parquet: columns found by name, values as they are, and every error with its line or row."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedcache.errors import InputError
from embedcache.sources import Records, open_source

Write = Callable[[str, bytes], str]


def rows(source: Records) -> list[dict[str, Any]]:
    return [row for batch in source.batches() for row in batch.to_pylist()]


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.txt", "a"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_text_tables_are_read_whatever_their_delimiter_and_name(write: Write, name: str, delimiter: str) -> None:
    text = delimiter.join(["ID", "Sequence", "label"]) + "\n" + delimiter.join(["x", "ACGT", "1"]) + "\n"
    packed = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
    source = open_source([write(name, packed)])
    assert rows(source) == [{"id": "x", "sequence": "ACGT", "label": "1"}]
    assert source.text_columns == {"label"}


def test_quotes_byte_order_mark_blank_lines_and_windows_line_ends(write: Write) -> None:
    text = b'\xef\xbb\xbf\r\n\r\nid, seq ,"a,b",\r\n\r\nx, AC ,"1,\r\n2",3\r\n\r\n"y ",GT,NA,nan\r\nz,A,,null'
    source = open_source([write("a.csv", text)])
    assert source.columns == ("a,b", "column_4")
    assert rows(source) == [
        {"id": "x", "sequence": "AC", "a,b": "1,\r\n2", "column_4": "3"},
        {"id": "y", "sequence": "GT", "a,b": None, "column_4": None},
        {"id": "z", "sequence": "A", "a,b": None, "column_4": None},
    ]
    assert source.locate([2, 1, 0]) == [f"{source.name}, line {line}" for line in (9, 8, 5)]


def test_values_stay_text_and_reserved_names_get_a_suffix(write: Write) -> None:
    source = open_source([write("a.csv", b"accession,protein,length,label\nx,MK,007,1e3\n")])
    assert rows(source) == [{"id": "x", "sequence": "MK", "length_in": "007", "label": "1e3"}]


def test_columns_given_by_name_win_over_guesses(write: Write) -> None:
    path = write("a.csv", b"id,sequence,gene,ref_seq\nx,AC,brca1,GT\n")
    source = open_source([path], id_column="gene", sequence_column="ref_seq")
    assert rows(source) == [{"id": "brca1", "sequence": "GT", "id_in": "x", "sequence_in": "AC"}]


def test_sites_without_ids_are_named_by_chromosome_position_and_strand(write: Write) -> None:
    stranded = write("a.parquet", parquet(chrom=["chr1"], pos_1based=[34], strand=["-"], ratio=[0.5], seq=["ACGT"]))
    [row] = rows(open_source([stranded]))
    assert row == {
        "id": "chr1:34:-",
        "sequence": "ACGT",
        "chrom": "chr1",
        "pos_1based": 34,
        "strand": "-",
        "ratio": 0.5,
    }
    assert rows(open_source([write("b.tsv", b"chrom\tpos\tseq\nchr1\t34\tA\n")]))[0]["id"] == "chr1:34"


def test_parquet_keeps_types_and_decodes_dictionaries(write: Write) -> None:
    kinds = pa.array(["CG", "CHH", "CG"]).dictionary_encode()
    content = parquet(id=[3, 1, 2], seq=pa.array(["A", "C", "G"]).dictionary_encode(), m=[1, None, 3], context=kinds)
    source = open_source([write("a.pq", content)])
    assert source.schema == pa.schema(
        {"id": pa.string(), "sequence": pa.large_string(), "m": pa.int64(), "context": pa.string()}
    )
    assert rows(source)[1] == {"id": "1", "sequence": "C", "m": None, "context": "CHH"}
    assert source.text_columns == frozenset()
    assert source.locate([2]) == [f"{source.name}, row 3"]


def test_parquet_of_contigs_comes_in_batches_bounded_by_letters(write: Write, tmp_path: Path) -> None:
    contigs = pa.table({"id": [str(i) for i in range(30)], "seq": ["ACGT" * 1_000_000] * 30})
    pq.write_table(contigs, tmp_path / "a.parquet", use_dictionary=False)
    batches = list(open_source([str(tmp_path / "a.parquet")]).batches())
    assert sum(map(len, batches)) == 30
    assert all(len(batch) <= 16 for batch in batches)


def test_tables_are_cut_into_batches_of_one_shard(write: Write) -> None:
    content = b"id,seq\n" + b"".join(b"r%d,ACGT\n" % i for i in range(40_000))
    source = open_source([write("a.csv", content)])
    assert max(map(len, source.batches())) == 16_384
    assert [row["id"] for row in rows(source)] == [f"r{i}" for i in range(40_000)]


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"", 1, "empty"),
        (b"id,seq\n", 1, "no rows"),
        (b"hello\nworld\n", 1, "expected a FASTA header .* or column names .* found 'hello'"),
        (b"\x80\x04\x95\x00\x00\x00,\x00\n", 1, "expected"),
        (b"i\xfc,seq\na,A\n", 1, "not UTF-8"),
        (b"\nname_of_it,seq,label\nx,A,1\n", 2, "the columns are name_of_it, seq, label; .*--id-column"),
        (b"id,letters\nx,A\n", 1, "the columns are id, letters; .*--sequence-column"),
        (b"id,seq,length,length_in\nx,A,1,2\n", 1, "'length_in'; rename"),
        (b'id,seq\nx,A\n"y\ny",A\n\nz,A,1\n', 6, "3 fields where the header has 2"),
        (b"id,seq,label\nx,A\n", 2, "2 fields where the header has 3"),
        (b"id,seq,place\nx,A,here\ny,A,fr\xfch\n", 3, "not UTF-8"),
        (b"id,seq\nx,A\n ,A\n", 3, "the id is empty"),
        (b"id,seq\nx,A\nNA,A\n", 3, "the id is empty"),
        (b"id,seq\nx,A\n\ny,\n", 4, "the sequence of 'y' is empty"),
        (b"id,seq\nx,A\ny,NA\n", 3, "the sequence of 'y' is empty"),
        (b"id,seq\nx,A\ny,A1\n", 3, "'1' in the sequence of 'y'"),
        (b"id,seq\nx,ACG CGT\n", 2, "' ' in the sequence of 'x'.*join k-mers"),
        (b'id,seq,note\nx,A,"5\ny,A,1\nz,A,1\n', 2, "quote opened on this line is not closed"),
    ],
)
def test_a_bad_table_is_an_error_with_file_and_line(write: Write, content: bytes, line: int, says: str) -> None:
    path = write("bad.csv", content)
    with pytest.raises(InputError, match=rf"{re.escape(path)}, line {line}: .*{says}"):
        rows(open_source([path]))


def test_a_fault_far_into_a_table_is_named_by_its_own_line(write: Write) -> None:
    good = b"".join(b"r%d,%s\n" % (i, b"ACGT" * 40) for i in range(60_000))
    with pytest.raises(InputError, match=r"line 60002: '!' in the sequence of 'bad'"):
        rows(open_source([write("a.csv", b"id,seq\n" + good + b"bad,A!\n" + good)]))
    with pytest.raises(InputError, match=r"line 60002: the row has 1 fields"):
        rows(open_source([write("b.csv", b"id,seq\n" + good + b"bad\n" + good)]))


def test_a_row_too_long_to_be_read_in_pieces_is_an_error(write: Write) -> None:
    with pytest.raises(InputError, match=r"line 3: a row of 30,000,003 letters is too long"):
        rows(open_source([write("a.csv", b"id,seq\nx,A\nbig," + b"A" * 30_000_000 + b"\n")]))


@pytest.mark.parametrize("option", ["id_column", "sequence_column"])
def test_a_column_that_was_given_and_is_missing_is_an_error(write: Write, option: str) -> None:
    says = f"line 1: there is no column 'gone', given with --{option.replace('_', '-')}; the columns are id, seq"
    with pytest.raises(InputError, match=says):
        open_source([write("a.csv", b"id,seq\nx,A\n")], **{option: "gone"})


def test_a_truncated_gzip_table_is_an_error_not_an_end_of_file(write: Write) -> None:
    packed = gzip.compress(b"id,seq\n" + b"".join(b"r%d,%s\n" % (i, b"ACGT" * (i % 50 + 1)) for i in range(50_000)))
    path = write("a.csv.gz", packed[:-2_000])
    with pytest.raises(InputError, match=rf"{re.escape(path)}, line \d\d+: .*cut off"):
        rows(open_source([path]))


def test_bad_parquet_is_an_error_with_its_row(write: Write) -> None:
    whole = parquet(id=["x", "y", "z"], seq=["A", None, "C"])
    for name, content, says in [
        ("a.parquet", whole, "row 2: the sequence of 'y' is empty"),
        ("b.parquet", b"id,seq\nx,A\n", "not parquet"),
        ("c.parquet", b"", "empty"),
        ("d.parquet", whole[:-100], "cut off or damaged"),
        ("e.parquet.gz", gzip.compress(whole), "gunzip"),
        ("f.parquet", parquet(id=pa.array([], pa.string()), seq=pa.array([], pa.string())), "no rows"),
        ("g.parquet", parquet(id=["x"], seq=[["A", "C"]]), "'seq' holds list<.*>, not text"),
        ("h.parquet", parquet(id=[0.5], seq=["A"]), "'id' holds double, not text"),
        ("i.parquet", parquet(name_of_it=["x"], seq=["A"]), "the columns are name_of_it, seq"),
    ]:
        path = write(name, content)
        with pytest.raises(InputError, match=f"{re.escape(path)}.*{says}"):
            rows(open_source([path]))


def test_real_tables_open_with_the_columns_they_have(shared_data: Path) -> None:
    source = open_source([str(shared_data / "dnabert_sample_ft6" / "sequences.tsv.gz")])
    got = rows(source)
    assert len(got) == 1_000
    assert source.columns == ("label", "split")
    assert {len(row["sequence"]) for row in got} == {101}
