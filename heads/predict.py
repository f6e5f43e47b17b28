"""A saved head on a store: predict every row, or evaluate the rows that have labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedcache.errors import HeadError
from embedcache.store import Store
from heads import runs
from heads.decisions import decide
from heads.features import open_features, pick_device
from heads.labels import MISSING, Codes, as_classes, encode
from heads.open_run import Run, open_run
from heads.results import Judging, PartResult, judge_rows
from heads.splits import NAMES, part_codes, unknown_names
from heads.task import label_column
from heads.train import Say


def open_matching(run_path: Path, features: Path) -> tuple[Run, Store]:
    """Open a run and a store; raises HeadError where the store's features are not those the head was trained on."""
    run, store = open_run(run_path), open_features(features)
    if (run.card.fingerprint, run.card.dim) != (store.fingerprint, store.dim):
        raise HeadError(
            f"{run_path} was trained on {run.card.dim} features of {run.card.encoder} (fingerprint "
            f"{run.card.fingerprint}), {features} holds {store.dim} of {store.attrs['encoder']['name']} (fingerprint "
            f"{store.fingerprint}): extract the sequences with the same encoder, layers and poolings"
        )
    return run, store


def predict(run_path: Path, features: Path, output: Path, say: Say, *, device: str = "auto") -> None:
    """Score every row of a store and write row, id, y_prob (or one per class) and y_pred as parquet."""
    run, store = open_matching(run_path, features)
    if output.is_dir() or not output.parent.is_dir():
        raise HeadError(f"-o {output}: name a file in a folder that exists")
    rows = np.setdiff1d(np.arange(len(store)), store.quarantined)
    probabilities = run.head.probabilities(store, rows, pick_device(device))
    table = {
        "row": pa.array(rows),
        "id": store.column("id").take(pa.array(rows)),
        **runs.probability_columns(probabilities, run.card.classes),
        "y_pred": pa.array(run.card.classes).take(pa.array(decide(probabilities, run.card.threshold))),
    }
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        pq.write_table(pa.table(table), partial, compression="zstd")
        partial.replace(output)
    except OSError as error:
        raise HeadError(f"{output} cannot be written: {runs.reason(error)}") from None
    finally:
        partial.unlink(missing_ok=True)
    left = f"; {len(store.quarantined):,} rows set aside at extraction are not in it" if len(store.quarantined) else ""
    say(f"{len(rows):,} predictions in {output}{left}")


@dataclass(frozen=True)
class Evaluated:
    """A saved head on a store: which rows, and their metrics."""

    what: str
    result: PartResult
    threshold: float | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The metrics by name, and what they were measured on."""
        return {
            "rows_of": self.what,
            "threshold": self.threshold,
            **self.result.to_json(),
            "notes": list(self.notes),
        }


def evaluate_run(
    run_path: Path,
    features: Path,
    *,
    label: str | None = None,
    split: str | None = None,
    judging: Judging,
    device: str = "auto",
) -> Evaluated:
    """Judge a saved head on a store: on the rows of `split`, else on the test rows of its own store, else on all.

    Rows of another store that trained or tuned the head, such as those of a store that has grown since, are left out.
    """
    run, store = open_matching(run_path, features)
    labels = _labels_of(run, store, label)
    chosen, what, notes = _chosen_rows(run, store, split)
    rows = np.setdiff1d(chosen, store.quarantined)
    if len(rows) < len(chosen):
        notes.append(f"{len(chosen) - len(rows):,} rows set aside at extraction are left out")
    unlabelled = int((labels[rows] == MISSING).sum())
    if unlabelled:
        notes.append(f"{unlabelled:,} rows without a label are left out")
        rows = rows[labels[rows] != MISSING]
    counts = np.bincount(labels[rows], minlength=len(run.card.classes))
    if (counts > 0).sum() < 2:
        held = ", ".join(f"{name}: {n:,}" for name, n in zip(run.card.classes, counts, strict=True))
        why = "; ".join(["there is nothing to evaluate", *notes])
        raise HeadError(f"{what} of {features} hold fewer than two classes ({held}): {why}")
    probabilities = run.head.probabilities(store, rows, pick_device(device))
    group = run.group_column
    groups = encode(store.column(group), group).codes[rows] if group in store.column_names else None
    result = judge_rows(labels[rows], probabilities, run.card.threshold, judging, groups)
    notes += [f"this set of rows {note}" for note in result.evaluation.notes]
    return Evaluated(what, result, run.card.threshold, tuple(notes))


def _chosen_rows(run: Run, store: Store, split: str | None) -> tuple[Codes, str, list[str]]:
    """Rows to judge, what they are, and what is left out of them."""
    if run.rows_digest == runs.rows_digest(store):
        part = split or "test"
        return run.rows_of(part, len(store)), f"{part} rows of the training", []
    rows, what = _rows_of_split(run, store, split)
    table = store.read_rows(["id", "digest"])
    seen = run.seen(table["id"], table["digest"])[rows]
    notes = [f"{seen.sum():,} rows that trained or tuned the head are left out"] if seen.any() else []
    return rows[~seen], what, notes


def _rows_of_split(run: Run, store: Store, split: str | None) -> tuple[Codes, str]:
    if split is None:
        return np.arange(len(store)), "all rows"
    name = run.split_column
    if name not in store.column_names:
        raise HeadError(f"--split {split}: {store.path} has no '{name}' column, which named the splits of the training")
    column = encode(store.column(name), name)
    rows = np.flatnonzero(part_codes(column) == NAMES.index(split))
    if not len(rows):
        unknown = unknown_names(column) or f"it holds {', '.join(map(str, column.values))}"
        raise HeadError(f"--split {split}: column '{name}' of {store.path} names no such rows; {unknown}")
    return rows, f"{split} rows"


def _labels_of(run: Run, store: Store, given: str | None) -> Codes:
    """Labels of a store as class codes of a saved head; classes are matched by name."""
    if given is None and run.card.label in store.column_names:
        given = run.card.label
    name = label_column(store, given)
    labels = encode(as_classes(store.column(name), name), name)
    known = {str(value): code for code, value in enumerate(run.card.classes)}
    unknown = [value for value in labels.values if str(value) not in known]
    if unknown:
        raise HeadError(
            f"label column '{name}' of {store.path} has the class {unknown[0]!r}, which the head does not know; "
            f"its classes are {', '.join(known)}"
        )
    table = np.array([known[str(value)] for value in labels.values] + [MISSING])
    return np.asarray(table[labels.codes], np.int64)


def write_evaluation(path: Path, judged: Evaluated) -> None:
    """Write the metrics as JSON; raises HeadError where the file cannot be written."""
    try:
        runs.write_json(path, judged.to_json())
    except OSError as error:
        raise HeadError(f"-o {path} cannot be written: {runs.reason(error)}") from None
