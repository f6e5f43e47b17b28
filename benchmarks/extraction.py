"""Extraction beside what a user would run today, on the same sequences and the same files in one run.

Three encoders at their real size with random weights (`published`), batches of a large job (`job`), three peers
(`peers`). All programs run in turn, forth and back; the first round tries every batch size of a peer, the next ones
keep its fastest, and the median counts. The plain loop, several times slower, runs once, between the rounds. Rates are
real tokens a second, tokenizing and pooling included, padding not counted.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.job import Job, sample
from benchmarks.peers import OpenVino, SentenceTransformers
from benchmarks.published import DNA_BERT_6, ESM2_650M, NT_500M, Published
from benchmarks.ways import Way, in_turn, least_cosine
from embedcache import load_encoder
from embedcache.encoders.encoder import Encoder
from embedcache.encoders.linear import matrix_rate

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROUNDS = {"float32": 2, "bfloat16": 3}
LEAST_COSINE = {"float32": 0.9999, "bfloat16": 0.999}
"""Of every program's vectors to those of the plain loop: below it a rate means nothing."""
CHECKED = 4
"""Sequences of the plain loop's batch that the peers encode before they are timed; we encode all of them."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """What is run of one encoder."""

    encoder: Published
    plain: int
    """Sequences that the plain loop encodes, in one batch."""
    batches: Mapping[str, tuple[int, int]]
    """For each precision the sequences of a batch of the sorted job, one to three thousand tokens, and how many of them.

    Plain bfloat16 products lay out the weights again for every batch, so that wide models want large ones.
    """


PLANS = (
    Plan(DNA_BERT_6, plain=32, batches={"float32": (16, 3), "bfloat16": (16, 3)}),
    Plan(NT_500M, plain=32, batches={"float32": (16, 3), "bfloat16": (32, 2)}),
    Plan(ESM2_650M, plain=12, batches={"float32": (4, 3)}),
)


def run(quick: bool = False) -> dict[str, Any]:
    """Time all programs on all encoders, and compare what they give.

    Returns
    -------
    ``encoders`` : what `measure` found for each. ``openvino`` : empty, or why it was not run.
    """
    try:
        openvino: OpenVino | None = OpenVino()
        why = ""
    except ModuleNotFoundError as error:
        openvino, why = None, str(error)
    try:
        return {"openvino": why, "encoders": {plan.encoder.name: measure(plan, openvino, quick) for plan in PLANS}}
    finally:
        if openvino is not None:
            openvino.close()


@dataclass(frozen=True)
class Prepared:
    """An encoder's files and sequences at one precision, ready for all programs."""

    encoder: Published
    directory: Path
    precision: str
    job: Job
    batch_sizes: tuple[int, ...]
    """Those that the peers try."""
    openvino: OpenVino | None

    def ours(self) -> tuple[Encoder, Way]:
        """Our encoder, and its way."""
        encoder = load_encoder(str(self.directory), device="cpu", precision=self.precision)
        return encoder, Way(
            "embedcache", lambda sequences, _: encoder.encode(sequences), self.job.by_length, (encoder.batch_tokens,)
        )

    def peers(self) -> list[Way]:
        """The other programs; the plain loop, last, in float32 only."""
        torch_peer = SentenceTransformers(self.encoder, self.directory, TYPES[self.precision])
        sequences, sizes = self.job.by_length, self.batch_sizes
        ways = [Way("sentence-transformers", torch_peer.encode, sequences, sizes)]
        if self.openvino is not None:
            encode = self.openvino.load(self.encoder, self.directory, self.precision)
            ways.append(Way("openvino", encode, sequences, sizes))
        if self.precision == "float32":
            batch = len(self.job.unsorted)
            ways.append(Way("plain loop", torch_peer.plain_loop, self.job.unsorted, (batch,), once=True))
        return ways


def measure(plan: Plan, openvino: OpenVino | None, quick: bool) -> dict[str, Any]:
    """Time all programs on one encoder; the models of one precision are in memory at a time.

    Returns
    -------
    ``size``, and for each precision what `measure_precision` found.
    """
    encoder = plan.encoder.narrowed() if quick else plan.encoder
    found: dict[str, Any] = {"size": f"{encoder.layers} layers x {encoder.hidden}, random weights"}
    reference: Vectors | None = None
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        encoder.write(directory)
        if openvino is not None:
            openvino.export(directory)
        for precision, (batch, batches) in plan.batches.items():
            job = sample(encoder, plan.plain, batch, batches)
            prepared = Prepared(encoder, directory, precision, job, (batch, batch // 4), openvino)
            found[precision], reference = measure_precision(prepared, reference)
            gc.collect()
    return found


def measure_precision(prepared: Prepared, reference: Vectors | None) -> tuple[dict[str, Any], Vectors]:
    """Time all programs at one precision; compare their vectors with the plain loop's, which are `reference` if it ran.

    Returns
    -------
    ``tokenizer_share`` : seconds of tokenizing over our seconds. ``matrix_gflops`` : this machine's matrix rate, the
    better of two measurements, before and after. ``programs`` : for each its batch size (ours in tokens), seconds, real
    tokens a second, share of the matrix rate, least cosine to the plain loop and the one needed. Then the plain loop's
    vectors.
    """
    precision, unsorted, hidden = prepared.precision, prepared.job.unsorted, prepared.encoder.hidden
    rate = _matrix_rate(precision, hidden)
    encoder, ours = prepared.ours()
    peers = prepared.peers()
    warm = {"embedcache": ours.encode(unsorted, 0)}
    warm |= {peer.program: peer.encode(unsorted[:CHECKED], CHECKED) for peer in peers}
    in_turn([ours, *peers], ROUNDS[precision])
    rate = max(rate, _matrix_rate(precision, hidden))
    if reference is None:
        reference = peers[-1].vectors
    authors_mean, mean_of_all = np.split(reference, 2, axis=1)
    warm["plain loop"] = mean_of_all
    programs = {}
    for way in (ours, *peers):
        lengths, vectors = encoder.tokenize(way.sequences).lengths, warm[way.program]
        expected = (authors_mean if way is ours else mean_of_all)[: len(vectors)]
        programs[way.program] = {
            "batch_size": way.batch_size,
            "seconds": way.seconds,
            "tokens": int(lengths.sum()),
            "tokens_per_second": int(lengths.sum()) / way.median,
            "matrix_share": sum(encoder.flops(n, n) for n in lengths.tolist()) / way.median / rate,
            "least_cosine": least_cosine(vectors, expected),
            "needed_cosine": LEAST_COSINE[precision],
        }
    share = _tokenizing_seconds(encoder, ours.sequences) / ours.median
    return {"tokenizer_share": share, "matrix_gflops": rate / 1e9, "programs": programs}, reference


def _tokenizing_seconds(encoder: Encoder, sequences: list[str]) -> float:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        encoder.tokenize(sequences)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _matrix_rate(precision: str, hidden: int) -> float:
    matrix_rate.cache_clear()
    return matrix_rate(TYPES[precision], torch.device("cpu"), hidden)


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
