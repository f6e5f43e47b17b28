"""A saved head judged on a store that has labels: on rows that neither trained nor tuned it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from embedcache.errors import HeadError
from embedcache.storage.store import Store
from heads.baselines import saved_baselines
from heads.data.feature_stores import Features
from heads.data.features import pick_device
from heads.data.labels import MISSING, as_classes, encode, read_groups, read_numbers
from heads.data.target import Codes, Target
from heads.judging.detection import detector_of
from heads.judging.detection_rule import DetectionRule
from heads.judging.judge_parents import Windows, judge_parents
from heads.judging.judged import Judged, judge_models, of_rows
from heads.judging.parents import Parents
from heads.judging.results import Judging, Model
from heads.running import runs
from heads.running.open_run import Run
from heads.running.predict import Say, departure, open_matching, strata_of
from heads.running.prediction_file import ByParent
from heads.splitting.splits import NAMES, part_codes, unknown_names
from heads.splitting.task import label_columns, read_strata


@dataclass(frozen=True)
class Evaluated:
    """A saved head on a store."""

    rows: Judged
    parents: Judged | None
    """The same rows put together by parent, where that was asked for."""
    threshold: float | tuple[float, ...] | None
    quantiles: tuple[float, ...]
    notes: tuple[str, ...]
    """What is to be known of the rows."""

    def to_json(self) -> dict[str, object]:
        """The metrics by name, and what they were measured on."""
        rows = self.rows.to_json()
        rows["notes"] = [*self.notes, *self.rows.notes]
        parents = {} if self.parents is None else {"parents": self.parents.to_json()}
        return {"threshold": self.threshold, **rows, **parents}


def evaluate_run(
    run_path: Path,
    features: Features,
    say: Say = lambda line: None,
    *,
    label: str | None = None,
    split: str | None = None,
    strata: str | None = None,
    aggregate: ByParent | None = None,
    detect: tuple[DetectionRule, ...] = (),
    detect_by: str | None = None,
    judging: Judging,
    strict: bool = False,
    device: str = "auto",
) -> Evaluated:
    """Judge a saved head on a store: on the rows of `split`, else on the test rows of its own store, else on all.

    Rows of another store that trained or tuned the head, such as those of a store that has grown since, are left out.

    Raises HeadError where there is nothing to judge, or the rows are far from those of the training and `strict` is given.
    """
    run, store = open_matching(run_path, features, say, label)
    parent = None if aggregate is None else aggregate.column_in(store.column_names, run.group_column, str(features))
    target, known = _target_of(run, store, label)
    if (detect or detect_by) and target.kind != "regression":
        raise HeadError(
            f"--detect is for measured quantities, and the head learned classes ({', '.join(run.card.label)})"
        )
    chosen, what, notes = _chosen_rows(run, store, split)
    rows = np.setdiff1d(chosen, store.quarantined)
    if len(rows) < len(chosen):
        notes.append(f"{len(chosen) - len(rows):,} rows {store.set_aside} are left out")
    unlabelled = int((~known[rows]).sum())
    if unlabelled:
        notes.append(f"{unlabelled:,} rows without a label are left out")
        rows = rows[known[rows]]
    target = target.take(rows)
    _check_enough(target, f"{what} of {features}", notes)
    by, said = strata_of(run, store)
    names = None if by is None else [by[row] for row in rows.tolist()]
    notes += [*said, *departure(run, store, rows, strict=strict)]
    outputs = run.outputs(store, rows, pick_device(device))
    rivals, reasons = saved_baselines.judged(run.path, store, rows, names)
    notes += reasons
    models = [Model(run.path.name, run.first.decisions, run.first.decide(outputs, names)), *rivals]
    group = run.group_column
    groups = read_groups(store, group).codes[rows] if group is not None and group in store.column_names else None
    shown = None if strata is None else of_rows(read_strata(store, strata), rows)
    detector = detector_of(store, rows, detect, detect_by)
    judged = judge_models(what, target, models, judging, groups=groups, strata=shown, detector=detector)
    parents = None
    if aggregate is not None and parent is not None:
        windows = Windows(target, models, names, groups if group != parent else None, shown)
        numbered = Parents(parent)
        codes = numbered.codes(store.column(parent).take(pa.array(rows)))
        parents = judge_parents(windows, codes, numbered, aggregate.how, judging)
        notes += _trained_parents(run, store, parent, rows, split)
    decisions = run.first.decisions
    return Evaluated(judged, parents, decisions.threshold, run.first.head.quantiles, tuple(notes))


def _trained_parents(run: Run, store: Store, column: str, rows: Codes, split: str | None) -> list[str]:
    """Say how many parents have windows that trained or tuned the head beside those that judge it."""
    if split in ("train", "val"):
        return []
    table = store.read_rows(["id", "digest"])
    codes = Parents(column).codes(store.column(column))
    trained = np.setdiff1d(codes[run.seen(table["id"], table["digest"])], [MISSING])
    judged = np.setdiff1d(codes[rows], [MISSING])
    both = len(np.intersect1d(trained, judged))
    said = f"WARNING: windows of {both:,} of {len(judged):,} parents trained or tuned the head as well"
    return [f"{said}: group by '{column}' when you train"] if both else []


def _check_enough(target: Target, what: str, notes: list[str]) -> None:
    why = "; ".join(["there is nothing to evaluate", *notes])
    if target.has_classes:
        counts = np.bincount(np.asarray(target.values, np.int64), minlength=len(target.names))
        if (counts > 0).sum() < 2:
            held = ", ".join(f"{name}: {n:,}" for name, n in zip(target.names, counts, strict=True))
            raise HeadError(f"{what} hold fewer than two classes ({held}): {why}")
    elif len(target) < 2:
        raise HeadError(f"{what} are {len(target)} with a label: {why}")


def _chosen_rows(run: Run, store: Store, split: str | None) -> tuple[Codes, str, list[str]]:
    """Rows to judge, what they are, and what is left out of them."""
    if run.rows_digest == runs.rows_digest(store):
        part = split or "test"
        rows = run.rows_of(part, len(store))
        if not len(rows):
            raise HeadError(
                f"every row of {store.path} trained one of the heads of {run.path}: {run.path / runs.METRICS} has the "
                "metrics of the rows while they were held out; evaluate on another store"
            )
        return rows, f"{part} rows of the training", []
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


def _target_of(run: Run, store: Store, given: str | None) -> tuple[Target, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """What is true of all rows, in the words of a saved head, and which rows say it; classes are matched by name."""
    card = run.card
    missing = [name for name in card.label if name not in store.column_names]
    if given is None and missing:
        raise HeadError(
            f"the head learned {', '.join(card.label)}, and {store.path} has no column {', '.join(missing)}: name the "
            f"column of what is true with --label. It has {', '.join(store.column_names)}"
        )
    names = label_columns(store, given or ",".join(card.label))
    if len(names) != len(card.label):
        raise HeadError(f"the head learned {', '.join(card.label)}; --label names {', '.join(names)}")
    if card.target == "regression":
        values = read_numbers(store, names[0], "label column")
        return Target("regression", card.names, values), ~np.isnan(values)
    if card.target == "multilabel":
        codes_NL = np.stack([_codes_of(store, name, ("0", "1")) for name in names], axis=1)
        return Target("multilabel", card.names, np.maximum(codes_NL, 0)), (codes_NL != MISSING).all(1)
    codes = _codes_of(store, names[0], tuple(map(str, card.names)))
    return Target(card.target, card.names, codes), codes != MISSING


def _codes_of(store: Store, name: str, classes: tuple[str, ...]) -> Codes:
    labels = encode(as_classes(store.column(name), name), name)
    known = {value: code for code, value in enumerate(classes)}
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
