"""Raw sequences encoded as those of a store were, window by window, by the encoder that the store says it was made with.

Axes: n records of a window, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from embedcache.alphabet import LetterCounts, Letters
from embedcache.encoders import load_encoder
from embedcache.encoders.encoder import Budget
from embedcache.encoding import Encoding
from embedcache.errors import InputError, ModelError
from embedcache.passages import Passages, encode_rows
from embedcache.plan import slices
from embedcache.records import ID, SEQUENCE, Source
from embedcache.store import Store, blocks_of
from embedcache.views import Scope

WINDOW_ROWS = 4096
"""Records that are encoded together: enough to sort them by length, and 20 MB of features at 1,280 values."""


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
    }


@dataclass(frozen=True)
class Window:
    """n records of a file with their features."""

    records: pa.RecordBatch
    """The columns id, sequence, and those of the input."""
    encoded: npt.NDArray[np.bool_]
    """(n,) which records have features: not those over the limit of the encoder under ``skip``, and none whose features
    are not finite numbers."""
    features: npt.NDArray[np.floating]
    """(k, D) of the k records that have them, in the type in which those of the store are."""

    def only(self, encoded: npt.NDArray[np.bool_]) -> Window:
        """The features of the given records (n,) alone, all of which have some."""
        return Window(self.records, encoded, self.features[encoded[self.encoded]])


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
            scope = Scope.from_dict(record.get("scope"))
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
        encoding = Encoding(encoder, readout, overlong, bool(record.get("one_based", False)), scope)
        if encoding.fingerprint != fingerprint and not _same_blocks(encoding, record["blocks"]):
            raise ModelError(
                f"{encoder.name} makes features with the fingerprint {encoding.fingerprint[:12]}, those of {whose} have "
                f"{fingerprint[:12]} of {record.get('name')}: name the encoder that made them with --model"
            )
        return cls(encoding, dtype)

    def windows(self, source: Source, rows: int = WINDOW_ROWS, *, any_alphabet: bool = False) -> Iterator[Window]:
        """Read an input and encode it, `rows` records at a time, in its order.

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
            yield self.window(source, records, first)
            first += len(records)

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
        rows, _ = encode_rows(encoding, passages, self.dtype, Budget(encoder.batch_tokens))
        features = rows.astype(self.dtype, copy=False)
        encoded = np.asarray(np.isfinite(features).all(axis=1))
        return Window(records, encoded, features if encoded.all() else features[encoded])


def recorded_name(record: Mapping[str, Any]) -> str:
    """The name by which `load_encoder` finds the encoder of a store again."""
    if record.get("revision"):
        return f"{record['repo_id']}@{record['revision']}"
    return str(record.get("directory") or record["name"])


def _same_blocks(encoding: Encoding, recorded: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an encoding makes the blocks that were recorded, in their order: some of those of a larger store."""
    made = blocks_of(
        {
            "fingerprint": encoding.fingerprint,
            "encoder": {"fingerprint": encoding.encoder.fingerprint},
            "blocks": [asdict(block) for block in encoding.blocks],
            "overlong": encoding.overlong,
            "one_based": encoding.one_based,
            "scope": encoding.scope.to_dict(),
        }
    )
    return [block.fingerprint for block in made] == [block.get("fingerprint") for block in recorded]
