"""Which rows stop a fit early and choose its best epoch or round: the words of ``--stop-on``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from embedcache.errors import HeadError
from heads.splitting.folds import ColumnSplit, Plan
from heads.splitting.splits import NAMES, STOP, TEST, TRAIN, VAL, part_named


@dataclass(frozen=True)
class StopOn:
    """A part of the split; whatever stops, the validation rows choose among the points of a grid."""

    part: int = VAL
    """VAL, TRAIN, or STOP."""
    value: str = NAMES[VAL]
    """Of the split column for STOP, as it was typed; else the name of the part."""

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Read what was typed, None for the validation rows; raises HeadError for the test rows."""
        if text is None:
            return cls()
        part = part_named(text)
        if part == TEST:
            raise HeadError(
                f"--stop-on {text}: test rows judge, and nothing may be chosen by them; take val, train, or another value "
                "of the split column"
            )
        return cls(part, NAMES[part]) if part in (TRAIN, VAL) else cls(STOP, text.strip())

    @property
    def column_value(self) -> str | None:
        """The value of the split column whose rows stop a fit and do nothing else; None where there are none such."""
        return self.value if self.part == STOP else None

    @property
    def words(self) -> str:
        """The rows, in a sentence."""
        return {VAL: "validation rows", TRAIN: "training rows"}.get(self.part, f"rows of the split '{self.value}'")

    def check(self, plan: Plan, split: str) -> None:
        """Raise HeadError where rows of their own are to stop, and the split, of which `plan` is made, names none."""
        if self.part == STOP and not isinstance(plan, ColumnSplit):
            raise HeadError(
                f"--stop-on {self.value} is to be a value of a split column, and --split {split} is a plan that makes its "
                "own parts: take val or train"
            )


VALIDATION = StopOn()
"""What stops a fit where nothing else is asked for."""
