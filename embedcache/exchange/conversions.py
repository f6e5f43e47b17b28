"""A store as the objects of other libraries, each of which is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import anndata
    import pandas as pd
    import xarray as xr

    from embedcache.exchange.dataset import StoreDataset
    from embedcache.storage.store import Store


class Conversions:
    """Methods of a store that is opened; they use only what every store offers."""

    path: Path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """A pickled store is its path: another process maps the files anew."""
        from embedcache.storage.store import open_store

        return open_store, (self.path.absolute(),)

    def to_torch(self, columns: Sequence[str] = (), *, blocks: Sequence[str] = ()) -> StoreDataset:
        """The records as a map-style dataset for ``torch.utils.data.DataLoader``, a whole batch fetched at once.

        A sample is ``{"embedding": (D,) tensor, column: value, ...}``; where every token is kept the embedding is (L, D),
        and the loader needs ``collate_fn=dataset.collate``, which pads it to (B, L, D) beside a mask (B, L). It may be used
        in any number of workers, forked or spawned.

        Parameters
        ----------
        columns : of the rows table; a number that is missing is NaN, a text "".
        blocks : names of column blocks that lie next to each other; none for all.

        Raises
        ------
        StoreError, InputError : there is no such block or column.
        """
        from embedcache.exchange.dataset import StoreDataset

        return StoreDataset(cast("Store", self), columns, blocks)

    def to_pandas(
        self, columns: Sequence[str] | None = None, *, embeddings: bool = False, blocks: Sequence[str] = ()
    ) -> pd.DataFrame:
        """The rows as a table, the ids as its index; with `embeddings` a column for each value, ``block.number``.

        Parameters
        ----------
        columns : of the rows table; None for the metadata.
        blocks : names of column blocks that lie next to each other; none for all.

        Raises
        ------
        StoreError, InputError : there is no such block or column, or the embeddings are asked of a store that keeps tokens.
        """
        from embedcache.exchange.pandas import to_frame
        from embedcache.exchange.selection import select

        return to_frame(select(cast("Store", self), blocks=blocks, columns=columns), embeddings=embeddings)

    def to_anndata(self, columns: Sequence[str] | None = None, *, blocks: Sequence[str] = ()) -> anndata.AnnData:
        """The store in memory as AnnData: X the embeddings (N, D), obs the rows, var the names ``block.number``.

        Parameters and errors are those of `to_pandas`.
        """
        from embedcache.exchange.anndata import to_anndata
        from embedcache.exchange.selection import select

        return to_anndata(select(cast("Store", self), blocks=blocks, columns=columns))

    def to_xarray(self, columns: Sequence[str] | None = None) -> xr.Dataset:
        """The store as a lazy `xarray.Dataset`: ``embeddings`` (row, dim), read when it is computed with.

        Coordinates along row are id and the columns, along dim the block of each value. Where every token is kept,
        ``embeddings`` is (token, dim) and the coordinate token_row says whose each token is.

        Parameters
        ----------
        columns : of the rows table; None for the metadata.

        Raises
        ------
        InputError : there is no such column, or xarray is not installed.
        """
        from embedcache.exchange.xarray import to_dataset

        return to_dataset(cast("Store", self), columns)
