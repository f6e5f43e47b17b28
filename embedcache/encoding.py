"""What is done to every sequence of a store, and so decides its values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.alphabet import Letters, normalise
from embedcache.encoders.encoder import Encoder, fingerprint
from embedcache.encoders.readout import Readout
from embedcache.errors import InputError
from embedcache.layout import CHUNK_ROWS, TOKEN_UNIT
from embedcache.positions import first_without, read_positions
from embedcache.records import ID, Source


@dataclass(frozen=True)
class Encoding:
    """An encoder, what is read out of it, and how sequences over its limit and columns of positions are taken."""

    encoder: Encoder
    readout: Readout
    overlong: str
    """``window``, ``truncate``, ``skip`` or ``error``."""
    one_based: bool = False
    """Whether the columns of ``at:COLUMN`` count letters from 1."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the values."""
        blocks = [[block.layer, block.pooling] for block in self.readout.blocks]
        counting = [int(self.one_based)] if self.readout.columns else []
        return fingerprint(self.encoder.fingerprint, blocks, self.overlong, *counting)

    @property
    def unit_rows(self) -> int:
        """Records that are planned, digested and committed together at least."""
        return CHUNK_ROWS if self.readout.pooled else TOKEN_UNIT

    def letters(self, sequences: pa.Array | list[str]) -> Letters:
        """Sequences as the encoder takes them."""
        return normalise(Letters.of(sequences), self.encoder.alphabet)

    def positions(self, records: pa.RecordBatch | pa.Table, lengths: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """The positions that poolings look at, by column; see `embedcache.positions`."""
        return read_positions(records, self.readout.columns, lengths, self.one_based)

    def checked_positions(
        self, source: Source, records: pa.RecordBatch, first_row: int, lengths: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """The positions of records of an input, of which `first_row` is the first.

        Raises
        ------
        InputError : the input has no such column, or a record has no position in its sequence there.
        """
        for column in self.readout.columns:
            if column not in source.columns:
                has = f"its columns are {', '.join(source.columns)}" if source.columns else "it has no columns"
                raise InputError(
                    f"{source.name} has no column '{column}' for at:{column}: {has}; join a table that has it with "
                    "--metadata"
                )
        positions = self.positions(records, lengths)
        without = first_without(positions)
        if without is None:
            return positions
        column, row = without
        value = records.column(column)[row].as_py()
        counting = "from 1" if self.one_based else "from 0, or from 1 with --one-based"
        raise InputError(
            f"'{records.column(ID)[row]}' at {source.locate([first_row + row])[0]} has "
            f"{'nothing' if value is None else repr(value)} in column '{column}': at:{column} needs the place of one of "
            f"its {lengths[row]:,} letters, counted {counting}; correct the record or leave it out"
        )

    def rows_of(self, n_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many rows sequences of so many tokens get where nothing is pooled: one for each that is no special one."""
        limit, special = self.encoder.token_limit, sum(self.encoder.special)
        if limit is not None and self.overlong in ("truncate", "skip"):
            n_tokens = np.where(n_tokens > limit, limit if self.overlong == "truncate" else special, n_tokens)
        return n_tokens - special
