"""A head as it is kept: its steps before, its decisions after, and the card that says what it expects and gives.

Heads of format 1 (one logistic regression and one threshold) are read too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch

from embedcache.errors import HeadError
from heads.data.features import Rows, RowSource
from heads.data.target import ClassName, Doubles, Kind, Target
from heads.deciding.decisions import Decided, Decisions
from heads.head import DAMAGED, Head, read_json
from heads.linear.logistic import LogisticModel
from heads.linear.prototype import PrototypeModel
from heads.linear.quantile import QuantileModel
from heads.linear.ridge import RidgeModel
from heads.neighbours import KNNModel
from heads.perceptron.ensemble import EnsembleModel
from heads.perceptron.mlp import MLPModel
from heads.saving.kinds import HEAD_KINDS
from heads.saving.profile import TrainingProfile
from heads.steps import SteppedRows, Steps
from heads.trees.boosting import BoostingModel

FORMAT_VERSION = 2
CARD = "head.json"
KINDS: Mapping[str, type[Head]] = {
    model.kind: model
    for model in (
        LogisticModel,
        RidgeModel,
        QuantileModel,
        MLPModel,
        BoostingModel,
        KNNModel,
        PrototypeModel,
    )
}
"""Every kind of head that can be loaded, and averaged in an ensemble. A file names its kind; only these run."""
_TARGETS = ("binary", "multiclass", "multilabel", "regression")


@dataclass(frozen=True)
class HeadCard:
    """What a saved head must say beside its tensors."""

    kind: str
    dim: int
    """Width of the features, before any steps."""
    target: Kind
    names: tuple[ClassName, ...]
    """Classes in the order of the probabilities, of two the last is the positive one; or labels; or the quantity."""
    label: tuple[str, ...]
    """The columns the head was trained on."""
    fingerprint: str
    """Of the store: which encoder, layers and poolings the features come from."""
    encoder: Mapping[str, Any]
    """The store's record of the encoder, its layers, poolings and policy, so that raw sequences can be encoded again."""
    strata: str | None = None
    """What the thresholds are by: a column, or a column and its borders."""

    @property
    def per_position(self) -> bool:
        """Whether the head judges the letters of sequences, not records."""
        return bool(self.encoder.get("positions"))

    def matches(self, target: Target) -> bool:
        """Whether a target is of the same kind and names."""
        return (self.target, self.names) == (target.kind, target.names)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build a card from its JSON; raises TypeError or KeyError where it is not one."""
        card = cls(**{**values, "names": tuple(values["names"]), "label": tuple(values["label"])})
        fields = (card.kind, card.fingerprint, *card.label)
        names_fit = all(isinstance(name, str | int) and not isinstance(name, bool) for name in card.names)
        if not (all(isinstance(field, str) for field in fields) and isinstance(card.dim, int) and names_fit):
            raise TypeError("a field of the card has the wrong type")
        if card.target not in _TARGETS or not isinstance(card.encoder, dict) or not card.names:
            raise TypeError("a field of the card has the wrong value")
        if not isinstance(card.strata, str | None):
            raise TypeError("a field of the card has the wrong type")
        return card


@dataclass(frozen=True)
class SavedHead:
    """A fitted head with all that predicting takes."""

    head: Head
    card: HeadCard
    decisions: Decisions
    steps: Steps | None = None
    profile: TrainingProfile | None = None
    """What the training rows looked like; a head of format 1 has none."""

    def outputs(self, source: RowSource, rows: Rows, device: torch.device | str = "cpu") -> Doubles:
        """The head's outputs (n, outputs) for rows of features as the store has them, before any calibration."""
        return self.head(source if self.steps is None else SteppedRows(source, self.steps), rows, device)

    def decide(self, outputs: Doubles, strata: list[str] | None = None) -> Decided:
        """Calibrated outputs, predictions, sets or intervals."""
        return self.decisions.apply(outputs, strata)


def save(folder: Path, saved: SavedHead) -> None:
    """Write a head into `folder`, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "format_version": FORMAT_VERSION,
        "card": asdict(saved.card),
        "settings": dict(saved.head.save(folder)),
        "decisions": saved.decisions.to_json(),
        "steps": None if saved.steps is None else dict(saved.steps.save(folder)),
        "profile": None if saved.profile is None else dict(saved.profile.save(folder)),
    }
    (folder / CARD).write_text(json.dumps(values, indent=1) + "\n")


def load(folder: Path) -> SavedHead:
    """Read a head; raises HeadError where a file is missing, damaged, or of an unknown kind."""
    values = read_json(folder / CARD)
    version = values.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise HeadError(f"the head has format {version}, this version reads up to {FORMAT_VERSION}; update embedcache")
    try:
        if version == 1:
            values = _upgrade(values)
        card = HeadCard.parse(values["card"])
        head: Head
        if card.kind == EnsembleModel.kind:
            head = EnsembleModel.load(folder, values["settings"], KINDS)
        elif card.kind in KINDS:
            head = KINDS[card.kind].load(folder, values["settings"])
        else:
            raise HeadError(f"{folder / CARD} names the head kind {card.kind!r}; known here: {', '.join(KINDS)}")
        steps = None if values["steps"] is None else Steps.load(folder, values["steps"])
        saved = SavedHead(
            head,
            card,
            Decisions.from_json(values["decisions"]),
            steps,
            None if values["profile"] is None else TrainingProfile.load(folder, values["profile"]),
        )
    except FileNotFoundError as error:
        raise HeadError(f"{error.filename or folder} is missing: {folder} does not hold a whole saved head") from None
    except DAMAGED as error:
        raise HeadError(f"the saved head in {folder} is damaged and was not loaded ({error})") from None
    _check_fit(folder, saved)
    return saved


def _check_fit(folder: Path, saved: SavedHead) -> None:
    head, card, steps = saved.head, saved.card, saved.steps
    widths = (head.dim, head.dim) if steps is None else (steps.dim_in, steps.dim_out)
    names = len(card.names) if card.target != "regression" else max(1, len(head.quantiles))
    decided = (saved.decisions.kind, saved.decisions.columns)
    looked = card.dim if saved.profile is None else saved.profile.dim
    fits = widths == (card.dim, head.dim) and head.outputs == names and looked == card.dim
    known = HEAD_KINDS.get(card.kind)
    able = known is None or card.target in known.targets
    if not (fits and able) or decided != (card.target, head.outputs):
        raise HeadError(f"the saved head in {folder} is damaged: its files do not fit each other")


def _upgrade(old: Mapping[str, Any]) -> dict[str, Any]:
    """What format 1 says, in the words of format 2."""
    known = {"kind", "dim", "classes", "threshold", "label", "fingerprint", "encoder", "format_version"}
    if set(old) != known or not isinstance(old["encoder"], str) or not isinstance(old["threshold"], float | None):
        raise TypeError("its fields are not those of format 1")
    return {
        "card": {
            "kind": old["kind"],
            "dim": old["dim"],
            "target": "binary" if len(old["classes"]) == 2 else "multiclass",
            "names": old["classes"],
            "label": [old["label"]],
            "fingerprint": old["fingerprint"],
            "encoder": {"name": old["encoder"]},
        },
        "settings": {"multilabel": False},
        "decisions": Decisions.fixed(old["threshold"], len(old["classes"])).to_json(),
        "steps": None,
        "profile": None,
    }
