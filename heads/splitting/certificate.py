"""The certificate of a split: what of the rows that choose and judge is in train as well, and what each part holds.

A row of val or test leaks where train holds its sequence, its reverse complement, a near-duplicate of its features, or
another row of its group. The same but for near-duplicates is asked of test and val, and, where rows of their own stop a fit,
these are held against all others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from embedcache.errors import HeadError
from embedcache.search.near_duplicates import Pairs, closest, nearest
from embedcache.search.standardising import standardise
from embedcache.storage.store import Store
from heads.data.features import MEMORY_BYTES, Rows, RowSource, Standardisation
from heads.data.labels import MISSING
from heads.data.target import Codes, Target
from heads.splitting.overlap import NearDuplicate, Nearest, Overlap, PartContents
from heads.splitting.splits import NAMES, STOP, TEST, TRAIN, VAL, parts_in

THRESHOLD = 0.999
"""Cosine of standardised features over which rows are near-duplicates: they differ by less than 4.5 % of their length.

Rounding the features of one sequence to float16 or bfloat16 leaves 0.9999, so that it hides no repeat. Standardised
features of unrelated rows lie near 0; plain ones may lie over 0.99, since they share a mean.
"""
MOST_NAMED = 5
"""Near-duplicates that are named, the nearest first."""
DECIMALS = 6
"""Of the cosines and moments, so that a certificate does not hang on the last bits of a machine."""
FEW_DECIMALS = 4
"""Of the cosines that every certificate has, which must not differ between machines either."""
PRODUCTS = 2e11
"""Multiplications spent on how near the training rows are: some seconds on two cores. Of more, evenly spaced rows are looked
at."""
DIGEST_BYTES = 16
COMPARED = ((VAL, TRAIN), (TEST, TRAIN), (TEST, VAL))
COMPARED_TO_STOP = ((STOP, TRAIN), (VAL, STOP), (TEST, STOP))
"""Also compared where there are rows that stop a fit."""


@dataclass(frozen=True)
class Sequences:
    """What identifies the sequence of each of n rows, as 16-byte digests: as it is, and whichever strand it is on."""

    digests: npt.NDArray[np.bytes_]
    canonical: npt.NDArray[np.bytes_]
    """Of the strand-canonical form; the same as `digests` where sequences have no reverse complement."""
    stranded: bool
    """Whether sequences have a reverse complement."""
    unknown: int = 0
    """Rows whose sequence is not known (imported ones may have none): the digest of their id stands in for it."""


def read_sequences(store: Store, rows: Rows) -> Sequences:
    """Read the digests of some rows of a store."""
    table = store.read_rows(["id", "digest", "rc_digest"]).take(rows)
    known, unknown = table["digest"], table["digest"].null_count
    if unknown:
        ids = [_digest_of_id(name) for name in table["id"].to_pylist()]
        known = pc.coalesce(known, pa.array(ids, pa.binary(DIGEST_BYTES)))
    canonical = pc.coalesce(table["rc_digest"], known)
    return Sequences(_bytes_of(known), _bytes_of(canonical), table["rc_digest"].null_count < len(table), unknown)


def _bytes_of(digests: pa.ChunkedArray) -> npt.NDArray[np.bytes_]:
    array = digests.cast(pa.binary(DIGEST_BYTES)).combine_chunks()
    data = array.buffers()[1]
    return np.frombuffer(data, f"S{DIGEST_BYTES}", len(array), array.offset * DIGEST_BYTES)


def _digest_of_id(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=DIGEST_BYTES, person=b"id").digest()


@dataclass(frozen=True)
class Certificate:
    """What was looked for in a split, and what was found."""

    split: str
    """Hash of which sequence is in which part, in the order of the rows: equal for equal splits, whatever the encoder."""
    kind: str
    names: tuple[str, ...]
    """Kind and names of the target."""
    threshold: float | None
    """Cosine over which rows are near-duplicates; None where these were not looked for."""
    stranded: bool
    """Whether reverse complements were looked for: sequences that have none need no search."""
    grouped: bool
    """Whether groups are known."""
    parts: tuple[PartContents, ...]
    overlaps: tuple[Overlap, ...]
    unchecked: int = 0
    """Rows without a sequence, which could not be looked for."""

    @property
    def leaks(self) -> tuple[str, ...]:
        """Every leak as a sentence without a full stop."""
        return tuple(leak for overlap in self.overlaps for leak in self._leaks(overlap))

    def _leaks(self, overlap: Overlap) -> Iterator[str]:
        rows = next(contents.rows for contents in self.parts if contents.part == overlap.part)
        some, other = f"of {rows:,} {overlap.part} rows", overlap.other
        if overlap.identical:
            yield f"{overlap.identical:,} {some} have a sequence that is in {other}"
        if overlap.reversed:
            yield f"{overlap.reversed:,} {some} have a sequence whose reverse complement is in {other}"
        if overlap.near:
            first = overlap.nearest[0]
            yield (
                f"{overlap.near:,} {some} have a near-duplicate in {other}, a cosine over {self.threshold:g}; the nearest "
                f"are rows {first.row} and {first.train_row} with {first.cosine:.5f}"
            )
        if overlap.groups:
            yield f"{overlap.groups:,} groups lie in {other} and {overlap.part}, with {overlap.group_rows:,} {some}"

    @property
    def nearness(self) -> tuple[str, ...]:
        """How near the training rows are to each part, each a sentence without a full stop."""
        rows = {contents.part: contents.rows for contents in self.parts}
        return tuple(
            overlap.closest.line(overlap.part, rows[overlap.part])
            for overlap in self.overlaps
            if overlap.closest is not None
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Parts with one class only, each as a sentence without a full stop."""
        found = []
        for contents in self.parts:
            if self.kind == "multilabel":
                single = [name for name, n in zip(self.names, contents.counts, strict=True) if n in (0, contents.rows)]
                if single:
                    found.append(f"{contents.part} has one class only for {', '.join(single)}")
            elif self.kind != "regression" and sum(count > 0 for count in contents.counts) < 2:
                found.append(f"{contents.part} has one class only")
        return tuple(found)

    @property
    def hash(self) -> str:
        """Of the split and of everything that was found."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        return asdict(self) | {"leaks": list(self.leaks), "warnings": list(self.warnings), "hash": self.hash}

    def lines(self) -> list[str]:
        """The certificate as it is shown on the screen."""
        rows = sum(contents.rows for contents in self.parts)
        looked_for = ["sequence"] if self.unchecked < rows else []
        looked_for += ["reverse complement"] if self.stranded else []
        looked_for += (
            [f"near-duplicate (cosine over {self.threshold:g} of standardised features)"]
            if self.threshold is not None
            else []
        )
        looked_for += ["group"] if self.grouped else []
        sought = (
            f"looked for the same {', '.join(looked_for)} in two parts" if looked_for else "nothing could be looked for"
        )
        if self.unchecked:
            some = "" if self.unchecked >= rows else f"{self.unchecked:,} rows have "
            sought += f"; {some}no sequences: not checked for identical ones"
        lines = [f"split certificate {self.hash}: {sought}"]
        lines += [f"  {contents.part:<6}{contents.rows:>10,} rows  {self._held(contents)}" for contents in self.parts]
        lines += [f"  LEAK: {leak}" for leak in self.leaks] or ["  none found"]
        lines += [f"  {line}" for line in self.nearness]
        return lines + [f"  WARNING: {warning}" for warning in self.warnings]

    def _held(self, contents: PartContents) -> str:
        if contents.mean is not None:
            return f"mean {contents.mean:.4g}, deviation {contents.deviation:.4g}"
        return ", ".join(f"{name}: {n:,}" for name, n in zip(self.names, contents.counts, strict=True))

    def require_clean(self) -> None:
        """Raise HeadError where the split leaks."""
        if self.leaks:
            raise HeadError(
                f"--strict: the split leaks: {'; '.join(self.leaks)}. Remove such rows or group them (--group), or leave "
                "--strict out"
            )


def certify(
    parts: Codes,
    target: Target,
    sequences: Sequences,
    groups: Codes | None,
    rows: Rows,
    source: RowSource | None,
    *,
    threshold: float = THRESHOLD,
    device: torch.device | str = "cpu",
    memory_bytes: int = MEMORY_BYTES,
) -> Certificate:
    """Examine a split.

    Parameters
    ----------
    parts : (n,) TRAIN, VAL, TEST or STOP, `MISSING` for rows that take no part
    target, sequences, groups : of the same n rows; a row without a group (`MISSING`) shares none
    rows : (n,) row numbers in the source
    source : the features; None leaves near-duplicates out
    threshold : cosine of features, standardised with the moments of train, over which two rows are near-duplicates

    Raises HeadError where the threshold is not between 0 and 1, or a feature is not finite.
    """
    train = np.flatnonzero(parts == TRAIN)
    held = parts_in(parts)
    compared = (*COMPARED, *COMPARED_TO_STOP) if STOP in held else COMPARED
    found = {(part, other): _repeats(sequences, parts == part, parts == other) for part, other in compared}
    near: Pairs | None = None
    scale = None if source is None or not len(train) else standardise(source, rows[train])
    if source is not None:
        repeated = np.any([repeats for (_, other), both in found.items() if other == TRAIN for repeats in both], axis=0)
        asked = np.flatnonzero(np.isin(parts, [part for part in held if part != TRAIN]) & ~repeated)
        near = nearest(
            source,
            rows[asked],
            rows[train],
            threshold,
            standardisation=scale,
            device=device,
            memory_bytes=memory_bytes,
        )
    overlaps = []
    for (part, other), (identical, reverse) in found.items():
        shared, group_rows = _shared_groups(groups, parts, part, other)
        mine = None if near is None or other != TRAIN else _take(near, np.isin(near.query, rows[parts == part]))
        known = None
        if source is not None and other == TRAIN:
            known = _nearest(source, rows[parts == part], rows[train], scale, device)
            if known is not None and mine is not None and len(mine):
                known = replace(known, highest=max(known.highest, round(float(mine.cosine.max()), FEW_DECIMALS)))
        overlaps.append(
            Overlap(
                NAMES[part],
                NAMES[other],
                int(identical.sum()),
                int(reverse.sum()),
                None if mine is None else len(mine),
                () if mine is None else _named(mine),
                known,
                shared,
                group_rows,
            )
        )
    return Certificate(
        _hash_split(parts, sequences),
        target.kind,
        tuple(str(name) for name in target.names),
        None if source is None else threshold,
        sequences.stranded,
        groups is not None,
        tuple(_contents(NAMES[part], target.take(np.flatnonzero(parts == part))) for part in held),
        tuple(overlaps),
        sequences.unknown,
    )


Flags = npt.NDArray[np.bool_]


def _nearest(
    source: RowSource, rows: Rows, train: Rows, scale: Standardisation | None, device: torch.device | str
) -> Nearest | None:
    """How near the training rows are to evenly spaced rows of a part; None where there are none."""
    if not len(rows) or not len(train):
        return None
    most = max(1, int(PRODUCTS / (len(train) * source.dim)))
    looked = rows[:: -(-len(rows) // most)]
    cosines = closest(source, looked, train, standardisation=scale, device=device)
    highest, percentile = float(cosines.max()), float(np.quantile(cosines, 0.99))
    return Nearest(len(looked), round(highest, FEW_DECIMALS), round(percentile, FEW_DECIMALS))


def _repeats(sequences: Sequences, part: Flags, other: Flags) -> tuple[Flags, Flags]:
    """Rows (n,) of a part whose sequence is in the other part, and those of which only the reverse complement is."""
    identical, canonical = np.zeros_like(part), np.zeros_like(part)
    identical[part] = np.isin(sequences.digests[part], sequences.digests[other])
    canonical[part] = np.isin(sequences.canonical[part], sequences.canonical[other])
    return identical, canonical & ~identical


def _shared_groups(groups: Codes | None, parts: Codes, part: int, other: int) -> tuple[int, int]:
    """Groups that lie in both parts, and the rows of the first in them."""
    if groups is None:
        return 0, 0
    mine = groups[(parts == part) & (groups != MISSING)]
    shared = np.intersect1d(mine, groups[parts == other])
    return len(shared), int(np.isin(mine, shared).sum())


def _take(pairs: Pairs, chosen: Flags) -> Pairs:
    return Pairs(pairs.query[chosen], pairs.against[chosen], pairs.cosine[chosen])


def _named(pairs: Pairs) -> tuple[NearDuplicate, ...]:
    order = np.argsort(-pairs.cosine, kind="stable")[:MOST_NAMED]
    return tuple(
        NearDuplicate(int(pairs.query[k]), int(pairs.against[k]), round(float(pairs.cosine[k]), DECIMALS))
        for k in order
    )


def _contents(part: str, target: Target) -> PartContents:
    values = target.values
    if target.kind == "regression":
        numbers = np.asarray(values, np.float64)
        mean, deviation = (numbers.mean(), numbers.std()) if len(numbers) else (0.0, 0.0)
        return PartContents(part, len(target), (), round(float(mean), DECIMALS), round(float(deviation), DECIMALS))
    codes = np.asarray(values, np.int64)
    counts = codes.sum(0) if target.kind == "multilabel" else np.bincount(codes, minlength=len(target.names))
    return PartContents(part, len(target), tuple(int(count) for count in counts))


def _hash_split(parts: Codes, sequences: Sequences) -> str:
    taking_part = parts != MISSING
    split = hashlib.blake2b(np.ascontiguousarray(sequences.digests[taking_part]).tobytes(), digest_size=16)
    split.update(parts[taking_part].astype(np.int8).tobytes())
    return split.hexdigest()
