"""Views and strands: which letters of a record are encoded is what their definition says, wherever it is done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from cli.embedcache import cli
from embedcache import load_encoder, open_store
from embedcache.encoding import Encoding
from embedcache.errors import EmbedcacheError, InputError, StoreError
from embedcache.extraction.estimate import estimate
from embedcache.extraction.preflight import Options
from embedcache.extraction.recompute import recompute_rows
from embedcache.fingerprint import fingerprint
from embedcache.rawfeatures import RawFeatures, encoder_record
from embedcache.sequences.views import View, views_of
from embedcache.sources import open_source
from embedcache.storage.store import Block
from tests.encoders.golden import golden_folder
from tests.letter_encoder import LetterEncoder
from tests.stores import random_reads, run_extract, store_bytes, write_fasta

COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def turned(sequence: str) -> str:
    """The other strand."""
    return sequence.translate(COMPLEMENT)[::-1]


def seen(sequence: str, center: int, view: View, edge: str = "pad") -> str:
    """The definition of a view, letter by letter."""
    before = {"upstream": view.context, "downstream": 0, "both": view.context}[view.side]
    after = {"upstream": 0, "downstream": view.context, "both": view.context}[view.side]
    letters = [
        sequence[i] if 0 <= i < len(sequence) else "N" if edge == "pad" else ""
        for i in range(center - before, center + after)
    ]
    return "".join(letters)


def write_sites(file: Path, sequences: Sequence[str], centers: Sequence[object], name: str = "center") -> Path:
    """Write records with their centres as TSV."""
    rows = (f"r{i}\t{seq}\t{at}\n" for i, (seq, at) in enumerate(zip(sequences, centers, strict=True)))
    file.write_text(f"id\tsequence\t{name}\n" + "".join(rows))
    return file


def block_of(store: Path, name: str) -> NDArray[np.generic]:
    """The columns of one block."""
    opened = open_store(store)
    return opened.take(np.arange(len(opened)))[:, opened.block(name)]


def whole(folder: Path, sequences: Sequence[str], model: str, name: str = "whole") -> NDArray[np.generic]:
    """The rows of a store that is made from these sequences as FASTA."""
    run_extract(folder / f"{name}.zarr", write_fasta(folder / f"{name}.fa", list(sequences)), model=model)
    return np.asarray(open_store(folder / f"{name}.zarr").embeddings)


@pytest.fixture
def reads() -> list[str]:
    return random_reads(60, shortest=40, longest=90)


@pytest.fixture
def centers(reads: list[str]) -> list[int]:
    return np.random.default_rng(1).integers(1, [len(read) - 1 for read in reads]).tolist()


ALL = Options(views=views_of("10,25", "all"), shard_rows=1024)
"""Six views, some of which reach over the ends of the reads."""


@pytest.mark.parametrize(("model", "edge"), [("kmer:3", "pad"), ("kmer:3", "shorten"), ("golden dnabert2", "pad")])
def test_each_view_is_bit_for_bit_a_store_of_its_letters(
    tmp_path: Path, reads: list[str], centers: list[int], model: str, edge: str
) -> None:
    model = str(golden_folder("dnabert2", tmp_path)) if model.startswith("golden") else model
    table = write_sites(tmp_path / "t.tsv", reads, centers)
    run_extract(tmp_path / "s.zarr", table, model=model, options=replace(ALL, edge=edge))
    names = [f"{side}_{context}" for side in ("upstream", "downstream", "both") for context in (10, 25)]
    assert [(block.name, block.view) for block in open_store(tmp_path / "s.zarr").blocks] == [(n, n) for n in names]
    for view in ALL.views:
        letters = [seen(read, center, view, edge) for read, center in zip(reads, centers, strict=True)]
        np.testing.assert_array_equal(
            block_of(tmp_path / "s.zarr", view.name), whole(tmp_path, letters, model, view.name)
        )


def test_the_centre_is_a_column_counted_from_0_or_1_or_the_middle(tmp_path: Path, reads: list[str]) -> None:
    options = Options(views=(View("both", 5),))
    middle = [len(read) // 2 for read in reads]
    expected = whole(tmp_path, [seen(r, c, View("both", 5)) for r, c in zip(reads, middle, strict=True)], "kmer:3")
    zeros = write_sites(tmp_path / "0.tsv", reads, [0] * len(reads))
    sources = [
        (write_fasta(tmp_path / "r.fa", reads), options),
        (zeros, replace(options, center="middle")),
        (write_sites(tmp_path / "c.tsv", reads, middle), options),
        (write_sites(tmp_path / "s.tsv", reads, middle, "site"), replace(options, center="site")),
        (write_sites(tmp_path / "1.tsv", reads, [m + 1 for m in middle]), replace(options, one_based=True)),
    ]
    for number, (source, chosen) in enumerate(sources):
        run_extract(tmp_path / f"{number}.zarr", source, options=chosen)
        np.testing.assert_array_equal(np.asarray(open_store(tmp_path / f"{number}.zarr").embeddings), expected)


def test_800_letters_with_the_centre_in_the_middle_hold_400_on_both_sides(tmp_path: Path) -> None:
    windows = random_reads(3, shortest=800, longest=801)
    run_extract(
        tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", windows), options=Options(views=views_of("400", "all"))
    )
    for name, letters in (
        ("both_400", windows),
        ("upstream_400", [window[:400] for window in windows]),
        ("downstream_400", [window[400:] for window in windows]),
    ):
        np.testing.assert_array_equal(
            block_of(tmp_path / "s.zarr", name), whole(tmp_path, letters, "kmer:3", f"w{name}")
        )


def test_records_that_a_view_reaches_over_are_set_aside_under_drop(
    tmp_path: Path, reads: list[str], centers: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_sites(tmp_path / "t.tsv", reads, centers)
    short = [row for row, (r, c) in enumerate(zip(reads, centers, strict=True)) if c < 25 or c + 25 > len(r)]
    done = run_extract(tmp_path / "s.zarr", table, options=replace(ALL, edge="drop"))
    assert done.set_aside == len(short) > 0
    store = open_store(tmp_path / "s.zarr")
    assert store.quarantined.tolist() == short
    assert np.flatnonzero(np.isnan(store.take(np.arange(60))).any(axis=1)).tolist() == short


@pytest.mark.parametrize(("center", "side"), [(0, "upstream"), (40, "downstream")])
def test_a_view_without_a_letter_is_named_before_anything_is_made(tmp_path: Path, center: int, side: str) -> None:
    table = write_sites(tmp_path / "t.tsv", ["ACGT" * 10] * 2, [20, center])
    options = Options(views=views_of("5", "all"), edge="shorten")
    with pytest.raises(InputError, match=rf"view {side}_5 of 'r1' at .*t\.tsv, line 3 has no letters: take another"):
        run_extract(tmp_path / "s.zarr", table, options=options)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("bad", ["", "x", "-1", "42"])
def test_a_record_without_a_centre_is_named(tmp_path: Path, bad: str) -> None:
    table = write_sites(tmp_path / "t.tsv", ["ACGT" * 10] * 2, [20, bad])
    with pytest.raises(
        InputError, match=r"'r1' at .*t\.tsv, line 3 has .* in column 'center': the centre of --context"
    ):
        run_extract(tmp_path / "s.zarr", table, options=ALL)


def test_equal_letters_of_other_records_are_encoded_once(tmp_path: Path) -> None:
    sequence = random_reads(1, shortest=60, longest=61)[0]
    table = write_sites(tmp_path / "t.tsv", [sequence, sequence[10:], sequence, sequence], [30, 20, 30, 31])
    done = run_extract(tmp_path / "s.zarr", table, options=Options(views=(View("both", 8),)))
    assert (done.distinct_sequences, done.passages, done.encoded_tokens) == (3, 2, 32)
    rows = np.asarray(open_store(tmp_path / "s.zarr").embeddings)
    assert (rows[0] == rows[1]).all()
    assert (rows[0] != rows[3]).any()


def test_blocks_of_several_layers_and_poolings_are_called_after_view_and_layer(
    tmp_path: Path, reads: list[str]
) -> None:
    encoder = LetterEncoder(3)
    options = Options(poolings=("mean", "max"), layers=(1, -1), views=views_of("5,9", "both"))
    run_extract(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads), model=encoder, options=options)
    store, readout = open_store(tmp_path / "s.zarr"), encoder.readout(("mean", "max"), (1, -1))
    assert [block.name for block in store.blocks] == [
        f"both_{width}.layer{layer}.{how}" for width in (5, 9) for layer in (1, 2) for how in ("mean", "max")
    ]
    for width in (5, 9):
        letters = [seen(read, len(read) // 2, View("both", width)) for read in reads]
        expected = encoder.encode_readout(letters, readout, "window").astype(np.float16)
        found = [block_of(tmp_path / "s.zarr", b.name) for b in store.blocks if b.view == f"both_{width}"]
        np.testing.assert_array_equal(np.concatenate(found, axis=1), expected)


def test_poolings_find_their_letter_inside_a_view_and_on_the_other_strand(
    tmp_path: Path, reads: list[str], centers: list[int]
) -> None:
    encoder, view = LetterEncoder(1), View("both", 12)
    readout = encoder.readout(("at:center",))
    table = write_sites(tmp_path / "t.tsv", reads, centers)
    options = Options(poolings=("at:center",), views=(view,), strands="canonical")
    run_extract(tmp_path / "s.zarr", table, model=encoder, options=options)
    letters = [seen(read, center, view) for read, center in zip(reads, centers, strict=True)]
    chosen = [min(one, turned(one)) for one in letters]
    places = np.asarray([12 if one == taken else 11 for one, taken in zip(letters, chosen, strict=True)])
    expected = encoder.encode_readout(chosen, readout, "window", {"center": places}).astype(np.float16)
    np.testing.assert_array_equal(np.asarray(open_store(tmp_path / "s.zarr").embeddings), expected)
    with pytest.raises(InputError, match="view upstream_12 of 'r0' at .* has not the letter that at:center looks at"):
        run_extract(tmp_path / "u.zarr", table, model=encoder, options=replace(options, views=(View("upstream", 12),)))


@pytest.mark.parametrize("views", [(), views_of("10,25", "all")])
@pytest.mark.parametrize("model", ["kmer:3:stranded", "golden dnabert2"])
def test_average_is_the_mean_of_a_run_on_each_strand(
    tmp_path: Path, reads: list[str], model: str, views: tuple[View, ...]
) -> None:
    model = str(golden_folder("dnabert2", tmp_path)) if model.startswith("golden") else model
    fasta, options = write_fasta(tmp_path / "r.fa", reads), Options(views=views, dtype="float32")
    run_extract(tmp_path / "s.zarr", fasta, model=model, options=replace(options, strands="average"))
    found = np.asarray(open_store(tmp_path / "s.zarr").embeddings)
    given = {v: [seen(r, len(r) // 2, v) for r in reads] for v in views} or {None: reads}
    encoder = load_encoder(model, device="cpu")
    expected = [(encoder.encode(own) + encoder.encode([*map(turned, own)])) / 2 for own in given.values()]
    np.testing.assert_array_equal(found, np.concatenate(expected, axis=1))


@pytest.mark.parametrize("strands", ["canonical", "average"])
def test_a_sequence_and_its_reverse_complement_get_the_same_bits(
    tmp_path: Path, reads: list[str], strands: str
) -> None:
    model = str(golden_folder("dnabert2", tmp_path))
    fasta = write_fasta(tmp_path / "r.fa", [*reads, *map(turned, reads)])
    done = run_extract(tmp_path / "s.zarr", fasta, model=model, options=Options(strands=strands))
    assert done.passages == 60 if strands == "canonical" else 120
    rows = np.asarray(open_store(tmp_path / "s.zarr").embeddings)
    np.testing.assert_array_equal(rows[:60], rows[60:])
    assert open_store(tmp_path / "s.zarr").column("sequence").to_pylist() == [*reads, *map(turned, reads)]


def test_canonical_rows_are_those_of_the_smaller_strand(tmp_path: Path, reads: list[str]) -> None:
    options = Options(strands="canonical")
    run_extract(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads), model="kmer:2:stranded", options=options)
    expected = whole(tmp_path, [min(read, turned(read)) for read in reads], "kmer:2:stranded")
    np.testing.assert_array_equal(np.asarray(open_store(tmp_path / "s.zarr").embeddings), expected)


def test_stores_of_whole_sequences_keep_their_fingerprint_and_their_attributes(
    tmp_path: Path, reads: list[str]
) -> None:
    encoder = load_encoder("kmer:3")
    encoding = Encoding(encoder, encoder.readout(), "window")
    assert encoding.fingerprint == fingerprint(encoder.fingerprint, [[0, "mean"]], "window")
    run_extract(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads))
    attributes = open_store(tmp_path / "s.zarr").attrs
    assert attributes["format_version"] == 2
    assert "scope" not in attributes
    assert attributes["blocks"] == [{"name": "kmer:3", "layer": 0, "pooling": "mean", "start": 0, "stop": 32}]


def test_a_block_that_says_more_than_is_known_here_is_still_read(tmp_path: Path, reads: list[str]) -> None:
    run_extract(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads))
    group = json.loads((tmp_path / "s.zarr" / "zarr.json").read_text())
    group["attributes"]["blocks"][0]["colour"] = "blue"
    (tmp_path / "s.zarr" / "zarr.json").write_text(json.dumps(group))
    assert open_store(tmp_path / "s.zarr").blocks == [Block("kmer:3", 0, 32, 0, "mean")]


def test_other_views_strands_or_edges_are_another_plan(tmp_path: Path, reads: list[str]) -> None:
    fasta = write_fasta(tmp_path / "r.fa", reads)
    run_extract(tmp_path / "s.zarr", fasta, options=ALL)
    before = store_bytes(tmp_path / "s.zarr")
    for changed, said in (
        (replace(ALL, views=views_of("10,26", "all")), "blocks: "),
        (replace(ALL, edge="shorten"), "views over the ends: pad, now shorten"),
        (replace(ALL, strands="average"), "strands: given, now average"),
        (Options(), "blocks: "),
    ):
        with pytest.raises(StoreError, match=said):
            run_extract(tmp_path / "s.zarr", fasta, options=changed)
    assert run_extract(tmp_path / "s.zarr", fasta, options=ALL).rows == 0
    assert store_bytes(tmp_path / "s.zarr") == before


def test_a_changed_centre_is_a_changed_record(tmp_path: Path, reads: list[str], centers: list[int]) -> None:
    run_extract(tmp_path / "s.zarr", write_sites(tmp_path / "t.tsv", reads, centers), options=ALL)
    moved = [centers[0] + 1, *centers[1:]]
    with pytest.raises(StoreError, match="the ids, sequences or positions of .* have changed"):
        run_extract(tmp_path / "s.zarr", write_sites(tmp_path / "t.tsv", reads, moved), options=ALL)


def test_an_input_that_has_grown_appends_to_the_same_bytes(tmp_path: Path) -> None:
    reads = random_reads(1500, shortest=30, longest=60)
    centers = [len(read) // 3 for read in reads]
    options = replace(ALL, strands="average")
    run_extract(tmp_path / "whole.zarr", write_sites(tmp_path / "t.tsv", reads, centers), options=options)
    run_extract(tmp_path / "s.zarr", write_sites(tmp_path / "t.tsv", reads[:1100], centers[:1100]), options=options)
    done = run_extract(tmp_path / "s.zarr", write_sites(tmp_path / "t.tsv", reads, centers), options=options)
    assert done.rows == 476
    assert store_bytes(tmp_path / "s.zarr") == store_bytes(tmp_path / "whole.zarr")


@pytest.mark.parametrize("strands", ["given", "average", "canonical"])
@pytest.mark.parametrize("views", [(), ALL.views])
def test_verify_and_heads_encode_as_the_extraction_did(
    tmp_path: Path, reads: list[str], centers: list[int], strands: str, views: tuple[View, ...]
) -> None:
    folder = golden_folder("dnabert2", tmp_path)
    table = write_sites(tmp_path / "t.tsv", reads, centers)
    options = Options(views=views, strands=strands, edge="drop")
    run_extract(tmp_path / "s.zarr", table, model=str(folder), options=options)
    store = open_store(tmp_path / "s.zarr")
    result = recompute_rows(tmp_path / "s.zarr", 60)
    assert result.identical == result.rows == 60 - len(store.quarantined)
    record = json.loads(json.dumps(encoder_record(store)))
    raw = RawFeatures.load(record, store.fingerprint, device="cpu", progress=False)
    windows = list(raw.windows(open_source([str(table)]), 32))
    encoded = np.concatenate([window.encoded for window in windows])
    assert np.flatnonzero(~encoded).tolist() == store.quarantined.tolist()
    features = np.concatenate([window.features for window in windows])
    np.testing.assert_array_equal(features, store.take(np.flatnonzero(encoded)))


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("kmer:3", ALL),
        ("kmer:3", Options(strands="average")),
        ("onehot:25", replace(ALL, overlong="truncate")),
        ("golden dnabert2", replace(ALL, strands="average")),
        ("golden dnabert2", Options(views=views_of("30", "both"), poolings=("none",))),
    ],
)
def test_an_estimate_counts_what_the_extraction_encodes(tmp_path: Path, model: str, options: Options) -> None:
    model = str(golden_folder("dnabert2", tmp_path)) if model.startswith("golden") else model
    fasta = write_fasta(tmp_path / "r.fa", random_reads(200, shortest=60, longest=61))
    options = replace(options, shard_rows=16 if options.poolings == ("none",) else 1024)
    found = estimate(open_source([str(fasta)]), model, options, device="cpu", seconds=0.01)
    done = run_extract(tmp_path / "s.zarr", fasta, model=model, options=options)
    assert (found.input.tokens, found.input.overlong_rows) == (done.tokens, done.overlong)
    assert found.input.encoded_tokens == pytest.approx(done.encoded_tokens, rel=0.01)
    assert found.disk.dim == open_store(tmp_path / "s.zarr").dim


def test_one_view_without_pooling_keeps_its_tokens(tmp_path: Path, reads: list[str], centers: list[int]) -> None:
    encoder, view = LetterEncoder(3), View("both", 11)
    table = write_sites(tmp_path / "t.tsv", reads, centers)
    for edge in ("pad", "drop"):
        options = Options(poolings=("none",), views=(view,), edge=edge)
        run_extract(tmp_path / f"{edge}.zarr", table, model=encoder, options=options)
        store = open_store(tmp_path / f"{edge}.zarr")
        for row, (read, center) in enumerate(zip(reads, centers, strict=True)):
            dropped = edge == "drop" and not 11 <= center <= len(read) - 11
            expected = encoder.encode_tokens([seen(read, center, view)])[0].astype(np.float16)
            np.testing.assert_array_equal(store[row], expected[:0] if dropped else expected)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("kmer:1:protein", Options(strands="canonical"), "canonical is for DNA, and the encoder reads protein"),
        ("letters", Options(strands="average", poolings=("none",)), "none keeps .*: leave out --reverse-complement"),
        ("letters", Options(views=views_of("5", "all"), poolings=("none",)), "one view, and there are 3: make a store"),
        ("kmer:3", Options(center="pos"), "--center says .* --context and --side"),
        ("kmer:3", Options(one_based=True), "--one-based says .* --center COLUMN"),
        ("kmer:3", Options(views=views_of("5", "both"), center="pos"), "no column 'pos' for the centre of --context"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, model: str, options: Options, said: str) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(3))
    with pytest.raises(InputError, match=said):
        run_extract(tmp_path / "s.zarr", fasta, model=LetterEncoder() if model == "letters" else model, options=options)


@pytest.mark.parametrize("contexts", ["0", "50,50", "x", "50,", "-3", "5.5", ""])
def test_contexts_are_whole_numbers_each_once(contexts: str) -> None:
    with pytest.raises(EmbedcacheError, match="--context .*: give numbers of letters from 1"):
        views_of(contexts, "both")


def test_the_program_makes_the_product_of_contexts_and_sides(tmp_path: Path, reads: list[str]) -> None:
    def said(*words: object) -> str:
        done = CliRunner().invoke(cli, [*map(str, words)], catch_exceptions=False)
        return done.output

    fasta, store = write_fasta(tmp_path / "r.fa", reads), tmp_path / "s.zarr"
    options = ["--context", "5,10", "--side", "all", "--reverse-complement", "canonical"]
    extracted = said("extract", "--model", "kmer:3", "--input", fasta, *options, "--output", store)
    assert "views    upstream_5, upstream_10, downstream_5" in extracted
    assert len(open_store(store).blocks) == 6
    assert "block       both_10: columns 160 to 192" in said("info", store)
    estimated = said("estimate", "--model", "kmer:3", "--input", fasta, *options, "--seconds", "0.1")
    assert "--context 5,10 --side all --reverse-complement canonical" in estimated
    with pytest.raises(InputError, match="say how many letters with --context"):
        said("extract", "--model", "kmer:3", "--input", fasta, "--side", "all", "--output", store)
