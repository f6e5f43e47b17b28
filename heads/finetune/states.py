"""Hidden states below the trained layers, computed once: a store without pooling, special tokens and windows included.

Axes: T tokens, D values.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedcache.encoders.tokenizers.tokenizer import offsets_of
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.errors import HeadError, StoreError
from embedcache.fingerprint import fingerprint
from embedcache.progress import Progress, size
from embedcache.sequences.packing import pack
from embedcache.sequences.tokens import Tokens
from embedcache.storage.commit import StoreWriter, create_store
from embedcache.storage.layout import TOKEN_UNIT, Layout
from embedcache.storage.store import FORMAT, FORMAT_VERSION, Commit, Store, open_store, read_attributes, read_commits
from heads.finetune.tokens import Selection, TokenRows

SHARD_TOKENS = 65_536
"""Tokens that are computed and committed together, about: a kill costs no more."""


@dataclass(frozen=True)
class ComputedStates:
    """States that the frozen layers compute at every step, as they do in an extraction."""

    encoder: TransformerEncoder
    layer: int

    def __call__(self, selection: Selection, tokens: Tokens) -> Tensor:
        return states_of(self.encoder, tokens, self.layer).clone()


@dataclass(frozen=True)
class StoredStates:
    """States that a store holds."""

    store: Store
    rows: TokenRows
    device: torch.device

    def __call__(self, selection: Selection, tokens: Tokens) -> Tensor:
        out_TD = np.empty((len(tokens.ids), self.store.dim), self.store.dtype)
        starts = self.rows.windows.tokens.offsets[:-1]
        embeddings = self.store.embeddings
        for window, first, stop in zip(selection.windows, tokens.offsets[:-1], tokens.offsets[1:], strict=True):
            out_TD[first:stop] = embeddings[starts[window] : starts[window] + stop - first]
        return torch.from_numpy(out_TD).to(self.device).float()


def states_of(encoder: TransformerEncoder, tokens: Tokens, layer: int) -> Tensor:
    """Hidden states (T, D) of sequences that are windows of their own."""
    for number, states_TD in enumerate(encoder.trunk.states(encoder.trunk.pack(tokens.ids, tokens.lengths))):
        if number == layer:
            return states_TD
    raise HeadError(f"{encoder.name} has no layer {layer}")


def store_states(
    path: Path, rows: TokenRows, encoder: TransformerEncoder, layer: int, dtype: str, progress: Progress
) -> Store:  # fmt: skip
    """Compute the states of a layer for all passages of rows, each once, or go on where an earlier run stopped.

    Record i of the store is passage i, special tokens included, its windows end to end.

    Raises HeadError where something else lies at `path`, StoreError where the disk is full.
    """
    layout = Layout(
        len(rows.passage_tokens),
        encoder.hidden,
        dtype,
        _shard_rows(rows.passage_tokens),
        offsets_of(rows.passage_tokens),
    )
    digest = hashlib.sha256(rows.windows.tokens.ids.tobytes() + rows.windows.tokens.offsets.tobytes()).hexdigest()[:32]
    attributes = _attributes(encoder, layer, digest)
    if path.exists():
        _check_there(path, attributes)
    else:
        create_store(path, layout, attributes)
    writer = StoreWriter(path)
    done = read_commits(path)
    todo = [shard for shard in range(layout.shards) if shard not in done]
    if todo:
        bytes_ = layout.length * layout.row_bytes
        progress.say(f"states   of layer {layer}, {layout.length:,} tokens, {size(bytes_)} in {path}, computed once")
        progress.start(sum(int(np.diff(layout.span(shard))[0]) for shard in todo))
    for shard in todo:
        _write(writer, layout, shard, rows, encoder, layer, attributes["fingerprint"], progress)
    progress.stop()
    return open_store(path)


def _write(
    writer: StoreWriter, layout: Layout, shard: int, rows: TokenRows, encoder: TransformerEncoder, layer: int, mark: str,
    progress: Progress,
) -> None:  # fmt: skip
    start, stop = layout.bounds(shard)
    values_TD = np.empty((int(layout.starts(shard)[-1]), layout.dim), layout.dtype)
    window_start, base = rows.windows.tokens.offsets, layout.span(shard)[0]
    own = np.arange(rows.first[start], rows.first[stop])
    for part in pack(rows.windows.tokens.lengths[own], encoder.batch_tokens):
        windows = own[part]
        tokens = rows.windows.tokens.take(windows)
        states_TD = states_of(encoder, tokens, layer).cpu().numpy()
        for window, first, last in zip(windows, tokens.offsets[:-1], tokens.offsets[1:], strict=True):
            at = window_start[window] - base
            values_TD[at : at + last - first] = states_TD[first:last]
        progress.advance(len(tokens.ids), len(windows))
    if not np.isfinite(values_TD).all():
        raise HeadError(f"states of layer {layer} lie beyond {layout.dtype}: take --cache-dtype float32, or --no-cache")
    numbers = range(start, stop)
    table = pa.table(
        {"row": pa.array(numbers, pa.int64()), "id": pa.array([f"passage-{number}" for number in numbers])}
    )
    with writer.locked(shard):
        writer.write_shard(values_TD, table, Commit(shard, stop - start, "", "", 0, "", 0, "", fingerprint=mark))


def _attributes(encoder: TransformerEncoder, layer: int, digest: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint(encoder.fingerprint, "states", layer, digest),
        "encoder": encoder.description(),
        "blocks": [
            {"name": f"layer{layer}.tokens", "start": 0, "stop": encoder.hidden, "layer": layer, "pooling": "none"}
        ],
        "made_for": "heads finetune --mode top",
    }


def _check_there(path: Path, attributes: dict[str, Any]) -> None:
    try:
        there = read_attributes(path)["fingerprint"]
    except StoreError:
        raise HeadError(f"{path} is in the way: the states of the lower layers go there; move it") from None
    if there != attributes["fingerprint"]:
        raise HeadError(
            f"{path} holds states of another encoder, layer or rows: begin anew with --restart, or name another --output"
        )


def _shard_rows(lengths: NDArray[np.int64]) -> int:
    """Passages of about `SHARD_TOKENS` tokens."""
    mean = max(int(lengths.mean()), 1)
    return max(TOKEN_UNIT, SHARD_TOKENS // mean // TOKEN_UNIT * TOKEN_UNIT)
