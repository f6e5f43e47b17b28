"""From what a head gives to what is said of a row: prior correction, calibration, threshold, and sets or intervals.

All of it is found on validation rows, kept as plain JSON beside the head, and applied in the same order to any rows:

outputs -> shares of the classes put right (`prior.py`) -> calibrated (`calibration.py`) -> cut (`thresholds.py`)
                                                       `-> conformal sets (`conformal.py`)

Conformal sets are of the probabilities before calibration: a calibration has seen the truth of the rows that the limits are
found on. With isotonic curves of five classes and 1,000 validation rows, sets at 0.1 held the class in 87.6 % of new rows
that way, not in 90 %, and a temperature made them smaller by no more than 1 %.

Axes: N validation rows, n rows to decide on, C columns of the outputs, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from embedcache.errors import HeadError
from heads.data.target import Codes, Doubles, Kind, Target
from heads.deciding.calibration import METHODS, Calibrator, Method, answers, fit_calibrator, yes_and_no
from heads.deciding.conformal import LEVELS, Intervals, Sets, fit_intervals, fit_sets, nearest
from heads.deciding.prior import Prior, PriorShift, check_prior, prior_shift
from heads.deciding.rearrangement import rearrange
from heads.deciding.thresholds import ThresholdRule, Thresholds, fit_thresholds
from heads.json_values import array, mapping, numbers, text, whole

CHOSEN_ON = (
    "conformal sets and intervals are from the validation rows that also chose the head: of new rows they may miss somewhat "
    "more than asked for"
)
"""The best of 64 equally good heads held the class in 89.2 % of new rows, not 90 %, with 300 validation rows (88.4 % with
100); heads that differ more lose more. A part of the validation rows kept for the limits would not help, since by then all
of them have stopped and chosen the fit; how many test rows the sets hold is the honest figure."""

_MOST_COLUMNS = 1_000_000
"""More than any head has."""


@dataclass(frozen=True)
class DecisionOptions:
    """How decisions are to be made.

    Raises HeadError where a value is none of those that there are.
    """

    calibration: Literal["none"] | Method = "none"
    prior: Prior = "none"
    """The shares of classes that probabilities are to be for, where training made others."""
    threshold: str = "f1"
    """Of two classes and of labels: see `ThresholdRule.parse`. Of more classes the most probable one is taken."""
    by_stratum: bool = False
    """A threshold for each stratum."""
    alpha: float | None = None
    """The share of rows that conformal sets or intervals may miss; None for none."""
    by_class: bool = False
    """That share for the rows of each class; sets only."""

    def __post_init__(self) -> None:
        ThresholdRule.parse(self.threshold)
        check_prior(self.prior)
        if self.calibration != "none" and self.calibration not in METHODS:
            raise HeadError(f"--calibration {self.calibration}: give none, {', '.join(METHODS)}")
        if self.alpha is not None and not LEVELS[0] <= self.alpha <= LEVELS[1]:
            raise HeadError(
                f"--conformal {self.alpha:g}: give the share of rows that may be missed, from {LEVELS[0]:g} to {LEVELS[1]:g}"
            )


@dataclass(frozen=True)
class Decided:
    """What is said of n rows."""

    outputs: Doubles
    """(n, C) calibrated probabilities; of a quantity its values, or quantiles that rise along the row."""
    predictions: Codes | Doubles
    """(n,) class codes; (n, L) 0 or 1; of a quantity (n,) its value."""
    thresholds: Doubles | None = None
    """(n,), or (n, L): from which probability each row is called positive; None where the most probable class is taken."""
    sets: npt.NDArray[np.bool_] | None = None
    """(n, C): which classes are in the conformal set of each row."""
    intervals: Doubles | None = None
    """(n, 2): low and high end of the conformal interval of each row, in units of the quantity."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decisions:
    """How the outputs of one head become decisions."""

    kind: Kind
    columns: int
    """C of the outputs."""
    quantiles: tuple[float, ...] = ()
    """That the columns are, of a quantity; () for a mean."""
    prior: PriorShift | None = None
    calibrator: Calibrator | None = None
    thresholds: Thresholds | None = None
    conformal: Sets | Intervals | None = None
    notes: tuple[str, ...] = ()
    """What was left out for want of rows, and what else is to be known, each a sentence without a full stop."""

    @classmethod
    def fixed(cls, threshold: float | None, columns: int = 2) -> Self:
        """Decisions on classes by a known threshold, or by the most probable class."""
        if threshold is None:
            return cls("binary" if columns == 2 else "multiclass", columns)
        return cls("binary", 2, thresholds=Thresholds((threshold,), {}))

    @property
    def threshold(self) -> float | tuple[float, ...] | None:
        """The cut for rows of no known stratum; of labels one each; None where the most probable class is taken."""
        if self.thresholds is None:
            return None
        return self.thresholds.overall if self.kind == "multilabel" else self.thresholds.overall[0]

    def apply(self, outputs: Doubles, strata: Sequence[str] | None = None) -> Decided:
        """Decide on rows.

        Parameters
        ----------
        outputs : (n, C) as the head gives them.
        strata : (n,) the name of each row's stratum, for thresholds by stratum; rows of a stratum that the validation rows
            did not have get the overall threshold, and the notes count them.

        Raises HeadError where the outputs are not those of the head.
        """
        _check_outputs(outputs, len(outputs), self.columns)
        if strata is not None and len(strata) != len(outputs):
            raise HeadError(f"there are {len(strata):,} strata for {len(outputs):,} rows")
        corrected = _corrected(self.kind, outputs, self.prior)
        if self.kind == "regression":
            intervals = self.conformal.apply(corrected) if isinstance(self.conformal, Intervals) else None
            return replace(self.decide(corrected), intervals=intervals)
        calibrated = corrected if self.calibrator is None else self.calibrator.apply(self.kind, corrected)
        sets = self.conformal.apply(corrected) if isinstance(self.conformal, Sets) else None
        return replace(self.decide(calibrated, strata), sets=sets)

    def decide(self, outputs: Doubles, strata: Sequence[str] | None = None) -> Decided:
        """Decide on outputs (n, C) that are put right and calibrated already; no sets and no intervals."""
        if self.kind == "regression":
            return Decided(outputs, outputs[:, nearest(self.quantiles, 0.5)])
        if self.thresholds is None:
            return Decided(outputs, np.argmax(outputs, axis=1).astype(np.int64))
        cuts_nL, notes = self.thresholds.each(len(outputs), strata)
        positive_nL = yes_and_no(self.kind, outputs)[0] >= cuts_nL
        codes_nL = positive_nL.astype(np.int64)
        if self.kind == "binary":
            return Decided(outputs, codes_nL[:, 0], cuts_nL[:, 0], notes=notes)
        return Decided(outputs, codes_nL, cuts_nL, notes=notes)

    def to_json(self) -> dict[str, Any]:
        """Everything, as a JSON object of numbers and texts."""
        parts = {name: getattr(self, name) for name in ("prior", "calibrator", "thresholds", "conformal")}
        return {
            "kind": self.kind,
            "columns": self.columns,
            "quantiles": list(self.quantiles),
            **{name: None if part is None else part.to_json() for name, part in parts.items()},
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Invert `to_json`; raises TypeError, ValueError or KeyError where the values do not make decisions."""
        fields = mapping(
            values, "kind", "columns", "quantiles", "prior", "calibrator", "thresholds", "conformal", "notes"
        )
        kind, columns = fields["kind"], whole(fields["columns"], _MOST_COLUMNS + 1)
        if kind not in get_args(Kind) or columns < (2 if kind in ("binary", "multiclass") else 1):
            raise ValueError(f"there are no decisions of kind {kind!r} for {columns} columns")
        quantiles = numbers(fields["quantiles"], 0, 1)
        labels = columns if kind == "multilabel" else 1
        prior, calibrator, thresholds, conformal = (
            fields[name] for name in ("prior", "calibrator", "thresholds", "conformal")
        )
        decisions = cls(
            kind,
            columns,
            quantiles,
            None if prior is None else PriorShift.from_json(prior, columns),
            None if calibrator is None else Calibrator.from_json(calibrator, kind, columns),
            None if thresholds is None else Thresholds.from_json(thresholds, labels),
            None if conformal is None else _read_conformal(conformal, kind, columns),
            tuple(text(note) for note in array(fields["notes"])),
        )
        decisions._check()
        return decisions

    def _check(self) -> None:
        """Raise ValueError where the parts do not fit the kind."""
        if self.kind == "regression":
            levels = len(self.quantiles) or 1
            fits = levels == self.columns and (np.diff(self.quantiles) > 0).all() and self.prior is None
        else:
            fits = not self.quantiles
        cut = {"binary": True, "multilabel": self.thresholds is not None}.get(self.kind, self.thresholds is None)
        if not (fits and cut):
            raise ValueError(f"the parts of the decisions do not fit the kind {self.kind}")


def _check_outputs(outputs: Doubles, rows: int, columns: int) -> None:
    if outputs.shape != (rows, columns):
        raise HeadError(f"the outputs of the head are {outputs.shape}, and must be {(rows, columns)}")
    bad_n = ~np.isfinite(outputs).all(1)
    if bad_n.any():
        raise HeadError(
            f"the head gives {int(bad_n.sum()):,} rows no finite output, the first is {int(bad_n.argmax()):,}"
        )


def _corrected(kind: Kind, outputs: Doubles, prior: PriorShift | None) -> Doubles:
    """Outputs with the shares of classes put right, where that was asked for; quantiles that do not cross."""
    if kind == "regression":
        return rearrange(outputs)
    # a float32 softmax can be a rounding above 1
    probabilities = np.clip(outputs, 0, 1)
    return probabilities if prior is None else prior.apply(kind, probabilities)


def _read_conformal(values: Any, kind: Kind, columns: int) -> Sets | Intervals:
    if kind == "multilabel":
        raise ValueError("labels have no conformal sets")
    return Intervals.from_json(values, columns) if kind == "regression" else Sets.from_json(values, columns)


def fit_decisions(
    target: Target,
    outputs: Doubles,
    options: DecisionOptions,
    *,
    strata: Sequence[str] | None = None,
    trained_shares: Doubles | None = None,
    natural_shares: Doubles | None = None,
    quantiles: tuple[float, ...] = (),
) -> Decisions:
    """Find how to decide, on validation rows.

    Parameters
    ----------
    target : of the N validation rows.
    outputs : (N, C) of the head, as it gives them.
    strata : (N,) the name of each row's stratum, for thresholds by stratum.
    natural_shares, trained_shares : the classes' shares of the training rows, as they are, and as weights or a sampler made
        them (None where nothing did): (classes,), of labels (L, 2). For the prior correction alone.
    quantiles : that the columns of the outputs are, of a measured quantity.

    Raises HeadError where the options ask for what the target does not have; what there are too few rows for is left out,
    and said in the notes.
    """
    columns = max(1, len(quantiles)) if target.kind == "regression" else target.outputs
    _check_outputs(outputs, len(target), columns)
    if options.by_stratum and strata is None:
        raise HeadError("--threshold-by-stratum: thresholds by stratum need the strata of the rows")

    prior = prior_shift(target, options.prior, natural_shares, trained_shares)
    corrected = _corrected(target.kind, outputs, prior)
    calibrated = corrected
    calibrator: Calibrator | None = None
    notes: tuple[str, ...] = ()
    if options.calibration != "none":
        calibrator, notes = fit_calibrator(target, corrected, options.calibration)
        if calibrator is not None and prior is not None and options.calibration != "temperature":
            notes = (
                *notes,
                f"--calibration {options.calibration} learns the shares of the validation rows, and leaves nothing of "
                "--prior: take one of them, or --calibration temperature",
            )
    if calibrator is not None:
        calibrated = calibrator.apply(target.kind, corrected)
    thresholds, more = _fit_thresholds(target, calibrated, options, strata if options.by_stratum else None)
    conformal, most = _fit_conformal(target, corrected, options, quantiles)
    return Decisions(target.kind, columns, quantiles, prior, calibrator, thresholds, conformal, (*notes, *more, *most))


def _fit_thresholds(
    target: Target, outputs: Doubles, options: DecisionOptions, strata: Sequence[str] | None
) -> tuple[Thresholds | None, tuple[str, ...]]:
    if target.kind in ("multiclass", "regression"):
        return None, () if strata is None else (
            f"--threshold-by-stratum has no effect: a {target.kind} target has no threshold",
        )
    names = target.names[1:] if target.kind == "binary" else target.names
    scores_NL, _ = yes_and_no(target.kind, outputs)
    return fit_thresholds(answers(target), scores_NL, ThresholdRule.parse(options.threshold), names, strata)


def _fit_conformal(
    target: Target, outputs: Doubles, options: DecisionOptions, quantiles: tuple[float, ...]
) -> tuple[Sets | Intervals | None, tuple[str, ...]]:
    found: Sets | Intervals | None
    if options.alpha is None:
        return None, ()
    if target.kind == "multilabel":
        return None, ("no conformal sets: they are for rows of one class each, and these have several labels",)
    if target.kind == "regression":
        found, notes = fit_intervals(target, outputs, options.alpha, quantiles)
    else:
        found, notes = fit_sets(target, outputs, options.alpha, by_class=options.by_class)
    return found, notes if found is None else (*notes, CHOSEN_ON)
