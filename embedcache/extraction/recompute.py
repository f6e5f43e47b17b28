"""Do the rows of a store agree with what the encoder gives for their sequences now?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.counted import counted
from embedcache.encoders import load_encoder
from embedcache.encoders.encoder import Budget, Encoder
from embedcache.encoding import Encoding
from embedcache.errors import ModelError, StoreError
from embedcache.rawfeatures import recorded_name
from embedcache.records import SEQUENCE
from embedcache.sequences.passages import Passages, encode_rows, encode_tokens
from embedcache.sequences.views import Scope
from embedcache.storage.store import Store, environments, open_store, read_commits
from embedcache.storage.virtual import VirtualStore


@dataclass(frozen=True)
class Recomputation:
    """How rows that were encoded again compare with the stored ones."""

    rows: int
    identical: int
    largest_difference: float
    least_cosine: float
    allowed: float
    note: str

    @property
    def agrees(self) -> bool:
        """Whether all rows agree to what the stored type and another machine can change."""
        return self.least_cosine >= 1 - self.allowed

    def __str__(self) -> str:
        verdict = "agree" if self.agrees else "DIFFER"
        return (
            f"{counted(self.rows, 'row')} encoded again {verdict}: {self.identical:,} bit for bit, largest difference "
            f"{self.largest_difference:.2g}, least cosine {self.least_cosine:.7f}{self.note}"
        )


def recompute_rows(
    path: str | Path,
    rows: int,
    *,
    model: str | None = None,
    device: str = "auto",
    seed: int = 0,
    trust_remote_code: bool = False,
) -> Recomputation:
    """Encode `rows` random rows of a store again, from the sequences that it keeps.

    `model`, `device` and `trust_remote_code` as for `load_encoder`; the recorded encoder is taken where none is named.

    Raises
    ------
    StoreError : the store keeps no sequences, or the encoder at hand is not the one it was made with.
    """
    store = open_store(path)
    if isinstance(store, VirtualStore):
        raise StoreError(
            f"{path} holds no values of its own: encode those of its parts again, "
            + ", ".join(f"`embedcache verify {part.path} --recompute {rows}`" for part in store.parts)
        )
    if not store.attrs["keeps_sequences"]:
        raise StoreError(f"{path} keeps no sequences (--drop-sequence), so its rows cannot be encoded again")
    recorded = store.attrs["encoder"]
    if recorded.get("imported"):
        raise StoreError(f"{path} was imported: what made its rows is not here, so they cannot be encoded again")
    source = model or recorded_name(recorded)
    try:
        encoder = load_encoder(
            source, device=device, precision=recorded["precision"], random_weights=recorded["meaningless"],
            seed=recorded.get("seed", 0), trust_remote_code=trust_remote_code,
            alphabet=recorded["alphabet"] if source.startswith("hf:") else None,
        )  # fmt: skip
    except ModelError as error:
        raise StoreError(f"the encoder of {path} cannot be loaded ({error}); name it with --model") from None
    if encoder.fingerprint != recorded["fingerprint"]:
        raise StoreError(
            f"{encoder.name} is not the encoder that {path} was made with (fingerprint {encoder.fingerprint[:12]}, "
            f"recorded {recorded['fingerprint'][:12]}): name the right one with --model"
        )
    usable = np.setdiff1d(np.arange(len(store)), store.quarantined)
    chosen = np.sort(np.random.default_rng(seed).choice(usable, min(rows, len(usable)), replace=False))
    now = _encoded_again(store, encoder, chosen)
    then = [store[row] for row in chosen.tolist()]
    ours, theirs = (
        np.concatenate([np.atleast_2d(values) for values in all_]).astype(np.float64) for all_ in (now, then)
    )
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = np.where(norms > 0, (ours * theirs).sum(axis=1) / np.maximum(norms, 1e-300), 1.0)
    same = environments(read_commits(path).values()) == [encoder.environment()]
    return Recomputation(
        rows=len(chosen),
        identical=sum(np.array_equal(a, b) for a, b in zip(now, then, strict=True)),
        largest_difference=float(np.abs(ours - theirs).max(initial=0.0)),
        least_cosine=float(cosine.min(initial=1.0)),
        allowed=1e-6 if recorded["precision"] == "float32" else 1e-3,
        note="" if same else " (stored by another torch version, processor or device)",
    )


def _encoded_again(store: Store, encoder: Encoder, chosen: NDArray[np.int64]) -> Sequence[NDArray[np.generic]]:
    """What the encoder gives for records now, in the stored type: one row each, or one row a token."""
    layers, poolings = (
        [*dict.fromkeys(part)] for part in zip(*((b.layer, b.pooling) for b in store.blocks), strict=True)
    )
    encoding = Encoding(
        encoder, encoder.readout(poolings, layers), store.attrs["overlong"], store.attrs.get("one_based", False),
        Scope.from_dict(store.attrs.get("scope")),
    )  # fmt: skip
    records = store.read_rows([SEQUENCE, "length", *encoding.columns]).take(pa.array(chosen)).combine_chunks()
    letters = encoding.letters(records.column(SEQUENCE).combine_chunks())
    passages = Passages.of(encoding, letters, encoding.positions(records, letters.lengths))
    budget = Budget(encoder.batch_tokens)
    if not store.per_token:
        return list(encode_rows(encoding, passages, store.dtype, budget)[0])
    rows: list[NDArray[np.generic]] = [np.empty((0, store.dim), store.dtype)] * len(chosen)
    for places, states_LD, _ in encode_tokens(encoding, passages, store.dtype, budget):
        for place in places.tolist():
            rows[place] = states_LD
    return rows
