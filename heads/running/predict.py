"""A saved head at work: on every row of a store, or straight from sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from embedcache.errors import HeadError, InputError
from embedcache.rawfeatures import recorded_name
from embedcache.records import Source
from embedcache.sequences.views import CENTER, Scope
from embedcache.storage.store import Store
from heads.data.feature_stores import Features, names_of_labels, with_blocks_of
from heads.data.features import Rows, pick_device
from heads.data.strata import Strata, numeric_bins, parse_strata
from heads.running import runs
from heads.running.open_run import Run, open_run
from heads.running.prediction_file import ByParent, prediction_file, sink_of
from heads.running.raw_outputs import RawOutputs
from heads.saving.profile import UNKNOWN, Arrivals, facts_of_sequences
from heads.splitting.task import names_of, read_strata

Say = Callable[[str], None]
BLOCK_ROWS = 65_536
"""Rows of a store that are scored before they are written."""


def open_matching(
    run_path: Path, features: Features, say: Say = lambda line: None, label: str | None = None
) -> tuple[Run, Store]:
    """Open a run and the features that it was trained on: a store of the same, or one that has the same blocks.

    `label` are the columns of what is true, for positions those with a value for each; None for those of the training.

    Raises HeadError where the store has other features, and where the folds of the run have an encoder each.
    """
    run = open_run(run_path)
    run.check_one_encoder("give the sequences to `heads predict --input`, which averages the folds")
    if run.card.per_position:
        features = replace(features, per_position=names_of_labels(label) or run.card.label)
    store = features.open_records(say)
    matching = with_blocks_of(store, run.card.encoder, run.card.fingerprint, run.card.dim)
    if matching is None:
        raise HeadError(
            f"{run_path} was trained on {run.card.dim} features of {run.card.encoder.get('name')} (fingerprint "
            f"{run.card.fingerprint}), {features} holds {store.dim} of {store.attrs['encoder']['name']} (fingerprint "
            f"{store.fingerprint}): extract the sequences with the same encoder, layers and poolings"
        )
    if matching is not store:
        say(
            f"blocks {', '.join(block.name for block in matching.blocks)} of {len(store.blocks)}: those of the training"
        )
    return run, features.rows_of(matching)


def strata_of(run: Run, store: Store) -> tuple[list[str] | None, tuple[str, ...]]:
    """The stratum of each row of a store where the head decides by stratum, and what is to be said of that."""
    text = run.card.strata
    if text is None or not _by_stratum(run):
        return None, ()
    missing = _without_strata(run, store.column_names, str(store.path))
    return (names_of(read_strata(store, text)), ()) if missing is None else (None, (missing,))


def _by_stratum(run: Run) -> bool:
    thresholds = run.first.decisions.thresholds
    return run.card.strata is not None and thresholds is not None and bool(thresholds.strata)


def _without_strata(run: Run, columns: Sequence[str], where: str) -> str | None:
    """What is to be said where the head decides by strata that the rows do not have."""
    text = str(run.card.strata)
    column = text if text in columns else parse_strata(text)[0]
    if not _by_stratum(run) or column in columns:
        return None
    cut = run.first.decisions.threshold
    said = ", ".join(f"{one:.4g}" for one in (cut if isinstance(cut, tuple) else (cut,)) if one is not None)
    return (
        f"the head has a threshold for each stratum of '{column}', and {where} has no such column: the threshold of all "
        f"validation rows ({said}) serves every row"
    )


def _strata_of_records(run: Run, records: pa.RecordBatch) -> list[str] | None:
    """The stratum of each record, where the head decides by stratum and the input has the column."""
    columns = records.schema.names
    if not _by_stratum(run) or _without_strata(run, columns, "") is not None:
        return None
    text = str(run.card.strata)
    column, edges = (text, ()) if text in columns else parse_strata(text)
    if not edges:
        return [name or "" for name in records.column(column).cast(pa.string()).to_pylist()]
    try:
        numbers = pc.fill_null(records.column(column).cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        raise HeadError(f"column '{column}' holds something other than numbers: the head cuts it into bins") from None
    codes, names = numeric_bins(numbers, edges, column)
    return names_of(Strata(text, codes, names))


def trained_here(run: Run, store: Store, rows: Rows) -> tuple[str, ...]:
    """Say how many of the rows trained or tuned the head, where the run says which did."""
    if not (run.path / runs.PREDICTIONS).exists():
        return ()
    table = store.read_rows(["id", "digest"])
    seen = int(run.seen(table["id"], table["digest"])[rows].sum())
    said = f"{seen:,} of {len(rows):,} rows trained or tuned this head: on those it looks better than it is"
    return (said,) if seen else ()


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
    run_path: Path,
    features: Features,
    output: Path,
    say: Say,
    *,
    aggregate: ByParent | None = None,
    strict: bool = False,
    device: str = "auto",
) -> None:
    """Score every row of a store and write row, id and what was said of each (see `heads.running.predictions`), or, with
    `aggregate`, what the rows of each parent say together."""
    run, store = open_matching(run_path, features, say)
    column = None if aggregate is None else aggregate.column_in(store.column_names, run.group_column, str(features))
    rows = np.setdiff1d(np.arange(len(store)), store.quarantined)
    strata, notes = strata_of(run, store)
    for line in (*notes, *trained_here(run, store, rows), *departure(run, store, rows, strict=strict)):
        say(f"  {line}")
    names, chosen = store.read_rows(store.row_names), pick_device(device)
    parents = None if column is None else store.column(column)
    with prediction_file(output) as write:
        sink = sink_of(run.first, aggregate, column, write)
        for start in range(0, max(len(rows), 1), BLOCK_ROWS):
            part = rows[start : start + BLOCK_ROWS]
            by = None if strata is None else [strata[row] for row in part.tolist()]
            decided = run.first.decide(run.outputs(store, part, chosen), by)
            places = pa.array(part)
            sink.take(part, names.take(places), None if parents is None else parents.take(places), decided, by)
        for note in sink.finish():
            say(f"  {note}")
    left = f"; {len(store.quarantined):,} rows {store.set_aside} are not in it" if len(store.quarantined) else ""
    say(f"{sink.written} in {output}{left}")


def encoder_of(run_path: Path) -> str | None:
    """Return the name by which the encoder of a run is found again; None where the run does not say."""
    try:
        return recorded_name(open_run(run_path).card.encoder)
    except (KeyError, TypeError):
        return None


def scope_of(run_path: Path) -> Scope:
    """Return what of a record the head of a run looks at; raises `HeadError` where the run does not say."""
    try:
        return Scope.from_dict(open_run(run_path).card.encoder.get("scope"))
    except (TypeError, InputError):
        raise HeadError(f"{run_path} does not say what of a record its features were made of") from None


def predict_sequences(
    run_path: Path,
    source: Source,
    output: Path,
    say: Say,
    *,
    aggregate: ByParent | None = None,
    model: str | None = None,
    of_sites: bool = False,
    strict: bool = False,
    device: str = "auto",
    any_alphabet: bool = False,
    trust_remote_code: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> None:
    """Encode the sequences of an input with the head's own encoder and score them, window by window, without a store.

    Where each fold has an encoder of its own, all encode them, and the scores are averaged. `of_sites` says that they were
    cut out of a genome, around the letter that the column ``center`` has. Raises ModelError where the
    encoder that can be loaded is another one than the head was trained on.
    """
    run = open_run(run_path)
    raw = RawOutputs.load(
        run,
        pick_device(device),
        model=model,
        center=CENTER if of_sites else None,
        trust_remote_code=trust_remote_code,
    )
    column = None if aggregate is None else aggregate.column_in(source.columns, run.group_column, source.name)
    arrivals = None if run.first.profile is None else Arrivals(run.first.profile)
    first, left, scope = 0, 0, raw.encoders[0].encoding.scope
    if (missing := _without_strata(run, source.columns, source.name)) is not None:
        say(f"  {missing}")
    with prediction_file(output) as write:
        sink = sink_of(run.first, aggregate, column, write)
        for window, outputs in raw.windows(source, any_alphabet=any_alphabet):
            records = window.records.filter(pa.array(window.encoded))
            if arrivals is not None and len(outputs):
                letters, alphabet = records.column("sequence"), str(run.card.encoder.get("alphabet"))
                facts = UNKNOWN if scope.views else facts_of_sequences(letters, alphabet)
                arrivals.add(torch.from_numpy(window.features).float(), facts)
            strata = _strata_of_records(run, records)
            decided = run.first.decide(outputs, strata)
            numbers = first + np.flatnonzero(window.encoded)
            parents = None if column is None else records.column(column)
            sink.take(numbers, records.select(window.row_names), parents, decided, strata)
            first += len(window.encoded)
            left += int((~window.encoded).sum())
            progress(first)
        if arrivals is not None and first > left:
            found = arrivals.departure()
            if strict:
                found.refuse()
            for line in found.sentences():
                say(f"  {'WARNING: ' if found.far else ''}{line}")
        for note in sink.finish():
            say(f"  {note}")
    what = "positions" if run.card.per_position else "records"
    lost = f"; {left:,} {what} have no embedding and are not in it" if left else ""
    say(f"{sink.written} in {output}{lost}")
