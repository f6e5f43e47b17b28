"""What a result must beat: no features at all, the stratum alone, and simple models of the sequences themselves.

prior only      class or label shares of the training rows; of a quantity their mean ("mean only")
stratum only    the same of each stratum
kmer:4 lr       logistic regression on k-mer frequencies, of a quantity ridge regression
onehot:41 lr    the same on the letters place by place, where all sequences have one length; of wide ones on the middle
naive bayes     on the genes of cells (`heads.baselines.naive_bayes`)

All are fitted on training rows and choose their settings by validation rows, as heads do.

Axes: n rows of a task, C columns of the outputs, S strata.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from embedcache.errors import HeadError
from embedcache.sequences.alphabet import CELL, Letters, normalise
from embedcache.storage.store import Store
from heads.baselines.baseline_models import (
    BaselineModel,
    ByStratum,
    Composition,
    Constant,
    OfGenes,
    OfSequences,
    Unfit,
    varying_places,
)
from heads.baselines.naive_bayes import BYTES_PER_TOKEN, naive_bayes
from heads.data.features import MEMORY_BYTES, ArrayRows, Rows
from heads.data.target import Codes, Doubles, Examples, Target
from heads.fitting import Problem, Progress, say_nothing
from heads.linear import logistic, ridge
from heads.linear.logistic import LogisticModel
from heads.linear.ridge import RidgeModel
from heads.splitting.splits import TRAIN, VAL

KMER_ENCODERS = {"dna": "kmer:4", "protein": "kmer:2:protein"}
ONEHOT_SUFFIXES = {"dna": "", "protein": ":protein"}
WIDEST_ONEHOT = 2048
"""Values of a sequence: 512 letters of DNA, 102 residues. A regression on more takes longer than the head."""


class Strata(Protocol):
    @property
    def column(self) -> str:
        """What they are by: a column, or a column and its borders."""
        ...

    @property
    def codes(self) -> Codes:
        """(n,) into the names, -1 for a row without a stratum."""
        ...

    @property
    def names(self) -> tuple[str, ...]: ...


class Task(Protocol):
    """What of `heads.splitting.task.Task` is needed here."""

    @property
    def rows(self) -> Rows: ...

    @property
    def target(self) -> Target: ...

    @property
    def strata(self) -> Strata | None: ...

    def part(self, part: int) -> Codes: ...

    def examples(self, part: int) -> Examples: ...


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline under a name for the table, and its outputs (n, C) of the rows of a task."""

    name: str
    outputs: Doubles
    model: BaselineModel

    @property
    def key(self) -> str:
        """The same in every fold, also where the name tells what was chosen."""
        return self.model.kind if isinstance(self.model, OfGenes) else self.name


def baselines(
    store: Store,
    task: Task,
    *,
    kind: str = "lr",
    device: torch.device | str = "cpu",
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress = say_nothing,
) -> tuple[list[Baseline], list[str]]:
    """Fit every baseline that the store allows; the sentences say why others are missing, each without a full stop.

    `kind` is that of the head beside which they stand: a regression on the features themselves is none beside itself.
    """
    found = [prior(task)]
    if task.strata is not None:
        found.append(stratum(task, task.strata))
    fits: list[Callable[[_Fitting], Baseline]] = [_on_cells] if _alphabet(store) == CELL else [_on_kmers, _on_letters]
    missing = []
    try:
        fitting = _Fitting(store, task, kind, torch.device(device), memory_bytes, progress).checked()
    except Unfit as reason:
        return found, [f"no baselines of the sequences: {reason}"]
    for fit in fits:
        try:
            found.append(fit(fitting))
        except Unfit as reason:
            missing.append(str(reason))
        except HeadError as reason:
            missing.append(f"a baseline could not be fitted: {reason}")
    return found, missing


def prior(task: Task) -> Baseline:
    """Every row gets the class or label shares of train, or the mean of the quantity."""
    name = "mean only" if task.target.kind == "regression" else "prior only"
    return constant(name, _truth(task.target)[task.part(TRAIN)].mean(0), len(task.rows))


def constant(name: str, values: Doubles, rows: int) -> Baseline:
    """The same outputs (C,) for every row."""
    return Baseline(name, np.tile(values, (rows, 1)), Constant(tuple(values.tolist())))


def stratum(task: Task, strata: Strata) -> Baseline:
    """Every row gets the shares, or the mean, of its stratum in train; a stratum unseen there those of train.

    One row's worth of the overall ones is added to each stratum, so that no share is exactly 0 or 1.
    """
    truth_nC, train = _truth(task.target), task.part(TRAIN)
    overall_C = truth_nC[train].mean(0)
    names = [*strata.names, ""]  # rows without a stratum (-1) form one of their own
    sums_SC = np.tile(overall_C, (len(names), 1))
    rows_S = np.ones(len(names))
    np.add.at(sums_SC, strata.codes[train], truth_nC[train])
    np.add.at(rows_S, strata.codes[train], 1)
    values_SC = sums_SC / rows_S[:, None]
    model = ByStratum(
        strata.column, tuple(overall_C.tolist()), dict(zip(names, map(tuple, values_SC.tolist()), strict=True))
    )
    return Baseline("stratum only", values_SC[strata.codes], model)


def _truth(target: Target) -> Doubles:
    """What perfect outputs would be, (n, C)."""
    if target.has_classes:
        return np.eye(len(target.names))[target.values.astype(np.int64)]
    return np.asarray(target.values, np.float64).reshape(len(target), -1)


def _alphabet(store: Store) -> str:
    return str(store.attrs["encoder"].get("alphabet", ""))


@dataclass(frozen=True)
class _Fitting:
    """What the models of the sequences are fitted with."""

    store: Store
    task: Task
    kind: str
    device: torch.device
    memory_bytes: int
    progress: Progress

    def checked(self) -> _Fitting:
        """Raise `Unfit` where the store has no sequences to look at."""
        if _alphabet(self.store) not in (*KMER_ENCODERS, CELL):
            raise Unfit("the records of this store are not DNA, proteins or cells")
        if "sequence" not in self.store.column_names:
            raise Unfit("the store keeps none (--drop-sequence, or imported without --sequences)")
        return self

    @property
    def metric(self) -> str:
        """What chooses, on validation rows."""
        return "r2" if self.task.target.kind == "regression" else "auprc"

    def regression_on(self, made: Composition, name: str, dtype: npt.DTypeLike) -> Baseline:
        """A regression on the composition of the sequences, whose features are kept in memory in the given type."""
        if self.store.attrs["encoder"]["name"] == name and self.kind in ("lr", "ridge"):
            raise Unfit(f"no baseline on {name}: the features are {name} themselves")
        needed = (np.dtype(dtype).itemsize + 4) * len(self.task.rows) * made.dim
        if needed > self.memory_bytes:
            raise Unfit(
                f"no baseline on {name}: that of {len(self.task.rows):,} rows takes {needed / 2**30:.1f} GiB, more than "
                "--memory"
            )
        source = ArrayRows(self._features(made, name, dtype))
        rows = np.arange(len(source))
        problem = Problem(
            source, self._part(TRAIN), self._part(VAL), self.metric, 0, self.device, self.memory_bytes, self._told(name)
        )
        if self.task.target.kind == "regression":
            head, kind = ridge.fit(problem, ridge.RidgeOptions()).head, "ridge"
        else:
            head, kind = logistic.fit(problem, logistic.LogisticOptions()).head, "lr"
        assert isinstance(head, LogisticModel | RidgeModel)
        return Baseline(f"{name} {kind}", head(source, rows, self.device), OfSequences(made, head))

    def _part(self, part: int) -> Examples:
        """The rows of one part, by their positions among the rows of the task."""
        examples = self.task.examples(part)
        return Examples(self.task.part(part), examples.target, examples.weights, examples.groups)

    def _features(self, made: Composition, name: str, dtype: npt.DTypeLike) -> npt.NDArray[np.floating]:
        features, done = np.empty((len(self.task.rows), made.dim), dtype), 0
        for block in made.blocks(self.store, self.task.rows):
            features[done : done + len(block)] = block
            done += len(block)
            self.progress(done, len(features), f"{name} of the sequences")
        return features

    def _told(self, name: str) -> Progress:
        return lambda done, total, text: self.progress(done, total, f"{name} baseline: {text}")


def _on_kmers(fitting: _Fitting) -> Baseline:
    name = KMER_ENCODERS[_alphabet(fitting.store)]
    return fitting.regression_on(Composition(name), name, np.float32)


def _on_letters(fitting: _Fitting) -> Baseline:
    """One-hot letters, which mean something only where place i of one sequence answers to place i of the others.

    Sequences of several lengths are not cut to the shortest one: that drops letters that the head has seen, and lines up
    what belongs to different places. Places at which all training sequences have the same letter say nothing and are left
    out; of more than `WIDEST_ONEHOT` values the places in the middle stay, where windows have their site.
    """
    alphabet = _alphabet(fitting.store)
    rows = fitting.task.rows
    lengths = np.concatenate([Letters.of(part).lengths for part in fitting.store.sequences(rows)])
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest < longest:
        raise Unfit(
            f"no baseline on one-hot letters: the sequences have {shortest:,} to {longest:,} letters, and places can be "
            "compared only where all have one length"
        )
    train = np.zeros(len(rows), np.bool_)
    train[fitting.task.part(TRAIN)] = True
    letters = (normalise(Letters.of(part), alphabet) for part in fitting.store.sequences(rows))
    places = varying_places(letters, train, longest)
    if not len(places):
        raise Unfit("no baseline on one-hot letters: all training sequences are the same")
    name, most = f"onehot:{longest}{ONEHOT_SUFFIXES[alphabet]}", WIDEST_ONEHOT // (4 if alphabet == "dna" else 20)
    varying = len(places)
    if varying > most:
        places = np.sort(places[np.argsort(np.abs(places - (longest - 1) / 2), kind="stable")[:most]])
    made = Composition(f"onehot:{len(places)}{ONEHOT_SUFFIXES[alphabet]}", longest, tuple(places.tolist()))
    return fitting.regression_on(made, name if varying <= most else f"{name}, middle {most}", np.float16)


def _on_cells(fitting: _Fitting) -> Baseline:
    task = fitting.task
    if task.target.kind == "regression":
        raise Unfit("no baseline of naive Bayes: it learns classes, not a measured quantity")
    cells = list(fitting.store.sequences(task.rows))
    tokens = sum(part.nbytes for part in cells) / 5  # most ids have four digits, and a blank after them
    if BYTES_PER_TOKEN * tokens > fitting.memory_bytes:
        raise Unfit(
            f"no baseline of naive Bayes: about {tokens:,.0f} tokens of {len(task.rows):,} cells do not fit --memory"
        )
    fitting.progress(0, 1, "naive Bayes on the genes")
    model, outputs = naive_bayes(cells, task.target, task.part(TRAIN), task.part(VAL), fitting.metric)
    weighting = "ranks" if model.weighting == "rank" else "presence"
    return Baseline(f"naive bayes on gene {weighting}", outputs, OfGenes(model))
