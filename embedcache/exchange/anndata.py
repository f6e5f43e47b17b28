"""A store as an AnnData object in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedcache.exchange.pandas import as_frame

if TYPE_CHECKING:
    import anndata

    from embedcache.exchange.selection import Selection


def to_anndata(selection: Selection) -> anndata.AnnData:
    """X the vectors (N, D), obs the columns, var the names of the values."""
    import pandas as pd
    from anndata import AnnData

    var = pd.DataFrame(index=pd.Index(selection.feature_names))
    return AnnData(selection.values(), obs=as_frame(selection.rows()), var=var)
