"""A store as an xarray dataset whose values are read when they are computed with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embedcache.errors import InputError
from embedcache.exchange.embeddings import Values
from embedcache.exchange.pandas import as_frame
from embedcache.exchange.selection import select
from embedcache.storage.store import Store

if TYPE_CHECKING:
    import xarray as xr


def to_dataset(store: Store, columns: Sequence[str] | None) -> xr.Dataset:
    """See `Conversions.to_xarray`."""
    try:
        import xarray as xr
        from xarray.backends import BackendArray
        from xarray.core import indexing
    except ImportError:
        raise InputError("to_xarray needs xarray: pip install xarray") from None

    class Lazy(BackendArray):  # type: ignore[misc]
        """All rows of the array, some of which are read at a time."""

        def __init__(self) -> None:
            self.shape, self.dtype = (int(store.offsets[-1]), store.dim), store.dtype

        def __getitem__(self, key: Any) -> Any:
            return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER_1VECTOR, _read)

    def _read(key: tuple[Any, ...]) -> Values:
        rows, values = key
        part = np.asarray(store.embeddings[rows])
        return part[..., values]

    selection = select(store, columns=columns)
    frame = as_frame(selection.rows())
    along = "token" if store.per_token else "row"
    data = xr.Variable((along, "dim"), indexing.LazilyIndexedArray(Lazy()))
    blocks = np.repeat([block.name for block in store.blocks], [block.stop - block.start for block in store.blocks])
    coordinates: dict[str, Any] = {"block": ("dim", blocks)} if len(blocks) == store.dim else {}
    coordinates["id"] = ("row", frame.index.to_numpy(object))
    for name in frame.columns:
        values = frame[name]
        values = values.astype(object) if values.dtype.name == "category" or values.dtype.kind == "O" else values
        coordinates[name] = ("row", values.to_numpy())
    if store.per_token:
        coordinates["token_row"] = ("token", np.repeat(np.arange(len(store)), np.diff(store.offsets)))
    attributes = {"encoder": store.attrs["encoder"]["name"], "fingerprint": store.fingerprint}
    return xr.Dataset({"embeddings": data}, coords=coordinates, attrs=attributes)
