"""The extraction: take a window of records, tokenize, pack, encode, pool, write, commit.

A window is one shard. It is read and tokenized by one thread while the one before it is encoded, and written by
another while the next is encoded; at most three windows are in memory.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.alphabet import KNOWN, Letters, digests, normalise
from embedcache.commit import ShardLock, to_json, write_durably
from embedcache.encoders.encoder import Budget, Encoder
from embedcache.errors import EmbedcacheError, InputError, Interrupted, StoreError
from embedcache.memory import give_freed_pages_back
from embedcache.packing import truncate
from embedcache.plan import digest_of, slices
from embedcache.prefetch import prefetched
from embedcache.preflight import Options, Preflight, prepare
from embedcache.progress import Progress
from embedcache.records import ID, SEQUENCE, Source
from embedcache.store import CHUNK_ROWS, Commit, Layout
from embedcache.throughput import Throughput, read_throughput
from embedcache.tokens import Tokens


def extract(source: Source, encoder: Encoder, output: str | Path, options: Options, progress: Progress) -> Throughput:
    """Encode all records of a source into a store; run again, go on where it stopped.

    Row i of the store is record i of the source. A store that is there already is resumed, extended if the input has
    grown, or has its metadata rewritten if only that changed.

    Returns
    -------
    Throughput : what this run did and how fast; it is added to the store's own list too.

    Raises
    ------
    InputError : the input or the options cannot be used.
    StoreError : the store was made with another plan, the disk is full, or another process works on a shard.
    Interrupted : SIGINT, SIGTERM or SIGUSR1 stopped the run; finished shards stay.
    """
    preflight = prepare(source, encoder, Path(output), options, progress)
    throughput = Throughput(
        started_at_utc=datetime.now(UTC).isoformat(timespec="seconds"), host=socket.gethostname(), unit=encoder.unit
    )
    run = _Run(source, encoder, preflight, options, progress, throughput)
    with _stop_signals() as stop:
        try:
            run.shards(stop)
        finally:
            throughput.finish(encoder, run.budget)
            if throughput.rows:
                runs = [*read_throughput(output), throughput.to_dict()]
                write_durably(preflight.writer.paths.throughput, [to_json(runs)])
    if stop.is_set() and not run.finished:
        raise Interrupted("stopped on request after a whole shard: run the same command again to go on")
    preflight.writer.finish_metadata()
    if run.busy:
        raise StoreError(
            f"another process is writing shard {run.busy[0]} of {output}: everything else is done; run the same command "
            "again once it has finished to check that nothing is missing"
        )
    return throughput


@dataclass
class Window:
    """The records of one shard on their way through."""

    shard: int
    records: pa.RecordBatch
    lock: ShardLock
    letters: Letters
    digests: list[bytes]
    rc_digests: list[bytes | None]
    tokens: Tokens | None = None
    """Of the distinct sequences; None where only the metadata has changed."""
    distinct_of: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Which distinct sequence each record has."""
    n_tokens: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    set_aside: list[int] = field(default_factory=list)
    """Records of the window that are not encoded (``--overlong skip``)."""
    counts: dict[str, int] = field(default_factory=dict)


class _Run:
    def __init__(
        self,
        source: Source,
        encoder: Encoder,
        preflight: Preflight,
        options: Options,
        progress: Progress,
        throughput: Throughput,
    ) -> None:
        self.source, self.encoder, self.options, self.progress = source, encoder, options, progress
        self.preflight, self.readout, self.writer = preflight, preflight.readout, preflight.writer
        self.throughput = throughput
        self.layout: Layout = preflight.layout
        self.budget = Budget(options.batch_tokens or encoder.batch_tokens)
        self.busy: list[int] = []
        self.finished = False
        self._held: list[ShardLock] = []

    def shards(self, stop: threading.Event) -> None:
        """Work through all shards that are not there yet."""
        self.progress.start(self.preflight.tokens_to_do, self.encoder.unit)
        written: Future[None] | None = None
        try:
            with ThreadPoolExecutor(1, "writer") as pool, prefetched(self.windows()) as windows:
                for window in windows:
                    values = self.encode(window)
                    self._wait_for(written)
                    written = pool.submit(self.write, window, values)
                    if stop.is_set():
                        break
                else:
                    self.finished = True
                self._wait_for(written)
                self.throughput.tokenizer_seconds = windows.waited
        except KeyboardInterrupt:
            raise Interrupted(
                "stopped by Ctrl-C: what is finished is kept, run the same command again to go on"
            ) from None
        finally:
            self.progress.stop()
            for lock in self._held:
                lock.release()
        self.writer.sweep_locks()

    def _wait_for(self, written: Future[None] | None) -> None:
        start = time.perf_counter()
        if written is not None:
            written.result()
        self.throughput.writer_seconds += time.perf_counter() - start

    def windows(self) -> Iterator[Window]:
        """Read the input again, and prepare the shards that are to be done; runs in the reading thread."""
        shard = -1
        for shard, records in enumerate(slices(self.source, self.layout.shard_rows)):
            start, stop = self.layout.bounds(shard)
            if len(records) != stop - start:
                raise self._changed()
            commit = self.preflight.todo.get(shard)
            if commit is None:
                continue
            lock = ShardLock(self.writer.paths.lock(shard))
            if not lock.acquire():
                self.busy.append(shard)
                continue
            self._held.append(lock)
            if self.writer.commit_of(shard) != commit.on_disk:
                lock.release()  # another process finished it since the pre-flight
                continue
            self.writer.sweep(shard)
            yield self._prepare(shard, records, lock, encode=commit.encode)
        if shard + 1 != self.layout.shards:
            raise self._changed()

    def _changed(self) -> InputError:
        return InputError(
            f"{self.source.name} has changed while it was read: run the same command again once it is finished"
        )

    def _prepare(self, shard: int, records: pa.RecordBatch, lock: ShardLock, encode: bool) -> Window:
        units = [records.slice(start, CHUNK_ROWS) for start in range(0, len(records), CHUNK_ROWS)]
        first, last = self.preflight.units(shard)
        if [digest_of(u.column(ID), u.column(SEQUENCE)) for u in units] != self.preflight.plan.units[first:last]:
            raise self._changed()
        letters = normalise(Letters.of(records.column(SEQUENCE)), self.encoder.alphabet)
        plain, canonical = digests(letters, self.encoder.alphabet)
        window = Window(shard, records, lock, letters, plain, canonical)
        if not encode:
            return window
        number: dict[bytes, int] = {}
        window.distinct_of = np.asarray([number.setdefault(digest, len(number)) for digest in plain], np.int64)
        firsts = np.unique(window.distinct_of, return_index=True)[1]
        tokens = self.encoder.tokenize(letters.take(firsts) if len(firsts) < len(plain) else letters)
        window.n_tokens = tokens.lengths[window.distinct_of]
        window.tokens = self._overlong(tokens, window)
        unknown = ~np.isin(np.arange(256), list(KNOWN[self.encoder.alphabet]))
        window.counts = {
            "tokens": int(window.n_tokens.sum()),
            "distinct_sequences": len(firsts),
            "overlong": int((window.n_tokens > (self.encoder.token_limit or np.iinfo(np.int64).max)).sum()),
            "unknown_letters": int(unknown[letters.bytes_].sum()),
        }
        return window

    def _overlong(self, tokens: Tokens, window: Window) -> Tokens:
        limit = self.encoder.token_limit
        policy = self.preflight.overlong
        if limit is None or policy == "window" or not (tokens.lengths > limit).any():
            return tokens
        if policy == "skip":
            window.set_aside = np.flatnonzero(window.n_tokens > limit).tolist()
            return truncate(tokens, limit, self.encoder.special, keep=sum(self.encoder.special) + 1)
        return truncate(tokens, limit, self.encoder.special)

    def encode(self, window: Window) -> NDArray[np.generic] | None:
        """Encode a window's distinct sequences and scatter them to its rows, in the stored type."""
        if window.tokens is None:
            return None
        start = time.perf_counter()
        distinct = np.empty((len(window.tokens), self.readout.dim), self.layout.dtype)
        bad: dict[int, str] = {}
        for rows, vectors in self.encoder.vectors(window.tokens, self.readout, self.budget, self._encoded):
            with np.errstate(over="ignore"):
                distinct[rows] = vectors
            finite = np.isfinite(distinct[rows]).all(axis=1)
            for row, vector in zip(rows[~finite], vectors[~finite], strict=True):
                bad[int(row)] = "NaN or infinite" if not np.isfinite(vector).all() else f"beyond {self.layout.dtype}"
        one_each = len(distinct) == len(window.distinct_of)
        values = distinct if one_each else distinct[window.distinct_of]
        self._set_aside(window, bad, values)
        give_freed_pages_back()
        self.throughput.compute_seconds += time.perf_counter() - start
        return values

    def _encoded(self, tokens: int, sequences: int) -> None:
        self.throughput.encoded_tokens += tokens
        self.progress.advance(tokens, sequences)

    def _set_aside(self, window: Window, bad: dict[int, str], values: NDArray[np.generic]) -> None:
        rows = [row for row, distinct in enumerate(window.distinct_of.tolist()) if distinct in bad] if bad else []
        if rows and self.options.on_bad_row == "stop":
            row = rows[0]
            place = self.source.locate([window.shard * self.layout.shard_rows + row])[0]
            why = bad[int(window.distinct_of[row])]
            way_out = "go on without such rows with --on-bad-row quarantine"
            way_out = f"store --dtype float32, or {way_out}" if why.startswith("beyond") else way_out
            raise EmbedcacheError(f"the embedding of '{window.records.column(ID)[row]}' ({place}) is {why}: {way_out}")
        window.set_aside = sorted({*window.set_aside, *rows})
        values[window.set_aside] = np.nan

    def write(self, window: Window, values: NDArray[np.generic] | None) -> None:
        """Write and commit a shard; runs in the writing thread."""
        plan, shard = self.preflight.plan, window.shard
        start, stop = self.layout.bounds(shard)
        first, last = self.preflight.units(shard)
        old = self.preflight.todo[shard].on_disk
        if values is None:
            assert old is not None
            window.n_tokens = self.preflight.old_tokens(shard)
            window.set_aside, window.counts = [row - start for row in old.quarantined], old.encoded
        commit = Commit(
            shard,
            stop - start,
            plan.digest(first, last),
            plan.metadata_digest(first, last),
            payload_bytes=old.payload_bytes if old else 0,
            payload_crc32c=old.payload_crc32c if old else "",
            part_bytes=0,
            part_crc32c="",
            quarantined=[start + row for row in window.set_aside],
            environment=self.encoder.environment() if values is not None or old is None else old.environment,
            encoded=window.counts,
        )
        part = self._part(window, start)
        if values is None:
            self.writer.write_part(part, commit)
        else:
            self.writer.write_shard(values, part, commit)
            self.throughput.add(stop - start, window.counts, len(window.set_aside))
        window.lock.release()

    def _part(self, window: Window, start: int) -> pa.Table:
        n, records = len(window.records), window.records
        columns: dict[str, Any] = {
            "row": pa.array(np.arange(start, start + n)),
            ID: records.column(ID),
            "digest": pa.array(window.digests, pa.binary(16)),
            "rc_digest": pa.array(window.rc_digests, pa.binary(16)),
            SEQUENCE: records.column(SEQUENCE),
            "length": pa.array(window.letters.lengths),
            "n_tokens": pa.array(window.n_tokens),
        }
        if self.options.drop_sequence:
            del columns[SEQUENCE]
        for kind in self.preflight.plan.metadata:
            columns[kind.name] = records.column(kind.name).cast(kind.type)
        return pa.table(columns)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn SIGTERM and SIGUSR1 (SLURM's warning before the time limit) into an event, while in the main thread."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield stop
        return
    wanted = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in wanted}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
