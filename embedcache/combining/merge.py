"""Stores side by side: rows joined by id, the columns of each store a block of their own.

The first store decides the order of the rows and lends its sequences. A left join keeps ids that other stores lack: their
columns read as zeros there, and a block ``has_STORE`` of one column says 1 where the store has the row and 0 where not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedcache import __version__
from embedcache.combining.aggregate import aggregated_attributes, write_aggregated
from embedcache.combining.joining import Join, Side, join, write_missing
from embedcache.combining.joinkeys import Keys, columns_of, maps_of, name_stores, read_keys, refuse_tokens
from embedcache.combining.mergedrows import AGREEING, merged_rows
from embedcache.counted import counted
from embedcache.errors import StoreError
from embedcache.fingerprint import fingerprint
from embedcache.progress import Progress
from embedcache.storage.copying import materialize, write_rows
from embedcache.storage.layout import Layout
from embedcache.storage.pieces import ABSENT, Piece, Rows
from embedcache.storage.store import FORMAT, FORMAT_VERSION, KIND, Block, Store, blocks_of, open_store
from embedcache.storage.virtual import VirtualStore
from embedcache.storage.virtualfiles import PARTS, as_json, new_store, write_virtual

Say = Callable[[str], None]
COMPUTED = ("mean", "max")
ARRAY, INDEX = "embeddings", "index"
_NOT_ASKED = ("missing", "materialize", "overwrite")


@dataclass(frozen=True)
class MergeOptions:
    """What `embedcache merge` was asked for; see there."""

    names: tuple[str, ...] | None = None
    id_map: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    join: str = "inner"
    aggregate: str = "error"
    agree: tuple[str, ...] = ()
    """Columns that must agree beside the usual ones."""
    missing: Path | None = None
    materialize: bool = False
    overwrite: bool = False


def merge(paths: Sequence[Path], output: Path, options: MergeOptions, progress: Progress) -> Store:
    """Merge stores into one at `output`, and open it.

    Raises
    ------
    InputError : the names, columns or maps do not fit the stores.
    StoreError : ids do not come together, have several rows, or stores disagree; or the output cannot be written.
    """
    if len(paths) < 2:
        raise StoreError("a merge takes two stores or more")
    stores = name_stores([open_store(path) for path in paths], options.names)
    refuse_tokens(list(stores.values()), "merged")
    columns, maps = columns_of(stores, options.on), maps_of(stores, options.id_map)
    keys = {name: read_keys(store, columns[name], maps.get(name)) for name, store in stores.items()}
    for name, key in keys.items():
        _say_keys(name, stores[name], key, name in maps, progress.say)
    joined = join(stores, keys, options.join, options.aggregate)
    how = {
        name: options.aggregate
        for name in stores
        if options.aggregate != "error" and (keys[name].mapped or joined.sides[name].several)
    }
    with new_store(output, list(stores.values()), overwrite=options.overwrite) as place:
        parts = (place.parent if options.materialize else place) / PARTS
        merged = _Merge(stores, joined, how, parts).store(output, options)
        if options.materialize:
            materialize(merged, place, progress)
        else:
            write_virtual(merged, place, output)
        listed = options.missing or place / (ARRAY if options.materialize else INDEX) / "missing.tsv"
        if joined.missing:
            write_missing(listed, joined.missing)
    _say_merged(merged, joined, how, output, progress.say)
    if joined.missing:
        progress.say(f"missing  all are listed in {options.missing or output / listed.relative_to(place)}")
    return open_store(output)


def _say_keys(name: str, store: Store, keys: Keys, has_map: bool, say: Say) -> None:
    of = store.attrs["encoder"]["name"]
    say(f"store    {name}: {counted(len(store), 'row')} x {store.dim:,} {store.dtype} of {of}, {store.path}")
    if has_map and keys.unmapped:
        shown = ", ".join(keys.unmapped[:3]) + ("..." if len(keys.unmapped) > 3 else "")
        ids = counted(len(keys.unmapped), "id, which stays as it is", "ids, which stay as they are")
        say(f"         --id-map says nothing of {ids} ({shown})")
    if keys.names.null_count:
        one, several = "row has nothing to be joined by and takes", "rows have nothing to be joined by and take"
        say(f"         {counted(keys.names.null_count, one, several)} no part")


def _say_merged(merged: Store, joined: Join, how: Mapping[str, str], output: Path, say: Say) -> None:
    for name, side in joined.sides.items():
        if side.several:
            made = int((side.rows != ABSENT).sum())
            say(f"rows     {len(side.members):,} rows of {name} became {made:,}: the {how[name]} of each id")
    for one in joined.missing:
        say(f"missing  {one}")
    blocks = ", ".join(f"{block.name} {block.stop - block.start:,}" for block in merged.blocks)
    say(f"merged   {output}: {counted(len(merged), 'row')} x {merged.dim:,} {merged.dtype} ({blocks})")


class _Merge:
    """A merge in the making: its parts, and which of their columns go where."""

    def __init__(self, stores: Mapping[str, Store], joined: Join, how: Mapping[str, str], folder: Path) -> None:
        self.stores, self.joined, self.how, self.folder = stores, joined, how, folder
        self.parts: list[Store] = []
        self.pieces: list[Piece] = []
        self.blocks: list[Block] = []
        self.fingerprints: list[str] = []

    def store(self, output: Path, options: MergeOptions) -> VirtualStore:
        """The merged store, not written yet; what has to be computed is written to the folder."""
        table = merged_rows(self.stores, self.joined, (*AGREEING, *options.agree))
        for name, store in self.stores.items():
            self._add(name, store, self.joined.sides[name])
        if options.join == "left":
            self._add_presence()
        dtype = np.result_type(*(part.dtype for part in self.parts))
        first = next(iter(self.stores.values()))
        attributes = {
            "format": FORMAT,
            "embedcache_version": __version__,
            KIND: "merged",
            "fingerprint": fingerprint("merged", self.fingerprints),
            "encoder": encoder_of([store.attrs["encoder"] for store in self.stores.values()]),
            "blocks": [asdict(block) for block in self.blocks],
            "dtype": str(dtype),
            "overlong": _one_or_all(store.attrs.get("overlong") for store in self.stores.values()),
            "keeps_sequences": first.attrs.get("keeps_sequences", False),
            "input": ", ".join(str(store.path) for store in self.stores.values()),
            "asked": as_json({key: value for key, value in asdict(options).items() if key not in _NOT_ASKED and value}),
        }
        return VirtualStore(output, attributes, self.parts, self.pieces, table)

    def _add(self, name: str, store: Store, side: Side) -> None:
        index, attributes = side.rows, store.attrs | {"blocks": [asdict(block) for block in store.blocks]}
        if name in self.how:
            attributes = aggregated_attributes(store, self.how[name])
        if side.several and self.how.get(name) in COMPUTED:
            write_aggregated(store, side, self.how[name], self.folder / f"{name}.zarr", sequences=not self.parts)
            store = open_store(self.folder / f"{name}.zarr")
            there = side.rows != ABSENT
            index = np.where(there, np.cumsum(there) - 1, ABSENT)
        blocks = blocks_of(attributes) or [Block(name, 0, store.dim, fingerprint=store.fingerprint)]
        start = self._append(store, index)
        for block in blocks:
            title = name if len(blocks) == 1 else f"{name}.{block.name}"
            self.blocks.append(replace(block, name=title, start=start + block.start, stop=start + block.stop))
        self.fingerprints.append(str(attributes["fingerprint"]))

    def _add_presence(self) -> None:
        """Write, for each store after the first, whether it has a row of each id."""
        names = list(self.stores)[1:]
        there = np.stack([self.joined.sides[name].rows != ABSENT for name in names], axis=1).astype(np.float16)
        attributes = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "fingerprint": fingerprint("has", len(names)),
            "encoder": {"name": "presence", "alphabet": "", "meaningless": False},
            "blocks": [],
        }
        table = pa.table({"row": pa.array(np.arange(len(there))), "id": self.joined.ids})
        layout = Layout(len(there), len(names), "float16")
        write_rows(self.folder / "has.zarr", layout, attributes, table, lambda start, stop: there[start:stop])
        start = self._append(open_store(self.folder / "has.zarr"), np.arange(len(there)))
        for column, name in enumerate(names, start):
            self.blocks.append(Block(f"has_{name}", column, column + 1, fingerprint=fingerprint("has")))
        self.fingerprints.append("has")

    def _append(self, store: Store, index: Rows) -> int:
        """Put all columns of a store after those that are there; returns where they begin."""
        start = self.pieces[-1].right if self.pieces else 0
        first = int(index[0])
        follow = first != ABSENT and bool(np.array_equal(index, np.arange(first, first + len(index))))
        piece = Piece(
            len(self.parts), 0, len(index), start, start + store.dim,
            first_row=first if follow else 0, index=None if follow else index,
        )  # fmt: skip
        self.parts.append(store)
        self.pieces.append(piece)
        return start


def encoder_of(encoders: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of several encoders together, as a store has it of one: alphabet and limit are those of the first."""
    return {
        "name": " + ".join(dict.fromkeys(str(encoder["name"]) for encoder in encoders)),
        "alphabet": encoders[0].get("alphabet"),
        "token_limit": encoders[0].get("token_limit"),
        "precision": _one_or_all(encoder.get("precision") for encoder in encoders),
        "licence": _one_or_all(encoder.get("licence") for encoder in encoders),
        "meaningless": any(encoder.get("meaningless") for encoder in encoders),
        "parts": [dict(encoder) for encoder in encoders],
    }


def _one_or_all(values: Iterable[Any]) -> str | None:
    """What all say, or the different things they say with commas between them; None where none says anything."""
    said = [str(value) for value in dict.fromkeys(values) if value]
    return ", ".join(said) or None
