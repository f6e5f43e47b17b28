"""Raw sequences encoded as those of a store were, window by window, by the encoder that the store says it was made with.

Axes: n records of a window, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from embedcache.encoders import load_encoder
from embedcache.encoders.encoder import Budget
from embedcache.encoding import Encoding
from embedcache.errors import InputError, ModelError
from embedcache.extraction.plan import slices
from embedcache.records import ID, SEQUENCE, Source
from embedcache.sequences.alphabet import LetterCounts, Letters
from embedcache.sequences.passages import Passages, encode_rows, encode_tokens
from embedcache.sequences.views import Scope
from embedcache.storage.covering import Covering
from embedcache.storage.positionstore import PositionStore, named, windows_around
from embedcache.storage.store import Store, blocks_of

WINDOW_ROWS = 4096
"""Records that are encoded together: enough to sort them by length, and 20 MB of features at 1,280 values."""
WINDOW_LETTERS = 65_536
"""Letters of the records that are encoded together where each has features: 170 MB at 1,280 values."""


def encoder_record(store: Store) -> dict[str, Any]:
    """Return all that it takes to encode other sequences as those of a store were, as JSON has it."""
    attributes = store.attrs
    return {
        **attributes["encoder"],
        "blocks": [asdict(block) for block in store.blocks],
        "overlong": attributes.get("overlong"),
        "one_based": attributes.get("one_based", False),
        "scope": attributes.get("scope"),
        "dtype": str(store.dtype),
        **({"positions": True} if isinstance(store, PositionStore) else {}),
    }


@dataclass(frozen=True)
class Window:
    """n records of a file, or the n positions of some records, with their features."""

    records: pa.RecordBatch
    """The columns id, sequence, and those of the input; those of positions are as `PositionStore` has them."""
    encoded: npt.NDArray[np.bool_]
    """(n,) which of them have features: not those over the limit of the encoder under ``skip``, and none whose features
    are not finite numbers."""
    features: npt.NDArray[np.floating]
    """(k, D) of the k that have them, in the type in which those of the store are."""
    inputs: pa.RecordBatch
    """The records of the input: `records`, or those whose positions they are."""
    row_names: tuple[str, ...] = Store.row_names
    """Columns that say which they are."""

    def only(self, encoded: npt.NDArray[np.bool_]) -> Window:
        """The features of the given rows (n,) alone, all of which have some."""
        return replace(self, encoded=encoded, features=self.features[encoded[self.encoded]])


@dataclass(frozen=True)
class RawFeatures:
    """An encoder that makes such features as a store has."""

    encoding: Encoding
    dtype: np.dtype[np.floating]

    @classmethod
    def load(
        cls,
        record: Mapping[str, Any],
        fingerprint: str,
        *,
        whose: str = "the store",
        instead: str = "extract the sequences with `embedcache extract`, and give that store",
        model: str | None = None,
        center: str | None = None,
        device: str = "auto",
        trust_remote_code: bool = False,
        progress: bool = True,
    ) -> RawFeatures:
        """Load the encoder of a store.

        Parameters
        ----------
        record : as `encoder_record` made it of the store.
        fingerprint : of the store.
        whose : what the features belong to, for messages.
        instead : the way out where no encoder can make them.
        model : a name or a folder, where the encoder is not to be found under its recorded name.
        center : the column that has the centre of views, from 0, where it is another than that of the store.

        Raises
        ------
        ModelError : the features were imported, the record does not say enough, the encoder cannot be loaded, or is another
            one.
        """
        if record.get("imported"):
            raise ModelError(
                f"the features of {whose} were imported, so that no encoder here makes such ones: {instead}"
            )
        if record.get("parts"):
            raise ModelError(
                f"the features of {whose} are merged of those of {record.get('name')}, and one encoder alone does not make "
                f"them: {instead.replace('that store', 'the merged store')}"
            )
        try:
            name = model or recorded_name(record)
            poolings, layers = zip(*((block["pooling"], block["layer"]) for block in record["blocks"]), strict=True)
            overlong, dtype = str(record["overlong"]), np.dtype(record["dtype"])
            scope, one_based = Scope.from_dict(record.get("scope")), bool(record.get("one_based", False))
            options = {
                "precision": record["precision"],
                "random_weights": record["meaningless"],
                "seed": record.get("seed", 0),
                "alphabet": record["alphabet"] if name.startswith("hf:") else None,
            }
        except (KeyError, TypeError, ValueError, InputError):
            raise ModelError(f"{whose} does not say how its features were made: {instead}") from None
        try:
            encoder = load_encoder(
                name, device=device, trust_remote_code=trust_remote_code, progress=progress, **options
            )
        except ModelError as error:
            raise ModelError(f"the encoder of {whose} cannot be loaded ({error}); name it with --model") from None
        readout = encoder.readout([*dict.fromkeys(poolings)], [*dict.fromkeys(layers)])
        if center is not None:
            if one_based and readout.columns:
                raise ModelError(
                    f"the features of {whose} are those of letters that a column counts from 1, and letters around a site "
                    f"of a genome count from 0: {instead}"
                )
            scope, one_based = replace(scope, center=center), False
        encoding = Encoding(encoder, readout, overlong, one_based, scope)
        if encoding.fingerprint != fingerprint and not _same_blocks(encoding, record["blocks"]):
            raise ModelError(
                f"{encoder.name} makes features with the fingerprint {encoding.fingerprint[:12]}, those of {whose} have "
                f"{fingerprint[:12]} of {record.get('name')}: name the encoder that made them with --model"
            )
        return cls(encoding, dtype)

    def windows(self, source: Source, rows: int = WINDOW_ROWS, *, any_alphabet: bool = False) -> Iterator[Window]:
        """Read an input and encode it, `rows` records at a time, in its order; of tokens that are kept those of each letter.

        Raises
        ------
        InputError : the input cannot be read, or looks like another alphabet, unless `any_alphabet` is given, or a sequence
            is over the limit of an encoder that takes none (``--overlong error``).
        """
        counts, first = LetterCounts.none(), 0
        for records in slices(source, rows):
            if not any_alphabet:
                counts.add(Letters.of(records.column(SEQUENCE)))
                counts.check(self.encoding.encoder.alphabet, self.encoding.encoder.name)
            for part in [records] if self.encoding.readout.pooled else _of_letters(records):
                yield self.window(source, part, first)
                first += len(part)

    def window(self, source: Source, records: pa.RecordBatch, first_row: int) -> Window:
        """Encode records of a source, of which the first is its record `first_row`; raises as `windows` does."""
        encoding, encoder = self.encoding, self.encoding.encoder
        letters = encoding.letters(records.column(SEQUENCE))
        positions = encoding.checked_positions(source, records, first_row, letters.lengths)
        passages = Passages.of(encoding, letters, positions)
        if encoding.overlong == "error" and encoder.token_limit is not None:
            over = passages.longest > encoder.token_limit
            if over.any():
                row = int(over.argmax())
                raise InputError(
                    f"'{records.column(ID)[row]}' at {source.locate([first_row + row])[0]} has {passages.longest[row]:,} "
                    f"{encoder.unit}, {encoder.name} takes {encoder.token_limit:,}: cut it, or leave it out"
                )
        if not encoding.readout.pooled:
            return self._positions(records, letters, passages)
        rows, _ = encode_rows(encoding, passages, self.dtype, Budget(encoder.batch_tokens))
        features = rows.astype(self.dtype, copy=False)
        encoded = np.asarray(np.isfinite(features).all(axis=1))
        return Window(records, encoded, features if encoded.all() else features[encoded], records)

    def _positions(self, records: pa.RecordBatch, letters: Letters, passages: Passages) -> Window:
        """The positions of some records, each with the embedding of the tokens that cover it."""
        encoding, encoder = self.encoding, self.encoding.encoder
        states: list[npt.NDArray[np.generic]] = [np.empty((0, encoding.dim), self.dtype)] * len(records)
        for places, states_LD, _ in encode_tokens(encoding, passages, self.dtype, Budget(encoder.batch_tokens)):
            for place in places.tolist():
                states[place] = states_LD
        kept = np.asarray([len(states_LD) for states_LD in states], np.int64)
        covering = Covering.of(encoding, letters, passages.n_tokens, kept)
        features = covering.rows(np.concatenate(states)).read(0, len(covering.first)).astype(self.dtype, copy=False)
        records_n = np.repeat(np.arange(len(records)), letters.lengths)
        positions_n = np.arange(len(records_n)) - np.repeat(letters.offsets[:-1], letters.lengths)
        columns = {name: records.column(name).take(pa.array(records_n)) for name in records.schema.names
                   if name not in (ID, SEQUENCE)}  # fmt: skip
        columns |= named(pa.chunked_array([records.column(ID)]), records_n, positions_n, PositionStore.row_names)
        columns[SEQUENCE] = windows_around(
            Letters.of(records.column(SEQUENCE)), records_n, positions_n, encoder.alphabet
        )
        encoded = np.asarray(np.isfinite(features).all(axis=1))
        made = pa.table(columns).combine_chunks().to_batches()[0]
        return Window(made, encoded, features if encoded.all() else features[encoded], records, PositionStore.row_names)


def _of_letters(records: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Records in parts of about `WINDOW_LETTERS`."""
    parts = np.cumsum(np.asarray(pc.binary_length(records.column(SEQUENCE)), np.int64)) // WINDOW_LETTERS
    for first, stop in pairwise([0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(records)]):
        yield records.slice(first, stop - first)


def recorded_name(record: Mapping[str, Any]) -> str:
    """The name by which `load_encoder` finds the encoder of a store again."""
    if record.get("revision"):
        return f"{record['repo_id']}@{record['revision']}"
    return str(record.get("directory") or record["name"])


def _same_blocks(encoding: Encoding, recorded: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an encoding makes the blocks that were recorded, in their order: some of those of a larger store."""
    made = blocks_of(encoding.attributes)
    return [block.fingerprint for block in made] == [block.get("fingerprint") for block in recorded]
