"""What an extraction will take, before it is begun: tokens, disk, memory, and time from a few seconds of real work.

The input is read once. What its letters alone do not tell, how they fall into tokens and how fast this machine encodes
these, is found on records drawn from all over it, and carried over to all lengths by the encoder's arithmetic.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedcache.counted import counted
from embedcache.encoders.encoder import Budget, Encoder
from embedcache.encoders.fidelity import no_faster_here
from embedcache.encoders.linear import product_type
from embedcache.encoders.listing import count
from embedcache.encoders.loading import find_device, find_type, load_encoder
from embedcache.encoders.sketch import Sketch, sketch
from embedcache.encoding import Encoding
from embedcache.extraction.pace import Pace, Probe, load_probe, measure
from embedcache.extraction.plan import Plan
from embedcache.extraction.preflight import Options, _shard_rows, check_lengths, encoding_of, existing_folder
from embedcache.extraction.survey import Survey, survey
from embedcache.extraction.workload import Lengths, as_encoded, work
from embedcache.memory import free_memory
from embedcache.progress import duration, size
from embedcache.records import SEQUENCE, Source
from embedcache.reusing.known import Forecast, open_known
from embedcache.sequences.alphabet import DNA
from embedcache.sequences.passages import Passages
from embedcache.sequences.tokens import Tokens
from embedcache.storage.layout import Layout

_STAND_IN = "its vocabulary is not here either: the tokens are those of another one, which has about as many"


@dataclass(frozen=True)
class ModelPart:
    """Which encoder was measured, and with what."""

    name: str
    precision: str
    device: str
    parameters: int | None
    """None for encoders without weights, and ``hf:`` ones."""
    layers: int
    layers_measured: int
    weights: str
    """What was measured with: ``real`` weights, ``random`` ones of the real size, or ``none``."""
    download_bytes: int
    """Of weights that are not here yet, about; 0 where they are."""

    def lines(self) -> Iterator[str]:
        """As people read it."""
        weights = f"; {count(self.parameters)} weights in {self.layers} layers" if self.parameters else ""
        yield f"model    {self.name}, {self.precision} on {self.device}{weights}"
        download = f"not here: about {size(self.download_bytes)} to download; " if self.download_bytes else ""
        if self.parameters and self.layers_measured < self.layers:
            yield (
                f"weights  {download}measured with {self.layers_measured} of the {self.layers} layers, which are alike, and "
                "random weights"
            )
        elif self.weights == "random":
            yield f"weights  {download}measured with random ones of the real size, which take the same time"
        elif self.weights == "real":
            yield "weights  here; measured with them"


@dataclass(frozen=True)
class InputPart:
    """What goes in."""

    name: str
    rows: int
    letters: int
    unit: str
    """What is counted as a token: ``tokens``, or ``letters``."""
    tokens: int
    encoded_tokens: int
    """Tokens that go through the encoder: of distinct sequences, and of windows, which overlap."""
    longest_tokens: int
    token_limit: int | None
    overlong: str
    overlong_rows: int
    known_rows: int
    """Rows that are copied from the stores of --reuse and --cache."""
    repeated_rows: int
    """Rows whose sequence an earlier row has; they are not encoded again."""

    def lines(self) -> Iterator[str]:
        """As people read it."""
        tokens = f", {self.tokens:,} {self.unit}" if self.unit != "letters" else ""
        yield (
            f"input    {self.name}: {counted(self.rows, 'row')}, {counted(self.letters, 'letter')}{tokens} "
            f"({self.tokens / self.rows:,.0f} a row, the longest about {self.longest_tokens:,})"
        )
        if self.overlong_rows:
            yield (
                f"         {self._part(self.overlong_rows, 'is', 'are')} over the limit of "
                f"{self.token_limit:,} {self.unit}: --overlong {self.overlong}"
            )
        if self.known_rows:
            yield f"         {self._part(self.known_rows, 'is', 'are')} known and not encoded"
        if self.repeated_rows:
            yield (
                f"         {self._part(self.repeated_rows, 'has', 'have')} the sequence of another, which is encoded once"
            )

    def _part(self, rows: int, has: str, have: str) -> str:
        share = f"({rows / self.rows:.1%})"
        return counted(rows, f"row {share} {has}", f"rows {share} {have}")


@dataclass(frozen=True)
class DiskPart:
    """What the store will have."""

    vectors: int
    """One for each row of the input, or, without pooling, for each token."""
    dim: int
    dtype: str
    shard_rows: int
    embeddings_bytes: int
    table_bytes: int
    """Of ids, sequences, digests and metadata, about."""
    free_bytes: int
    compress: str | None = None

    def lines(self) -> Iterator[str]:
        """As people read it."""
        packed = f" before {self.compress} compression" if self.compress else ""
        yield (
            f"disk     {self.vectors:,} x {self.dim:,} {self.dtype} = {size(self.embeddings_bytes)}{packed}, and about "
            f"{size(self.table_bytes)} of ids, sequences and metadata; {size(self.free_bytes)} free"
        )
        if self.embeddings_bytes + self.table_bytes > self.free_bytes:
            yield "caution  that is more than is free: free some, or put --output on another disk"


@dataclass(frozen=True)
class MemoryPart:
    """What the device's memory has to hold."""

    weights_bytes: int | None
    """None for ``hf:`` encoders."""
    batch_tokens: int
    batch_bytes: int | None
    """None where the system does not say, as `free_bytes`."""
    free_bytes: int | None

    @property
    def fits(self) -> bool:
        """Whether weights and a batch fit into what is free."""
        return self.free_bytes is None or (self.weights_bytes or 0) + (self.batch_bytes or 0) <= self.free_bytes

    def lines(self) -> Iterator[str]:
        """As people read it."""
        if not self.weights_bytes:
            return
        batch = "a batch" if self.batch_bytes is None else f"about {size(self.batch_bytes)} for a batch"
        free = "" if self.free_bytes is None else f"; {size(self.free_bytes)} free"
        yield f"memory   {size(self.weights_bytes)} of weights, {batch} of {self.batch_tokens:,} tokens{free}"
        if not self.fits:
            yield "caution  that is more than is free: another machine, a smaller encoder or bfloat16 may do"


@dataclass(frozen=True)
class TimePart:
    """Wall time in seconds, without loading the encoder."""

    seconds: float
    seconds_low: float
    """If all batches ran at the pace of the fastest tenth of those measured; `seconds_high` of the slowest."""
    seconds_high: float
    reading_seconds: float
    """The part of `seconds` in which the input is read a first time and nothing is encoded."""
    batches_measured: int
    seconds_measured: float
    tokens_per_second: float
    rows_per_second: float

    def lines(self, unit: str) -> Iterator[str]:
        """As people read it; `unit` is what is counted as a token."""
        spread = "by one batch"
        if self.batches_measured > 1:
            low, high = duration(self.seconds_low), duration(self.seconds_high)
            spread = f"{low} to {high} by the spread of {self.batches_measured} batches"
        yield (
            f"time     about {duration(self.seconds)} ({spread} in {duration(self.seconds_measured)}), without loading the "
            f"encoder: {_rate(self.tokens_per_second)} {unit}/s, {_rate(self.rows_per_second)} rows/s"
        )


@dataclass(frozen=True)
class Estimate:
    """What an extraction will take."""

    model: ModelPart
    input: InputPart
    disk: DiskPart
    memory: MemoryPart
    time: TimePart
    cautions: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """As people read it."""
        yield from self.model.lines()
        yield from (f"caution  {caution}" for caution in self.cautions)
        yield from self.input.lines()
        yield from self.disk.lines()
        yield from self.memory.lines()
        yield from self.time.lines(self.input.unit)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: an object for each part."""
        return asdict(self) | {"memory": asdict(self.memory) | {"fits": self.memory.fits}}


def estimate(
    source: Source,
    model: str,
    options: Options,
    *,
    device: str = "auto",
    precision: str = "auto",
    seconds: float = 5.0,
    seed: int = 0,
    folder: str | Path = ".",
    trust_remote_code: bool = False,
    alphabet: str | None = None,
) -> Estimate:
    """Estimate an extraction; nothing is downloaded and nothing is written.

    Parameters
    ----------
    model, device, precision, trust_remote_code, alphabet : as for `load_encoder`. Real weights are used where they are
        here.
    seconds : of encoding that are measured.
    seed : of the choice of records, and of random weights.
    folder : where the store would lie, for the free disk.

    Raises
    ------
    InputError, ModelError : as the extraction would.
    """
    on = find_device(device)
    busy = _busy() if on.type == "cpu" else None
    kept, plan, free = product_type(find_type(precision, on), on), sketch(model), free_memory(on)
    load = partial(
        load_encoder, device=device, precision=precision, seed=seed, download=False,
        trust_remote_code=trust_remote_code, alphabet=alphabet,
    )  # fmt: skip
    probe = load_probe(load, model, plan, kept, free)
    encoding = encoding_of(probe.encoder, options, source.columns)
    found = _survey(source, encoding, options, seed)
    passages, tokenizing = _tokenized(found, encoding)
    lengths, passed = Lengths(found, passages.lengths_nVS), as_encoded(passages.tokens, encoding)
    budget = Budget(options.batch_tokens or probe.encoder.batch_tokens)
    pace = measure(probe, passed, encoding.readout, budget, seconds)

    operations = probe.work(encoding.readout)
    most = work(encoding, operations, lengths.tokens, lengths.rows)[1] / pace.typical
    layout = Layout(
        found.plan.rows, encoding.dim, options.dtype,
        _shard_rows(found.plan, encoding, options, most), found.plan.offsets, options.compress,
    )  # fmt: skip
    forecast = _forecast(found.plan, encoding, options)
    distinct = lengths.rows_of(forecast.encode_N)
    encoded_tokens, needed = work(encoding, operations, lengths.tokens, distinct)
    input_part = InputPart(
        name=source.name,
        rows=found.plan.rows,
        letters=found.plan.total_letters,
        unit=probe.encoder.unit,
        tokens=lengths.total_tokens,
        encoded_tokens=round(encoded_tokens),
        longest_tokens=lengths.longest,
        token_limit=probe.encoder.token_limit,
        overlong=encoding.overlong,
        overlong_rows=lengths.rows_over(probe.encoder.token_limit),
        known_rows=forecast.known,
        repeated_rows=forecast.identical,
    )
    standing_in = _STAND_IN if plan is not None and plan.stand_in else None
    return Estimate(
        _model_part(model, plan, probe),
        input_part,
        _disk_part(found, layout, encoding, options, Path(folder)),
        MemoryPart(
            weights_bytes=plan.memory(kept) if plan else None if probe.layers else 0,
            batch_tokens=budget.tokens,
            batch_bytes=_batch_bytes(pace, passed, lengths, probe.encoder, budget),
            free_bytes=free,
        ),
        _time_part(input_part, needed, pace, found.seconds, tokenizing),
        tuple(filter(None, (no_faster_here(probe.encoder), busy, standing_in))),
    )


def _survey(source: Source, encoding: Encoding, options: Options, seed: int) -> Survey:
    """Read the input, and refuse what the extraction would."""
    found = survey(source, encoding, seed)
    if not options.any_alphabet:
        found.plan.letters.check(encoding.encoder.alphabet, encoding.encoder.name)
    if encoding.overlong == "error":
        check_lengths(source, encoding)
    return found


def _forecast(plan: Plan, encoding: Encoding, options: Options) -> Forecast:
    """What has to be encoded, and what is known from other stores."""
    skipped: list[str] = []
    known = open_known(
        encoding, options.dtype, options.reuse, options.cache, skipped.append, stand_in=encoding.encoder.meaningless
    )
    for store in known:
        store.index(plan.keys)
    return Forecast.of(plan.keys, plan.weights, known, np.ones(plan.rows, bool), np.zeros(plan.rows, bool))


def _tokenized(found: Survey, encoding: Encoding) -> tuple[Passages, float]:
    """What the sample is encoded as, and the seconds that it takes to tokenize the whole input."""
    began = time.perf_counter()
    sample = encoding.letters(found.sample.column(SEQUENCE))
    passages = Passages.of(encoding, sample, encoding.positions(found.sample, sample.lengths))
    letters = max(int(found.letters[found.sampled].sum()), 1)
    return passages, (time.perf_counter() - began) * found.plan.total_letters / letters


def _model_part(model: str, plan: Sketch | None, probe: Probe) -> ModelPart:
    encoder = probe.encoder
    return ModelPart(
        name=model,
        precision=encoder.precision,
        device=encoder.environment()["device"],
        parameters=None if plan is None else plan.parameters,
        layers=probe.whole_layers,
        layers_measured=probe.layers,
        weights="none" if not probe.layers else "random" if encoder.meaningless else "real",
        download_bytes=0 if plan is None or plan.here else plan.download_bytes,
    )


def _disk_part(found: Survey, layout: Layout, encoding: Encoding, options: Options, folder: Path) -> DiskPart:
    chunks = [layout.chunks(stop - start) for start, stop in map(layout.file_bounds, range(layout.files))]
    offsets = [] if layout.offsets is None else [chunk.nbytes for chunk in layout.offsets_chunks()]
    return DiskPart(
        vectors=layout.length,
        dim=layout.dim,
        dtype=layout.dtype,
        shard_rows=layout.shard_rows,
        embeddings_bytes=sum(chunks) * layout.chunk_bytes + layout.files * layout.index_bytes + sum(offsets),
        table_bytes=_table_bytes(found, encoding.encoder.alphabet, options.drop_sequence),
        free_bytes=shutil.disk_usage(existing_folder(folder)).free,
        compress=layout.compress,
    )


def _table_bytes(found: Survey, alphabet: str, drop_sequence: bool) -> int:
    """Bytes of the rows table: the sample's columns compressed, its sequences by their letters, all else by the row."""
    noise = np.random.default_rng(0).bytes(16 * len(found.sampled))
    digests = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(found.sampled), [None, pa.py_buffer(noise)])
    letters = pa.array(found.letters[found.sampled])
    rows = found.sample.drop_columns([SEQUENCE])
    for name, values in {
        "row": pa.array(found.sampled),
        "digest": digests,
        "length": letters,
        "n_tokens": letters,
    }.items():
        rows = rows.append_column(name, values)
    bytes_ = _compressed(rows) * found.plan.rows / len(rows) + 16 * found.plan.rows * (alphabet == DNA)
    if not drop_sequence:
        sequences = found.sample.select([SEQUENCE])
        bytes_ += _compressed(sequences) * found.plan.total_letters / max(int(found.letters[found.sampled].sum()), 1)
    return round(bytes_)


def _compressed(table: pa.Table) -> int:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return int(sink.tell())


def _batch_bytes(pace: Pace, passed: Tokens, lengths: Lengths, encoder: Encoder, budget: Budget) -> int | None:
    """Memory of the largest batch, which is one sequence where that is over the budget."""
    if pace.batch_bytes is None:
        return None
    longest = min(lengths.longest, encoder.token_limit or lengths.longest)
    measured = max(budget.tokens, int(passed.lengths.max(initial=0)))
    return round(pace.batch_bytes * max(1.0, longest / measured))


def _time_part(found: InputPart, operations: float, pace: Pace, reading: float, tokenizing: float) -> TimePart:
    """The input is read once, and then again and tokenized beside the encoding."""
    low, middle, high = (
        reading + max(operations / rate, reading + tokenizing) for rate in (pace.fast, pace.typical, pace.slow)
    )
    return TimePart(
        seconds=middle,
        seconds_low=low,
        seconds_high=high,
        reading_seconds=reading,
        batches_measured=pace.batches,
        seconds_measured=pace.seconds,
        tokens_per_second=found.tokens / middle,
        rows_per_second=found.rows / middle,
    )


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _busy() -> str | None:
    """A warning where other programs have the processors."""
    with suppress(OSError, AttributeError):
        load, processors = os.getloadavg()[0], os.cpu_count() or 1
        if load > 0.5 * processors:
            return (
                f"other programs are at work here (a load of {load:.1f} on {processors} processors): without them the "
                "extraction is faster"
            )
    return None
