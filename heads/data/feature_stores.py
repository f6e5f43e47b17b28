"""Where the features of a command come from: one store or several on top of each other, some of their blocks, more columns.

Nothing is copied: what is put together here reads from the stores as they lie (`embedcache.storage.virtual`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedcache.combining.concat import Stacked, concatenate
from embedcache.combining.select import blocks_named, selection
from embedcache.errors import HeadError
from embedcache.storage.positionstore import PositionStore
from embedcache.storage.store import Store

Say = Callable[[str], None]


@dataclass(frozen=True)
class Features:
    """Stores of one encoder, and what is taken of them."""

    stores: tuple[str, ...]
    """Each ``STORE``, or ``STORE:label=1,group=a`` with columns for all its rows."""
    blocks: tuple[str, ...] = ()
    """Column blocks in the order they are to have; () for all."""
    labels: Path | None = None
    """A table whose columns are joined by id."""
    per_position: tuple[str, ...] | None = None
    """Columns that hold a value for each letter, where rows are the positions of sequences; None: rows are records."""

    def __str__(self) -> str:
        return " + ".join(self.stores)

    def to_json(self) -> str | list[str]:
        """For manifests: one name, or several."""
        return self.stores[0] if len(self.stores) == 1 else list(self.stores)

    def open(self, say: Say = lambda line: None) -> Store:
        """Open them as one store; `say` is told what was put together.

        Raises
        ------
        HeadError : a store keeps a row for each token, and rows are records; or the other way round.
        InputError, StoreError : a store, a block or the table cannot be used, or stores do not go together.
        """
        return self.rows_of(self.open_records(say))

    def rows_of(self, records: Store) -> Store:
        """The rows of a store of records: the records, or their positions."""
        return records if self.per_position is None else PositionStore(records, self.per_position)

    def open_records(self, say: Say = lambda line: None) -> Store:
        """Open them as one store of records, whatever the rows are; raises as `open` does."""
        stacked = [Stacked.open(text) for text in self.stores]
        for one in stacked:
            self._check_tokens(one.store)
        store: Store = stacked[0].store
        if len(stacked) > 1 or stacked[0].attached:
            store = concatenate(stacked)
            for one in stacked:
                attached = "".join(f", {name} {value}" for name, value in one.attached.items())
                say(f"{one.store.path}: {len(one.store):,} rows{attached}")
        if self.labels is not None:
            from embedcache.combining.joincolumns import with_columns

            store, line = with_columns(store, self.labels)
            say(line)
        if self.blocks:
            chosen = blocks_named(store, self.blocks)
            say(f"blocks {', '.join(block.name for block in chosen)} of {len(store.blocks)}")
            store = selection(store, None, self.blocks)
        return store

    def _check_tokens(self, store: Store) -> None:
        if store.per_token and self.per_position is None:
            raise HeadError(
                f"{store.path} keeps every token of a sequence, and a head learns from one vector of it: extract the "
                "sequences with a pooling, such as --pool mean, or learn a label for each letter with --per-position"
            )
        if not store.per_token and self.per_position is not None:
            raise HeadError(
                f"{store.path} keeps one vector of a sequence, and --per-position learns from one of each letter: extract "
                "the sequences with --pool none"
            )


def names_of_labels(label: str | None) -> tuple[str, ...]:
    """Columns that ``--label`` may mean: the one that is called so, or several with commas between them."""
    return () if label is None else tuple(dict.fromkeys((label, *(name.strip() for name in label.split(",")))))


def with_blocks_of(store: Store, encoder: Mapping[str, Any], fingerprint: str, dim: int) -> Store | None:
    """The columns of a store that a head was trained on: all, or the blocks that are the same; None where some are missing.

    Parameters
    ----------
    encoder, fingerprint, dim : of the features of the training, as `heads.saving.saved.HeadCard` has them.
    """
    if (fingerprint, dim) == (store.fingerprint, store.dim):
        return store
    names = []
    for wanted in encoder.get("blocks", ()):
        width = wanted["stop"] - wanted["start"]
        same = [b for b in store.blocks if b.fingerprint == wanted.get("fingerprint") and b.stop - b.start == width]
        if not same:
            return None
        names.append(next((block.name for block in same if block.name == wanted["name"]), same[0].name))
    if not names or len({*names}) < len(names):
        return None
    chosen = selection(store, None, names)
    return chosen if chosen.dim == dim else None
