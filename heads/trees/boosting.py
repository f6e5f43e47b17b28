"""Boosted trees of LightGBM on embeddings: features binned once, a grid of settings, stopped by any metric.

The defaults are for dense, wide features, as measured (measured/heads.md, section 3): 63 bins lose nothing against 255, a
tenth of the features for each tree is eight times faster and no worse, and small trees with many rows in each leaf are
better than those of LightGBM's own defaults.

Axes: N rows, n rows of a block, D features, M scores of a booster, L labels or quantiles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch

from embedcache.errors import HeadError
from heads.data.features import Rows, RowSource, raw_blocks
from heads.data.target import Doubles, Examples, Kind, Target
from heads.data.weights import ClassWeight, row_weights
from heads.fitting import Fitted, Problem, Record, Scalar
from heads.head import Settings
from heads.json_values import array, numbers, text, whole
from heads.judging.metrics import better, score
from heads.trees.binned import Binned, bin_rows, cache_folder
from heads.trees.boosting_parameters import DATA_PARAMETERS, OBJECTIVES, Link, link_of, main_names
from heads.trees.growth import Bins, Grown, Growth, Part, grow, link, outputs, records
from heads.trees.model import Trees

FEWEST_FEATURES = 32
"""Features that each tree may choose from at least, where the user does not say otherwise."""
ROWS_PER_LEAF = 20
"""A leaf never has to hold more than one in so many of the training rows: few rows could not be split at all."""


@dataclass(frozen=True)
class BoostingOptions:
    """Settings of the trees. Of learning rates, leaves, feature fractions and rows in a leaf all combinations are tried.

    Raises HeadError where one is not possible.
    """

    learning_rate: tuple[float, ...] = (0.05,)
    leaves: tuple[int, ...] = (15,)
    feature_fraction: tuple[float, ...] = ()
    """Shares of the features for each tree; () for a tenth, and at least `FEWEST_FEATURES` of them."""
    min_data: tuple[int, ...] = (100,)
    """Rows in a leaf at least, but never more than a twentieth of the training rows."""
    max_bin: int = 63
    rounds: int = 500
    """Trees at most, of each class, label or quantile."""
    patience: int = 50
    """Rounds without a better metric on the rows that stop a fit, after which it does; the best round counts. 0: all."""
    class_weight: ClassWeight = "none"
    focal_gamma: float = 0.0
    """Of the focal loss; 0 is the log loss."""
    quantiles: tuple[float, ...] = ()
    """Of a measured quantity, rising; () for its mean. They are fitted one by one and rearranged, so they do not cross."""
    seeds: tuple[int, ...] = ()
    """The outputs of several are averaged; () for the seed of the problem."""
    extra: Mapping[str, Scalar] = field(default_factory=dict)
    """LightGBM's own parameters, which go before everything above."""
    cache: Path | None = field(default_factory=cache_folder)
    """Where binned features are kept; None: nowhere."""

    def __post_init__(self) -> None:
        main_names(self.extra)
        if not (self.learning_rate and self.leaves and self.min_data and self.rounds > 0):
            raise HeadError("--learning-rate, --leaves, --min-data and --rounds each take at least one value above 0")
        if any(not 0 < share <= 1 for share in self.feature_fraction):
            raise HeadError(f"--feature-fraction {self.feature_fraction}: give shares above 0, at most 1")
        if any(not 0 < level < 1 for level in self.quantiles) or list(self.quantiles) != sorted(set(self.quantiles)):
            raise HeadError(f"--quantiles {self.quantiles}: give rising numbers between 0 and 1")


@dataclass(frozen=True)
class BoostingModel:
    """Fitted trees, each with what its raw scores begin with: for each seed one booster, or L of them."""

    trees: tuple[Trees, ...]
    start: tuple[tuple[float, ...], ...]
    """(boosters, M)."""
    target: Kind
    link: Link
    members: int = 1
    """Seeds whose outputs are averaged; `trees` holds all boosters of the first seed first."""
    quantiles: tuple[float, ...] = ()

    kind: ClassVar[str] = "lightgbm"

    @property
    def dim(self) -> int:
        return self.trees[0].dim

    @property
    def outputs(self) -> int:
        return 2 if self.target == "binary" else len(self.trees) // self.members * self.trees[0].outputs

    def __call__(self, source: RowSource, rows: Rows, device: torch.device | str = "cpu") -> Doubles:
        """Return the outputs of the given rows; trees run on the CPU whatever the device."""
        found = np.empty((len(rows), self.outputs))
        threads = torch.get_num_threads()
        for block in raw_blocks(source, rows):
            scores = [trees.scores(block.values_nD.numpy(), threads) for trees in self.trees]
            linked = [link(self.link, raw + start) for raw, start in zip(scores, self.start, strict=True)]
            found[block.start : block.stop] = _mean_of_members(linked, self.members, self.target)
        return found

    def save(self, folder: Path) -> Settings:
        """Write each booster as LightGBM's text, ``model.txt``, ``model1.txt`` and on."""
        for number, trees in enumerate(self.trees):
            (folder / _file(number)).write_text(trees.text)
        return {
            "digests": [trees.digest for trees in self.trees],
            "start": [list(values) for values in self.start],
            "target": self.target,
            "link": self.link,
            "members": self.members,
            "quantiles": list(self.quantiles),
        }

    @classmethod
    def load(cls, folder: Path, settings: Settings) -> Self:
        """Invert `save`; raises as `heads.head.Head.load` does.

        Nothing reaches LightGBM that does not have its checksum, or is no sound text of trees.
        """
        trees = []
        for number, digest in enumerate(array(settings["digests"])):
            made = Trees.parse((folder / _file(number)).read_text(encoding="ascii"))
            if made.digest != text(digest):
                raise ValueError(f"{_file(number)} does not have its checksum")
            trees.append(made)
        start = tuple(numbers(values) for values in array(settings["start"]))
        members, quantiles = whole(settings["members"], len(trees) + 1), numbers(settings["quantiles"], 0, 1)
        model = cls(tuple(trees), start, settings["target"], settings["link"], members, quantiles)
        model._check()
        return model

    def _check(self) -> None:
        """Raise ValueError where the parts do not belong together."""
        if not self.trees or self.target not in OBJECTIVES or self.link not in OBJECTIVES[self.target].values():
            raise ValueError("the settings of the trees are none that this program makes")
        boosters = {"multilabel": len(self.trees) // max(1, self.members), "regression": len(self.quantiles) or 1}
        classes = self.trees[0].outputs
        right = (
            len(self.trees) == self.members * boosters.get(self.target, 1)
            and len({(trees.dim, trees.outputs) for trees in self.trees}) == 1
            and (classes > 2 if self.target == "multiclass" else classes == 1)
            and [len(values) for values in self.start] == [classes] * len(self.trees)
            and list(self.quantiles) == sorted(self.quantiles)
            and (self.target == "regression" or not self.quantiles)
        )
        if not right:
            raise ValueError("the trees and settings of the head do not fit each other")


def _file(number: int) -> str:
    return f"model{number or ''}.txt"


def _mean_of_members(linked: list[Doubles], members: int, target: Kind) -> Doubles:
    """What the scores of every booster stand for, (n, M) each -> outputs, averaged over the members."""
    each = len(linked) // members
    made = [outputs(linked[start : start + each], target) for start in range(0, len(linked), each)]
    return np.asarray(np.mean(made, axis=0))


def fit(problem: Problem, options: BoostingOptions) -> Fitted:
    """Fit every point of the grid and choose by the validation rows; each stops by `Problem.stopping`.

    Raises HeadError where the options do not fit the target, or LightGBM does not take a parameter.
    """
    target, select = problem.target, problem.select
    parts, seeds = _parts(problem, options), options.seeds or (problem.seed,)
    points = list(_points(options, len(problem.train), problem.source.dim))
    growth = _growth(problem, options)
    bins = _bins(problem, options)
    by = "stop" if bins.stop_apart else "val"
    val_metric, stop_metric = f"val_{select}", f"{by}_{select}"
    trials: list[Record] = []
    history: list[Record] = []
    best, best_value, chosen = 0, math.nan, list[Grown]()
    total = len(points) * len(seeds) * len(parts) * options.rounds
    for trial, point in enumerate(points):
        grown: list[Grown] = []
        for seed, part in itertools.product(seeds, parts):
            before = (trial * len(seeds) * len(parts) + len(grown)) * options.rounds

            def tell(done: int, value: float, before: int = before, part: Part = part) -> None:
                problem.progress(before + done, total, f"{part.name} round {done}, {by} {select} {value:.4f}".lstrip())

            parameters = {"seed": seed, **point, **growth.parameters}
            grown.append(grow(part, replace(growth, parameters=parameters), bins, tell))
            history += records(trial, part, grown[-1], val_metric, stop_metric)
        # where the validation rows stop, the second is the first once more
        said = (
            (val_metric, problem.val, [one.val for one in grown]),
            (stop_metric, problem.stopping, [one.stop for one in grown]),
        )
        values = {
            metric: score(rows.target, _mean_of_members(of_rows, len(seeds), target.kind), select, options.quantiles)
            for metric, rows, of_rows in said
        }
        rounds = sum(one.trees.rounds for one in grown) / len(grown)
        trials.append({**point, **main_names(options.extra), "rounds": rounds, **values})
        if trial == 0 or better(select, values[val_metric], best_value):
            best, best_value, chosen = trial, values[val_metric], grown
    trees, start = tuple(one.trees for one in chosen), tuple(one.start for one in chosen)
    model = BoostingModel(trees, start, target.kind, growth.link, len(seeds), options.quantiles)
    notes = bins.notes
    # training rows are fitted the better the more trees there are
    if any(one.at_the_end for one in chosen) and problem.stop is not problem.train:
        notes += (
            f"the best round of the trees was the last that --rounds {options.rounds} allows: more may do better",
        )
    return Fitted(model, tuple(trials), best, tuple(history), notes)


def _bins(problem: Problem, options: BoostingOptions) -> Bins:
    """Training rows, and all others in the bins of these."""
    given = main_names(options.extra)
    shape = {"max_bin": options.max_bin} | {name: value for name, value in given.items() if name in DATA_PARAMETERS}
    problem.progress(0, 1, f"bins of {len(problem.train):,} x {problem.source.dim:,} features")
    train = bin_rows(problem.source, problem.train.rows, shape, cache=options.cache)

    def binned(examples: Examples) -> Binned:
        return bin_rows(problem.source, examples.rows, shape, cache=options.cache, like=train)

    val = binned(problem.val)
    return Bins(train, val, problem.of_stopping(train, val, binned))


def _growth(problem: Problem, options: BoostingOptions) -> Growth:
    """How all boosters grow; the point of the grid is still missing."""
    kind = problem.target.kind
    parameters: dict[str, Scalar] = {
        "objective": next(iter(OBJECTIVES[kind])),
        "max_bin": options.max_bin,
        "feature_pre_filter": False,  # which would tie the bins to the rows in a leaf
        "force_col_wise": True,
        "deterministic": True,
        "num_threads": torch.get_num_threads(),
        "verbosity": -1,
        **main_names(options.extra),
    }
    return Growth(
        parameters,
        link_of(kind, parameters["objective"]),
        options.focal_gamma,
        options.rounds,
        options.patience,
        problem.select,
    )


def _points(options: BoostingOptions, rows: int, dim: int) -> Iterator[dict[str, Scalar]]:
    """The grid, as LightGBM's parameters."""
    fractions = options.feature_fraction or (min(1.0, max(0.1, FEWEST_FEATURES / dim)),)
    for rate, leaves, fraction, least in itertools.product(
        options.learning_rate, options.leaves, fractions, options.min_data
    ):
        yield {
            "learning_rate": rate,
            "num_leaves": leaves,
            "feature_fraction": fraction,
            "min_data_in_leaf": max(1, min(least, rows // ROWS_PER_LEAF)),
        }


def _parts(problem: Problem, options: BoostingOptions) -> list[Part]:
    """What each booster of one seed learns."""
    train, val, stop = problem.train.target, problem.val.target, problem.stopping.target
    if train.kind == "regression" and options.focal_gamma:
        raise HeadError(f"--focal is a loss of classes, and {train.names[0]} is a measured quantity: leave it out")
    if train.kind != "regression" and options.quantiles:
        raise HeadError(f"--quantiles are of a measured quantity, not of {train.kind} classes: leave them out")
    given = problem.train.weights
    weights = None
    if given is not None or options.class_weight != "none":
        weights = row_weights(train, options.class_weight, given)
    if train.kind == "multilabel":
        return [
            Part(
                str(name),
                _label(train, place),
                _label(val, place),
                _label(stop, place),
                None if weights is None else weights[:, place],
            )
            for place, name in enumerate(train.names)
        ]
    if options.quantiles:
        return [Part(f"quantile {level:g}", train, val, stop, weights, (level,)) for level in options.quantiles]
    return [Part("", train, val, stop, weights)]


def _label(target: Target, place: int) -> Target:
    """One label of several as two classes."""
    return Target("binary", (0, 1), target.values[:, place])
