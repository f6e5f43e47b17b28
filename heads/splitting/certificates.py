"""The split certificate of a training: of its one split, or of all its folds together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from embedcache.errors import HeadError
from embedcache.storage.store import Store
from heads.splitting.certificate import Certificate, certify, read_sequences
from heads.splitting.folds import Folds
from heads.splitting.splits import NAMES, TEST
from heads.splitting.task import Task


@dataclass(frozen=True)
class Certificates:
    """A certificate by the name of its fold, empty for one split."""

    by_fold: Mapping[str, Certificate]

    @property
    def hash(self) -> str:
        """Of the splits and of everything that was found in them."""
        hashes = [certificate.hash for certificate in self.by_fold.values()]
        return hashes[0] if len(hashes) == 1 else hashlib.blake2b("".join(hashes).encode(), digest_size=16).hexdigest()

    @property
    def leaks(self) -> tuple[str, ...]:
        """Every leak as a sentence without a full stop."""
        return tuple(
            f"{name}: {leak}" if name else leak for name, found in self.by_fold.items() for leak in found.leaks
        )

    def lines(self) -> list[str]:
        """The certificate as it is shown: what was looked for, and every leak."""
        what = next(iter(self.by_fold.values())).lines()[0].partition(": ")[2]
        folds = f", {len(self.by_fold)} folds" if len(self.by_fold) > 1 else ""
        found = [f"  LEAK: {leak}" for leak in self.leaks] or ["  none found"]
        return [f"split certificate {self.hash}{folds}: {what}", *found, *(f"  {line}" for line in self._nearness())]

    def _nearness(self) -> tuple[str, ...]:
        """How near the training rows are, of many folds those of the fold with the nearest."""
        if len(self.by_fold) == 1:
            return next(iter(self.by_fold.values())).nearness
        near = [
            (overlap.closest.highest, name, overlap.part)
            for name, found in self.by_fold.items()
            for overlap in found.overlaps
            if overlap.closest is not None and overlap.part == NAMES[TEST]
        ]
        if not near:
            return ()
        highest, name, part = max(near)
        return (f"nearest training row of a {part} row: cosine {highest:.4f} at most, in {name}",)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        if "" in self.by_fold:
            return self.by_fold[""].to_json()
        folds = {name: certificate.to_json() for name, certificate in self.by_fold.items()}
        return {"hash": self.hash, "leaks": list(self.leaks), "folds": folds}

    def require_clean(self) -> None:
        """Raise HeadError where a split leaks."""
        if self.leaks:
            raise HeadError(
                f"--strict: the split leaks: {'; '.join(self.leaks)}. Remove such rows or group them (--group), or leave "
                "--strict out"
            )


def certify_task(
    store: Store, task: Task, folds: Folds | None, near: float | None, device: torch.device, memory_bytes: int
) -> Certificates:
    """Examine the split of a task, or each of its folds; `near` is the cosine of near-duplicates, None for none."""
    sequences = read_sequences(store, task.rows)
    parts = {"": task.parts} if folds is None else {fold.name: fold.parts(len(task.rows)) for fold in folds}
    found = {}
    for name, codes in parts.items():
        options = {} if near is None else {"threshold": near}
        found[name] = certify(
            codes,
            task.target,
            sequences,
            task.groups,
            task.rows,
            None if near is None else store,
            device=device,
            memory_bytes=memory_bytes,
            **options,
        )
    return Certificates(found)
