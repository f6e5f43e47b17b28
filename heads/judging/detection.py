"""How often a predicted quantity passes a threshold, class by class: detection rate and false positives.

Classes are the values of a column, such as the kind of a variant, or whether the true value itself passes the threshold.

Axes: N rows, S classes, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from embedcache.errors import HeadError
from embedcache.storage.store import Store
from heads.data.strata import Strata
from heads.data.target import Codes, Doubles
from heads.judging.bootstrap import LEVEL, Counts, Interval, interval, number_units, resample
from heads.judging.detection_rule import DetectionRule, Flags
from heads.judging.results import Judging
from heads.splitting.task import read_strata

if TYPE_CHECKING:
    from heads.data.features import Rows

TRUTH = "truth"
"""Stands for the column of the classes where these are made of the true values."""


@dataclass(frozen=True)
class Detector:
    """Rules, and the classes of the N rows that they are counted by."""

    rules: tuple[DetectionRule, ...]
    classes: Strata | None = None
    """None for classes by the truth."""

    def take(self, rows: Codes) -> Detector:
        """For some of the rows."""
        if self.classes is None:
            return self
        return replace(self, classes=replace(self.classes, codes=self.classes.codes[rows]))


@dataclass(frozen=True)
class ClassRate:
    """The rows of one class, and how many of them are detected."""

    name: str
    rows: int
    detected: int
    interval: Interval
    """95 % bootstrap interval of the rate."""

    @property
    def rate(self) -> float:
        """Share of the rows; NaN without rows."""
        return self.detected / self.rows if self.rows else math.nan


@dataclass(frozen=True)
class Detection:
    """What models detect by one rule on one set of rows."""

    rule: DetectionRule
    by: str
    """Column of the classes, or `TRUTH`."""
    models: tuple[tuple[str, tuple[ClassRate, ...]], ...]
    """By the name of the model, the head first."""

    def to_json(self) -> dict[str, object]:
        """The rates by model and class."""
        return {
            name: {
                one.name: {
                    "rows": one.rows,
                    "detected": one.detected,
                    "rate": None if math.isnan(one.rate) else one.rate,
                    "rate_ci": None if one.interval is None else list(one.interval),
                }
                for one in rates
            }
            for name, rates in self.models
        }


def detector_of(store: Store, rows: Rows, rules: tuple[DetectionRule, ...], by: str | None) -> Detector:
    """A detector of rows of a store; raises HeadError where it has no such column, or the column stands alone."""
    if by is None:
        return Detector(rules)
    if not rules:
        raise HeadError(f"--detect-by {by}: say from which value a row counts as detected, with --detect")
    classes = read_strata(store, by, "--detect-by")
    return Detector(rules, replace(classes, codes=classes.codes[rows]))


def detect(
    detector: Detector,
    true_N: Doubles,
    predictions: Sequence[tuple[str, Doubles]],
    judging: Judging,
    groups: Codes | None = None,
) -> tuple[Detection, ...]:
    """Count what is detected, rule by rule; `predictions` (N,) are of several models by name, the head first.

    Raises HeadError where the classes are not those of the rows.
    """
    found = []
    for rule in detector.rules:
        classes = detector.classes or _by_truth(rule, true_N)
        rates = tuple((name, _rates(rule.of(said_N), classes, judging, groups)) for name, said_N in predictions)
        found.append(Detection(rule, classes.column, rates))
    return tuple(found)


def _by_truth(rule: DetectionRule, true_N: Doubles) -> Strata:
    return Strata(TRUTH, (~rule.of(true_N)).astype(np.int64), (f"true: {rule.words}", f"true: not {rule.words}"))


def _rates(detected_N: Flags, classes: Strata, judging: Judging, groups: Codes | None) -> tuple[ClassRate, ...]:
    member_NS = classes.codes[:, None] == np.arange(len(classes.names))
    rates = _Rates(member_NS, detected_N)
    units = len(detected_N) if groups is None else int(number_units(groups).max()) + 1
    drawn_BS = np.full((1, len(classes.names)), np.nan)
    if judging.resamples and units > 1:
        counts = resample(len(detected_N), judging.resamples, groups, judging.seed)
        drawn_BS = np.concatenate([rates(counts_BN) for counts_BN in counts])
    found = []
    for s, name in enumerate(classes.names):
        member_N, ends = member_NS[:, s], interval(drawn_BS[:, s])
        rows, hits = int(member_N.sum()), int((member_N & detected_N).sum())
        if ends is not None and hits in (0, rows):
            ends = _at_the_end(hits > 0, rows if groups is None else int(number_units(groups[member_N]).max()) + 1)
        found.append(ClassRate(name, rows, hits, ends))
    return tuple(found)


def _at_the_end(all_detected: bool, units: int) -> Interval:
    """The interval of a rate of 0 or 1, which resampling never leaves: Clopper and Pearson's (1934) for so many units."""
    reach = float(((1 - LEVEL) / 2) ** (1 / units))
    return (reach, 1.0) if all_detected else (0.0, 1 - reach)


class _Rates:
    """Detection rates of all classes, for any number of times that each row counts."""

    def __init__(self, member_NS: Flags, detected_N: Flags) -> None:
        self.member_NS = member_NS.astype(np.float64)
        self.hit_NS = self.member_NS * detected_N[:, None]

    def __call__(self, counts_BN: Counts) -> Doubles:
        """Return (B, S); NaN of a class that was not drawn."""
        counts = counts_BN.astype(np.float64)
        rows_BS = counts @ self.member_NS
        return np.where(rows_BS > 0, counts @ self.hit_NS / np.maximum(rows_BS, 1), np.nan)
