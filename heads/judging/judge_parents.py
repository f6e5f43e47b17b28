"""Models judged on parents: what they say of all windows of one together, against what is true of it.

Axes: n windows, P parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from heads.data.labels import MISSING
from heads.data.strata import Strata
from heads.data.target import Codes, Target
from heads.judging.aggregation import Aggregation, How
from heads.judging.judged import Judged, judge_models
from heads.judging.parents import Parents, agreed_codes, agreed_target
from heads.judging.results import Judging, Model


@dataclass(frozen=True)
class Windows:
    """The n windows that are put together."""

    target: Target
    models: Sequence[Model]
    stratum_names: list[str] | None
    """Where thresholds are by stratum."""
    groups: Codes | None
    """What the bootstrap draws, where that is something other than the parents."""
    strata: Strata | None
    """What metrics are reported by."""


def judge_parents(windows: Windows, codes: Codes, parents: Parents, how: How, judging: Judging) -> Judged:
    """Put windows together (see `heads.judging.aggregation`) and judge the parents.

    Raises HeadError where the windows of a parent do not agree on the label, or cannot be put together so.
    """
    held = np.flatnonzero(codes != MISSING)
    target = agreed_target(windows.target, codes, parents)
    models: list[Model] = []
    notes: list[str] = []
    for model in windows.models:
        aggregation = Aggregation(how, model.decisions)
        aggregation.add(codes, len(parents), model.decided, windows.stratum_names)
        found = aggregation.finish(len(parents))
        models.append(replace(model, decided=replace(found.decided, notes=())))
        notes = notes if len(models) > 1 else list(found.notes)  # those of the head
    groups = strata = None
    if windows.groups is not None:
        groups, several = agreed_codes(windows.groups, codes, len(parents))
        if several:
            notes.append(f"{several:,} parents have windows of several groups: each is a group of its own here")
    if windows.strata is not None:
        shared, several = agreed_codes(windows.strata.codes, codes, len(parents))
        strata = replace(windows.strata, codes=shared)
        if several:
            notes.append(f"{several:,} parents have windows of several strata of '{strata.column}', and are in none")
    what = f"parents by '{parents.column}', {how} of {len(held):,} windows"
    judged = judge_models(what, target, models, judging, groups=groups, strata=strata, unit="parents")
    return replace(judged, notes=(*notes, *judged.notes))
