"""k nearest neighbours: a row is what the training rows near it are.

One search finds the neighbours of all numbers k at once; votes are counted for each afterwards.

Axes: N training rows, n rows of a block, D features, k neighbours, M outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Self, get_args

import numpy as np
import torch

from embedcache.errors import HeadError
from embedcache.search.approximate import Approximate, ApproximateSearch, recall
from embedcache.search.nearest import ExactSearch, Metric, Neighbours
from heads.data.features import BLOCK_ROWS, Rows, RowSource
from heads.data.target import Doubles, Kind, Target
from heads.data.weights import ClassWeight, row_weights
from heads.fitting import Fitted, Problem, Record
from heads.head import Settings, load_tensors, save_tensors
from heads.json_values import number, numbers, whole
from heads.judging.metrics import better, score

Vote = Literal["count", "similarity"]
Index = Literal["exact"] | Approximate

LARGE = 1 << 30
"""Bytes of training rows beyond which the user is told that the head holds them all."""
RECALL_ROWS = 500
"""Validation rows that the recall of an approximate search is measured on."""
MOST_NEIGHBOURS = 1 << 20
POLLED = 1 << 24
"""Values of neighbours looked at together."""
_KINDS = ("binary", "multiclass", "multilabel", "regression")


@dataclass(frozen=True)
class KNNOptions:
    """How neighbours are found and counted; of the numbers of neighbours and temperatures all combinations are tried.

    Raises HeadError where one is not possible.
    """

    k: tuple[int, ...] = (5, 10, 20, 50, 100)
    """Numbers of neighbours; of fewer training rows all."""
    metric: Metric = "cosine"
    vote: Vote = "count"
    """Every neighbour alike, or each by exp(similarity / temperature) (Wu et al. 2018, arXiv:1805.01978). The similarity
    is the cosine, or the negative distance relative to that of the k-th neighbour."""
    temperature: tuple[float, ...] = (0.07,)
    class_weight: ClassWeight = "none"
    """A vote is multiplied by the weight of its row's class."""
    quantiles: tuple[float, ...] = ()
    """Of the neighbours' values, rising; () for their mean."""
    index: Index = "exact"

    def __post_init__(self) -> None:
        if not self.k or min(self.k) < 1:
            raise HeadError(f"--k {self.k}: give numbers of neighbours, each 1 or more")
        if not self.temperature or any(not (math.isfinite(value) and value > 0) for value in self.temperature):
            raise HeadError(f"--temperature {self.temperature}: give numbers above 0")
        if any(not 0 < level < 1 for level in self.quantiles) or list(self.quantiles) != sorted(set(self.quantiles)):
            raise HeadError(f"--quantiles {self.quantiles}: give rising numbers between 0 and 1")
        for option, given, known in (
            ("--distance", self.metric, get_args(Metric)),
            ("--vote", self.vote, get_args(Vote)),
            ("--index", self.index, ("exact", *get_args(Approximate))),
        ):
            if given not in known:
                raise HeadError(f"{option} {given}: choose from {', '.join(known)}")


@dataclass(frozen=True)
class KNNModel:
    """The training rows (N, D) as they are stored, and what each says: its values (N, M) and votes (N, 1) or (N, M).

    The values of a class are one column of 0 and 1 for each class or label.
    """

    rows: torch.Tensor
    values: torch.Tensor
    votes: torch.Tensor
    k: int
    metric: Metric
    temperature: float | None
    """None where every neighbour counts alike."""
    target: Kind
    quantiles: tuple[float, ...] = ()
    index: Index = "exact"

    kind: ClassVar[str] = "knn"

    @property
    def dim(self) -> int:
        return self.rows.shape[1]

    @property
    def outputs(self) -> int:
        return len(self.quantiles) or self.values.shape[1]

    @cached_property
    def _search(self) -> ExactSearch | ApproximateSearch:
        if self.index == "exact":
            return ExactSearch(self.rows, self.metric)
        return ApproximateSearch(self.rows, self.metric, self.index)

    def __call__(self, source: RowSource, rows: Rows, device: torch.device | str = "cpu") -> Doubles:
        """Return the outputs of the given rows; an approximate search runs on the CPU whatever the device."""
        search = self._search
        if self.index == "exact" and torch.device(device).type != "cpu":
            search = ExactSearch(self.rows.to(device), self.metric)
        found = np.empty((len(rows), self.outputs))
        for part, neighbours in _blocks(source, rows, search, self.k):
            found[part] = self.poll(neighbours)
        return found

    def poll(self, neighbours: Neighbours) -> Doubles:
        """Outputs (n, M) of rows with the given neighbours, of which the nearest k count."""
        size = max(1, POLLED // (self.k * self.values.shape[1]))
        parts = [slice(start, start + size) for start in range(0, len(neighbours.positions), size)]
        return np.concatenate([self._poll(neighbours.take(part)) for part in parts])

    def _poll(self, neighbours: Neighbours) -> Doubles:
        nearest = neighbours.first(self.k)
        values_nkM = self.values.numpy()[nearest.positions]
        votes_nkM = self.votes.numpy()[nearest.positions] * self._nearness(nearest)[:, :, None]
        if self.quantiles:
            return _quantiles(values_nkM[:, :, 0], votes_nkM[:, :, 0], self.quantiles)
        total_nM = votes_nkM.sum(1)
        # sample weights of 0 may leave a row without any vote: its neighbours then count alike
        silent_nM = np.broadcast_to(total_nM == 0, (len(values_nkM), values_nkM.shape[2]))
        means_nM = (votes_nkM * values_nkM).sum(1) / np.where(total_nM == 0, 1, total_nM)
        return np.asarray(np.where(silent_nM, values_nkM.mean(1), means_nM))

    def _nearness(self, neighbours: Neighbours) -> Doubles:
        """What the vote of each neighbour counts by how near it is, (n, k), the nearest of all 1."""
        similarity_nk = neighbours.similarity.astype(np.float64)
        if self.temperature is None:
            return np.ones_like(similarity_nk)
        if self.metric == "euclidean":
            similarity_nk = similarity_nk / np.maximum(-similarity_nk[:, -1:], 1e-30)
        return np.asarray(np.exp((similarity_nk - similarity_nk[:, :1]) / self.temperature))

    def save(self, folder: Path) -> Settings:
        """Write head.safetensors: the training rows with it."""
        save_tensors(folder, {"rows": self.rows, "values": self.values, "votes": self.votes})
        return {
            "k": self.k,
            "metric": self.metric,
            "temperature": self.temperature,
            "target": self.target,
            "quantiles": list(self.quantiles),
            "index": self.index,
        }

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        """Invert `save`; raises as `heads.head.Head.load` does."""
        tensors = load_tensors(folder)
        rows, values, votes = tensors["rows"], tensors["values"], tensors["votes"]
        temperature = settings["temperature"]
        model = cls(
            rows,
            values,
            votes,
            whole(settings["k"], MOST_NEIGHBOURS),
            settings["metric"],
            None if temperature is None else number(temperature, 1e-300),
            settings["target"],
            numbers(settings["quantiles"], 0, 1),
            settings["index"],
        )
        types_fit = rows.is_floating_point() and values.dtype == votes.dtype == torch.float64
        shapes_fit = types_fit and rows.ndim == values.ndim == votes.ndim == 2 and min(rows.shape) > 0 < values.shape[1]
        if not shapes_fit or {len(values), len(votes)} != {len(rows)} or votes.shape[1] not in (1, values.shape[1]):
            raise ValueError("the tensors of the head do not fit each other")
        named = model.metric in get_args(Metric) and model.target in _KINDS
        if not named or model.index not in ("exact", *get_args(Approximate)) or model.k < 1:
            raise ValueError("the settings of the neighbours are none that this program makes")
        if list(model.quantiles) != sorted(model.quantiles) or (model.quantiles and model.target != "regression"):
            raise ValueError("the quantiles of the head are not in order")
        return model


def _quantiles(values_nk: Doubles, votes_nk: Doubles, levels: tuple[float, ...]) -> Doubles:
    """Weighted quantiles (n, levels): the least value that at least the level's share of the votes is not above."""
    order_nk = values_nk.argsort(1, kind="stable")
    values_nk = np.take_along_axis(values_nk, order_nk, 1)
    shares_nk = np.take_along_axis(votes_nk, order_nk, 1)
    shares_nk = np.where(shares_nk.sum(1, keepdims=True) == 0, 1.0, shares_nk).cumsum(1)
    shares_nk /= shares_nk[:, -1:]
    places = [(shares_nk < level - 1e-12).sum(1).clip(max=values_nk.shape[1] - 1) for level in levels]
    return np.take_along_axis(values_nk, np.stack(places, axis=1), 1)


def _blocks(
    source: RowSource, rows: Rows, search: ExactSearch | ApproximateSearch, k: int
) -> Iterator[tuple[slice, Neighbours]]:
    """The neighbours of the given rows, block by block."""
    for start in range(0, len(rows), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        yield part, search(_read(source, rows[part]), k)


def _read(source: RowSource, rows: Rows) -> torch.Tensor:
    """The rows as they are stored; raises HeadError where a value is not finite."""
    values = torch.from_numpy(source.take(rows))
    bad_n = ~torch.isfinite(values).all(1)
    if bad_n.any():
        row = int(rows[int(bad_n.nonzero()[0])])
        raise HeadError(f"the features of row {row} are not finite numbers; see `embedcache verify`")
    return values


def fit(problem: Problem, options: KNNOptions) -> Fitted:
    """Keep the training rows, and choose how many neighbours count by the validation rows.

    Raises HeadError where the options do not fit the target, or a feature is not finite.
    """
    source, train, val = problem.source, problem.train, problem.val
    if options.quantiles and train.target.kind != "regression":
        raise HeadError(f"--quantiles are of a measured quantity, not of {train.target.kind} classes: leave them out")
    votes = row_weights(train.target, options.class_weight, train.weights).reshape(len(train), -1)
    whole_k = sorted({min(k, len(train)) for k in options.k})
    model = KNNModel(
        _read(source, train.rows),
        torch.from_numpy(_values(train.target)),
        torch.from_numpy(votes),
        whole_k[-1],
        options.metric,
        None,
        train.target.kind,
        options.quantiles,
        options.index,
    )
    search = model._search
    if options.index == "exact" and problem.device.type != "cpu":
        search = ExactSearch(model.rows.to(problem.device), options.metric)
    parts = []
    for part, neighbours in _blocks(source, val.rows, search, whole_k[-1]):
        parts.append(neighbours)
        problem.progress(min(part.stop, len(val)), len(val), f"neighbours among {len(train):,} rows")
    found = Neighbours(*(np.concatenate([getattr(one, name) for one in parts]) for name in ("positions", "similarity")))

    trials: list[Record] = []
    best, best_value, chosen = 0, math.nan, model
    for k in whole_k:
        for temperature in options.temperature if options.vote == "similarity" else (None,):
            tried = replace(model, k=k, temperature=temperature)
            value = score(val.target, tried.poll(found), problem.select, options.quantiles)
            trials.append({"k": k, "temperature": temperature, f"val_{problem.select}": value})
            if len(trials) == 1 or better(problem.select, value, best_value):
                best, best_value, chosen = len(trials) - 1, value, tried
    chosen.__dict__["_search"] = model._search  # is the same for all of them
    return Fitted(chosen, tuple(trials), best, notes=_notes(problem, options, model))


def _values(target: Target) -> Doubles:
    """What each row says, (N, M)."""
    if target.has_classes:
        return np.eye(len(target.names))[target.values.astype(np.int64)]
    return target.values.astype(np.float64).reshape(len(target), -1)


def _notes(problem: Problem, options: KNNOptions, model: KNNModel) -> tuple[str, ...]:
    notes = []
    if max(options.k) > len(model.rows):
        notes.append(f"--k {max(options.k)} is more than the {len(model.rows):,} training rows, which all count then")
    size = model.rows.numel() * model.rows.element_size()
    if size > LARGE:
        notes.append(f"the head holds its {len(model.rows):,} training rows, {size / 1e9:.1f} GB")
    if isinstance(model._search, ApproximateSearch):
        asked = problem.val.rows[:: -(-len(problem.val) // RECALL_ROWS)]
        queries = torch.from_numpy(problem.source.take(asked))
        share = recall(model._search, ExactSearch(model.rows, model.metric), queries, model.k)
        notes.append(
            f"--index {model.index} finds {100 * share:.1f} % of the {model.k} rows nearest to validation rows"
        )
    return tuple(notes)
