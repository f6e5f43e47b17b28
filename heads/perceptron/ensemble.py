"""Several heads of one shape as one: their outputs averaged.

Members may be of any kinds; of the same features and the same target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Self

import numpy as np
import torch

from heads.data.features import Rows, RowSource
from heads.data.target import Doubles
from heads.head import Head, Settings


@dataclass(frozen=True)
class EnsembleModel:
    """The mean of the members' outputs; the mean of rising quantiles rises too.

    Raises ValueError where there are no members, or they differ in shape.
    """

    members: tuple[Head, ...]

    kind: ClassVar[str] = "ensemble"

    def __post_init__(self) -> None:
        shapes = {(member.dim, member.outputs, member.quantiles) for member in self.members}
        if len(shapes) != 1:
            raise ValueError(
                "the members of an ensemble must have the same features, outputs and quantiles: "
                + (" and ".join(map(str, sorted(shapes))) or "there are none")
            )

    @property
    def dim(self) -> int:
        return self.members[0].dim

    @property
    def outputs(self) -> int:
        return self.members[0].outputs

    @property
    def quantiles(self) -> tuple[float, ...]:
        return self.members[0].quantiles

    def __call__(self, source: RowSource, rows: Rows, device: torch.device | str = "cpu") -> Doubles:
        """Return the mean outputs (n, outputs) of the given rows."""
        total_nO = np.zeros((len(rows), self.outputs))
        for member in self.members:
            total_nO += member(source, rows, device)
        return total_nO / len(self.members)

    def save(self, folder: Path) -> Settings:
        """Write each member into a folder of its own: 0, 1, ..."""
        settings = []
        for number, member in enumerate(self.members):
            own = folder / str(number)
            own.mkdir()
            settings.append({"kind": member.kind, "settings": dict(member.save(own))})
        return {"members": settings}

    @classmethod
    def load(cls, folder: Path, settings: Settings, kinds: Mapping[str, type[Head]] = MappingProxyType({})) -> Self:
        """Invert `save`; only members of the known `kinds` are loaded.

        An ensemble of ensembles is refused: a made-up file could nest them without end.
        """
        members = []
        for number, member in enumerate(settings["members"]):
            kind = str(member["kind"])
            if kind == cls.kind or kind not in kinds:
                raise ValueError(f"member {number} is of the kind {kind!r}")
            members.append(kinds[kind].load(folder / str(number), member["settings"]))
        return cls(tuple(members))
