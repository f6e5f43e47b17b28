"""Extraction: what goes in row i comes out as row i, whatever happens on the way."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embedcache import load_encoder, open_store
from embedcache.errors import EmbedcacheError, InputError, StoreError
from embedcache.extraction.preflight import Options
from embedcache.extraction.throughput import read_throughput
from embedcache.storage.commit import ShardLock
from embedcache.storage.status import store_status
from embedcache.storage.store import StorePaths
from tests.conftest import shared_folder
from tests.processes import command, start
from tests.stores import make_store, peak_of_extract, random_reads, run_extract, store_bytes, write_fasta


def test_row_i_is_record_i(tmp_path: Path) -> None:
    reads = random_reads(2500)
    store = make_store(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads))
    expected = load_encoder("kmer:3").encode(reads).astype(np.float16)
    np.testing.assert_array_equal(np.asarray(store.embeddings), expected)
    assert store.ids.tolist() == [f"r{i}" for i in range(2500)]
    assert store.column("sequence").to_pylist() == reads
    assert store.rows["length"].to_pylist() == [len(read) for read in reads]
    assert store.rows["row"].to_pylist() == list(range(2500))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_transformer_store_equals_encoding_each_sequence_alone(tmp_path: Path, dtype: str) -> None:
    proteins = ["MKTAYIAKQR", "M", "mktayiakqr", "GVSERT" * 40, "MKTAYIAKQR"]
    run_extract(
        tmp_path / "s.zarr",
        write_fasta(tmp_path / "p.fa", proteins),
        model="esm2-8m",
        random_weights=True,
        options=Options(dtype=dtype, poolings=("mean", "max"), layers=("mid", -1)),
    )
    store = open_store(tmp_path / "s.zarr")
    encoder = load_encoder("esm2-8m", random_weights=True)
    assert [block.name for block in store.blocks] == ["layer3.mean", "layer3.max", "layer6.mean", "layer6.max"]
    for block in store.blocks:
        layer, pooling = block.name.removeprefix("layer").split(".")
        for row, protein in enumerate(proteins):
            alone = encoder.encode([protein], pool=pooling, layer=int(layer))[0].astype(dtype)
            np.testing.assert_array_equal(store.embeddings[row][block.start : block.stop], alone)
    assert store.attrs["encoder"]["meaningless"]
    assert read_throughput(store.path)[0]["distinct_sequences"] == 3


def test_metadata_travels_with_its_types(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(4))
    table = tmp_path / "m.tsv"
    table.write_text("id\tlabel\tdonor\tscore\tchrom\nr1\t1\t007\t0.5\t2\nr0\t0\t012\t\t1\nr3\t0\t9\t1e-3\tX\n")
    store = make_store(tmp_path / "s.zarr", f"{fasta}:source=lab", metadata=table)
    rows = store.rows.select(["label", "donor", "score", "chrom", "source"])
    assert [str(kind) for kind in rows.schema.types] == ["int64", "string", "double", "string", "string"]
    assert rows["label"].to_pylist() == [0, 1, None, 0]
    assert rows["donor"].to_pylist() == ["012", "007", None, "9"]
    assert rows["score"].to_pylist() == [None, 0.5, None, 1e-3]


def test_strands_share_a_canonical_digest(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", ["AACGT", "ACGTT", "aacgu", "AACGG"]))
    plain, canonical = store.column("digest").to_pylist(), store.column("rc_digest").to_pylist()
    assert plain[0] == plain[2] != plain[1]
    assert canonical[0] == canonical[1] == canonical[2] != canonical[3]


def test_running_again_does_nothing(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(1500))
    make_store(tmp_path / "s.zarr", fasta)
    before = store_bytes(tmp_path / "s.zarr")
    assert run_extract(tmp_path / "s.zarr", fasta).rows == 0
    assert store_bytes(tmp_path / "s.zarr") == before


def test_a_grown_input_appends_and_equals_a_store_made_at_once(tmp_path: Path) -> None:
    reads = random_reads(3500)
    make_store(tmp_path / "grown.zarr", write_fasta(tmp_path / "r.fa", reads[:1500]))
    done = run_extract(tmp_path / "grown.zarr", write_fasta(tmp_path / "r.fa", reads))
    assert done.rows == 3500 - 1024  # the full first shard stays, the partial second is replaced whole
    make_store(tmp_path / "once.zarr", tmp_path / "r.fa")
    assert store_bytes(tmp_path / "grown.zarr") == store_bytes(tmp_path / "once.zarr")


def test_corrected_labels_rewrite_the_rows_and_encode_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(1500))
    table = tmp_path / "labels.csv"
    table.write_text("id,label\n" + "".join(f"r{i},0\n" for i in range(1500)))
    make_store(tmp_path / "s.zarr", fasta, metadata=table)
    embeddings = StorePaths(tmp_path / "s.zarr").file(0).stat().st_mtime_ns
    table.write_text("id,label\n" + "".join(f"r{i},{i % 2}\n" for i in range(1500)))

    def never(*_: object) -> None:
        raise AssertionError("nothing may be encoded")

    monkeypatch.setattr("embedcache.encoders.kmer.CompositionEncoder.start", never)
    assert run_extract(tmp_path / "s.zarr", fasta, metadata=table).rows == 0
    store = open_store(tmp_path / "s.zarr")
    assert store.column("label").to_pylist() == [i % 2 for i in range(1500)]
    assert store.rows["n_tokens"].to_pylist() == store.rows["length"].to_pylist()
    assert StorePaths(tmp_path / "s.zarr").file(0).stat().st_mtime_ns == embeddings


@pytest.mark.parametrize(("change", "shard"), [(100, 0), (1100, 1), (2200, 2)])
def test_changed_sequences_are_refused_naming_the_shard_and_nothing_is_touched(
    tmp_path: Path, change: int, shard: int
) -> None:
    reads = random_reads(2500)
    make_store(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads))
    before = store_bytes(tmp_path / "s.zarr")
    reads[change] = "A" * 50
    for grown in (reads, [*reads, *random_reads(600, seed=9)]):
        with pytest.raises(StoreError, match=f"changed.*first in shard {shard} "):
            run_extract(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", grown))
    assert store_bytes(tmp_path / "s.zarr") == before


def test_a_shrunk_input_is_refused(tmp_path: Path) -> None:
    reads = random_reads(30)
    make_store(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads))
    with pytest.raises(StoreError, match="made from 30 records, the input now has 20"):
        run_extract(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads[:20]))


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("kmer:4", Options(shard_rows=1024), "encoder: kmer:3, now kmer:4"),
        ("kmer:3", Options(shard_rows=1024, dtype="float32"), "stored type: float16, now float32"),
        ("kmer:3", Options(shard_rows=1024, overlong="truncate"), "over-length policy: window, now truncate"),
        ("kmer:3", Options(shard_rows=2048), "leave out --shard-rows"),
        ("kmer:3", Options(shard_rows=1024, drop_sequence=True), "sequences kept: True, now False"),
    ],
)
def test_another_plan_is_refused_and_restart_begins_anew(
    tmp_path: Path, model: str, options: Options, said: str
) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(30))
    make_store(tmp_path / "s.zarr", fasta)
    before = store_bytes(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match=f"{said}.*--restart"):
        run_extract(tmp_path / "s.zarr", fasta, model=model, options=options)
    assert store_bytes(tmp_path / "s.zarr") == before
    again = Options(**{**options.__dict__, "restart": True})
    assert run_extract(tmp_path / "s.zarr", fasta, model=model, options=again).rows == 30


def test_restart_removes_nothing_but_stores(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(3))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match="not an embedcache store"):
        run_extract(tmp_path / "home", fasta, options=Options(restart=True))
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_duplicate_ids_name_both_places(tmp_path: Path) -> None:
    (tmp_path / "a.fa").write_text(">x\nACGT\n>y\nACGT\n")
    (tmp_path / "b.fa").write_text(">z\nAC\nGT\n>x\nACGT\n")
    with pytest.raises(InputError, match=r"'x' occurs twice, at .*a\.fa, line 1 and at .*b\.fa, line 4"):
        run_extract(tmp_path / "s.zarr", tmp_path / "a.fa", tmp_path / "b.fa")
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("model", "sequence", "said"),
    [
        ("kmer:2:protein", "ACGTNNACGURACGTACGTACGT", "looks like DNA"),
        ("kmer:3", "MKTAYIAKQRQISFVK", "looks like protein"),
    ],
)
def test_the_wrong_alphabet_is_refused_unless_insisted(tmp_path: Path, model: str, sequence: str, said: str) -> None:
    fasta = write_fasta(tmp_path / "r.fa", [sequence])
    with pytest.raises(InputError, match=f"{said}.*--any-alphabet"):
        run_extract(tmp_path / "s.zarr", fasta, model=model)
    assert not (tmp_path / "s.zarr").exists()
    assert run_extract(tmp_path / "s.zarr", fasta, model=model, options=Options(any_alphabet=True)).rows == 1


def test_over_long_sequences_follow_the_policy(tmp_path: Path) -> None:
    proteins = ["MKT" * 500, "MKTAYIAKQR"]
    fasta = write_fasta(tmp_path / "p.fa", proteins)
    encoder = load_encoder("esm2-8m", random_weights=True)
    stores = {}
    for policy in ("window", "truncate", "skip"):
        done = run_extract(
            tmp_path / f"{policy}.zarr", fasta, model="esm2-8m", random_weights=True, options=Options(overlong=policy)
        )
        assert done.overlong == 1
        stores[policy] = open_store(tmp_path / f"{policy}.zarr")
    assert len({store.fingerprint for store in stores.values()}) == 3
    cut = encoder.encode([proteins[0][:1022]])[0].astype(np.float16)
    np.testing.assert_array_equal(stores["truncate"].embeddings[0], cut)
    np.testing.assert_array_equal(stores["window"].embeddings[0], encoder.encode(proteins)[0].astype(np.float16))
    assert stores["skip"].quarantined.tolist() == [0]
    assert np.isnan(stores["skip"].embeddings[0]).all()
    for store in stores.values():
        np.testing.assert_array_equal(store.embeddings[1], encoder.encode(proteins[1:])[0].astype(np.float16))
    with pytest.raises(InputError, match=r"'r0' at .*p\.fa, line 1 has 1,502 tokens"):
        run_extract(tmp_path / "e.zarr", fasta, model="esm2-8m", random_weights=True, options=Options(overlong="error"))


def test_sequences_without_a_token_of_their_own_are_counted_and_told(tmp_path: Path) -> None:
    (tmp_path / "short.fa").write_text(">a\nACGTACGT\n>b\nACG\n>c\nTTGCA\n>d\nTTGCAA\n")
    done = run_extract(tmp_path / "s.zarr", tmp_path / "short.fa", model=str(shared_folder("golden") / "dna_bert_6"))
    assert done.wordless == 2
    assert "2 rows have a sequence too short for a token of its own" in str(done)
    b, c = open_store(tmp_path / "s.zarr").take(np.array([1, 2]))
    np.testing.assert_array_equal(b, c)


def test_a_value_beyond_float16_stops_with_the_id_or_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedcache.encoders.kmer import KmerFrequencies

    plain = KmerFrequencies.__call__

    def huge(self: KmerFrequencies, letters: object) -> np.ndarray:
        vectors = plain(self, letters)  # type: ignore[arg-type]
        vectors[vectors[:, 0] == 1] = 1e6
        return vectors

    monkeypatch.setattr(KmerFrequencies, "__call__", huge)
    fasta = write_fasta(tmp_path / "r.fa", ["ACGTTT", "AAAAAA", "CCGTAA"])
    with pytest.raises(EmbedcacheError, match=r"'r1' \(.*r\.fa, line 3\) is beyond float16.*quarantine"):
        run_extract(tmp_path / "s.zarr", fasta)
    assert run_extract(tmp_path / "s.zarr", fasta, options=Options(shard_rows=1024, on_bad_row="quarantine")).rows == 3
    store = open_store(tmp_path / "s.zarr")
    assert store.quarantined.tolist() == [1]
    assert np.isfinite(np.asarray(store.embeddings)).all(axis=1).tolist() == [True, False, True]
    assert run_extract(tmp_path / "f.zarr", fasta, options=Options(dtype="float32")).set_aside == 0


def test_too_small_a_disk_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    fasta = write_fasta(tmp_path / "r.fa", random_reads(300))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5000))
    with pytest.raises(StoreError, match=r"needs about .* kB more, 5\.0 kB are free"):
        run_extract(tmp_path / "s.zarr", fasta)
    assert not (tmp_path / "s.zarr").exists()


def test_a_disk_that_fills_up_keeps_what_is_done_and_the_same_command_goes_on(tmp_path: Path) -> None:
    reads = random_reads(3000)
    fasta = write_fasta(tmp_path / "r.fa", reads)
    arguments = (
        "extract",
        "--model",
        "kmer:3",
        "--input",
        fasta,
        "--output",
        tmp_path / "s.zarr",
        "--shard-rows",
        2048,
    )
    # A limit on the size of a file answers as a full disk does: the second shard is small enough, the first is not.
    full = command(*arguments, before="import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000))")
    assert full.returncode == 2
    assert "no space left" in full.stderr
    assert full.stderr.count("\n") == full.stderr.count("\n", 0, full.stderr.index("error:")) + 1
    assert not list((tmp_path / "s.zarr").rglob("*.partial"))
    command(*arguments, check=True)
    make_store(tmp_path / "whole.zarr", fasta)
    np.testing.assert_array_equal(
        np.asarray(open_store(tmp_path / "s.zarr").embeddings),
        np.asarray(open_store(tmp_path / "whole.zarr").embeddings),
    )


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(6000, longest=400))
    arguments = ["extract", "--model", "kmer:6", "--input", fasta, "--shard-rows", 1024, "--output"]
    command(*arguments, tmp_path / "whole.zarr", check=True)
    kills = 0
    store = tmp_path / "killed.zarr"
    for _ in range(12):
        process = start(*arguments, store)
        while process.poll() is None:
            if any(store.glob("embeddings/**/*.partial")):
                process.kill()  # in the middle of writing
                kills += process.wait() == -signal.SIGKILL
        process.communicate()
        if process.returncode == 0:
            break
    assert kills >= 3
    command(*arguments, store, check=True)
    assert store_bytes(store) == store_bytes(tmp_path / "whole.zarr")


WAITS = """
import time
from pathlib import Path
from embedcache.extraction import extract
encode, folder = extract._Run.encode, Path({folder!r})
def wait(run, window):
    while list(folder.glob("s.zarr/embeddings/commit/*.json")) and not (folder / "go on").exists():
        time.sleep(0.01)
    return encode(run, window)
extract._Run.encode = wait
"""
"""An extraction that has written its first shard encodes no other until it is let."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_an_interrupted_run_says_so_and_the_same_command_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(5003))
    arguments = (
        "extract",
        "--model",
        "kmer:3",
        "--input",
        fasta,
        "--shard-rows",
        1024,
        "--output",
        tmp_path / "s.zarr",
    )
    process = start(*arguments, before=WAITS.format(folder=str(tmp_path)))
    while not list(tmp_path.glob("s.zarr/embeddings/commit/*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    assert store_status(tmp_path / "s.zarr").running
    process.send_signal(number)
    (tmp_path / "go on").touch()
    _, said = process.communicate()
    assert process.returncode == 2
    assert "run the same command again" in said.splitlines()[-1]
    assert "Traceback" not in said
    status = store_status(tmp_path / "s.zarr")
    assert 0 < status.shards_done < status.shards == 5
    assert not status.running
    assert not list(tmp_path.rglob("*.lock"))
    command(*arguments, check=True)
    assert store_status(tmp_path / "s.zarr").complete
    assert sum(run["rows"] for run in read_throughput(tmp_path / "s.zarr")) == 5003


def test_a_second_writer_leaves_a_busy_shard_alone_and_says_so(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(2500))
    run_extract(tmp_path / "s.zarr", write_fasta(tmp_path / "head.fa", random_reads(2500)[:5]))
    lock = ShardLock(StorePaths(tmp_path / "s.zarr").lock(1))
    assert lock.acquire()
    with pytest.raises(StoreError, match="another process is writing shard 1"):
        run_extract(tmp_path / "s.zarr", fasta)
    assert store_status(tmp_path / "s.zarr").shards_done == 2
    lock.release()
    assert run_extract(tmp_path / "s.zarr", fasta).rows == 1024


@pytest.mark.slow
def test_two_processes_share_the_work_without_losing_a_row(tmp_path: Path) -> None:
    reads = random_reads(9000, longest=300)
    fasta = write_fasta(tmp_path / "r.fa", reads)
    run_extract(tmp_path / "s.zarr", write_fasta(tmp_path / "head.fa", reads[:5]), model="kmer:5")
    arguments = ("extract", "--model", "kmer:5", "--input", fasta, "--output", tmp_path / "s.zarr")
    both = [start(*arguments) for _ in range(2)]
    ends = [(process.communicate()[1], process.returncode) for process in both]
    assert all(code in (0, 2) and "Traceback" not in said for said, code in ends)
    command(*arguments, check=True)
    expected = load_encoder("kmer:5").encode(reads).astype(np.float16)
    np.testing.assert_array_equal(np.asarray(open_store(tmp_path / "s.zarr").embeddings), expected)


def test_shards_are_smaller_where_one_would_take_too_long_or_too_much(tmp_path: Path) -> None:
    from embedcache.encoders.readout import Readout, ReadoutBlock
    from embedcache.extraction.plan import Plan
    from embedcache.extraction.preflight import _shard_rows

    def rows(dim: int, seconds: float, letters: int) -> int:
        readout = Readout((ReadoutBlock("b", 0, "mean", 0, dim),))
        plan = Plan(rows=102_400, unit_letters=[letters] * 100)
        return _shard_rows(plan, readout, Options(), seconds)

    assert rows(1280, 60, 10**5) == 16384
    assert rows(1280, 6000, 10**5) == 4096
    assert rows(1280, 10**6, 10**5) == 1024
    assert rows(5120, 60, 10**5) == 4096
    assert rows(1280, 60, 3 * 10**7) == 4096


def test_the_peak_of_memory_is_independent_of_the_number_of_rows(tmp_path: Path) -> None:
    peaks = []
    for count in (60_000, 180_000):  # four windows and eleven: three are in memory in both
        reads = random_reads(200, longest=200)
        with (tmp_path / "r.fa").open("w") as file:
            for i in range(count):
                file.write(f">r{i}\n{reads[i % 200]}\n")
        arguments = ("--model", "kmer:4", "--input", tmp_path / "r.fa", "--restart", "--output", tmp_path / "s.zarr")
        peaks.append(peak_of_extract(*arguments))
    assert peaks[1] - peaks[0] < 16 * 120_000 + 60e6


def test_a_changed_environment_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from embedcache.extraction.extract import extract
    from embedcache.progress import Progress
    from embedcache.sources import open_source

    fasta = write_fasta(tmp_path / "r.fa", random_reads(10))
    make_store(tmp_path / "s.zarr", fasta)
    record = StorePaths(tmp_path / "s.zarr").commit(0)
    record.write_text(json.dumps(json.loads(record.read_text()) | {"environment": {"device": "another machine"}}))
    source = open_source([str(fasta)])
    extract(source, load_encoder("kmer:3"), tmp_path / "s.zarr", Options(), Progress(stream=sys.stderr))
    assert "device another machine, now cpu" in capsys.readouterr().err
