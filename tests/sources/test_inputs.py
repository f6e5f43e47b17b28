"""Several inputs, attached columns, standard input, and metadata joined by id."""

from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedcache.errors import InputError
from embedcache.sources import Records, open_source
from embedcache.sources.files import input_file

Write = Callable[[str, bytes], str]


def rows(source: Records) -> list[dict[str, Any]]:
    return [row for batch in source.batches() for row in batch.to_pylist()]


def test_attached_columns_mark_all_records_of_their_file(write: Write) -> None:
    viral, host = write("a.fa", b">a\nAC\n>b\nGT\n"), write("b.fa.gz", gzip.compress(b"\n>c\nA\n"))
    source = open_source([f"{viral}:label=1", f"{host}:label=0,group=chr1:5"])
    assert source.columns == ("label", "group")
    assert rows(source) == [
        {"id": "a", "sequence": "AC", "label": "1", "group": None},
        {"id": "b", "sequence": "GT", "label": "1", "group": None},
        {"id": "c", "sequence": "A", "label": "0", "group": "chr1:5"},
    ]
    assert source.locate([2, 1]) == [f"{host}, line 2", f"{viral}, line 3"]
    assert source.size_bytes == sum(Path(path).stat().st_size for path in (viral, host))


def test_a_path_that_exists_wins_over_attached_columns(write: Write) -> None:
    source = open_source([write("a.fa:label=1", b">a\nAC\n")])
    assert rows(source) == [{"id": "a", "sequence": "AC"}]


@pytest.mark.parametrize("name", [r"C:\data\reads.fa", "C:reads.fa", "s3:x", "a.fa:label"])
def test_colons_in_a_path_are_not_taken_for_columns(name: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(name)} does not exist"):
        input_file(name)
    with pytest.raises(InputError, match=f"^{re.escape(name)} does not exist"):
        input_file(f"{name}:label=1,group=x")


def test_columns_of_different_inputs_share_a_type(write: Write) -> None:
    def parquet(name: str, **columns: Any) -> str:
        buffer = io.BytesIO()
        pq.write_table(pa.table({"id": [name], "seq": ["A"], **columns}), buffer)
        return write(f"{name}.parquet", buffer.getvalue())

    inputs = [
        parquet("p", m=[1], label=[1], code=["007"], only=[True]),
        parquet("q", m=[0.5], label=[0], code=["008"]),
        write("t.csv", b"id,seq,label,code\nt,A,1,9\n"),
    ]
    source = open_source(inputs)
    assert source.schema.field("m").type == pa.float64()
    assert rows(source) == [
        {"id": "p", "sequence": "A", "m": 1.0, "label": "1", "code": "007", "only": True},
        {"id": "q", "sequence": "A", "m": 0.5, "label": "0", "code": "008", "only": None},
        {"id": "t", "sequence": "A", "m": None, "label": "1", "code": "9", "only": None},
    ]
    assert source.text_columns == {"label"}, "code is text on purpose in parquet"


def test_a_column_both_attached_and_in_the_file_is_an_error(write: Write) -> None:
    with pytest.raises(InputError, match="'label' is attached, but the file has it"):
        open_source([write("a.csv", b"id,seq,label\nx,A,1\n") + ":label=0"])
    with pytest.raises(InputError, match="attaches a column twice"):
        open_source([write("a.fa", b">a\nA\n") + ":label=0,label=1"])


def test_paths_that_cannot_be_read_say_the_way_out(write: Write, tmp_path: Path) -> None:
    path = write("reads.fa.gz", b"")
    for given, says in [
        (path[:-3], "does not exist; did you mean reads.fa.gz"),
        (str(tmp_path / "nowhere" / "a.fa"), "neither does the folder"),
        (str(tmp_path), r"is a folder; .*\*.fa"),
        (write("a.fa.zst", b"\x28\xb5\x2f\xfd...."), "zstd"),
        (write("a.xlsx", b"PK\x03\x04...."), "save it as CSV"),
    ]:
        with pytest.raises(InputError, match=says):
            open_source([given])
    with pytest.raises(InputError, match="no input"):
        open_source([])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b">a x\nAC\nGT\n", "a ACGT standard input, line 1"),
        (gzip.compress(b">a x\nAC\nGT\n"), "a ACGT standard input, line 1"),
        (b"name\tseq\na\tACGT\n", "a ACGT standard input, line 2"),
    ],
    ids=["FASTA", "gzip", "TSV"],
)
def test_standard_input_is_read_twice_and_leaves_no_file(tmp_path: Path, content: bytes, expected: str) -> None:
    program = """
from embedcache.sources import open_source
source = open_source(["-:label=1"])
for _ in range(2):
    [batch] = source.batches()
assert batch["label"].to_pylist() == ["1"]
print(batch["id"][0], batch["sequence"][0], *source.locate([0]))
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, env=environment)
    assert (done.stdout.decode().strip(), done.stderr) == (expected, b"")
    assert not list(tmp_path.iterdir())


def test_standard_input_twice_is_an_error() -> None:
    with pytest.raises(InputError, match="only once"):
        open_source(["-"], metadata="-")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a matter of POSIX")
def test_a_pipe_is_read_twice(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b">a\nAC\n",))
    writer.start()
    source = open_source([str(pipe)])
    writer.join()
    assert rows(source) == rows(source) == [{"id": "a", "sequence": "AC"}]


def test_metadata_is_joined_by_id_and_what_is_left_over_is_counted(write: Write) -> None:
    fasta = write("a.fa", b">a\nA\n>b\nC\n>c\nG\n")
    table = write("m.tsv", b"name\tlabel\tlength\nz\t1\t7\nc\tNA\t8\na\t0\t9\ny\t1\t1\n")
    source = open_source([f"{fasta}:run=1"], metadata=table)
    assert source.unmatched is None
    for _ in range(2):
        assert rows(source) == [
            {"id": "a", "sequence": "A", "run": "1", "label": "0", "length_in": "9"},
            {"id": "b", "sequence": "C", "run": "1", "label": None, "length_in": None},
            {"id": "c", "sequence": "G", "run": "1", "label": None, "length_in": "8"},
        ]
        assert source.unmatched is not None
        assert (source.unmatched.records, source.unmatched.record_ids) == (1, ("b",))
        assert (source.unmatched.metadata, source.unmatched.metadata_ids) == (2, ("z", "y"))
    assert source.text_columns == {"run", "label", "length_in"}


def test_the_real_contigs_get_their_labels(shared_data: Path) -> None:
    folder = shared_data / "pprmeta_example"
    source = open_source([str(folder / "sequences.fa.gz")], metadata=str(folder / "labels.tsv"))
    got = rows(source)
    assert source.columns == ("class", "viral", "length_in", "source", "split")
    assert all(len(row["sequence"]) == int(row["length_in"]) for row in got)
    assert all(row["id"].startswith(row["class"]) for row in got)
    assert source.unmatched is not None
    assert (source.unmatched.records, source.unmatched.metadata) == (0, 0)


def test_a_large_join_finds_every_row_whatever_the_order(write: Write) -> None:
    n = 50_000
    fasta = write("a.fa", b"".join(b">r%d\nA\n" % i for i in range(n)))
    table = write(
        "m.csv", b"id,value\n" + b"".join(b"r%d,%d\n" % (i, i) for i in sorted(range(n), key=lambda i: i * 7919 % n))
    )
    assert all(row["id"] == f"r{row['value']}" for row in rows(open_source([fasta], metadata=table)))


def test_long_ids_are_joined_as_short_ones_are(write: Write) -> None:
    names = [f"{name:0{20 + name % 7}d}" for name in range(700)]
    fasta = write("a.fa", "".join(f">{name}\nA\n" for name in names).encode())
    table = write("m.csv", ("id,value\n" + "".join(f"{name},{int(name)}\n" for name in names[::-1])).encode())
    source = open_source([fasta], metadata=table)
    assert [int(row["value"]) for row in rows(source)] == list(range(700))
    assert source.unmatched is not None
    assert (source.unmatched.records, source.unmatched.metadata) == (0, 0)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (b"id,label\na,1\n\nb,1\na,0\n", "m.csv, line 5: the id 'a' is there already on line 2"),
        (b"id,run\na,1\n", "m.csv: the column 'run' also comes with the input"),
        (b"id,label\nx,1\n", "m.csv: none of its 1 id .* it has 'x', the input has 'a'; .*--id-column"),
        (b"key,label\na,1\n", "m.csv, line 1: no column is named like the ids; the columns are key, label"),
        (b"id,label\na,1\n,1\n", "m.csv, line 3: the id is empty"),
        (b"id,label\n", "m.csv, line 1: .*no rows"),
        (b">a\nA\n", "m.csv, line 1: .*column names"),
    ],
)
def test_metadata_that_cannot_be_joined_is_an_error(write: Write, table: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        rows(open_source([write("a.fa", b">a\nA\n") + ":run=1"], metadata=write("m.csv", table)))


def test_the_id_column_is_that_of_the_metadata_where_the_input_is_fasta(write: Write) -> None:
    fasta, table = write("a.fa", b">a\nA\n"), write("m.csv", b"id,key,label\n1,a,5\n")
    assert rows(open_source([fasta], metadata=table, id_column="key"))[0]["label"] == "5"
    with pytest.raises(InputError, match="no column 'gone'"):
        open_source([fasta], metadata=table, id_column="gone")
    with pytest.raises(InputError, match="--id-column names a column of a table"):
        open_source([fasta], id_column="key")
    reads = write("r.csv", b"key,seq\na,A\n")
    other = write("o.csv", b"id,label\na,6\n")
    assert rows(open_source([reads], metadata=table, id_column="key"))[0]["label"] == "5"
    assert rows(open_source([reads], metadata=other, id_column="key"))[0]["label"] == "6"
