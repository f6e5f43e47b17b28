"""The baselines of a run, kept beside its head: ``baselines/N/baseline.json``, and ``baselines/N/M/`` with the tensors of
its model, or of one model for each fold, whose outputs are averaged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedcache.errors import HeadError
from embedcache.storage.store import Store
from heads.baselines.baseline_models import KINDS, BaselineModel, Unfit
from heads.data.features import Rows
from heads.deciding.decisions import Decisions
from heads.deciding.rearrangement import rearrange
from heads.head import DAMAGED, read_json
from heads.json_values import array, mapping, text
from heads.judging.results import Model

FOLDER, CARD = "baselines", "baseline.json"


@dataclass(frozen=True)
class SavedBaseline:
    """A baseline of a run, with its decisions."""

    name: str
    decisions: Decisions
    members: tuple[BaselineModel, ...]
    """One, or one of each fold."""

    def judge(self, store: Store, rows: Rows, strata: list[str] | None) -> Model:
        """What it says of rows of a store, which must rise; raises `Unfit` where the store does not allow it."""
        outputs = np.mean([member.outputs(store, rows) for member in self.members], axis=0)
        outputs = rearrange(outputs) if self.decisions.quantiles else outputs
        return Model(self.name, self.decisions, self.decisions.apply(outputs, strata))


def save(run: Path, baselines: Sequence[SavedBaseline]) -> None:
    """Write the baselines of a run into its directory."""
    for number, baseline in enumerate(baselines):
        members = []
        for place, member in enumerate(baseline.members):
            folder = run / FOLDER / str(number) / str(place)
            folder.mkdir(parents=True)
            members.append({"kind": member.kind, "settings": dict(member.save(folder))})
            if not any(folder.iterdir()):
                folder.rmdir()
        values = {"name": baseline.name, "decisions": baseline.decisions.to_json(), "members": members}
        (run / FOLDER / str(number) / CARD).write_text(json.dumps(values, indent=1) + "\n")


def load(run: Path) -> tuple[SavedBaseline, ...]:
    """Read the baselines of a run, () where it kept none; raises HeadError where a file is damaged."""
    cards = sorted((run / FOLDER).glob(f"*/{CARD}"), key=lambda card: (len(card.parent.name), card.parent.name))
    return tuple(_load(card) for card in cards)


def _load(card: Path) -> SavedBaseline:
    values = read_json(card)
    try:
        fields = mapping(values, "name", "decisions", "members")
        members = []
        for place, held in enumerate(array(fields["members"])):
            member = mapping(held, "kind", "settings")
            members.append(KINDS[text(member["kind"])].load(card.parent / str(place), member["settings"]))
        return SavedBaseline(text(fields["name"]), Decisions.from_json(fields["decisions"]), tuple(members))
    except DAMAGED as error:
        raise HeadError(
            f"the baseline in {card.parent} is damaged and was not loaded ({error}); without the folder "
            f"{card.parent.parent} the head is judged alone"
        ) from None


def judged(run: Path, store: Store, rows: Rows, strata: list[str] | None) -> tuple[list[Model], list[str]]:
    """What the baselines of a run say of rows of a store, and why others say nothing."""
    models, reasons = [], []
    found = load(run)
    if not found:
        reasons.append("the run keeps no baselines to stand beside the head: train again to have them")
    for baseline in found:
        try:
            models.append(baseline.judge(store, rows, strata))
        except Unfit as reason:
            reasons.append(str(reason))
        except HeadError as reason:
            reasons.append(f"no baseline {baseline.name}: {reason}")
    return models, list(dict.fromkeys(reasons))
