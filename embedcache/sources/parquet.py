"""Parquet as named, typed columns, read some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from embedcache.sources.batches import BATCH_LETTERS, BATCH_ROWS
from embedcache.sources.files import InputFile

MAGIC = b"PAR1"


class Parquet:
    """A parquet table; columns keep their types, dictionaries are decoded.

    Raises
    ------
    InputError
        The file is not parquet, has no rows, is gzipped as a whole, or is damaged.
    """

    text = False
    header = None

    def __init__(self, file: InputFile) -> None:
        self.file = file
        _, head = file.head
        if not head.startswith(MAGIC):
            raise file.error("this is not parquet (its first bytes are not PAR1)" if head else "the file is empty")
        if file.gzipped:
            raise file.error("parquet inside gzip cannot be read in pieces; unpack it with gunzip")
        try:
            with pq.ParquetFile(file.path) as table:
                schema, self.rows = table.schema_arrow, table.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            raise file.error(f"the parquet file is cut off or damaged ({_first_line(error)})") from error
        if not self.rows:
            raise file.error("the table has no rows")
        self.names: list[str] = schema.names
        self.types = [_decoded(kind) for kind in schema.types]

    def arrays(self) -> Iterator[list[pa.Array]]:
        """Read from the start, at most 16,384 rows and about 64 MB at a time; one array for each of `names`."""
        row = 0
        try:
            with pq.ParquetFile(self.file.path, buffer_size=1 << 20, pre_buffer=False) as table:
                for group in range(table.num_row_groups):
                    size = table.metadata.row_group(group)
                    rows = BATCH_LETTERS * size.num_rows // max(1, _unpacked_bytes(size))
                    for batch in table.iter_batches(max(1, min(rows, BATCH_ROWS)), row_groups=[group]):
                        yield [
                            column.cast(kind) if column.type != kind else column
                            for column, kind in zip(batch.columns, self.types, strict=True)
                        ]
                        row += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise self.file.error(
                f"the rows after this one are damaged ({_first_line(error)})", f"row {row}"
            ) from error

    def places(self) -> Iterator[str]:
        """Say for row after row its number, counted from 1."""
        return (f"row {row}" for row in range(1, self.rows + 1))


def _unpacked_bytes(group: pq.RowGroupMetaData) -> int:
    """About what the rows of a group take in memory: lists of small numbers are packed to a quarter of that."""
    values = sum(group.column(at).num_values for at in range(group.num_columns))
    return max(int(group.total_byte_size), 8 * int(values))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _decoded(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
