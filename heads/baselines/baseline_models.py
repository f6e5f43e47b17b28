"""Fitted baselines: what a result must beat, kept with a run so that it can be shown beside the head on other rows too.

constant     the same outputs for every row
stratum      the outputs of each stratum
sequences    a regression on k-mers or one-hot letters of the sequences
genes        naive Bayes on the genes of cells

Axes: n rows, C columns of the outputs, L letters of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedcache.encoders.kmer import KmerFrequencies, OneHot, composition
from embedcache.errors import HeadError, ModelError
from embedcache.sequences.alphabet import Letters, normalise
from embedcache.storage.store import Store
from heads.baselines.naive_bayes import NaiveBayes
from heads.data.features import ArrayRows, Rows
from heads.data.target import Codes, Doubles
from heads.head import Settings
from heads.json_values import mapping, numbers, text, whole
from heads.linear.logistic import LogisticModel
from heads.linear.ridge import RidgeModel
from heads.splitting.task import names_of, read_strata

BLOCK_VALUES = 1 << 24
"""Values of the sequences' features that are held at once."""
_LONGEST = 1 << 31


class Unfit(Exception):
    """Why a baseline cannot stand beside a head, as a sentence without a full stop."""


class BaselineModel(Protocol):
    """A fitted baseline."""

    kind: ClassVar[str]

    def outputs(self, store: Store, rows: Rows) -> Doubles:
        """Outputs (n, C) of rows of a store, which must rise; raises `Unfit` where the store does not allow it."""
        ...

    def save(self, folder: Path) -> Settings:
        """Write files into an existing folder; what is returned goes into JSON."""
        ...

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        """Invert `save`; raises as `heads.head.Head.load` does."""
        ...


@dataclass(frozen=True)
class Constant:
    """Every row gets the same."""

    values: tuple[float, ...]
    kind: ClassVar[str] = "constant"

    def outputs(self, store: Store, rows: Rows) -> Doubles:
        return np.tile(self.values, (len(rows), 1))

    def save(self, folder: Path) -> Settings:
        return {"values": list(self.values)}

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        return cls(numbers(mapping(settings, "values")["values"]))


@dataclass(frozen=True)
class ByStratum:
    """Every row gets what its stratum has, and those of a stratum unseen in training the overall values."""

    strata: str
    """A column, or a column and its borders."""
    overall: tuple[float, ...]
    values: Mapping[str, tuple[float, ...]]
    """By the name of the stratum; rows without one have the empty name."""
    kind: ClassVar[str] = "stratum"

    def outputs(self, store: Store, rows: Rows) -> Doubles:
        try:
            names = names_of(read_strata(store, self.strata))
        except HeadError:
            raise Unfit(f"no baseline of the stratum: {store.path} has no strata '{self.strata}'") from None
        return np.array([self.values.get(names[row], self.overall) for row in rows.tolist()], np.float64)

    def save(self, folder: Path) -> Settings:
        values = {name: list(found) for name, found in self.values.items()}
        return {"strata": self.strata, "overall": list(self.overall), "values": values}

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        fields = mapping(settings, "strata", "overall", "values")
        overall = numbers(fields["overall"])
        values = {name: numbers(found, count=len(overall)) for name, found in mapping(fields["values"]).items()}
        return cls(text(fields["strata"]), overall, values)


@dataclass(frozen=True)
class Composition:
    """Features of sequences that need no weights: k-mer frequencies, or one-hot letters of some places."""

    encoder: str
    """``kmer:K`` or ``onehot:L``, L the number of places."""
    length: int = 0
    """Letters that every sequence has; 0 for any number."""
    places: tuple[int, ...] = ()
    """Of these letters those that are looked at; () for all."""

    @cached_property
    def function(self) -> KmerFrequencies | OneHot:
        """Makes the features; raises ValueError where the name is not one of a weight-free encoder."""
        try:
            return composition(self.encoder)
        except ModelError as error:
            raise ValueError(str(error)) from None

    @property
    def dim(self) -> int:
        return self.function.dim

    def features(self, sequences: pa.Array) -> npt.NDArray[np.float32]:
        """(n, D) features of the text of n sequences; raises `Unfit` where they have another length."""
        letters = normalise(Letters.of(sequences), self.function.alphabet)
        if self.length:
            other = letters.lengths[letters.lengths != self.length]
            if len(other):
                raise Unfit(
                    f"no baseline on one-hot letters: it was fitted to sequences of {self.length:,} letters, and there are "
                    f"some of {int(other[0]):,}"
                )
        if self.places:
            chosen = letters.bytes_.reshape(-1, self.length)[:, list(self.places)]
            letters = Letters(chosen.ravel(), np.arange(len(chosen) + 1, dtype=np.int64) * len(self.places))
        return self.function(letters)

    def blocks(self, store: Store, rows: Rows) -> Iterator[npt.NDArray[np.float32]]:
        """The features of rows of a store, which must rise, block by block."""
        size = max(1, BLOCK_VALUES // self.dim)
        for sequences in store.sequences(rows):
            for start in range(0, len(sequences), size):
                yield self.features(sequences.slice(start, size))


@dataclass(frozen=True)
class OfSequences:
    """A regression on the composition of the sequences."""

    composition: Composition
    head: LogisticModel | RidgeModel
    kind: ClassVar[str] = "sequences"

    def outputs(self, store: Store, rows: Rows) -> Doubles:
        _check_sequences(store)
        parts = [np.zeros((0, self.head.outputs))]
        for features in self.composition.blocks(store, rows):
            parts.append(self.head(ArrayRows(features), np.arange(len(features))))
        return np.concatenate(parts)

    def save(self, folder: Path) -> Settings:
        made = self.composition
        return {
            "encoder": made.encoder,
            "length": made.length,
            "places": list(made.places),
            "head": self.head.kind,
            "settings": dict(self.head.save(folder)),
        }

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        fields = mapping(settings, "encoder", "length", "places", "head", "settings")
        length = whole(fields["length"], _LONGEST)
        places = tuple(whole(place, length) for place in fields["places"])
        made = Composition(text(fields["encoder"]), length, places)
        model: type[LogisticModel | RidgeModel] = {"lr": LogisticModel, "ridge": RidgeModel}[fields["head"]]
        head = model.load(folder, fields["settings"])
        if head.dim != made.dim:
            raise ValueError("the tensors of a baseline do not fit its features")
        return cls(made, head)


@dataclass(frozen=True)
class OfGenes:
    """Naive Bayes on the genes of cells."""

    model: NaiveBayes
    kind: ClassVar[str] = "genes"

    def outputs(self, store: Store, rows: Rows) -> Doubles:
        _check_sequences(store)
        return self.model(list(store.sequences(rows)))

    def save(self, folder: Path) -> Settings:
        return self.model.save(folder)

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        return cls(NaiveBayes.load(folder, settings))


def _check_sequences(store: Store) -> None:
    if "sequence" not in store.column_names:
        raise Unfit(f"no baselines of the sequences: {store.path} keeps none (it was extracted with --drop-sequence)")


def varying_places(blocks: Iterator[Letters], train: npt.NDArray[np.bool_], length: int) -> Codes:
    """Places at which the training sequences, of `length` letters each, differ; blocks hold all n, `train` (n,) says which
    of them train."""
    differs, first, done = np.zeros(length, np.bool_), None, 0
    for letters in blocks:
        bytes_nL = letters.bytes_.reshape(-1, length)[train[done : done + len(letters)]]
        done += len(letters)
        if len(bytes_nL):
            first = bytes_nL[0] if first is None else first
            differs |= (bytes_nL != first).any(0)
    return np.flatnonzero(differs)


KINDS: Mapping[str, type[BaselineModel]] = {model.kind: model for model in (Constant, ByStratum, OfSequences, OfGenes)}
"""Every kind of baseline that can be loaded; a file names its kind, and only these run."""
