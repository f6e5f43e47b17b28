"""The file of predictions: one line for each row, or, where windows are put together, one for each parent.

parquet by default; .csv, .tsv and .csv.gz, .tsv.gz by the name of the file, where conformal sets are texts with | between
the classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from embedcache.errors import HeadError
from heads.data.features import Rows
from heads.deciding.decisions import Decided
from heads.judging.aggregation import Aggregation, How
from heads.judging.parents import Parents, parent_column
from heads.running import predictions, runs
from heads.saving.saved import SavedHead

Write = Callable[[pa.Table], None]


@dataclass(frozen=True)
class ByParent:
    """How windows are put together, and the column that names their parents; None takes the usual one."""

    how: How
    column: str | None = None

    def column_in(self, columns: tuple[str, ...] | list[str], group: str | None, where: str) -> str:
        """The column of the parents; raises HeadError where there is none."""
        return parent_column(self.column, group, tuple(columns), where)


class Sink(Protocol):
    """Takes what was decided of rows, block by block, and writes it."""

    @property
    def written(self) -> str:
        """What was written, for a sentence."""
        ...

    def take(
        self,
        rows: Rows,
        names: pa.Table | pa.RecordBatch,
        parents: pa.Array | pa.ChunkedArray | None,
        decided: Decided,
        strata: list[str] | None,
    ) -> None:
        """Take n rows; `names` are the columns that say which they are (`embedcache.storage.store.Store.row_names`)."""
        ...

    def finish(self) -> tuple[str, ...]:
        """Write what is left; returns what is to be said of the decisions."""
        ...


def sink_of(head: SavedHead, aggregate: ByParent | None, column: str | None, write: Write) -> Sink:
    """What takes the predictions of a head."""
    if aggregate is None or column is None:
        return _OfRows(head, write)
    return _OfParents(head, Aggregation(aggregate.how, head.decisions), Parents(column), write)


@dataclass
class _OfRows:
    head: SavedHead
    write: Write
    rows: int = 0
    notes: tuple[str, ...] = ()

    @property
    def written(self) -> str:
        return f"{self.rows:,} predictions"

    def take(
        self,
        rows: Rows,
        names: pa.Table | pa.RecordBatch,
        parents: pa.Array | pa.ChunkedArray | None,
        decided: Decided,
        strata: list[str] | None,
    ) -> None:
        self.write(pa.table({"row": pa.array(rows), **_columns(names), **_said(self.head, decided)}))
        self.notes = self.notes if self.rows else decided.notes  # those of the first block
        self.rows += len(rows)

    def finish(self) -> tuple[str, ...]:
        return self.notes


@dataclass
class _OfParents:
    head: SavedHead
    aggregation: Aggregation
    parents: Parents
    write: Write
    rows: int = 0

    @property
    def written(self) -> str:
        return f"{len(self.parents):,} predictions ({self.aggregation.how} of {self.rows:,} rows by '{self.parents.column}')"

    def take(
        self,
        rows: Rows,
        names: pa.Table | pa.RecordBatch,
        parents: pa.Array | pa.ChunkedArray | None,
        decided: Decided,
        strata: list[str] | None,
    ) -> None:
        assert parents is not None
        codes = self.parents.codes(parents)
        self.aggregation.add(codes, len(self.parents), decided, strata)
        self.rows += int((codes >= 0).sum())

    def finish(self) -> tuple[str, ...]:
        found = self.aggregation.finish(len(self.parents))
        columns = {"id": pa.array(self.parents.names, pa.string()), "windows": pa.array(found.windows)}
        self.write(pa.table(columns | _said(self.head, found.decided)))
        return found.notes


def _columns(names: pa.Table | pa.RecordBatch) -> dict[str, pa.Array | pa.ChunkedArray]:
    return dict(zip(names.schema.names, names.columns, strict=True))


def _said(head: SavedHead, decided: Decided) -> dict[str, pa.Array]:
    return predictions.said(head.card.target, head.card.names, decided, head.head.quantiles)


@contextmanager
def prediction_file(output: Path) -> Iterator[Write]:
    """Write tables to a file that is there only once it is whole; raises HeadError where it cannot be written."""
    if output.is_dir() or not output.parent.is_dir():
        raise HeadError(f"-o {output}: name a file in a folder that exists")
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    delimiter = _delimiter(output)
    writer: pq.ParquetWriter | pyarrow.csv.CSVWriter | None = None
    try:
        with pa.output_stream(
            str(partial), compression="gzip" if delimiter and output.suffix == ".gz" else None
        ) as file:

            def write(table: pa.Table) -> None:
                nonlocal writer
                table = table if delimiter is None else _flat(table)
                if writer is None:
                    writer = _writer(file, table.schema, delimiter)
                writer.write_table(table)

            yield write
            if writer is not None:
                writer.close()
        if writer is not None:
            partial.replace(output)
    except OSError as error:
        raise HeadError(f"{output} cannot be written: {runs.reason(error)}") from None
    finally:
        partial.unlink(missing_ok=True)


def _delimiter(output: Path) -> str | None:
    """Between the fields of a text file; None for parquet."""
    return {".csv": ",", ".tsv": "\t"}.get(Path(output.name.removesuffix(".gz")).suffix.lower())


def _writer(file: pa.NativeFile, schema: pa.Schema, delimiter: str | None) -> pq.ParquetWriter | pyarrow.csv.CSVWriter:
    if delimiter is None:
        return pq.ParquetWriter(file, schema, compression="zstd")
    return pyarrow.csv.CSVWriter(file, schema, write_options=pyarrow.csv.WriteOptions(delimiter=delimiter))


def _flat(table: pa.Table) -> pa.Table:
    """Lists as texts: delimited files have no lists."""
    for place, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            table = table.set_column(place, field.name, pc.binary_join(table[field.name], "|"))
    return table
