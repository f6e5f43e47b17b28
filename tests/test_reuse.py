"""What is known is copied and not encoded again, and is bit for bit what encoding gives."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedcache import load_encoder, open_store
from embedcache.encoders.encoder import Encoder
from embedcache.errors import InputError, StoreError
from embedcache.extraction.extract import extract
from embedcache.extraction.preflight import Options
from embedcache.extraction.throughput import Throughput
from embedcache.extraction.verify import check_files
from embedcache.progress import Progress
from embedcache.reusing.keys import UNKNOWN, KeyForm, KeyTable
from embedcache.reusing.repeats import Repeats
from embedcache.sequences.views import CANONICAL, Scope, views_of
from embedcache.sources import open_source
from embedcache.storage.layout import StorePaths
from embedcache.storage.store import Reused, read_commits
from tests.letter_encoder import LetterEncoder
from tests.processes import command
from tests.stores import random_reads, run_extract, store_bytes, write_fasta
from tests.test_recovery import Killed, killed_before

SHARDS = Options(shard_rows=1024)
TOKENS = Options(shard_rows=16, poolings=("none",))


def values(store: Path) -> np.ndarray:
    return np.asarray(open_store(store).embeddings)


def letters(output: Path, fasta: Path, options: Options = SHARDS, encoder: Encoder | None = None) -> Throughput:
    """Extract with the encoder whose special tokens tell how many sequences went through it."""
    return run_extract(output, fasta, model=encoder or LetterEncoder(), options=options)


def said(output: Path, fasta: Path, options: Options, capsys: pytest.CaptureFixture[str]) -> str:
    """What an extraction says."""
    extract(open_source([str(fasta)]), load_encoder("kmer:3"), output, options, Progress())
    return capsys.readouterr().err


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Contents and times of all files and folders below a folder."""
    found = {str(path): path for path in folder.rglob("*")}
    return {
        name: (hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "", path.stat().st_mtime_ns)
        for name, path in found.items()
    }


# inside one store


@pytest.mark.parametrize("options", [SHARDS, TOKENS])
def test_a_sequence_is_encoded_once_whichever_shards_have_it(tmp_path: Path, options: Options) -> None:
    reads = random_reads(700 if options is SHARDS else 12)
    fasta = write_fasta(tmp_path / "r.fa", [*reads, *reads[::-1], *reads])
    done = letters(tmp_path / "s.zarr", fasta, options)
    assert (done.rows, done.encoded_rows, done.identical_rows) == (3 * len(reads), len(reads), 2 * len(reads))
    assert done.encoded_tokens == sum(len(read) + 2 for read in reads)
    encoder, wanted = LetterEncoder(), [*reads, *reads[::-1], *reads]
    expected = encoder.encode_tokens(wanted) if options is TOKENS else encoder.encode(wanted)
    for found, own in zip(open_store(tmp_path / "s.zarr"), expected, strict=True):
        np.testing.assert_array_equal(found, own.astype(np.float16))
    assert check_files(tmp_path / "s.zarr") == []


def test_a_grown_input_encodes_what_is_new_and_nothing_else(tmp_path: Path) -> None:
    reads = random_reads(2600)
    letters(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads[:1500]))
    done = letters(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads))
    assert done.encoded_tokens == sum(len(read) + 2 for read in reads[1500:])
    assert (done.rows, done.kept_rows, done.encoded_rows) == (2600 - 1024, 1500 - 1024, 1100)
    letters(tmp_path / "once.zarr", tmp_path / "r.fa")
    assert store_bytes(tmp_path / "s.zarr") == store_bytes(tmp_path / "once.zarr")


def test_a_grown_store_without_pooling_encodes_what_is_new_and_nothing_else(tmp_path: Path) -> None:
    reads = random_reads(60, shortest=300, longest=900)
    letters(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads[:24]), TOKENS)
    done = letters(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads), TOKENS)
    assert done.encoded_tokens == sum(len(read) + 2 for read in reads[24:])
    letters(tmp_path / "once.zarr", tmp_path / "r.fa", TOKENS)
    assert store_bytes(tmp_path / "s.zarr") == store_bytes(tmp_path / "once.zarr")


@pytest.mark.parametrize("options", [SHARDS, TOKENS])
def test_a_grown_input_with_repeats_killed_before_any_write_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Options
) -> None:
    reads = random_reads(1300) if options is SHARDS else random_reads(30, shortest=300, longest=900)
    head = len(reads) // 2
    grown = [*reads, *reads[:: -1 if options is SHARDS else 2]]
    letters(tmp_path / "once.zarr", write_fasta(tmp_path / "r.fa", grown), options)
    once, at, killed = store_bytes(tmp_path / "once.zarr"), 0, True
    while killed:
        at += 1
        store = tmp_path / f"{at}.zarr"
        letters(store, write_fasta(tmp_path / "r.fa", reads[:head]), options)
        write_fasta(tmp_path / "r.fa", grown)
        with monkeypatch.context() as patch:
            killed_before(patch, "", at)
            try:
                letters(store, tmp_path / "r.fa", options)
                killed = False
            except Killed:
                pass
        letters(store, tmp_path / "r.fa", options)
        assert store_bytes(store) == once
    assert at > 8


def test_damage_to_the_shard_that_grows_is_not_copied(tmp_path: Path) -> None:
    reads = random_reads(1400)
    letters(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads[:700]))
    file = StorePaths(tmp_path / "s.zarr").file(0)
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    assert letters(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads)).kept_rows == 0
    letters(tmp_path / "once.zarr", tmp_path / "r.fa")
    assert store_bytes(tmp_path / "s.zarr") == store_bytes(tmp_path / "once.zarr")


@pytest.mark.parametrize("strands", ["canonical", "average"])
def test_a_sequence_and_its_reverse_complement_are_one_where_both_have_the_same_values(
    tmp_path: Path, strands: str
) -> None:
    reads = random_reads(600)
    turned = [read.translate(str.maketrans("ACGT", "TGCA"))[::-1] for read in reads]
    fasta = write_fasta(tmp_path / "r.fa", [*reads, *turned, *reads])
    done = letters(tmp_path / "s.zarr", fasta, replace(SHARDS, strands=strands))
    assert (done.encoded_rows, done.identical_rows) == (600, 1200)
    found = values(tmp_path / "s.zarr")
    np.testing.assert_array_equal(found[:600], found[600:1200])
    letters(tmp_path / "rc.zarr", write_fasta(tmp_path / "rc.fa", turned), replace(SHARDS, strands=strands))
    np.testing.assert_array_equal(values(tmp_path / "rc.zarr"), found[:600])


def test_a_sequence_looked_at_in_another_place_is_another_one(tmp_path: Path) -> None:
    table, read = tmp_path / "t.csv", "ACGTACGTGGTTCCAA"
    rows = [f"a{i},{read},{i % 16}" for i in range(1100)]
    table.write_text("id,sequence,pos\n" + "\n".join(rows) + "\n")
    done = letters(tmp_path / "s.zarr", table, replace(SHARDS, poolings=("at:pos",)))
    assert (done.encoded_rows, done.identical_rows) == (16, 1084)
    again = replace(SHARDS, poolings=("at:pos",), reuse=(str(tmp_path / "s.zarr"),))
    assert letters(tmp_path / "t.zarr", table, again).encoded_rows == 0
    np.testing.assert_array_equal(values(tmp_path / "t.zarr"), values(tmp_path / "s.zarr"))


# from other stores


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("kmer:4", SHARDS),
        ("esm2-8m", replace(SHARDS, dtype="float32", poolings=("mean", "max"), layers=("mid", -1))),
        ("letters", replace(SHARDS, overlong="skip")),
        ("letters", TOKENS),
        ("letters", replace(SHARDS, compress="zstd")),
    ],
)
def test_reused_rows_are_bit_equal_to_encoded_ones_and_only_new_sequences_are_encoded(
    tmp_path: Path, model: str, options: Options
) -> None:
    rng = np.random.default_rng(0)
    alphabet = "ACDEFGHIKLMNPQRSTVWY" if model == "esm2-8m" else "ACGT"
    reads = ["".join(rng.choice(list(alphabet), length)) for length in rng.integers(5, 60, 60)]
    encoder = LetterEncoder(limit=50) if model == "letters" else load_encoder(model, random_weights="esm" in model)
    some, others = (
        write_fasta(tmp_path / "a.fa", reads[:40]),
        write_fasta(tmp_path / "b.fa", reads[20:][::-1], first=90),
    )
    run_extract(tmp_path / "a.zarr", some, model=encoder, options=options)
    fresh = run_extract(tmp_path / "fresh.zarr", others, model=encoder, options=options)
    done = run_extract(
        tmp_path / "b.zarr", others, model=encoder, options=replace(options, reuse=(str(tmp_path / "a.zarr"),))
    )
    np.testing.assert_array_equal(values(tmp_path / "b.zarr"), values(tmp_path / "fresh.zarr"))
    skipped = fresh.set_aside
    assert done.set_aside == skipped
    assert sum(done.reused.values()) + done.encoded_rows == 40 - skipped
    only_new = run_extract(
        tmp_path / "new.zarr", write_fasta(tmp_path / "n.fa", reads[40:]), model=encoder, options=options
    )
    assert done.encoded_tokens == only_new.encoded_tokens
    assert check_files(tmp_path / "b.zarr") == []
    (commit,) = {
        commit.shard: commit for commit in read_commits(tmp_path / "b.zarr").values() if commit.shard == 0
    }.values()
    assert {reused.store for reused in commit.reused} <= {str(tmp_path / "a.zarr")}


def test_float32_serves_float16_and_not_the_other_way(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(50))
    letters(tmp_path / "32.zarr", fasta, replace(SHARDS, dtype="float32"))
    letters(tmp_path / "16.zarr", fasta)
    done = letters(tmp_path / "from32.zarr", fasta, replace(SHARDS, reuse=(str(tmp_path / "32.zarr"),)))
    assert done.encoded_rows == 0
    np.testing.assert_array_equal(values(tmp_path / "from32.zarr"), values(tmp_path / "16.zarr"))
    with pytest.raises(StoreError, match=r"16\.zarr cannot serve: it stores float16, which has lost"):
        letters(tmp_path / "x.zarr", fasta, replace(SHARDS, dtype="float32", reuse=(str(tmp_path / "16.zarr"),)))


def test_several_stores_are_searched_in_their_order(tmp_path: Path) -> None:
    reads = random_reads(90)
    for name, part in (("a", reads[:40]), ("b", reads[20:60])):
        letters(tmp_path / f"{name}.zarr", write_fasta(tmp_path / f"{name}.fa", part))
    stores = tuple(str(tmp_path / f"{name}.zarr") for name in ("a", "b"))
    fasta = write_fasta(tmp_path / "r.fa", [*reads, reads[0]])
    done = letters(tmp_path / "s.zarr", fasta, replace(SHARDS, reuse=stores))
    assert (done.reused, done.encoded_rows) == ({stores[0]: 41, stores[1]: 20}, 30)
    first, second = read_commits(tmp_path / "s.zarr")[0].reused
    here = LetterEncoder().environment()
    assert (first, second) == (Reused(stores[0], 41, [here]), Reused(stores[1], 20, [here]))
    turned = letters(tmp_path / "t.zarr", fasta, replace(SHARDS, reuse=stores[::-1]))
    assert turned.reused == {stores[1]: 40, stores[0]: 21}


@pytest.mark.parametrize(
    ("other", "options", "what"),
    [
        (LetterEncoder(k=2), SHARDS, "weights of the encoder"),
        (LetterEncoder(), replace(SHARDS, poolings=("max",)), "blocks"),
        (LetterEncoder(), replace(SHARDS, overlong="truncate"), "over-length policy"),
    ],
)
def test_rows_of_another_encoding_are_refused_by_name_and_passed_over_in_a_folder(
    tmp_path: Path, other: Encoder, options: Options, what: str
) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(20))
    letters(tmp_path / "lab" / "other.zarr", fasta, options, other)
    with pytest.raises(StoreError, match=f"--reuse .*other.zarr cannot serve: it was made with another plan .{what}"):
        letters(tmp_path / "s.zarr", fasta, replace(SHARDS, reuse=(str(tmp_path / "lab" / "other.zarr"),)))
    assert not (tmp_path / "s.zarr").exists()
    done = letters(tmp_path / "s.zarr", fasta, replace(SHARDS, cache=(str(tmp_path / "lab"),)))
    assert (done.reused, done.encoded_rows) == ({}, 20)


@pytest.mark.parametrize(
    ("wider", "wanted"),
    [
        ({"poolings": ("cls", "max", "mean"), "layers": (-1,)}, {"poolings": ("mean",)}),
        ({"poolings": ("mean", "at:n"), "layers": (-1, -2)}, {"poolings": ("mean",), "layers": (-2,)}),
        ({"poolings": ("mean", "max"), "layers": (-1, -2)}, {"poolings": ("max", "mean"), "layers": (-2,)}),
        ({"views": views_of("5,9", "all")}, {"views": views_of("9,5", "downstream")}),
    ],
)
def test_a_store_with_more_blocks_serves_some_of_them(
    tmp_path: Path, wider: dict[str, Any], wanted: dict[str, Any]
) -> None:
    encoder = load_encoder("esm2-8m", random_weights=True)
    rng = np.random.default_rng(0)
    reads = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), length)) for length in rng.integers(20, 40, 24)]
    table = tmp_path / "n.tsv"
    table.write_text("id\tn\n" + "".join(f"r{at}\t{at % 7}\n" for at in range(24)))
    some, all_ = write_fasta(tmp_path / "a.fa", reads[:20]), write_fasta(tmp_path / "b.fa", reads[4:], first=4)
    run_extract(tmp_path / "wide.zarr", some, model=encoder, metadata=table, options=replace(SHARDS, **wider))
    options = replace(SHARDS, **wanted)
    run_extract(tmp_path / "fresh.zarr", all_, model=encoder, options=options)
    reusing = replace(options, reuse=(str(tmp_path / "wide.zarr"),))
    done = run_extract(tmp_path / "s.zarr", all_, model=encoder, options=reusing)
    assert (done.encoded_rows, done.reused) == (4, {str(tmp_path / "wide.zarr"): 16})
    np.testing.assert_array_equal(values(tmp_path / "s.zarr"), values(tmp_path / "fresh.zarr"))
    with pytest.raises(StoreError, match="cannot serve"):
        run_extract(
            tmp_path / "x.zarr", some, model=encoder, metadata=table,
            options=replace(SHARDS, **wider, reuse=(str(tmp_path / "fresh.zarr"),)),
        )  # fmt: skip


def test_rows_set_aside_are_not_reused(tmp_path: Path) -> None:
    class Faulty(LetterEncoder):
        def states(self, tokens, layer):  # type: ignore[no-untyped-def]
            found = super().states(tokens, layer)
            found[np.repeat(tokens.lengths == 7, tokens.lengths)] = np.nan
            return found

    fasta = write_fasta(tmp_path / "r.fa", ["ACGTA", "ACGTACGT"])
    quarantine = replace(SHARDS, on_bad_row="quarantine")
    letters(tmp_path / "a.zarr", fasta, quarantine, Faulty())
    assert open_store(tmp_path / "a.zarr").quarantined.tolist() == [0]
    done = letters(tmp_path / "b.zarr", fasta, replace(quarantine, reuse=(str(tmp_path / "a.zarr"),)))
    assert (done.encoded_rows, done.reused) == (1, {str(tmp_path / "a.zarr"): 1})
    np.testing.assert_array_equal(
        values(tmp_path / "b.zarr"), LetterEncoder().encode(["ACGTA", "ACGTACGT"]).astype("f2")
    )


def test_a_run_with_reuse_killed_before_any_write_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = random_reads(2500)
    letters(tmp_path / "a.zarr", write_fasta(tmp_path / "a.fa", reads[500:1500]))
    fasta = write_fasta(tmp_path / "r.fa", [*reads, *reads[:100], *reads[600:700]])
    options = replace(SHARDS, reuse=(str(tmp_path / "a.zarr"),))
    letters(tmp_path / "once.zarr", fasta, options)
    once, at, killed = store_bytes(tmp_path / "once.zarr"), 0, True
    while killed:
        at += 1
        with monkeypatch.context() as patch:
            killed_before(patch, "/embeddings/", at)
            try:
                letters(tmp_path / f"{at}.zarr", fasta, options)
                killed = False
            except Killed:
                pass
        letters(tmp_path / f"{at}.zarr", fasta, options)
        assert store_bytes(tmp_path / f"{at}.zarr") == once
    assert at > 8


def test_a_shared_folder_is_only_read_and_its_unfinished_and_broken_stores_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reads, lab = random_reads(5000), tmp_path / "lab"
    for name, part in (("whole", reads[:1000]), ("unfinished", reads[1000:3500]), ("broken", reads[3500:4500])):
        run_extract(lab / "deep" / f"{name}.zarr", write_fasta(tmp_path / f"{name}.fa", part))
    StorePaths(lab / "deep" / "unfinished.zarr").commit(1).unlink()
    StorePaths(lab / "deep" / "unfinished.zarr").lock(1).write_bytes(b"")
    (lab / "deep" / "broken.zarr" / "embeddings" / "zarr.json").write_text("{")
    (lab / "notes.txt").write_text("mine")
    (lab / "other.zarr").mkdir()
    (lab / "other.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    before = tree(lab)
    fasta = write_fasta(tmp_path / "r.fa", reads)
    told = said(tmp_path / "s.zarr", fasta, replace(SHARDS, cache=(str(lab),)), capsys)
    assert tree(lab) == before
    assert "2 of 2 stores are of this encoding" in told
    assert re.search(r"cache    skipped: .*broken\.zarr", told)
    assert re.search(r"cache    skipped: .*other\.zarr is not an embedcache store", told)
    assert "known    1,000 of 5,000 rows are known from" in told
    assert "known    1,476 of 5,000 rows are known from" in told
    assert "2,524 rows to encode" in told
    run_extract(tmp_path / "fresh.zarr", fasta)
    np.testing.assert_array_equal(values(tmp_path / "s.zarr"), values(tmp_path / "fresh.zarr"))


def test_a_damaged_shard_of_another_store_is_encoded_instead(tmp_path: Path) -> None:
    reads = random_reads(2000)
    letters(tmp_path / "a.zarr", write_fasta(tmp_path / "r.fa", reads))
    file, part = StorePaths(tmp_path / "a.zarr").file(0), StorePaths(tmp_path / "a.zarr").part(1)
    data = bytearray(file.read_bytes())
    data[5000] ^= 4
    file.write_bytes(data)
    done = letters(tmp_path / "b.zarr", tmp_path / "r.fa", replace(SHARDS, reuse=(str(tmp_path / "a.zarr"),)))
    assert (done.encoded_rows, sum(done.reused.values())) == (1024, 976)
    assert any("shard 0" in line and "damaged" in line for line in str(done).splitlines())
    part.write_bytes(b"PAR1")
    done = letters(tmp_path / "c.zarr", tmp_path / "r.fa", replace(SHARDS, reuse=(str(tmp_path / "a.zarr"),)))
    assert done.encoded_rows == 2000
    letters(tmp_path / "fresh.zarr", tmp_path / "r.fa")
    for name in ("b", "c"):
        np.testing.assert_array_equal(values(tmp_path / f"{name}.zarr"), values(tmp_path / "fresh.zarr"))


def test_rows_of_another_environment_are_told_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(30))
    run_extract(tmp_path / "a.zarr", fasta)
    record = StorePaths(tmp_path / "a.zarr").commit(0)
    elsewhere = json.loads(record.read_text())
    elsewhere["environment"]["device"] = "abacus"
    record.write_text(json.dumps(elsewhere))
    told = said(tmp_path / "b.zarr", fasta, replace(SHARDS, reuse=(str(tmp_path / "a.zarr"),)), capsys)
    assert re.search(r"caution  .*a\.zarr was computed with device abacus, now .*last bits", told)
    (reused,) = read_commits(tmp_path / "b.zarr")[0].reused
    assert [environment["device"] for environment in reused.environments] == ["abacus"]
    said(tmp_path / "c.zarr", fasta, replace(SHARDS, reuse=(str(tmp_path / "b.zarr"),)), capsys)
    (reused,) = read_commits(tmp_path / "c.zarr")[0].reused
    assert "abacus" in {environment["device"] for environment in reused.environments}


def test_names_that_are_no_store_and_no_folder_are_refused(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(3))
    with pytest.raises(StoreError, match="there is no store at"):
        letters(tmp_path / "s.zarr", fasta, replace(SHARDS, reuse=(str(tmp_path / "no.zarr"),)))
    with pytest.raises(InputError, match="--cache .* is no folder"):
        letters(tmp_path / "s.zarr", fasta, replace(SHARDS, cache=(str(tmp_path / "no"),)))


def test_the_program_says_what_is_known_before_it_starts_and_what_came_from_where(tmp_path: Path) -> None:
    reads = random_reads(60)
    command("extract", "--model", "kmer:3", "--input", write_fasta(tmp_path / "a.fa", reads[:40]),
            "--output", tmp_path / "lab" / "a.zarr", check=True)  # fmt: skip
    fasta = write_fasta(tmp_path / "r.fa", [*reads, *reads[50:]])
    options = ("--model", "kmer:3", "--input", fasta, "--cache", tmp_path / "lab")
    planned = command("estimate", *options, "--seconds", 0.1, "--json", check=True).stdout
    assert {key: json.loads(planned)["input"][key] for key in ("rows", "known_rows", "repeated_rows")} == {
        "rows": 70, "known_rows": 40, "repeated_rows": 10,
    }  # fmt: skip
    assert "--cache" in json.loads(planned)["next"]
    told = command("extract", *options, "--output", tmp_path / "s.zarr", check=True).stderr
    assert "known    40 of 70 rows are known from" in told
    assert "known    10 rows have the sequence of another row" in told
    assert "20 rows to encode" in told
    assert re.search(
        r"20 rows were encoded\n\s+10 have the sequence of another row\n\s+40 were reused from .*a\.zarr", told
    )
    assert re.search(r"reused +40 rows from .*a\.zarr", command("info", tmp_path / "s.zarr", check=True).stdout)


# keys


def test_a_table_finds_keys_by_all_of_their_bytes() -> None:
    keys = np.array([[5, 1], [3, 9], [5, 1], [7, 0]], np.uint64)
    table = KeyTable.of(keys, np.array([10, 11, 12, 13]))
    assert table.find(np.array([[7, 0], [5, 1], [5, 2], [4, 1], [2**64 - 1, 0]], np.uint64)).tolist() == [
        13,
        10,
        *[UNKNOWN] * 3,
    ]
    assert len(table) == 3
    empty = KeyTable.of(np.empty((0, 2), np.uint64), np.empty(0, np.int64))
    assert empty.find(keys).tolist() == [UNKNOWN] * 4


def test_only_keys_that_several_shards_have_are_remembered() -> None:
    keys = np.array([[1, 0], [1, 0], [2, 0], [3, 0], [2, 0], [4, 0]], np.uint64)
    repeats = Repeats(keys, 2, np.zeros(6, bool))
    assert len(repeats) == 1
    assert repeats.find(keys).tolist() == [UNKNOWN] * 6
    repeats.add(keys[2:4], np.array([2, 3]))
    repeats.add(keys[4:], np.array([4, 5]))
    assert repeats.find(keys).tolist() == [UNKNOWN, UNKNOWN, 2, UNKNOWN, 2, UNKNOWN]
    assert Repeats(keys, 2, np.ones(6, bool)).find(keys[4:5]).tolist() == [2]


def test_the_strand_counts_where_a_place_of_it_is_looked_at() -> None:
    assert KeyForm.of(["mean"], Scope(strands=CANONICAL), False).digest == "rc_digest"
    assert KeyForm.of(["mean", "at:pos"], Scope(strands=CANONICAL), False).digest == "digest"
    assert KeyForm.of(["mean"], Scope(), False).digest == "digest"
