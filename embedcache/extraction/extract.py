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
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedcache.cellnames import cells_named
from embedcache.encoders.encoder import Budget, Encoder
from embedcache.encoders.fidelity import Witnesses, fidelity
from embedcache.errors import EmbedcacheError, InputError, Interrupted, StoreError
from embedcache.extraction.plan import slices
from embedcache.extraction.preflight import Options, Preflight, prepare
from embedcache.extraction.throughput import Throughput, read_throughput
from embedcache.extraction.window import Copied, Window
from embedcache.memory import give_freed_pages_back
from embedcache.prefetch import prefetched
from embedcache.progress import Progress
from embedcache.records import ID, Source
from embedcache.reusing.reuse import Reuse
from embedcache.sequences.passages import Passages, encode_rows, encode_tokens
from embedcache.storage.commit import ShardLock, to_json, write_durably
from embedcache.storage.layout import Layout
from embedcache.storage.store import Commit


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
            with cells_named(source, encoder):
                run.shards(stop)
        finally:
            throughput.finish(encoder, run.budget)
            throughput.damaged = [damage for store in preflight.known for damage in store.values.damaged]
            if run.finished:
                throughput.fidelity = fidelity(encoder, run.readout, run.witnesses, throughput.seconds)
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
        self.preflight, self.encoding, self.writer = preflight, preflight.encoding, preflight.writer
        self.readout = preflight.encoding.readout
        self.throughput = throughput
        self.layout: Layout = preflight.layout
        self.budget = Budget(options.batch_tokens or encoder.batch_tokens)
        self.witnesses = Witnesses(encoder)
        self.reuse = Reuse(preflight, encoder.environment())
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
            window, plan = Window.of(shard, records, lock, self.encoding), self.preflight.plan
            if window.units(plan.unit_rows) != plan.units[plan.units_of(start, stop)]:
                raise self._changed()
            if commit.encode:
                window.tokenize(self.encoding)
            yield window
        if shard + 1 != self.layout.shards:
            raise self._changed()

    def _changed(self) -> InputError:
        return InputError(
            f"{self.source.name} has changed while it was read: run the same command again once it is finished"
        )

    def encode(self, window: Window) -> NDArray[np.generic] | None:
        """Encode a window's distinct records and scatter them to the records' rows, in the stored type."""
        if window.passages is None:
            return None
        start = time.perf_counter()
        copied = self.reuse.copy(window)
        passages = window.passages.take(copied.rest)
        if len(passages.tokens):
            self.witnesses.see(passages.tokens)
        encode = self._vectors if self.readout.pooled else self._token_rows
        values, bad = encode(window, passages, copied)
        self._set_aside(window, bad, values)
        self.reuse.own.remember(window, values, [*bad])
        window.copied = copied
        give_freed_pages_back()
        self.throughput.compute_seconds += time.perf_counter() - start
        return values

    def _vectors(
        self, window: Window, passages: Passages, copied: Copied
    ) -> tuple[NDArray[np.generic], dict[int, str]]:
        """One row a record, (n, D), and what is wrong with the row of which distinct record."""
        rows, faults = encode_rows(self.encoding, passages, self.layout.dtype, self.budget, self._encoded)
        bad = {int(copied.rest[row]): fault for row, fault in faults.items()}
        distinct = rows
        if copied.pieces:
            distinct = np.empty((len(window.firsts), self.layout.dim), self.layout.dtype)
            distinct[copied.rest] = rows
            for numbers, values in copied.pieces:
                distinct[numbers] = values
        one_each = len(distinct) == len(window.distinct_of)
        return distinct if one_each else distinct[window.distinct_of], bad

    def _token_rows(
        self, window: Window, passages: Passages, copied: Copied
    ) -> tuple[NDArray[np.generic], dict[int, str]]:
        """One row a token, those of the records end to end, and what is wrong with those of which distinct record."""
        starts = self.layout.starts(window.shard).tolist()
        values = np.empty((starts[-1], self.readout.dim), self.layout.dtype)
        order = np.argsort(window.distinct_of, kind="stable")
        borders = np.searchsorted(window.distinct_of[order], np.arange(len(window.firsts) + 1))

        def scatter(number: int, states_LD: NDArray[np.generic]) -> None:
            for record in order[borders[number] : borders[number + 1]].tolist():
                values[starts[record] : starts[record + 1]] = states_LD

        bad: dict[int, str] = {}
        for records, states_LD, fault in encode_tokens(
            self.encoding, passages, self.layout.dtype, self.budget, self._encoded
        ):
            for number in copied.rest[records].tolist():
                scatter(number, states_LD)
                if fault is not None:
                    bad[number] = fault
        for numbers, states in copied.pieces:
            for number, states_LD in zip(numbers.tolist(), states, strict=True):
                scatter(number, states_LD)
        return values, bad

    def _encoded(self, tokens: int, sequences: int) -> None:
        self.throughput.encoded_tokens += tokens
        self.throughput.passages += sequences
        self.progress.advance(tokens, sequences / self.encoding.scope.passages)

    def _set_aside(self, window: Window, bad: dict[int, str], values: NDArray[np.generic]) -> None:
        rows = [row for row, distinct in enumerate(window.distinct_of.tolist()) if distinct in bad] if bad else []
        if rows and self.options.on_bad_row == "stop":
            row = rows[0]
            place = self.source.locate([window.shard * self.layout.shard_rows + row])[0]
            why = bad[int(window.distinct_of[row])]
            way_out = "go on without such rows with --on-bad-row quarantine"
            if why.startswith("beyond"):
                way_out = f"store --dtype float32, or {way_out}"
            elif why.endswith("cut off"):
                way_out = f"take --overlong window, or {way_out}"
            elif self.encoder.precision == "float16":
                way_out = (
                    f"float16 may be too narrow for this encoder, take --precision bfloat16 or float32; or {way_out}"
                )
            raise EmbedcacheError(f"the embedding of '{window.records.column(ID)[row]}' ({place}) is {why}: {way_out}")
        window.set_aside = sorted({*window.set_aside, *rows})
        starts = self.layout.starts(window.shard)
        for row in window.set_aside:
            values[starts[row] : starts[row + 1]] = np.nan

    def write(self, window: Window, values: NDArray[np.generic] | None) -> None:
        """Write and commit a shard; runs in the writing thread."""
        plan, shard = self.preflight.plan, window.shard
        start, stop = self.layout.bounds(shard)
        old = self.preflight.todo[shard].on_disk
        if values is None:
            assert old is not None
            window.n_tokens = self.preflight.old_tokens(shard)
            window.set_aside, window.counts = [row - start for row in old.quarantined], old.encoded
        commit = Commit(
            shard,
            stop - start,
            plan.digest(start, stop),
            plan.metadata_digest(start, stop),
            payload_bytes=old.payload_bytes if old else 0,
            payload_crc32c=old.payload_crc32c if old else "",
            part_bytes=0,
            part_crc32c="",
            quarantined=[start + row for row in window.set_aside],
            environment=self.encoder.environment() if values is not None or old is None else old.environment,
            encoded=window.counts,
            reused=window.copied.reused if values is not None or old is None else old.reused,
        )
        part = window.rows_part(start, plan, self.options.drop_sequence)
        if values is None:
            self.writer.write_part(part, commit)
        else:
            self.writer.write_shard(values, part, commit)
            self.throughput.add(stop - start, window.counts, len(window.set_aside), window.copied)
        window.lock.release()


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
