"""The pre-flight: types, digests and duplicate ids."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedcache import load_encoder
from embedcache.encoding import Encoding
from embedcache.errors import InputError
from embedcache.extraction import plan as plan_module
from embedcache.extraction.plan import Plan, make_plan, slices
from embedcache.sources import open_source
from tests.stores import random_reads, write_fasta


def plan_of(file: Path | str) -> Plan:
    encoder = load_encoder("kmer:3")
    return make_plan(open_source([str(file)]), Encoding(encoder, encoder.readout(), "window"))


def table(tmp_path: Path, column: list[str]) -> str:
    file = tmp_path / "t.csv"
    file.write_text("id,sequence,value\n" + "".join(f"r{i},ACGT,{value}\n" for i, value in enumerate(column)))
    return str(file)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["0", "1", "", "-5"], pa.int64()),
        (["0.5", "1", "1e-3", "NA"], pa.float64()),
        (["1", "2", "X"], pa.string()),
        (["007", "012"], pa.string()),
        (["1_000", "5"], pa.string()),
        (["", "NA"], pa.string()),
        (["true", "false"], pa.string()),
        (["1.1", "1.10"], pa.string()),
        (["12345678901234567890", "12345678901234567891"], pa.string()),
    ],
)
def test_a_text_column_gets_the_narrowest_type_that_loses_nothing(
    tmp_path: Path, values: list[str], kind: pa.DataType
) -> None:
    assert plan_of(table(tmp_path, values)).metadata.field("value").type == kind


def test_one_late_word_makes_the_whole_column_text(tmp_path: Path) -> None:
    found = plan_of(table(tmp_path, ["1"] * 40_000 + ["unknown"]))
    assert found.metadata.field("value").type == pa.string()


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    rows = pa.table({"id": ["a", "b"], "sequence": ["AC", "GT"], "donor": ["1", "2"], "score": [1.5, None]})
    pq.write_table(rows, tmp_path / "t.parquet")
    metadata = plan_of(tmp_path / "t.parquet").metadata
    assert [str(kind) for kind in metadata.types] == ["string", "double"]


def test_the_digest_sees_ids_sequences_and_their_borders_but_not_how_the_file_is_cut(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        (tmp_path / "r.fa").write_text(text)
        return plan_of(tmp_path / "r.fa").digest(0, 1)

    plain = digest(">a\nACGT\n>b\nGG\n")
    assert digest(">a\nAC\nGT\n\n>b\nGG\n") == plain
    others = [">a\nACGTG\n>b\nG\n", ">a\nACGT\n>c\nGG\n", ">b\nACGT\n>a\nGG\n", ">aA\nCGT\n>b\nGG\n"]
    assert len({plain, *map(digest, others)}) == 5


def test_slices_have_the_same_borders_whatever_the_batches_are(tmp_path: Path) -> None:
    source = open_source([str(write_fasta(tmp_path / "a.fa", random_reads(700))), str(
        write_fasta(tmp_path / "b.fa", random_reads(900), first=700))])  # fmt: skip
    cut = list(slices(source, 512))
    assert [len(part) for part in cut] == [512, 512, 512, 64]
    assert [name for part in cut for name in part.column("id").to_pylist()] == [f"r{i}" for i in range(1600)]


def test_equal_hashes_of_different_ids_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "hash", lambda _: 7, raising=False)
    fasta = write_fasta(tmp_path / "r.fa", random_reads(50))
    assert plan_of(fasta).rows == 50
    fasta.write_text(fasta.read_text() + ">r3\nACGT\n")
    with pytest.raises(InputError, match="'r3' occurs twice"):
        plan_of(fasta)
