"""What is done to every sequence of a store, and so decides its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.errors import InputError
from embedcache.fingerprint import fingerprint
from embedcache.records import ID, Source
from embedcache.reusing.keys import KeyForm
from embedcache.sequences.alphabet import Letters, normalise
from embedcache.sequences.positions import first_without, read_positions
from embedcache.sequences.views import WHOLE, Scope, Stretches
from embedcache.storage.layout import CHUNK_ROWS, TOKEN_UNIT

if TYPE_CHECKING:
    from embedcache.encoders.encoder import Encoder
    from embedcache.encoders.readout import Readout, ReadoutBlock


@dataclass(frozen=True)
class Encoding:
    """An encoder, what is read out of it, what of a record goes in, and how what is over its limit is taken."""

    encoder: Encoder
    readout: Readout
    """Of one passage of letters; a record has one for each view of it."""
    overlong: str
    """``window``, ``truncate``, ``skip`` or ``error``."""
    one_based: bool = False
    """Whether columns of positions count letters from 1."""
    scope: Scope = WHOLE
    """What of a record is encoded."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides the values, but for the letters and the positions in them."""
        blocks = [[block.layer, block.pooling] for block in self.readout.blocks]
        counting = [int(self.one_based)] if self.readout.columns else []
        scope = {name: value for name, value in self.scope.to_dict().items() if name != "center"}
        return fingerprint(self.encoder.fingerprint, blocks, self.overlong, *counting, *filter(None, [scope]))

    @property
    def blocks(self) -> tuple[ReadoutBlock, ...]:
        """The column blocks of a row: the readout's for each view, called after it."""
        own, width = self.readout.blocks, self.readout.dim
        return own if not self.scope.views else tuple(
            replace(
                block, name=view.name if len(own) == 1 else f"{view.name}.{block.name}", view=view.name,
                start=block.start + number * width, stop=block.stop + number * width,
            )
            for number, view in enumerate(self.scope.views) for block in own
        )  # fmt: skip

    @property
    def attributes(self) -> dict[str, Any]:
        """What decides the values, as the attributes of a store have it."""
        return {
            "fingerprint": self.fingerprint,
            "encoder": {"fingerprint": self.encoder.fingerprint},
            "blocks": [asdict(block) for block in self.blocks],
            "overlong": self.overlong,
            "one_based": self.one_based,
            "scope": self.scope.to_dict(),
        }

    @property
    def dim(self) -> int:
        """Values of a row, D."""
        return self.blocks[-1].stop

    @property
    def columns(self) -> tuple[str, ...]:
        """The input's columns that positions are read from."""
        center = (self.scope.center,) if self.scope.center is not None else ()
        return tuple(dict.fromkeys((*self.readout.columns, *center)))

    @property
    def key_form(self) -> KeyForm:
        """What the values of a record are known by."""
        return KeyForm.of((block.pooling for block in self.readout.blocks), self.scope, self.one_based)

    @property
    def unit_rows(self) -> int:
        """Records that are planned, digested and committed together at least."""
        return CHUNK_ROWS if self.readout.pooled else TOKEN_UNIT

    def letters(self, sequences: pa.Array | list[str] | Letters) -> Letters:
        """Sequences as the encoder takes them."""
        letters = sequences if isinstance(sequences, Letters) else Letters.of(sequences)
        return normalise(letters, self.encoder.alphabet)

    def positions(self, records: pa.RecordBatch | pa.Table, lengths: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """The places that poolings look at, and the centre of views, by column; see `embedcache.sequences.positions`.

        A centre may be the place after the last letter, where views look upstream.
        """
        found = read_positions(records, self.readout.columns, lengths, self.one_based)
        center = tuple(column for column in self.columns if column not in found)
        return found | read_positions(records, center, lengths + 1, self.one_based)

    def centers(self, positions: Mapping[str, NDArray[np.int64]], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The centre of the views of records of so many letters, (n,)."""
        return lengths // 2 if self.scope.center is None else positions[self.scope.center]

    def stretches(self, letters: Letters, positions: Mapping[str, NDArray[np.int64]]) -> Stretches:
        """The distinct stretches of letters that records are encoded as; `positions` as above."""
        looked_at = {column: positions[column] for column in self.readout.columns}
        centers = self.centers(positions, letters.lengths)
        return self.scope.stretches(letters, centers, looked_at, self.encoder.alphabet)

    def checked_positions(
        self, source: Source, records: pa.RecordBatch, first_row: int, lengths: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """The positions of records of an input, of which `first_row` is the first.

        Raises
        ------
        InputError : the input has no such column, a record has no position in its sequence there, a view of a record has no
            letters, or not the one that is looked at.
        """
        for column in self.columns:
            if column not in source.columns:
                has = f"its columns are {', '.join(source.columns)}" if source.columns else "it has no columns"
                raise InputError(
                    f"{source.name} has no column '{column}' for {self._use_of(column)}: {has}; join a table that has it "
                    "with --metadata"
                )
        positions = self.positions(records, lengths)
        without = first_without(positions)
        if without is not None:
            column, row = without
            raise self._no_position(source, records, first_row, row, column, int(lengths[row]))
        looked_at = {column: positions[column] for column in self.readout.columns}
        outside = self.scope.without(lengths, self.centers(positions, lengths), looked_at)
        if outside is not None:
            row, view, missed = outside
            why = "has no letters" if missed is None else f"has not the letter that at:{missed} looks at"
            raise InputError(
                f"the view {view.name} of '{records.column(ID)[row]}' at {source.locate([first_row + row])[0]} {why}: "
                "take another --side, or leave the record out"
            )
        return positions

    def _use_of(self, column: str) -> str:
        return f"at:{column}" if column in self.readout.columns else "the centre of --context"

    def _no_position(
        self, source: Source, records: pa.RecordBatch, first_row: int, row: int, column: str, letters: int
    ) -> InputError:
        value = records.column(column)[row].as_py()
        counting = "from 1" if self.one_based else "from 0, or from 1 with --one-based"
        return InputError(
            f"'{records.column(ID)[row]}' at {source.locate([first_row + row])[0]} has "
            f"{'nothing' if value is None else repr(value)} in column '{column}': {self._use_of(column)} needs the place of "
            f"one of its {letters:,} letters, counted {counting}; correct the record or leave it out"
        )

    def rows_of(self, n_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many rows sequences of so many tokens get where nothing is pooled: one for each that is no special one."""
        limit, special = self.encoder.token_limit, sum(self.encoder.special)
        if limit is not None and self.overlong in ("truncate", "skip"):
            n_tokens = np.where(n_tokens > limit, limit if self.overlong == "truncate" else special, n_tokens)
        return np.maximum(n_tokens - special, 0)  # records that are left out have no tokens at all
