"""The rows of a store as a pandas table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from embedcache.records import ID

if TYPE_CHECKING:
    import pandas as pd

    from embedcache.exchange.selection import Selection


def as_frame(rows: pa.Table) -> pd.DataFrame:
    """Columns by name, the ids as the index; whole numbers and truth values with gaps keep their type (pandas' nullable
    ones), text is categorical where values repeat."""
    import pandas as pd

    nullable = {
        pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }  # fmt: skip
    columns = {}
    for name in rows.column_names:
        column = rows.column(name)
        if column.null_count and column.type in nullable:
            columns[name] = column.to_pandas(types_mapper=nullable.get)
        elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            values = column.to_pandas()
            repeats = name != ID and (column.null_count or values.nunique() <= len(values) // 2)
            columns[name] = values.astype("category") if repeats else values
        elif pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            columns[name] = pd.Series([None if v is None else str(v) for v in column.to_pylist()]).astype("category")
        else:
            columns[name] = column.to_pandas()
    frame = pd.DataFrame(columns)
    return frame.set_index(ID)


def to_frame(selection: Selection, *, embeddings: bool) -> pd.DataFrame:
    """The rows, the ids as the index, and with `embeddings` a column for each of the D values."""
    import pandas as pd

    frame = as_frame(selection.rows())
    if not embeddings:
        return frame
    values = pd.DataFrame(selection.values(), index=frame.index, columns=list(selection.feature_names))
    return pd.concat([frame, values], axis=1)
