"""From the letters of records to their rows: the one way for extraction, verification and heads that meet raw sequences.

What is encoded of a record are its passages: one for each view of it and each strand that is taken (see
`embedcache.sequences.views`), for whole sequences the one that it is. Passages of equal letters are encoded once.

Axes: n records, V views, S strands, P distinct passages, D values of a passage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import DTypeLike, NDArray

from embedcache.encoding import Encoding
from embedcache.sequences.alphabet import Letters
from embedcache.sequences.packing import truncate
from embedcache.sequences.tokens import Tokens

if TYPE_CHECKING:
    from embedcache.encoders.encoder import Budget

Done = Callable[[int, int], None]
"""Called after each batch with the tokens and the passages it had."""


@dataclass(frozen=True)
class Passages:
    """What n records are encoded as."""

    tokens: Tokens
    """Of P distinct passages, as they go to the encoder."""
    of_nVS: NDArray[np.int64]
    """The passage of each view and strand of each record; -1 where the record is left out."""
    lengths_nVS: NDArray[np.int64]
    """Tokens of each passage of each record before any is cut off; 0 for records that ``drop`` leaves out."""
    left_out: NDArray[np.bool_]
    """(n,) records without a row: those over the limit under ``skip``, and those that a view reaches over under ``drop``."""

    @property
    def n_tokens(self) -> NDArray[np.int64]:
        """(n,) tokens of all passages of each record."""
        tokens: NDArray[np.int64] = self.lengths_nVS.sum(axis=(1, 2))
        return tokens

    @property
    def longest(self) -> NDArray[np.int64]:
        """(n,) tokens of the longest passage of each record."""
        tokens: NDArray[np.int64] = self.lengths_nVS.max(axis=(1, 2))
        return tokens

    @classmethod
    def of(cls, encoding: Encoding, letters: Letters, positions: Mapping[str, NDArray[np.int64]]) -> Passages:
        """Cut, tokenize and limit what is encoded of records.

        Parameters
        ----------
        letters : of n records, as `Encoding.letters` gives them.
        positions : as `Encoding.positions` gives them.
        """
        encoder, limit = encoding.encoder, encoding.encoder.token_limit
        found = encoding.stretches(letters, positions)
        tokens = encoder.with_focus(encoder.tokenize(found.letters), found.letters, encoding.readout, found.positions)
        of_nVS = found.of_nVS
        lengths_nVS = np.append(tokens.lengths, 0)[of_nVS]
        if encoding.overlong == "skip" and limit is not None and (tokens.lengths > limit).any():
            kept = tokens.lengths <= limit
            of_nVS = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)[of_nVS]
            tokens = tokens.take(np.flatnonzero(kept))
        elif encoding.overlong == "truncate":
            tokens = truncate(tokens, limit, encoder.special)
        return cls(tokens, of_nVS, lengths_nVS, np.asarray((of_nVS < 0).any(axis=(1, 2))))

    def take(self, records: NDArray[np.int64]) -> Passages:
        """What these of the n records are encoded as; `records` in increasing order."""
        if len(records) == len(self.of_nVS):
            return self
        of_nVS = self.of_nVS[records]
        used = np.unique(of_nVS[of_nVS >= 0])
        number = np.full(len(self.tokens) + 1, -1, np.int64)
        number[used] = np.arange(len(used))
        return Passages(self.tokens.take(used), number[of_nVS], self.lengths_nVS[records], self.left_out[records])


def encode_rows(
    encoding: Encoding, passages: Passages, dtype: DTypeLike, budget: Budget, done: Done | None = None
) -> tuple[NDArray[np.generic], dict[int, str]]:
    """Encode records into one row each.

    Returns
    -------
    (n, V * D) of `dtype`, NaN for records that are left out; and what is wrong with the row of which record, where it has
    values that are not finite or do not fit the type.
    """
    readout, tokens, of_nVS = encoding.readout, passages.tokens, passages.of_nVS
    n, views, strands = of_nVS.shape
    kept = np.empty((len(tokens) + 1, readout.dim), dtype if strands == 1 else np.float32)
    kept[-1] = np.nan  # of records that are left out
    faults: dict[int, str] = {}
    for places, vectors in encoding.encoder.vectors(tokens, readout, budget, done):
        with np.errstate(over="ignore"):
            kept[places] = vectors
        finite = np.isfinite(kept[places]).all(axis=1)
        for place, vector in zip(places[~finite].tolist(), vectors[~finite], strict=True):
            faults[place] = _fault(encoding, tokens, place, vector, kept.dtype)
    if views == strands == 1 and np.array_equal(of_nVS.ravel(), np.arange(len(tokens))):
        return kept[:-1], faults
    rows = np.empty((n, views, readout.dim), dtype)
    for view in range(views):
        with np.errstate(over="ignore"):
            rows[:, view] = kept[of_nVS[:, view, 0]] if strands == 1 else _mean(kept, of_nVS[:, view])
    rows_nD = rows.reshape(n, views * readout.dim)
    return rows_nD, _faults_of_rows(rows_nD, passages, faults)


def _mean(vectors_PD: NDArray[np.float32], of_n2: NDArray[np.int64]) -> NDArray[np.float32]:
    """The mean of the vectors of both strands, in float32; the order of the strands does not matter to any bit."""
    mean: NDArray[np.float32] = (vectors_PD[of_n2[:, 0]] + vectors_PD[of_n2[:, 1]]) * np.float32(0.5)
    return mean


def _faults_of_rows(rows_nD: NDArray[np.generic], passages: Passages, faults: dict[int, str]) -> dict[int, str]:
    """What is wrong with records, from what is wrong with passages."""
    bad = ~np.isfinite(rows_nD).all(axis=1) & ~passages.left_out
    of_record = {row: passages.of_nVS[row].ravel().tolist() for row in np.flatnonzero(bad).tolist()}
    beyond = f"beyond {rows_nD.dtype}"
    return {row: next((faults[p] for p in own if p in faults), beyond) for row, own in of_record.items()}


def encode_tokens(
    encoding: Encoding, passages: Passages, dtype: DTypeLike, budget: Budget, done: Done | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.generic], str | None]]:
    """Encode records whose tokens are all kept, passage by passage.

    Yields
    ------
    The records (k,) that have the passage; its tokens' states (tokens, D) of `dtype`; and what is wrong with these, if any
    is not finite or does not fit the type.
    """
    tokens, passage_of_n = passages.tokens, passages.of_nVS[:, 0, 0]
    order = np.argsort(passage_of_n, kind="stable")
    borders = np.searchsorted(passage_of_n[order], np.arange(len(tokens) + 1))
    for places, states in encoding.encoder.token_vectors(tokens, encoding.readout, budget, done):
        for place, states_LD in zip(places.tolist(), states, strict=True):
            with np.errstate(over="ignore"):
                kept_LD = states_LD.astype(dtype)
            fault = None
            if not np.isfinite(kept_LD).all():
                fault = _fault(encoding, tokens, place, states_LD, kept_LD.dtype)
            yield order[borders[place] : borders[place + 1]], kept_LD, fault


def _fault(
    encoding: Encoding, tokens: Tokens, passage: int, values: NDArray[np.float32], dtype: np.dtype[np.generic]
) -> str:
    """What is wrong with values that cannot be kept."""
    for pooling, ranges_n2 in tokens.focus.items():
        if ranges_n2[passage, 0] == ranges_n2[passage, 1]:
            fate = "are cut off" if encoding.overlong == "truncate" else "have no token"
            return f"empty, the letters that {pooling} looks at {fate}"
    return "NaN or infinite" if not np.isfinite(values).all() else f"beyond {dtype}"
