"""A saved head at work: on every row of a store, or straight from sequences."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from embedcache.errors import HeadError
from embedcache.records import ID, Source
from embedcache.store import Store
from heads import predictions, runs
from heads.decisions import Decided
from heads.features import Rows, RowSource, open_features, pick_device
from heads.open_run import Run, open_run
from heads.profile import Arrivals, facts_of_sequences
from heads.sequences import RawFeatures
from heads.task import names_of, read_strata

Say = Callable[[str], None]
BLOCK_ROWS = 65_536
"""Rows of a store that are scored before they are written."""


def open_matching(run_path: Path, features: Path) -> tuple[Run, Store]:
    """Open a run and a store; raises HeadError where the store's features are not those the head was trained on."""
    run, store = open_run(run_path), open_features(features)
    if (run.card.fingerprint, run.card.dim) != (store.fingerprint, store.dim):
        raise HeadError(
            f"{run_path} was trained on {run.card.dim} features of {run.card.encoder.get('name')} (fingerprint "
            f"{run.card.fingerprint}), {features} holds {store.dim} of {store.attrs['encoder']['name']} (fingerprint "
            f"{store.fingerprint}): extract the sequences with the same encoder, layers and poolings"
        )
    return run, store


def strata_of(run: Run, store: Store) -> tuple[list[str] | None, tuple[str, ...]]:
    """The stratum of each row of a store where the head decides by stratum, and what is to be said of that."""
    text = run.card.strata
    decisions = run.first.decisions
    if text is None or decisions.thresholds is None or not decisions.thresholds.strata:
        return None, ()
    try:
        return names_of(read_strata(store, text)), ()
    except HeadError as error:
        return None, (f"the thresholds are by '{text}', and the overall one serves every row: {error}",)


def departure(run: Run, store: Store, rows: Rows, *, strict: bool) -> tuple[str, ...]:
    """How far rows of a store depart from those that trained the head, in sentences.

    Raises HeadError where they are far and `strict` is given.
    """
    if run.first.profile is None or not len(rows):
        return ()
    found = run.first.profile.departure_of(store, rows)
    if strict:
        found.refuse()
    return tuple(f"WARNING: {line}" if found.far else line for line in found.sentences())


def predict(
    run_path: Path, features: Path, output: Path, say: Say, *, strict: bool = False, device: str = "auto"
) -> None:
    """Score every row of a store and write row, id and what was said of each as parquet (see `heads.predictions`)."""
    run, store = open_matching(run_path, features)
    rows = np.setdiff1d(np.arange(len(store)), store.quarantined)
    strata, notes = strata_of(run, store)
    for line in (*notes, *departure(run, store, rows, strict=strict)):
        say(f"  {line}")
    ids, chosen = store.column("id"), pick_device(device)
    with _writer(output) as write:
        for start in range(0, max(len(rows), 1), BLOCK_ROWS):
            part = rows[start : start + BLOCK_ROWS]
            names = None if strata is None else [strata[row] for row in part.tolist()]
            decided, columns = _score(run, store, part, names, chosen)
            write(pa.table({"row": pa.array(part), "id": ids.take(pa.array(part)), **columns}))
            for note in decided.notes if not start else ():
                say(f"  {note}")
    left = f"; {len(store.quarantined):,} rows set aside at extraction are not in it" if len(store.quarantined) else ""
    say(f"{len(rows):,} predictions in {output}{left}")


def _score(
    run: Run, source: RowSource, rows: Rows, strata: list[str] | None, device: torch.device
) -> tuple[Decided, dict[str, pa.Array]]:
    decided = run.first.decide(run.outputs(source, rows, device), strata)
    return decided, predictions.said(run.card.target, run.card.names, decided, run.first.head.quantiles)


def predict_sequences(
    run_path: Path,
    source: Source,
    output: Path,
    say: Say,
    *,
    model: str | None = None,
    strict: bool = False,
    device: str = "auto",
    any_alphabet: bool = False,
    trust_remote_code: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> None:
    """Encode the sequences of an input with the head's own encoder and score them, window by window, without a store.

    Raises HeadError where the encoder that can be loaded is another one than the head was trained on.
    """
    run = open_run(run_path)
    raw = RawFeatures.load(
        run.card.encoder, run.card.fingerprint, model=model, device=device, trust_remote_code=trust_remote_code
    )
    arrivals = None if run.first.profile is None else Arrivals(run.first.profile)
    chosen, first, left = pick_device(device), 0, 0
    with _writer(output) as write:
        for window in raw.windows(source, any_alphabet=any_alphabet):
            records = window.records.filter(pa.array(window.encoded))
            rows = np.arange(len(window.features))
            if arrivals is not None and len(rows):
                facts = facts_of_sequences(records.column("sequence"), str(run.card.encoder.get("alphabet")))
                arrivals.add(torch.from_numpy(window.features.array).float(), facts)
            _, columns = _score(run, window.features, rows, None, chosen)
            numbers = first + np.flatnonzero(window.encoded)
            write(pa.table({"row": pa.array(numbers), "id": records.column(ID), **columns}))
            first += len(window.encoded)
            left += int((~window.encoded).sum())
            progress(first)
        if arrivals is not None and first > left:
            found = arrivals.departure()
            if strict:
                found.refuse()
            for line in found.sentences():
                say(f"  {'WARNING: ' if found.far else ''}{line}")
    missing = f"; {left:,} records have no embedding and are not in it" if left else ""
    say(f"{first - left:,} predictions in {output}{missing}")


@contextmanager
def _writer(output: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Write tables to a parquet file that is there only once it is whole; raises HeadError where it cannot be written."""
    if output.is_dir() or not output.parent.is_dir():
        raise HeadError(f"-o {output}: name a file in a folder that exists")
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    writer: pq.ParquetWriter | None = None

    def write(table: pa.Table) -> None:
        nonlocal writer
        if writer is None:
            writer = pq.ParquetWriter(partial, table.schema, compression="zstd")
        writer.write_table(table)

    try:
        yield write
        if writer is not None:
            writer.close()
            partial.replace(output)
    except OSError as error:
        raise HeadError(f"{output} cannot be written: {runs.reason(error)}") from None
    finally:
        partial.unlink(missing_ok=True)
