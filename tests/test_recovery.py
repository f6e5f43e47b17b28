"""What a kill, another process or a changed file can do to a store, and that none of it goes unnoticed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from embedcache import load_encoder, open_store
from embedcache.errors import EmbedcacheError, InputError, StoreError
from embedcache.extraction.preflight import Options
from embedcache.extraction.throughput import Throughput
from embedcache.extraction.verify import check_files
from embedcache.storage.commit import ShardLock, StoreWriter, remove_store, sweep_leftovers
from embedcache.storage.layout import StorePaths
from embedcache.storage.shardmap import shard_index
from embedcache.storage.status import store_status
from embedcache.storage.store import read_attributes
from tests.letter_encoder import LetterEncoder
from tests.processes import MAIN, SERVER, command, start, start_python
from tests.stores import make_store, peak_of_extract, random_reads, run_extract, store_bytes, write_fasta


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def killed_before(monkeypatch: pytest.MonkeyPatch, name: str, at: int) -> None:
    """Let the `at`-th durable write of a file called `name` never happen."""
    from embedcache.storage import commit

    write, seen = commit.write_durably, [0]

    def until(path: Path, blocks: object) -> None:
        if name in str(path):
            seen[0] += 1
            if seen[0] == at:
                raise Killed
        write(path, blocks)  # type: ignore[arg-type]

    monkeypatch.setattr(commit, "write_durably", until)


def test_a_kill_between_part_and_record_of_an_append_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = random_reads(3000)
    make_store(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads[:500]))
    fasta = write_fasta(tmp_path / "r.fa", reads)
    with monkeypatch.context() as patch:
        killed_before(patch, "/commit/00000000.json", 1)
        with pytest.raises(Killed):
            run_extract(tmp_path / "s.zarr", fasta)
    run_extract(tmp_path / "s.zarr", fasta)
    make_store(tmp_path / "once.zarr", fasta)
    assert store_bytes(tmp_path / "s.zarr") == store_bytes(tmp_path / "once.zarr")


def test_a_half_rewritten_metadata_is_never_taken_for_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fasta, table = write_fasta(tmp_path / "r.fa", random_reads(2500)), tmp_path / "labels.csv"
    table.write_text("id,label\n" + "".join(f"r{i},{i % 2}\n" for i in range(2500)))
    make_store(tmp_path / "s.zarr", fasta, metadata=table)
    table.write_text("id,label\n" + "".join(f"r{i},{'pos' if i % 2 else 'neg'}\n" for i in range(2500)))
    with monkeypatch.context() as patch:
        killed_before(patch, "/rows/00000001", 1)
        with pytest.raises(Killed):
            run_extract(tmp_path / "s.zarr", fasta, metadata=table)
    assert not store_status(tmp_path / "s.zarr").complete
    assert "being rewritten" in check_files(tmp_path / "s.zarr")[0]
    with pytest.raises(StoreError, match="metadata .* is being rewritten"):
        open_store(tmp_path / "s.zarr")
    assert run_extract(tmp_path / "s.zarr", fasta, metadata=table).rows == 0
    assert set(open_store(tmp_path / "s.zarr").column("label").to_pylist()) == {"pos", "neg"}
    assert "metadata_pending" not in read_attributes(tmp_path / "s.zarr")
    assert check_files(tmp_path / "s.zarr") == []


def test_going_back_to_the_shorter_input_after_a_killed_append_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = random_reads(3000)
    make_store(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads[:500]))
    before = store_bytes(tmp_path / "s.zarr")
    with monkeypatch.context() as patch:
        killed_before(patch, "/c/0/0", 1)
        with pytest.raises(Killed):
            run_extract(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads))
    assert "shards are not there" in check_files(tmp_path / "s.zarr")[0]
    run_extract(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads[:500]))
    assert store_bytes(tmp_path / "s.zarr") == before


@pytest.mark.parametrize("change", ["grown", "shrunk", "edited"])
def test_an_input_that_changes_between_the_two_readings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    from embedcache.extraction import extract

    reads = random_reads(2500)
    fasta = write_fasta(tmp_path / "r.fa", reads)
    prepare = extract.prepare

    def then_change(*arguments: object) -> object:
        found = prepare(*arguments)  # type: ignore[arg-type]
        changed = {"grown": [*reads, "ACGT"], "shrunk": reads[:900], "edited": ["ACGTACGT", *reads[1:]]}[change]
        write_fasta(fasta, changed)
        return found

    monkeypatch.setattr(extract, "prepare", then_change)
    with pytest.raises(InputError, match="has changed while it was read"):
        run_extract(tmp_path / "s.zarr", fasta)
    monkeypatch.undo()
    assert run_extract(tmp_path / "s.zarr", write_fasta(fasta, reads)).rows > 0
    np.testing.assert_array_equal(
        np.asarray(open_store(tmp_path / "s.zarr").embeddings), load_encoder("kmer:3").encode(reads).astype(np.float16)
    )


def test_restart_beside_a_running_extraction_is_refused(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(30))
    make_store(tmp_path / "s.zarr", fasta)
    lock = ShardLock(StorePaths(tmp_path / "s.zarr").lock(0))
    assert lock.acquire()
    with pytest.raises(StoreError, match="another process is writing"):
        run_extract(tmp_path / "s.zarr", fasta, options=Options(restart=True))
    lock.release()
    run_extract(tmp_path / "s.zarr", fasta, options=Options(restart=True))


def test_a_record_of_another_encoder_does_not_count(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(30))
    stale = StoreWriter(make_store(tmp_path / "s.zarr", fasta).path)
    run_extract(tmp_path / "s.zarr", fasta, model="kmer:3:stranded", options=Options(restart=True))
    with pytest.raises(StoreError, match="replaced by another run"):
        stale.commit_of(0)
    record = StorePaths(tmp_path / "s.zarr").commit(0)
    record.write_text(record.read_text().replace(read_attributes(tmp_path / "s.zarr")["fingerprint"], "0" * 32))
    with pytest.raises(StoreError, match="0 of 1 shard"):
        open_store(tmp_path / "s.zarr")
    assert run_extract(tmp_path / "s.zarr", fasta, model="kmer:3:stranded", options=Options()).rows == 30


@pytest.mark.parametrize("lost", ["file", "part"])
def test_a_lost_file_is_made_again_by_the_same_command(tmp_path: Path, lost: str) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(2000))
    make_store(tmp_path / "s.zarr", fasta)
    before = store_bytes(tmp_path / "s.zarr")
    getattr(StorePaths(tmp_path / "s.zarr"), lost)(1).unlink()
    assert run_extract(tmp_path / "s.zarr", fasta).rows == 2000 - 1024
    assert store_bytes(tmp_path / "s.zarr") == before


def test_a_flipped_bit_in_the_index_is_found_and_reading_says_so(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", random_reads(50)))
    file = StorePaths(store.path).file(0)
    data = bytearray(file.read_bytes())
    data[-6] ^= 1
    file.write_bytes(data)
    assert "index" in check_files(store.path)[0]
    with pytest.raises(StoreError, match="damaged"):
        open_store(store.path).read(0, 10)


def test_a_file_system_without_locks_is_told_and_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StoreError, match="has no file locks"):
        run_extract(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", random_reads(5)))


def test_left_overs_of_dead_processes_are_swept_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    gone = SERVER.Process(target=int)
    gone.start()
    gone.join()
    for owner in (gone.pid, os.getpid()):
        (tmp_path / f"s.zarr.removing-{owner}").mkdir()
    sweep_leftovers(tmp_path / "s.zarr")
    assert [folder.name for folder in tmp_path.iterdir()] == [f"s.zarr.removing-{os.getpid()}"]


def test_a_link_to_a_store_stays_a_link(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(5))
    make_store(tmp_path / "disk.zarr", fasta)
    (tmp_path / "link.zarr").symlink_to(tmp_path / "disk.zarr")
    run_extract(tmp_path / "link.zarr", fasta, options=Options(restart=True))
    assert (tmp_path / "link.zarr").is_symlink()
    assert len(open_store(tmp_path / "link.zarr")) == 5
    remove_store(tmp_path / "link.zarr")
    assert not (tmp_path / "disk.zarr").exists()


def test_an_output_below_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot make the store"):
        run_extract(tmp_path / "file" / "s.zarr", write_fasta(tmp_path / "r.fa", random_reads(5)))


def test_long_contigs_do_not_take_eight_bytes_a_letter(tmp_path: Path) -> None:
    letters = 60_000_000
    contig = "ACGT" * (letters // 8)
    (tmp_path / "g.fa").write_text(f">a\n{contig}\n>b\n{contig}\n")
    arguments = ("--model", "kmer:4", "--input", tmp_path / "g.fa", "--output", tmp_path / "s.zarr")
    assert peak_of_extract(*arguments) < 400e6 + 8 * letters


@pytest.mark.slow
def test_ctrl_c_while_the_model_loads_is_one_sentence(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "p.fa", ["MKTAYIAKQR"])
    words = ("extract", "--model", "esm2-150m", "--random-weights", "--input", fasta, "--output")
    importing = start_python(MAIN, *words, tmp_path / "importing.zarr")
    while "libtorch" not in Path(f"/proc/{importing.pid}/maps").read_text():
        time.sleep(0.01)
    importing.send_signal(signal.SIGINT)
    processes = [importing]
    for wait in (0.2, 0.8):
        begun = tmp_path / f"{wait}"
        told = f"from pathlib import Path; import cli.embedcache; Path({str(begun)!r}).touch()"
        processes.append(start(*words, tmp_path / f"{wait}.zarr", before=told))
        while not begun.exists():
            time.sleep(0.01)
        time.sleep(wait)
        processes[-1].send_signal(signal.SIGINT)
    for process in processes:
        _, said = process.communicate()
        assert process.returncode in (0, 2)
        assert "Traceback" not in said


def test_options_of_the_command_reach_the_store(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "p.fa", ["MKTAYIAKQR", "GVSERT"])
    arguments = ["extract", "--model", "esm2-8m", "--random-weights", "--seed", 5, "--input", fasta]
    for name, extra in (
        ("a", []),
        ("b", ["--batch-tokens", 9]),
        ("c", ["--precision", "bfloat16", "--pool", "mean, max"]),
    ):
        command(*arguments, *extra, "--output", tmp_path / f"{name}.zarr", check=True)
    stores = {name: open_store(tmp_path / f"{name}.zarr") for name in "abc"}
    np.testing.assert_array_equal(np.asarray(stores["a"].embeddings), np.asarray(stores["b"].embeddings))
    assert stores["c"].attrs["encoder"]["precision"] == "bfloat16"
    assert stores["c"].dim == 640
    assert len({store.fingerprint for store in stores.values()}) == 2
    other = command(*arguments[:4], "--seed", 6, *arguments[6:], "--output", tmp_path / "a.zarr")
    assert "seed of the random weights: 5, now 6" in other.stderr


# stores without pooling, whose shards share files

NONE = Options(poolings=("none",), shard_rows=16)


def tokens_of(output: Path, fasta: Path, options: Options = NONE) -> Throughput:
    """Extract without pooling."""
    return run_extract(output, fasta, model=LetterEncoder(), options=options)


def test_a_kill_before_any_single_write_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = random_reads(60, shortest=300, longest=900)
    tokens_of(tmp_path / "once.zarr", write_fasta(tmp_path / "r.fa", reads))
    once, store, at, killed = store_bytes(tmp_path / "once.zarr"), tmp_path / "s.zarr", 0, True
    while killed:
        at += 1
        shutil.rmtree(store, ignore_errors=True)
        tokens_of(store, write_fasta(tmp_path / "r.fa", reads[:24]))
        write_fasta(tmp_path / "r.fa", reads)
        with monkeypatch.context() as patch:
            killed_before(patch, "", at)
            try:
                tokens_of(store, tmp_path / "r.fa")
                killed = False
            except Killed:
                assert len(open_store(store, partial=True)) == (24 if store_status(store).complete else 60)
        there = open_store(store, partial=True)
        for row, wanted in enumerate(LetterEncoder().encode_tokens(reads[:16])):
            np.testing.assert_array_equal(there[row], wanted.astype(np.float16))
        tokens_of(store, tmp_path / "r.fa")
        assert store_bytes(store) == once
    assert at > 10


def test_going_back_to_the_shorter_input_after_a_killed_append_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = random_reads(60, shortest=300, longest=900)
    tokens_of(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads[:24]))
    before = np.array(open_store(tmp_path / "s.zarr").embeddings)
    for file in ("/offsets/zarr.json", "/c/1/0", "/commit/00000001.json"):
        with monkeypatch.context() as patch:
            killed_before(patch, file, 1)
            with pytest.raises(Killed):
                tokens_of(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads))
        assert tokens_of(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads[:24])).rows in (0, 8)
        np.testing.assert_array_equal(np.asarray(open_store(tmp_path / "s.zarr").embeddings), before)
        np.testing.assert_array_equal(zarr.open_group(str(tmp_path / "s.zarr"))["embeddings"][:], before)
        assert check_files(tmp_path / "s.zarr") == []


@pytest.mark.parametrize("damage", ["lost", "cut short", "a whole but shorter one", "index"])
def test_all_shards_of_a_damaged_file_are_made_again_even_if_that_is_stopped_half_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    fasta = write_fasta(tmp_path / "r.fa", random_reads(80, shortest=300, longest=900))
    tokens_of(tmp_path / "s.zarr", fasta)
    before, file = store_bytes(tmp_path / "s.zarr"), StorePaths(tmp_path / "s.zarr").file(1)
    data = file.read_bytes()
    if damage == "lost":
        file.unlink()
    elif damage == "a whole but shorter one":
        file.write_bytes(data[: 3 * 1024 * 64] + shard_index(3, 1024 * 64, 16))
    else:
        file.write_bytes(data[:-5000] if damage == "cut short" else data[:-8] + bytes(8))
    assert str(file) in check_files(tmp_path / "s.zarr")[0]
    with monkeypatch.context() as patch:
        killed_before(patch, "/rows/", 1)  # the first shard of the file has written its rows of it
        with pytest.raises(Killed):
            tokens_of(tmp_path / "s.zarr", fasta)
    assert file.exists()
    with pytest.raises(StoreError, match="is not finished"):
        open_store(tmp_path / "s.zarr")
    assert 32 <= tokens_of(tmp_path / "s.zarr", fasta).rows < 80
    assert store_bytes(tmp_path / "s.zarr") == before


def test_a_changed_length_in_what_is_not_yet_encoded_is_refused_since_all_that_follows_would_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = random_reads(60)
    with monkeypatch.context() as patch:
        killed_before(patch, "/commit/00000001.json", 1)
        with pytest.raises(Killed):
            tokens_of(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", reads))
    longer = [*reads[:40], f"{reads[40]}A", *reads[41:]]
    with pytest.raises(StoreError, match=r"have changed since .* was begun, first at .*line 81"):
        tokens_of(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", longer))
    tokens_of(tmp_path / "s.zarr", write_fasta(tmp_path / "r.fa", longer), Options(poolings=("none",), restart=True))
    assert [len(rows) for rows in open_store(tmp_path / "s.zarr")] == [len(read) for read in longer]


def extract_or_stop(output: Path, fasta: Path) -> None:
    """Extract in a process of its own; exit code 2 for what a user is told, as in the command line."""
    try:
        tokens_of(output, fasta)
    except EmbedcacheError:
        sys.exit(2)


@pytest.mark.slow
def test_killed_processes_that_share_files_resume_to_the_same_bytes(tmp_path: Path) -> None:
    reads = random_reads(400, shortest=300, longest=900)
    fasta, store = write_fasta(tmp_path / "r.fa", reads), tmp_path / "s.zarr"
    tokens_of(tmp_path / "once.zarr", fasta)
    tokens_of(store, write_fasta(tmp_path / "head.fa", reads[:5]))
    ends = []
    for _ in range(8):
        both = [SERVER.Process(target=extract_or_stop, args=(store, fasta)) for _ in range(2)]
        for process in both:
            process.start()
        done = len(list(store.glob("embeddings/commit/*.json")))
        while both[0].is_alive():
            if len(list(store.glob("embeddings/commit/*.json"))) >= done + 2 and any(
                store.glob("embeddings/**/*.partial")
            ):
                both[0].kill()  # in the middle of writing
        for process in both:
            process.join()
        ends += [process.exitcode for process in both]
        if store_status(store).complete:
            break
        for commit in list(store.glob("embeddings/commit/*.json"))[::2]:
            commit.unlink()  # so that there is work left
    assert -signal.SIGKILL in ends
    assert {*ends} <= {0, 2, -signal.SIGKILL}
    tokens_of(store, fasta)
    assert store_bytes(store) == store_bytes(tmp_path / "once.zarr")
