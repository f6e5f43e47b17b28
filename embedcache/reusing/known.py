"""What is known before a run: the stores whose rows it may copy, and how many of its own rows they have."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import DTypeLike, NDArray

from embedcache.counted import counted, counted_of
from embedcache.encoding import Encoding
from embedcache.errors import EmbedcacheError, InputError, StoreError
from embedcache.extraction.resume import difference
from embedcache.reusing.keys import UNKNOWN, KeyForm, Keys, KeyTable, Rows
from embedcache.sequences.views import Scope
from embedcache.storage.layout import StorePaths, read_layout
from embedcache.storage.shardvalues import ShardValues, Values
from embedcache.storage.store import KIND, Commit, blocks_of, environments, is_committed, read_attributes, read_commits

LEFT_OVER = re.compile(r".+\.(creating|removing)-\d+")
"""Names of what killed processes leave of a store."""
Say = Callable[[str], None]


class KnownStore:
    """Another store whose rows have the values that a run wants; nothing is written to it, and no lock taken.

    The committed shards of a store that is not finished count too. With `encoding`, some of its blocks are those of the run.
    """

    def __init__(self, path: Path, attributes: dict[str, Any], encoding: Encoding | None = None) -> None:
        self.path, self.layout, self._paths = path, read_layout(path), StorePaths(path)
        self._form = KeyForm.of_store(attributes)
        self._columns = None if encoding is None else columns_of(attributes, encoding)
        if encoding is not None and self._columns is not None:
            self._form = replace(self._form, looked_at=encoding.key_form.looked_at)
        fingerprint = attributes["fingerprint"]
        self.commits: dict[int, Commit] = {
            shard: commit
            for shard, commit in read_commits(path).items()
            if shard < self.layout.shards and is_committed(self.layout, commit, shard, fingerprint)
        }
        self.values = ShardValues(path, self.layout, self.commits.get)
        self.table = KeyTable.of(np.empty((0, 2), np.uint64), np.empty(0, np.int64))
        self.skipped: list[str] = []
        """What of it could not be used, one sentence each."""

    def index(self, wanted_N2: Keys) -> None:
        """Find the rows that have these keys; reads the digests shard by shard and keeps only what is wanted."""
        wanted = np.unique(wanted_N2[:, 0])
        keys: list[Keys] = [np.empty((0, 2), np.uint64)]
        rows: list[Rows] = [np.empty(0, np.int64)]
        for shard, commit in sorted(self.commits.items()):
            try:
                part = pq.read_table(self._paths.part(shard), columns=self._form.columns).slice(0, commit.rows)
                found_n2 = self._form.keys_of_part(part)
            except (OSError, pa.ArrowException, KeyError) as error:
                first = str(error).splitlines()[0] if str(error) else type(error).__name__
                self.skipped.append(f"{self._paths.part(shard)} cannot be read ({first}): its rows are not reused")
                continue
            rows_n = self.layout.bounds(shard)[0] + np.arange(len(found_n2))
            at = np.minimum(np.searchsorted(wanted, found_n2[:, 0]), len(wanted) - 1)
            take = (wanted[at] == found_n2[:, 0]) & ~np.isin(rows_n, commit.quarantined)
            keys.append(found_n2[take])
            rows.append(rows_n[take])
        self.table = KeyTable.of(np.concatenate(keys), np.concatenate(rows))

    def find(self, keys_n2: Keys) -> Rows:
        """The row of each key, `UNKNOWN` where there is none."""
        return self.table.find(keys_n2)

    def take(self, rows_n: Rows, dtype: DTypeLike) -> tuple[Values, NDArray[np.bool_]]:
        """Copy the values of rows; see `ShardValues.take`."""
        values, there = self.values.take(rows_n, dtype)
        if self._columns is not None:
            assert isinstance(values, np.ndarray)
            values = np.ascontiguousarray(values[:, self._columns])
        return values, there

    def environments(self, rows_n: Rows) -> list[dict[str, str]]:
        """What computed these rows."""
        return environments(self.commits.get(shard) for shard in np.unique(rows_n // self.layout.shard_rows).tolist())


def open_known(
    encoding: Encoding,
    dtype: str,
    reuse: Sequence[str],
    cache: Sequence[str],
    say: Say,
    *,
    output: Path | None = None,
    stand_in: bool = False,
) -> list[KnownStore]:
    """Open the stores that a run may copy rows from, those named first, then those of the folders.

    Parameters
    ----------
    dtype : the stored type that is wanted. Values of float32 can be rounded to float16, which gives what encoding gives;
        the other way is not possible.
    reuse : stores, which must fit.
    cache : folders; of the stores below them those that fit are taken.
    output : the store that is written, which is not another one.
    stand_in : the encoder only stands in for one whose weights are not here, so that it is compared by its name.

    Raises
    ------
    StoreError : a store of `reuse` cannot be read or was made otherwise.
    InputError : a folder of `cache` is none.
    """
    found: dict[Path, KnownStore] = {}
    own = None if output is None else output.resolve()
    for name in reuse:
        path = Path(name)
        attributes = read_attributes(path)
        why = _misfit(path, attributes, encoding, dtype, stand_in)
        if why is not None:
            raise StoreError(f"--reuse {name} cannot serve: {why}")
        if path.resolve() != own:
            found.setdefault(path.resolve(), KnownStore(path, attributes, encoding))
    for folder in cache:
        if not Path(folder).is_dir():
            raise InputError(f"--cache {folder} is no folder: name one that has stores in it, at any depth")
        others = 0
        before = len(found)
        for path in find_stores(Path(folder), lambda line: say(f"cache    {line}")):
            if path.resolve() == own:
                continue
            try:
                attributes = read_attributes(path)
                fits = _misfit(path, attributes, encoding, dtype, stand_in) is None
                others += not fits
                if fits and path.resolve() not in found:
                    found[path.resolve()] = KnownStore(path, attributes, encoding)
            except (EmbedcacheError, OSError) as error:
                say(f"cache    skipped: {error}")
        fitting = len(found) - before
        say(f"cache    {folder}: {counted_of(fitting, fitting + others, 'store')} of this encoding")
    return list(found.values())


def _misfit(path: Path, attributes: dict[str, Any], encoding: Encoding, dtype: str, stand_in: bool) -> str | None:
    """Why the rows of a store are not those that are wanted, None if they are."""
    if attributes.get(KIND) is not None:
        return "it holds no values of its own, name the stores that it is made of"
    if stand_in:
        if not _looks_alike(attributes, encoding):
            return "it seems to be made with another plan"
    elif attributes["fingerprint"] != encoding.fingerprint and columns_of(attributes, encoding) is None:
        own = ("fingerprint", attributes["fingerprint"], encoding.fingerprint)
        what, had, now = difference(attributes, encoding) or own
        return f"it was made with another plan ({what}: {had}, now {now})"
    stored = read_layout(path).dtype
    if stored != dtype and stored != "float32":
        return f"it stores {stored}, which has lost what {dtype} would keep"
    return None


def columns_of(attributes: dict[str, Any], encoding: Encoding) -> NDArray[np.int64] | None:
    """The columns of a store that are the blocks of an encoding, (D,); None where it lacks one, or has just these."""
    if attributes["fingerprint"] == encoding.fingerprint or not encoding.readout.pooled:
        return None
    there = {block.fingerprint: block for block in blocks_of(attributes)}
    wanted = [there.get(block.fingerprint) for block in blocks_of(encoding.attributes)]
    if any(block is None for block in wanted):
        return None
    return np.concatenate([np.arange(block.start, block.stop) for block in wanted if block is not None])


def _looks_alike(attributes: dict[str, Any], encoding: Encoding) -> bool:
    """Whether a store has the names of an encoder and of its poolings."""
    had, encoder = attributes["encoder"], encoding.encoder
    names = {had.get("name"), had.get("repo_id")} & {encoder.name, encoder.origin.repo_id} - {None}
    poolings = [block.get("pooling") for block in attributes["blocks"]]
    return (
        bool(names)
        and not had.get("meaningless")
        and had.get("precision") == encoder.precision
        and poolings == [block.pooling for block in encoding.blocks]
        and attributes.get("overlong") == encoding.overlong
        and Scope.from_dict(attributes.get("scope")) == encoding.scope
    )


def find_stores(folder: Path, say: Say) -> Iterator[Path]:
    """All stores below a folder, in the order of their names; links are followed, each store comes once.

    Folders that may not be read are said and skipped.
    """
    seen: set[Path] = set()

    def unreadable(error: OSError) -> None:
        say(f"{error.filename} cannot be read ({error.strerror}): skipped")

    for root, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        real = Path(root).resolve()
        if real in seen or LEFT_OVER.fullmatch(real.name):
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        if "zarr.json" in files:
            folders.clear()
            yield Path(root)


@dataclass(frozen=True)
class Forecast:
    """How the rows that a run has to write will be had, as far as can be said before."""

    rows: int
    """To be written."""
    encode_N: NDArray[np.bool_]
    """Which records of the input are to be encoded."""
    reused: tuple[tuple[KnownStore, int], ...]
    """To be copied from other stores."""
    kept: int
    """In the store already, in a shard that is written again."""
    identical: int
    """Those with the sequence of another row."""
    share: float
    """The part of all that the input would have to be encoded."""

    @property
    def encoded(self) -> int:
        """To be encoded."""
        return int(self.encode_N.sum())

    @property
    def known(self) -> int:
        """To be copied from other stores."""
        return sum(rows for _, rows in self.reused)

    @classmethod
    def of(
        cls,
        keys_N2: Keys,
        weights_N: NDArray[np.float32],
        known: Sequence[KnownStore],
        write_N: NDArray[np.bool_],
        there_N: NDArray[np.bool_],
    ) -> Forecast:
        """Look ahead.

        Parameters
        ----------
        keys_N2, weights_N : of all records of the input, as the plan has them.
        write_N : records whose shard is to be written.
        there_N : records whose values are in the store already.
        """
        left_N = write_N.copy()
        reused = []
        for store in known:
            at = np.flatnonzero(left_N)
            found = at[store.find(keys_N2[at]) != UNKNOWN]
            left_N[found] = False
            reused.append((store, len(found)))
        kept_N = left_N & there_N
        left_N &= ~there_N
        candidates = np.flatnonzero(left_N | there_N)
        # what is there already comes first, so that it counts as the first of its kind
        candidates = candidates[np.argsort(~there_N[candidates], kind="stable")]
        firsts = candidates[np.unique(keys_N2[candidates, 0], return_index=True)[1]]
        encode_N = np.zeros(len(left_N), bool)
        encode_N[firsts] = True
        encode_N &= left_N
        total = float(weights_N.sum(dtype=np.float64)) or 1.0
        return cls(
            rows=int(write_N.sum()),
            encode_N=encode_N,
            reused=tuple(reused),
            kept=int(kept_N.sum()),
            identical=int((left_N & ~encode_N).sum()),
            share=float(weights_N[encode_N].sum(dtype=np.float64)) / total,
        )

    def lines(self) -> Iterator[str]:
        """As people read it; nothing where all is to be encoded."""
        for store, rows in self.reused:
            if rows:
                yield f"{counted_of(rows, self.rows, 'row')} known from {store.path}"
        if self.kept:
            yield f"{counted(self.kept, 'row is', 'rows are')} in the store already"
        if self.identical:
            yield f"{counted(self.identical, 'row has', 'rows have')} the sequence of another row"
