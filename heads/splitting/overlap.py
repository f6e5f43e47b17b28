"""What of one part of a split is in another part as well: the counts that a certificate holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PartContents:
    """How many rows a part has, and of what."""

    part: str
    rows: int
    counts: tuple[int, ...] = ()
    """Rows of each class, or positive rows of each label."""
    mean: float | None = None
    """Of a measured quantity, and its `deviation` (ddof 0)."""
    deviation: float | None = None


@dataclass(frozen=True)
class NearDuplicate:
    """A row of the store, the training row nearest to it, and their cosine."""

    row: int
    train_row: int
    cosine: float


@dataclass(frozen=True)
class Nearest:
    """How near the nearest training row is to rows of a part: cosines of standardised features."""

    rows: int
    """Rows that were looked at, evenly spaced."""
    highest: float
    """Of all rows of the part, where one of them is a near-duplicate."""
    percentile: float
    """The 99th: so near is the nearest training row of one row in a hundred."""

    def line(self, part: str, of: int) -> str:
        """In words; `of` are the rows of the part."""
        looked = f"{of:,}" if self.rows == of else f"{self.rows:,} of {of:,}"
        return (
            f"nearest training row of {looked} {part} rows: cosine {self.highest:.4f} at most, for 99 % of them "
            f"{self.percentile:.4f} or less"
        )


@dataclass(frozen=True)
class Overlap:
    """What of a part is in another part as well; a row counts once, as identical, reversed or near, the first that it is."""

    part: str
    other: str
    identical: int
    """Rows whose very sequence is there."""
    reversed: int
    """Rows whose reverse complement is there."""
    near: int | None
    """Rows with a near-duplicate there; None where that was not looked for."""
    nearest: tuple[NearDuplicate, ...]
    """The nearest of the near-duplicates."""
    closest: Nearest | None
    """How near the other part's rows are where none is a near-duplicate too; None where that was not looked for."""
    groups: int
    """Groups that lie in both parts."""
    group_rows: int
    """Rows of the part in these groups."""
