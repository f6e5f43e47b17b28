"""What the training rows of a head looked like, and how far new rows depart from them.

A head trained on contigs of 500 to 3,000 letters says nothing of reads of 150: its k-mer frequencies are the same on
average, but three times as noisy. So three numbers of every row are kept as distributions: its length, its share of G and
C (DNA), and its distance from the training rows, mean over the features of ((x - mean) / deviation)^2. New rows are far
where many of them lie outside what training saw; a sample of the same data is not, however it is drawn.

Axes: N rows, n rows of a block, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch

from embedcache.errors import HeadError
from embedcache.search.standardising import standardise
from embedcache.sequences.alphabet import CELL, DNA, Letters
from embedcache.sequences.views import Scope
from embedcache.storage.positionstore import PositionStore
from embedcache.storage.store import Store
from heads.data.features import Rows, RowSource, raw_blocks
from heads.data.target import Doubles
from heads.head import load_tensors, save_tensors
from heads.json_values import mapping, text, whole
from heads.saving.distribution import LEVELS, Distribution, chance_of_outside

FILE = "profile.safetensors"
SAMPLE_ROWS = 50_000
"""Rows at most, evenly spaced, that a profile is made of: they give a mean to 0.5 % of a deviation."""
FAR_OUTSIDE = 0.2
"""From this share of rows outside on the new rows are far: metrics of the training say nothing of a fifth of them."""
NOTED_OUTSIDE = 0.05
"""From this share on it is mentioned."""
CHANCE = 1e-5
"""Less likely than this is no accident of a few rows: three reads of another kind are told from three odd ones."""
FEWEST_TRAINED = 100
"""Training rows whose range is known well enough that one row alone can be far beyond it."""
NOTED_DISTANCE = 0.2
"""Kolmogorov-Smirnov distance from which another mix of the known is mentioned; it is not far, for training saw it."""
KS_CHANCE = 2.7
"""Of two samples of n and m rows, a distance of 2.7 sqrt(1/n + 1/m) comes about once in a million times (Smirnov, 1948)."""
MOVED = 0.5
"""Deviations by which a feature's mean has moved: half of its spread, a medium effect by Cohen's rule."""
FAR_MOVED = 0.25
"""From this share of moved features on the new rows are far."""

Quantity = Literal["length", "gc", "distance"]
_SAID: Mapping[Quantity, tuple[str, str]] = {
    "length": ("new rows are {now} {unit} long", ",.0f"),
    "gc": ("new rows have {now} G and C", ".0%"),
    "distance": ("new rows have features {now} from the centre of training", ".3g"),
}
"""How each number is said, and written."""


@dataclass(frozen=True)
class RowFacts:
    """Length and share of G and C of n rows, (n,) each; None where they are not known."""

    lengths: Doubles | None
    gc: Doubles | None

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The facts of several runs of rows, one after another."""
        each = ([getattr(part, name) for part in parts] for name in ("lengths", "gc"))
        return cls(*(None if not known or known[0] is None else np.concatenate(known) for known in each))


UNKNOWN = RowFacts(None, None)


def facts_of(store: Store, rows: Rows) -> RowFacts:
    """Return what a store says of some of its rows, which must rise; of cells the length is counted in tokens.

    Letters have the share of G and C around them, and no length; contexts around sites have neither, as a stored sequence
    has letters that no context looks at.
    """
    if Scope.from_dict(store.attrs.get("scope")).views:
        return UNKNOWN
    alphabet, columns = str(store.attrs["encoder"].get("alphabet")), store.column_names
    if "sequence" in columns:
        found = RowFacts.joined([facts_of_sequences(part, alphabet) for part in store.sequences(rows)])
        return replace(found, lengths=None) if isinstance(store, PositionStore) else found
    if isinstance(store, PositionStore):
        return UNKNOWN
    length = "n_tokens" if alphabet == CELL else "length"
    if length not in columns:
        return UNKNOWN
    lengths = store.column(length).take(pa.array(rows))
    return RowFacts(None if lengths.null_count else np.asarray(lengths, np.float64), None)


def facts_of_sequences(sequences: pa.Array, alphabet: str) -> RowFacts:
    """Return what n sequences say of themselves; of DNA without A, C, G, T and U the share is 0."""
    letters = Letters.of(sequences)
    if alphabet == CELL:
        tokens = np.add.reduceat(np.append(letters.bytes_ == ord(" "), 0), letters.offsets[:-1])
        return RowFacts(np.asarray(tokens + 1, np.float64), None)
    lengths = np.asarray(letters.lengths, np.float64)
    if alphabet != DNA:
        return RowFacts(lengths, None)
    counted = [_count(letters, of) for of in (b"GCgc", b"ACGTUacgtu")]
    return RowFacts(lengths, counted[0] / np.maximum(counted[1], 1))


def _count(letters: Letters, wanted: bytes) -> Doubles:
    table = np.zeros(256, np.int64)
    table[list(wanted)] = 1
    running = np.concatenate([[0], np.cumsum(table[letters.bytes_])])
    return np.asarray(np.diff(running[letters.offsets]), np.float64)


@dataclass(frozen=True)
class Shift:
    """How one number of the new rows compares with the training rows."""

    quantity: Quantity
    training: Distribution
    median: float
    """Of the new rows."""
    effect: float
    """By how many deviations of the training rows the mean is off."""
    outside: float
    """Share of new rows outside the central 99 % of the training rows."""
    distance: float
    """Kolmogorov-Smirnov."""
    far: bool
    noted: bool
    """Whether it is worth a sentence."""


@dataclass(frozen=True)
class Departure:
    """How far new rows depart from the training rows."""

    rows: int
    shifts: tuple[Shift, ...]
    moved: float
    """Share of features whose mean moved by more than half a deviation."""
    unit: str

    @property
    def far(self) -> bool:
        """Whether the metrics of the training say nothing of the new rows."""
        return self.moved > FAR_MOVED or any(shift.far for shift in self.shifts)

    def sentences(self) -> tuple[str, ...]:
        """What is worth saying, each a sentence without a full stop; nothing where the new rows are like the others."""
        said = [self._sentence(shift) for shift in self.shifts if shift.noted or shift.far]
        if self.moved > FAR_MOVED:
            said.append(
                f"{self.moved:.0%} of the features have another mean than in training, by half a deviation or more"
            )
        return tuple(said)

    def refuse(self) -> None:
        """Raise HeadError where the new rows are far (``--strict``)."""
        if self.far:
            raise HeadError(
                f"--strict: the rows are far from those that the head was trained on: {'; '.join(self.sentences())}. Train "
                "on rows such as these, or leave out --strict"
            )

    def _sentence(self, shift: Shift) -> str:
        what, form = _SAID[shift.quantity]
        low, high = (f"{bound:{form}}" for bound in shift.training.range)
        now, then = (f"{median:{form}}" for median in (shift.median, shift.training.median))
        what = what.format(now=now, unit=self.unit)
        beyond = f"{shift.outside:.0%} of them lie outside the {low} to {high} of training"
        return f"{what} (median), training rows {then}: {beyond}"


@dataclass(frozen=True)
class TrainingProfile:
    """What the training rows looked like: mean and deviation of each feature (D,), and a distribution of each number."""

    rows: int
    """Rows that it was made of."""
    unit: str
    """What lengths are counted in: ``letters`` or ``tokens``."""
    mean: Doubles
    deviation: Doubles
    """0 where a feature is constant; such features take no part in distances."""
    distributions: Mapping[Quantity, Distribution]

    @property
    def dim(self) -> int:
        return len(self.mean)

    def departure(self, source: RowSource, rows: Rows, facts: RowFacts) -> Departure:
        """Return how far rows of a source depart, with the `facts` of these rows.

        Raises HeadError for features of another width.
        """
        arrivals = Arrivals(self)
        for block in raw_blocks(source, rows):
            arrivals.add(block.values_nD, _part(facts, slice(block.start, block.stop)))
        return arrivals.departure()

    def departure_of(self, store: Store, rows: Rows) -> Departure:
        """Return how far rows of a store depart, by at most `SAMPLE_ROWS` of them, evenly spaced."""
        sample = _sample(rows)
        return self.departure(store, sample, facts_of(store, sample))

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the numbers into an existing folder; what is returned goes into head.json."""
        tensors = {"mean": torch.from_numpy(self.mean), "deviation": torch.from_numpy(self.deviation)}
        for quantity, held in self.distributions.items():
            tensors[quantity] = torch.tensor([held.mean, held.deviation, *held.quantiles], dtype=torch.float64)
        save_tensors(folder, tensors, FILE)
        return {"rows": self.rows, "unit": self.unit}

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        """Invert `save`; raises as `heads.head.Head.load` does."""
        settings = mapping(settings, "rows", "unit")
        rows = whole(settings["rows"], SAMPLE_ROWS + 1)
        if not rows:
            raise ValueError("the profile was made of no rows")
        tensors = load_tensors(folder, FILE)
        mean, deviation = tensors.pop("mean").double().numpy(), tensors.pop("deviation").double().numpy()
        if mean.ndim != 1 or mean.shape != deviation.shape or "distance" not in tensors:
            raise ValueError("the tensors of the profile do not fit each other")
        distributions: dict[Quantity, Distribution] = {}
        for quantity in _SAID:
            if quantity in tensors:
                values = tensors[quantity].double().numpy()
                if values.shape != (2 + len(LEVELS),):
                    raise ValueError("a distribution of the profile has the wrong size")
                distributions[quantity] = Distribution(float(values[0]), float(values[1]), values[2:])
        return cls(rows, text(settings["unit"]), mean, deviation, distributions)


class Arrivals:
    """New rows as they come, block by block, held against a profile."""

    def __init__(self, profile: TrainingProfile) -> None:
        self.profile = profile
        self._centre = torch.from_numpy(profile.mean)
        varies = torch.from_numpy(profile.deviation > 0)
        self._factor = torch.where(varies, 1 / torch.from_numpy(profile.deviation), 0.0)
        self._features = max(1, int(varies.sum()))
        self._sum_D = torch.zeros(profile.dim, dtype=torch.float64)
        self._seen: dict[Quantity, list[Doubles]] = {quantity: [] for quantity in profile.distributions}

    def add(self, values_nD: torch.Tensor, facts: RowFacts) -> None:
        """Look at n more rows; raises HeadError where their features have another width."""
        if values_nD.shape[1] != self.profile.dim:
            raise HeadError(f"the rows have {values_nD.shape[1]} features, the head was trained on {self.profile.dim}")
        standard_nD = _standard(values_nD, self._centre, self._factor)
        self._sum_D += standard_nD.sum(0)
        distances = standard_nD.square_().sum(1).double().numpy() / self._features
        for quantity, values in (("distance", distances), ("length", facts.lengths), ("gc", facts.gc)):
            if values is not None and quantity in self._seen:
                self._seen[quantity].append(np.asarray(values, np.float64))

    def departure(self) -> Departure:
        """Return how far all rows so far depart; none are near."""
        rows = sum(map(len, self._seen["distance"]))
        if not rows:
            return Departure(0, (), 0.0, self.profile.unit)
        # the mean of a few rows is off by chance: three of its own deviations are allowed on top
        allowed = MOVED + 3 * np.sqrt(1 / rows + 1 / self.profile.rows)
        moved = (self._sum_D / rows).abs().numpy() > allowed
        shifts = tuple(self._shift(quantity, np.concatenate(v)) for quantity, v in self._seen.items() if v)
        return Departure(rows, shifts, float(moved.sum() / self._features), self.profile.unit)

    def _shift(self, quantity: Quantity, values_n: Doubles) -> Shift:
        training, n, trained = self.profile.distributions[quantity], len(values_n), self.profile.rows
        outside, distance = training.outside(values_n), training.distance(values_n)
        unlikely = chance_of_outside(round(outside * n), n, trained) < CHANCE
        beyond = training.beyond(values_n) if trained >= FEWEST_TRAINED else 0.0
        another_mix = distance > NOTED_DISTANCE + KS_CHANCE * np.sqrt(1 / n + 1 / trained)
        spread = training.deviation or 1.0
        return Shift(
            quantity,
            training,
            float(np.median(values_n)),
            float((values_n.mean() - training.mean) / spread),
            outside,
            distance,
            far=(unlikely and outside > FAR_OUTSIDE) or beyond > FAR_OUTSIDE,
            noted=(unlikely and outside > NOTED_OUTSIDE) or beyond > NOTED_OUTSIDE or bool(another_mix),
        )


def profile_of(store: Store, rows: Rows) -> TrainingProfile:
    """Describe the training rows of a store, which must rise, by at most `SAMPLE_ROWS` of them, evenly spaced.

    Raises HeadError where there are none, or a feature is not finite.
    """
    sample = _sample(rows)
    unit = "tokens" if store.attrs["encoder"].get("alphabet") == CELL else "letters"
    return profile_of_rows(store, sample, facts_of(store, sample), unit)


def profile_of_rows(source: RowSource, rows: Rows, facts: RowFacts, unit: str = "letters") -> TrainingProfile:
    """Describe rows of any source in two passes: for the moments, and for the distances."""
    standardisation = standardise(source, rows)
    centre, factor = standardisation.centre.double(), standardisation.factor.double()
    features = max(1, int((factor > 0).sum()))
    distances = []
    for block in raw_blocks(source, rows):
        squares_nD = _standard(block.values_nD, centre, factor).square_()
        distances.append(_left_out(squares_nD, len(rows)).sum(1).double() / features)
    held: dict[Quantity, Doubles | None] = {
        "length": facts.lengths,
        "gc": facts.gc,
        "distance": torch.cat(distances).numpy(),
    }
    return TrainingProfile(
        len(rows),
        unit,
        centre.numpy(),
        torch.where(factor > 0, 1 / factor, 0.0).numpy(),
        {quantity: Distribution.of(values) for quantity, values in held.items() if values is not None},
    )


def _standard(values_nD: torch.Tensor, centre_D: torch.Tensor, factor_D: torch.Tensor) -> torch.Tensor:
    wide = values_nD.dtype
    return values_nD.sub(centre_D.to(wide)).mul_(factor_D.to(wide))


def _left_out(squares_nD: torch.Tensor, rows: int) -> torch.Tensor:
    """Squared standard scores as they would be if the row had no part in mean and deviation, which new rows have not.

    z^2 N / (N - 1) / (1 - z^2 / (N - 1)); a row that makes up most of the deviation of a feature counts double at most.
    """
    if rows < 3:
        return squares_nD
    left_nD = 1 - squares_nD / (rows - 1)
    return squares_nD.mul_(rows / (rows - 1)).div_(left_nD.clamp_(min=0.5))


def _sample(rows: Rows) -> Rows:
    return rows[:: max(1, -(-len(rows) // SAMPLE_ROWS))]


def _part(facts: RowFacts, rows: slice) -> RowFacts:
    return RowFacts(*(None if values is None else values[rows] for values in (facts.lengths, facts.gc)))
