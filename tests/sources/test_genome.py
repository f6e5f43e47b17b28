"""Letters around sites of a genome: each window is what its definition says, and what cannot be cut is named."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pysam
import pytest
from click.testing import CliRunner

from cli.embedcache import cli
from embedcache import load_encoder, open_store
from embedcache.counted import counted
from embedcache.errors import InputError
from embedcache.extraction.extract import extract
from embedcache.extraction.preflight import Options
from embedcache.input_options import InputOptions
from embedcache.progress import Progress
from embedcache.records import remarks_of
from embedcache.sequences.views import View
from embedcache.sources import open_records, reference
from embedcache.storage.store import Store
from tests.encoders.golden import golden_folder
from tests.heads.program import run as heads
from tests.stores import run_extract, store_bytes, write_fasta
from tests.test_recovery import Killed, killed_before

CONTEXTS = "50,100,200,300,400"
COMPLEMENT = str.maketrans("ACGTNRYKMacgtnrykm", "TGCANYRMKtgcanyrmk")


def seen(contig: str, site: int, strand: str, view: View) -> str:
    """The definition of a window, letter by letter: places along the strand, N beyond the ends."""
    before = 0 if view.side == "downstream" else view.context
    after = 0 if view.side == "upstream" else view.context
    step = 1 if strand == "+" else -1
    places = [site + step * along for along in range(-before, after)]
    letters = "".join(contig[place] if 0 <= place < len(contig) else "N" for place in places)
    return letters if strand == "+" else letters.translate(COMPLEMENT)


def write_genome(file: Path, contigs: dict[str, str], width: int = 60, end: str = "\n", start: str = "") -> Path:
    """Write a genome as FASTA, packed as the name says."""
    lines = [
        line
        for name, letters in contigs.items()
        for line in (f">{name} it", *(letters[i : i + width] for i in range(0, len(letters), width)))
    ]
    text = (start + end.join(lines) + end).encode()
    if file.suffix == ".bgz":
        with pysam.BGZFile(str(file), "w") as stream:
            stream.write(text)
    else:
        file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)
    return file


def write(file: Path, text: str) -> Path:
    """Write text as it is."""
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


def read(
    genome: Path, sites: Path | Sequence[Path], context: str = "3", side: str = "both", **options: object
) -> pa.Table:
    """All records of a genome and its sites."""
    files = (sites,) if isinstance(sites, Path) else sites
    source = open_records(
        InputOptions(genome=str(genome), sites=tuple(map(str, files)), context=context, side=side, **options)  # type: ignore[arg-type]
    )
    table = pa.Table.from_batches(source.batches())
    return table.replace_schema_metadata({"said": "\n".join(remarks_of(source))})


def said(table: pa.Table) -> str:
    """What a source remarked when its records were read."""
    return str(table.schema.metadata[b"said"].decode())


def extracted(output: Path, options: InputOptions, model: str, **settings: object) -> Store:
    """Extract what the options name, as the program does."""
    chosen = Options(views=options.views, edge=options.edge, shard_rows=1024, **settings)  # type: ignore[arg-type]
    extract(open_records(options), load_encoder(model, device="cpu"), output, chosen, Progress(quiet=True))
    return open_store(output)


@pytest.fixture(scope="module")
def arabidopsis(shared_data: Path) -> dict[str, str]:
    """The real genome, by contig."""
    with gzip.open(shared_data / "ath_wgbs_chr1" / "genome.fa.gz", "rt") as stream:
        return {"chr1": "".join(line.strip() for line in stream if not line.startswith(">"))}


@pytest.fixture(scope="module")
def methylation(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """A part of the real sites, those at both ends of the contig among them, in no order."""
    with gzip.open(shared_data / "ath_wgbs_chr1" / "sites.tsv.gz", "rt") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    chosen = [*rows[:10], *rows[10:-10:90], *rows[-10:]]
    random.Random(0).shuffle(chosen)
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in chosen)]
    return write(tmp_path_factory.mktemp("sites") / "sites.tsv.gz", "\n".join(lines) + "\n"), chosen


@pytest.fixture
def genome_file(tmp_path: Path, arabidopsis: dict[str, str]) -> Path:
    return write_genome(tmp_path / "genome.fa.bgz", arabidopsis)


CONTIGS = {"chr1": "ACGTTGCAAGGCTTAACCGGATATCG", "chr2": "TTTTTCCCCC"}
"""A small genome: 26 and 10 letters."""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_genome(tmp_path / "g.fa", CONTIGS, width=7)


def test_all_15_contexts_on_both_strands_are_bit_for_bit_stores_of_their_windows(
    tmp_path: Path,
    genome_file: Path,
    arabidopsis: dict[str, str],
    methylation: tuple[Path, list[dict[str, str]]],
) -> None:
    table, rows = methylation
    options = InputOptions(genome=str(genome_file), sites=(str(table),), context=CONTEXTS, side="all")
    store = extracted(tmp_path / "s.zarr", options, "kmer:3")
    assert {row["strand"] for row in rows} == {"+", "-"}
    assert store.ids.tolist() == [f"chr1:{row['pos']}:{row['strand']}" for row in rows]
    assert [block.view for block in store.blocks] == [
        f"{side}_{width}" for side in ("upstream", "downstream", "both") for width in (50, 100, 200, 300, 400)
    ]
    for view in options.views:
        letters = [seen(arabidopsis["chr1"], int(row["pos"]) - 1, row["strand"], view) for row in rows]
        fasta = write_fasta(tmp_path / f"{view.name}.fa", letters)
        run_extract(tmp_path / f"{view.name}.zarr", fasta)
        expected = np.asarray(open_store(tmp_path / f"{view.name}.zarr").embeddings)
        np.testing.assert_array_equal(np.asarray(store.embeddings)[:, store.block(view.name)], expected)
    for column in ("context", "split", "label", "cov"):
        assert [str(value) for value in store.column(column).to_pylist()] == [row[column] for row in rows]
    assert set(store.column("center").to_pylist()) == {400}
    assert {sequence[400] for sequence in store.column("sequence").to_pylist()} == {"C"}


def test_a_small_transformer_encodes_all_15_contexts(
    tmp_path: Path,
    genome_file: Path,
    arabidopsis: dict[str, str],
    methylation: tuple[Path, list[dict[str, str]]],
) -> None:
    table, rows = methylation
    lines = gzip.decompress(table.read_bytes()).decode().splitlines()[:13]
    few = write(tmp_path / "few.tsv", "\n".join(lines) + "\n")
    folder = str(golden_folder("dnabert2", tmp_path))
    options = InputOptions(genome=str(genome_file), sites=(str(few),), context=CONTEXTS, side="all")
    store, encoder = extracted(tmp_path / "s.zarr", options, folder), load_encoder(folder, device="cpu")
    for view in options.views:
        letters = [seen(arabidopsis["chr1"], int(row["pos"]) - 1, row["strand"], view) for row in rows[:12]]
        expected = encoder.encode(letters).astype(np.float16)
        np.testing.assert_array_equal(np.asarray(store.embeddings)[:, store.block(view.name)], expected)


def test_a_bed_of_the_same_sites_gives_the_same_rows(tmp_path: Path, genome_file: Path, shared_data: Path) -> None:
    folder = shared_data / "ath_wgbs_chr1"
    table = read(genome_file, folder / "sites.tsv.gz", "20")
    bed = read(genome_file, folder / "sites.bed.gz", "20")
    assert bed.column("sequence").equals(table.column("sequence"))
    assert bed.column("id")[0].as_py() == "CHG_34"
    assert bed.column("position")[0].as_py() == "33"
    assert bed.column("score").equals(table.column("label"))


def test_a_stored_window_serves_as_well_as_the_genome(
    tmp_path: Path,
    genome_file: Path,
    arabidopsis: dict[str, str],
    methylation: tuple[Path, list[dict[str, str]]],
) -> None:
    table, rows = methylation
    around = View("both", 400)
    columns = {
        "chrom": [row["chrom"] for row in rows],
        "pos_1based": [int(row["pos"]) for row in rows],
        **{name: [row[name] for row in rows] for name in ("strand", "split", "context", "label")},
        "seq": [seen(arabidopsis["chr1"], int(row["pos"]) - 1, row["strand"], around) for row in rows],
    }
    pq.write_table(pa.table(columns), tmp_path / "sites.parquet")
    stored = InputOptions(
        inputs=(str(tmp_path / "sites.parquet"),), sequence_column="seq", context="50,400", side="all"
    )
    cut = InputOptions(genome=str(genome_file), sites=(str(table),), context="50,400", side="all")
    first, second = (
        extracted(tmp_path / f"{name}.zarr", options, "kmer:2") for name, options in (("a", stored), ("b", cut))
    )
    np.testing.assert_array_equal(np.asarray(first.embeddings), np.asarray(second.embeddings))
    assert first.ids.tolist() == second.ids.tolist()


def test_a_killed_extraction_resumes_to_the_same_bytes(
    tmp_path: Path, genome_file: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = gzip.decompress((shared_data / "ath_wgbs_chr1" / "sites.tsv.gz").read_bytes()).decode().splitlines()[:2500]
    table = write(tmp_path / "sites.tsv", "\n".join(lines) + "\n")
    options = InputOptions(genome=str(genome_file), sites=(str(table),), context="10,30", side="all", edge="drop")
    extracted(tmp_path / "whole.zarr", options, "kmer:2")
    with monkeypatch.context() as patch:
        killed_before(patch, "/commit/00000001.json", 1)
        with pytest.raises(Killed):
            extracted(tmp_path / "s.zarr", options, "kmer:2")
    extracted(tmp_path / "s.zarr", options, "kmer:2")
    assert store_bytes(tmp_path / "s.zarr") == store_bytes(tmp_path / "whole.zarr")


@pytest.mark.parametrize(
    ("name", "text", "options", "expected"),
    [
        ("t.tsv", "chrom\tpos\tstrand\nchr1\t5\t+\n", {}, 4),
        ("t.tsv", "chrom\tpos\nchr1\t5\n", {"coordinates": "0"}, 5),
        ("t.csv", "CHROM,Position\nchr1,5\n", {}, 4),
        ("t.tsv", "chr\tpos_1based\nchr1\t5\n", {}, 4),
        ("t.tsv", "chr\tpos0\nchr1\t5\n", {}, 5),
        ("t.tsv", "chrom\tstart\tend\nchr1\t5\t6\n", {}, 5),
        ("t.tsv", "#chrom\tstart\tend\nchr1\t4\t9\n", {"anchor": "start"}, 4),
        ("t.bed", "track name=x\n#a comment\nchr1\t4\t9\n", {}, 6),
        ("t.bed", "chr1 4 9\n", {"anchor": "end"}, 8),
        ("t.bed", "chr1\t5\t9\n", {"coordinates": "1", "anchor": "start"}, 4),
        ("t.bed", "#chrom\tstart\tend\tlabel\nchr1\t4\t5\t1\n", {}, 4),
        ("t.bed", "chrom\tstart\tend\tlabel\nchr1\t4\t5\t1\n", {}, 4),
        ("t.gff3", "##gff-version 3\nchr1\tx\tgene\t5\t9\t.\t+\t.\tID=a\n##FASTA\n>x\nACGT\n", {}, 6),
        ("t.gtf", 'chr1\tx\tgene\t5\t9\t.\t+\t.\tgene_id "a"\n', {"anchor": "start"}, 4),
    ],
)
def test_each_format_and_column_counts_from_its_own_number(
    tmp_path: Path, small: Path, name: str, text: str, options: dict[str, object], expected: int
) -> None:
    table = read(small, write(tmp_path / name, text), **options)
    assert table.column("sequence").to_pylist() == [seen(CONTIGS["chr1"], expected, "+", View("both", 3))]


@pytest.mark.parametrize(
    ("anchor", "places"),
    [("start", (4, 8)), ("center", (6, 6)), ("end", (8, 4))],
)
def test_the_anchor_of_an_interval_is_that_of_its_strand(
    tmp_path: Path, small: Path, anchor: str, places: tuple[int, int]
) -> None:
    bed = write(tmp_path / "t.bed", "chr1\t4\t9\ta\t0\t+\nchr1\t4\t9\tb\t0\t-\n")
    table = read(small, bed, anchor=anchor)
    expected = [seen(CONTIGS["chr1"], at, strand, View("both", 3)) for at, strand in zip(places, "+-", strict=True)]
    assert table.column("sequence").to_pylist() == expected
    assert table.column("position").to_pylist() == [str(at) for at in places]
    assert table.column("id").to_pylist() == ["a", "b"]


def test_which_number_an_ambiguous_column_counts_from_is_said(tmp_path: Path, small: Path) -> None:
    table = write(tmp_path / "t.tsv", "chrom\tpos\nchr1\t5\n")
    assert "the column 'pos' of" in said(read(small, table))
    assert "taken to count from 1: say otherwise with --coordinates 0" in said(read(small, table))
    assert said(read(small, table, coordinates="1")) == ""


SITES = "chrom\tpos0\tstrand\tlabel\nchr1\t1\t+\t0\nchr1\t12\t-\t1\nchr1\t24\t-\t0\nchr2\t9\t+\t1\n"
"""Four sites, the second of which alone has four letters on both sides."""


@pytest.mark.parametrize("side", ["upstream", "downstream", "both"])
def test_windows_over_the_ends_are_padded_dropped_or_shorter(tmp_path: Path, small: Path, side: str) -> None:
    table, view = write(tmp_path / "t.tsv", SITES), View(side, 4)
    places = [("chr1", 1, "+"), ("chr1", 12, "-"), ("chr1", 24, "-"), ("chr2", 9, "+")]
    full = [seen(CONTIGS[contig], at, strand, view) for contig, at, strand in places]
    padded = read(small, table, "4", side)
    assert padded.column("sequence").to_pylist() == full
    over = sum("N" in window for window in full)
    one, several = (
        "window reaches over the end of its contig and is",
        "windows reach over the end of their contig and are",
    )
    assert f"{counted(over, one, several)} filled with" in said(padded)
    assert f"with {sum(window.count('N') for window in full)} N" in said(padded)
    dropped = read(small, table, "4", side, edge="drop")
    assert dropped.column("sequence").to_pylist() == [window for window in full if "N" not in window]
    assert f"{counted(over, one, several)} left out" in said(dropped)
    shorter = read(small, table, "4", side, edge="shorten")
    assert shorter.column("sequence").to_pylist() == [window.replace("N", "") for window in full]
    centers = [int(text) for text in shorter.column("center").to_pylist()]
    lost = [len(window) - len(window.lstrip("N")) for window in full]
    assert centers == [(0 if side == "downstream" else 4) - letters for letters in lost]


def test_views_of_shortened_windows_are_shortened_where_the_genome_ends(tmp_path: Path, small: Path) -> None:
    options = InputOptions(
        genome=str(small), sites=(str(write(tmp_path / "t.tsv", SITES)),), context="2,4", side="all", edge="shorten"
    )
    store = extracted(tmp_path / "s.zarr", options, "kmer:1")
    for view in options.views:
        places = [("chr1", 1, "+"), ("chr1", 12, "-"), ("chr1", 24, "-"), ("chr2", 9, "+")]
        letters = [seen(CONTIGS[contig], at, strand, view).replace("N", "") for contig, at, strand in places]
        expected = load_encoder("kmer:1").encode(letters).astype(np.float16)
        np.testing.assert_array_equal(np.asarray(store.embeddings)[:, store.block(view.name)], expected)


@pytest.mark.parametrize("name", ["g.fa", "g.fa.gz", "g.fa.bgz", "g.fasta"])
@pytest.mark.parametrize(("end", "start"), [("\n", ""), ("\r\n", ""), ("\n", "\ufeff")])
def test_genomes_are_read_plain_gzipped_and_bgzipped_with_any_line_end(
    tmp_path: Path, name: str, end: str, start: str
) -> None:
    contigs = {"chr1": "acgtNNRYKMACGTTGCAAGGCTTAACCGG", "chr2": "TTTTTCCCCC"}
    genome = write_genome(tmp_path / name, contigs, width=8, end=end, start=start)
    sites = write(tmp_path / "t.tsv", "chrom\tpos0\tstrand\nchr1\t5\t+\nchr1\t5\t-\nchr2\t4\t-\n")
    table = read(genome, sites)
    expected = [
        seen(contigs[c], at, s, View("both", 3)) for c, at, s in (("chr1", 5, "+"), ("chr1", 5, "-"), ("chr2", 4, "-"))
    ]
    assert table.column("sequence").to_pylist() == expected
    copied = name == "g.fa.gz" or bool(start)
    assert ("is unpacked to" in said(table)) == copied
    assert (tmp_path / f"{name}.fai").exists() != copied


def test_a_copy_of_the_genome_is_removed_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    genome = write_genome(tmp_path / "g.fa.gz", CONTIGS)
    source = open_records(InputOptions(genome=str(genome), sites=(str(write(tmp_path / "t.tsv", SITES)),), context="3"))
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    del source
    assert list((tmp_path / "tmp").iterdir()) == []


def test_where_no_index_can_be_written_it_is_made_for_the_run(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: Path, place: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reference, "_put", refuse)
    table = read(small, write(tmp_path / "t.tsv", SITES))
    assert "is made for this run: its folder is read-only" in said(table)
    assert not small.with_name("g.fa.fai").exists()


def test_an_index_older_than_its_genome_is_made_anew(tmp_path: Path, small: Path) -> None:
    sites = write(tmp_path / "t.tsv", "chrom\tpos0\nchr3\t4\n")
    with pytest.raises(InputError, match="no contig 'chr3'"):
        read(small, sites)
    write_genome(small, {"chr3": "ACGTACGTAC"})
    now = time.time() + 10
    os.utime(small, (now, now))
    assert read(small, sites).column("sequence").to_pylist() == ["CGTACG"]


def test_sites_in_any_order_of_many_contigs_are_read_from_their_own_places(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    contigs = {f"c{i}": "".join(rng.choice(list("ACGT"), 40_000)) for i in range(4)}
    genome = write_genome(tmp_path / "g.fa.bgz", contigs)
    places = [(f"c{rng.integers(4)}", int(rng.integers(40_000)), "+-"[rng.integers(2)]) for _ in range(400)]
    places = list(dict.fromkeys(places))
    sites = write(tmp_path / "t.tsv", "chrom\tpos0\tstrand\n" + "".join(f"{c}\t{at}\t{s}\n" for c, at, s in places))
    expected = [seen(contigs[c], at, s, View("both", 30)) for c, at, s in places]
    assert read(genome, sites, "30").column("sequence").to_pylist() == expected


def test_several_files_of_sites_and_attached_columns_are_put_after_each_other(tmp_path: Path, small: Path) -> None:
    positives = write(tmp_path / "p.bed", "chr1\t5\t6\nchr1\t9\t10\n")
    negatives = write(tmp_path / "n.bed", "chr2\t5\t6\n")
    table = read(small, [Path(f"{positives}:label=1"), Path(f"{negatives}:label=0")])
    assert table.column("label").to_pylist() == ["1", "1", "0"]
    assert table.column("id").to_pylist() == ["chr1:5:+", "chr1:9:+", "chr2:5:+"]


def test_ids_that_do_not_tell_sites_apart_stay_a_column(tmp_path: Path, small: Path) -> None:
    bed = write(tmp_path / "t.bed", "chr1\t5\t6\tCG\nchr1\t9\t10\tCG\n")
    table = read(small, bed)
    assert table.column("id").to_pylist() == ["chr1:5:+", "chr1:9:+"]
    assert table.column("name").to_pylist() == ["CG", "CG"]
    assert "the column 'name' of" in said(table)
    assert "does not tell its sites apart" in said(table)


def test_a_site_that_comes_twice_is_named_with_both_lines(tmp_path: Path, small: Path) -> None:
    table = write(tmp_path / "t.tsv", "chrom\tpos0\nchr1\t5\nchr1\t9\nchr1\t5\n")
    options = InputOptions(genome=str(small), sites=(str(table),), context="3")
    with pytest.raises(InputError, match=r"'chr1:5:\+' occurs twice, at .*line 2 and at .*line 4"):
        extracted(tmp_path / "s.zarr", options, "kmer:1")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("chr1\t26\t+", r"position 26 lies outside chr1, which has 26 letters in .*g\.fa \(positions count from 0\)"),
        ("chr1\t-1\t+", "pos0 '-1' is no place: it takes a whole number, counted from 0"),
        ("chr1\t1.5\t+", "pos0 '1.5' is no place"),
        ("chr1\tx\t+", "pos0 'x' is no place"),
        ("chr1\t\t+", "pos0 None is no place"),
        ("\t5\t+", "the contig is missing"),
        ("chr1\t5\tplus", "the strand is 'plus'; it is [+] or -"),
        ("chr9\t5\t+", r"no contig 'chr9' in .*g\.fa, which has chr1, chr2"),
        ("2\t5\t+", "no contig '2' in .*; the genome says 'chr2': name contigs alike"),
    ],
)
def test_a_site_that_cannot_be_used_is_named_or_skipped_and_counted(
    tmp_path: Path, small: Path, row: str, what: str
) -> None:
    table = write(tmp_path / "t.tsv", f"chrom\tpos0\tstrand\nchr1\t5\t+\n{row}\nchr1\t9\t.\n")
    with pytest.raises(InputError, match=rf"t\.tsv, line 3: .*{what}.*--skip-bad"):
        read(small, table)
    skipped = read(small, table, skip_bad=True)
    assert skipped.column("id").to_pylist() == ["chr1:5:+", "chr1:9:+"]
    assert "1 site of" in said(skipped)
    assert "line 3: " in said(skipped)


def test_where_no_site_can_be_used_the_first_ones_are_named(tmp_path: Path, small: Path) -> None:
    table = write(tmp_path / "t.tsv", "chrom\tpos0\n1\t5\n2\t5\n")
    with pytest.raises(
        InputError, match=r"none of its sites can be used:\n.*2 sites of (.|\n)*line 2: .*no contig '1'"
    ):
        read(small, table, skip_bad=True)
    with pytest.raises(InputError, match=r"none of its sites can be used:\n.*1 window reaches over .* left out"):
        read(small, write(tmp_path / "e.tsv", "chrom\tpos0\nchr1\t0\n"), edge="drop")


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("t.tsv", "chrom pos\nchr1 5\n", "column names with tabs, commas or semicolons between them"),
        (
            "t.tsv",
            "chrom\tplace\nchr1\t5\n",
            "no column holds the positions of sites: one of pos0, .*start, .* are chrom, place",
        ),
        ("t.tsv", "a\tpos\nchr1\t5\n", "no column holds the contigs of sites: one of chrom"),
        ("t.bed", "chr1,5,6\n", "BED has the fields chrom, start, end with tabs between them, found 'chr1,5,6'"),
        ("t.bed", "chr1\t5\t6\nchr1\t7\n", r"line 2: the line has 2 fields where the first has 3"),
        ("t.bed", "chr1\t6\t6\n", r"line 1: start '6' and end '6' is no place: it takes a start and an end after it"),
        ("t.bed", "", "the file is empty"),
        ("t.bed", "# nothing\n", "the BED file has no rows"),
        ("t.gff", "chr1\t5\t6\n", "GFF has the fields chrom, source"),
        ("t.vcf", "chr1\t5\t6\n", "this is no VCF that can be read"),
    ],
)
def test_tables_that_are_no_sites_are_refused(tmp_path: Path, small: Path, name: str, text: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        read(small, write(tmp_path / name, text))


def test_a_table_with_crlf_a_byte_order_mark_or_another_delimiter_is_read(tmp_path: Path, small: Path) -> None:
    table = "chrom\tpos0\tlabel\nchr1\t5\tx\n"
    for name, text in (("t.tsv", table), ("t.bed", "chr1\t5\t6\n"), ("s.tsv", table.replace("\t", ";"))):
        file = write(tmp_path / name, "\ufeff" + text.replace("\n", "\r\n"))
        assert read(small, file).column("id").to_pylist() == ["chr1:5:+"]


@pytest.mark.parametrize("name", ["sites.tsv.gz", "sites.bed.gz"])
def test_a_table_that_was_cut_off_is_refused(tmp_path: Path, small: Path, shared_data: Path, name: str) -> None:
    whole = (shared_data / "ath_wgbs_chr1" / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="the file was cut off; copy or download it again"):
        read(small, tmp_path / name, skip_bad=True)


@pytest.mark.parametrize("name", ["g.fa.gz", "g.fa.bgz"])
def test_a_genome_that_was_cut_off_is_refused(tmp_path: Path, arabidopsis: dict[str, str], name: str) -> None:
    genome = write_genome(tmp_path / name, arabidopsis)
    genome.write_bytes(genome.read_bytes()[:60_000])
    with pytest.raises(InputError, match=r"g\.fa\..*the file was cut off; copy or download it again"):
        read(genome, write(tmp_path / "t.tsv", SITES))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the genome is empty"),
        ("chr1\nACGT\n", "not FASTA: expected a line that starts with '>'"),
        (">a\nACGT\nACGTAC\nAC\n", "lines of a contig but the last must have one length"),
        (">a\nACGT\n>a\nACGT\n", "a contig is there twice"),
    ],
)
def test_what_is_no_genome_is_refused(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        read(write(tmp_path / "g.fa", text), write(tmp_path / "t.tsv", SITES))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"genome": "g.fa", "context": "5"}, "needs the sites to look at"),
        ({"genome": "g.fa", "sites": ("t.tsv",)}, "how many letters around a site: say --context"),
        ({"genome": "g.fa", "sites": ("t.tsv",), "context": "5", "inputs": ("r.fa",)}, "leave out --input"),
        ({"genome": "g.fa", "sites": ("t.tsv",), "context": "5", "center": "x"}, "--center is for stored sequences"),
        ({"inputs": ("r.fa",), "sites": ("t.tsv",)}, "--sites is about sites in a genome: name it with --genome"),
        (
            {"inputs": ("r.fa",), "windows": "5:5", "context": "5"},
            "--windows would move the site that is looked around",
        ),
        (
            {"inputs": ("r.fa",), "reverse_complement": "add", "context": "5"},
            "--reverse-complement add would move the site",
        ),
        ({"genome": "g.fa", "sites": ("v.vcf",), "context": "5", "anchor": "end"}, "--anchor is for other tables"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t.tsv", SITES)
    write(tmp_path / "v.vcf", VCF)
    with pytest.raises(InputError, match=what):
        open_records(InputOptions(**options))  # type: ignore[arg-type]


VCF = (
    "##fileformat=VCFv4.2\n"
    '##INFO=<ID=AF,Number=A,Type=Float,Description="">\n##INFO=<ID=label,Number=1,Type=String,Description="">\n'
    "##contig=<ID=chr1,length=26>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    "chr1\t5\trs1\tT\tC\t30\tPASS\tAF=0.5;label=a\n"  # one letter for another
    "chr1\t8\t.\tA\tAGG,G\t.\t.\tAF=0.1,0.25;label=b\n"  # an insertion, and another letter
    "chr1\t10\t.\tGGC\tG\t.\t.\tlabel=c\n"  # a deletion
)


def test_each_alternative_of_a_vcf_is_a_pair_with_its_reference(tmp_path: Path, small: Path) -> None:
    table = read(small, write(tmp_path / "v.vcf", VCF), "4")
    contig = CONTIGS["chr1"]
    expected = {}
    for pos, ref, alt in ((5, "T", "C"), (8, "A", "AGG"), (8, "A", "G"), (10, "GGC", "G")):
        before, rest = contig[pos - 5 : pos - 1], contig[pos - 1 + len(ref) :]
        expected[f"chr1:{pos}:{ref}>{alt}:ref"] = before + (ref + rest)[:4]
        expected[f"chr1:{pos}:{ref}>{alt}:alt"] = before + (alt + rest)[:4]
    found = dict(zip(table.column("id").to_pylist(), table.column("sequence").to_pylist(), strict=True))
    assert found == expected
    assert {len(sequence) for sequence in found.values()} == {8}
    rows = table.to_pylist()
    assert [row["allele"] for row in rows] == ["ref", "alt"] * 4
    assert [row["group"] for row in rows[2:4]] == ["chr1:8:A>AGG"] * 2
    assert [row["AF"] for row in rows] == ["0.5", "0.5", "0.1", "0.1", "0.25", "0.25", None, None]
    assert [row["label"] for row in rows[::2]] == ["a", "b", "b", "c"]
    assert (rows[0]["rsid"], rows[0]["position"], rows[0]["reference"], rows[0]["alternative"]) == (
        "rs1",
        "5",
        "T",
        "C",
    )


def test_a_gzipped_vcf_is_read_and_variants_at_the_ends_go_in_pairs(tmp_path: Path, small: Path) -> None:
    places = ((20, "GA", "G"), (12, "C", "T"), (5, "T", "C"))
    rows = [f"chr1\t{at}\t.\t{ref}\t{alt}\t.\t.\t.\n" for at, ref, alt in places]
    file = write(tmp_path / "v.vcf.gz", VCF.split("chr1\t5\t")[0] + "".join(rows))
    contig = CONTIGS["chr1"]
    padded = read(small, file, "7")
    assert (
        padded.column("sequence").to_pylist()
        == [
            contig[12:26],
            f"{contig[12:20]}{contig[21:]}N",  # the deletion needs one letter more than there is
            contig[4:18],
            f"{contig[4:11]}T{contig[12:18]}",
            f"NNN{contig[:11]}",
            f"NNN{contig[:4]}C{contig[5:11]}",
        ]
    )
    assert read(small, file, "7", edge="drop").column("id").to_pylist() == ["chr1:12:C>T:ref", "chr1:12:C>T:alt"]
    assert "is not bgzip and is unpacked to" in said(padded)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (
            "chr1\t5\t.\tG\tC\t.\t.\t.",
            "the reference allele is G and the genome has T at chr1:5; .* may be another assembly",
        ),
        ("chr1\t26\t.\tGA\tG\t.\t.\t.", "the reference allele is GA and the genome has G at chr1:26"),
        ("chr1\t5\t.\tT\t<DEL>\t.\t.\t.", "has the alternative <DEL>, which is no sequence"),
        ("chr1\t5\t.\tT\t*\t.\t.\t.", r"has the alternative \*, which is no sequence"),
        ("chr1\t5\t.\tT\t.\t.\t.\t.", "has no alternative allele"),
        ("chr1\t99\t.\tT\tC\t.\t.\t.", "position 99 lies outside chr1"),
        ("chr7\t5\t.\tT\tC\t.\t.\t.", "no contig 'chr7'"),
    ],
)
def test_a_variant_that_does_not_fit_the_genome_is_named_or_skipped(
    tmp_path: Path, small: Path, row: str, what: str
) -> None:
    file = write(tmp_path / "v.vcf", f"{VCF}{row}\n")
    place = rf"v\.vcf, variant 4 \({':'.join(row.split()[:2])}\): "
    with pytest.raises(InputError, match=f"{place}.*{what}.*--skip-bad"):
        read(small, file)
    skipped = read(small, file, skip_bad=True)
    assert skipped.num_rows == 8
    assert "1 site of" in said(skipped)


def test_the_program_says_what_it_did_and_heads_train_on_the_blocks(
    tmp_path: Path, genome_file: Path, methylation: tuple[Path, list[dict[str, str]]]
) -> None:
    def run(*words: object) -> str:
        return CliRunner().invoke(cli, [*map(str, words)], catch_exceptions=False).output

    table, rows = methylation
    options = ["--genome", genome_file, "--sites", table, "--context", "20,50", "--side", "all", "--edge", "drop"]
    estimated = json.loads(run("estimate", "--model", "kmer:2", *options, "--seconds", "0.1", "--json"))
    told = run("extract", "--model", "kmer:2", *options, "--output", tmp_path / "s.zarr")
    assert "windows reach over the end of their contig and are left out (--edge)" in told
    assert "--genome" in estimated["next"]
    store = open_store(tmp_path / "s.zarr")
    assert estimated["input"]["rows"] == len(store) < len(rows)
    assert store.attrs["input"].endswith(f"in {genome_file}")
    trained = heads(tmp_path, "train", "--features", "s.zarr", "--label", "context", "--head", "knn", "--output", "run")
    assert trained.exit_code == 0, trained.output
