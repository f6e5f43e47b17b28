"""Fine-tuning the last two of 24 layers from cached states, beside running the whole encoder with its lower layers frozen.

The Nucleotide Transformer 500m at its real size with random weights in float32, reads of 100 to 1,024 letters, one epoch of
batches of 16 with AdamW. The peer is transformers' `EsmModel` with its lower 22 layers frozen and in eval mode, on batches
sorted by length and padded. Beside it stands our own trunk whose lower layers are computed at every step (``--no-cache``).

    python -m benchmarks.finetune [--quick]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.simulate import simulate_dna
from embedcache import load_encoder, open_store
from embedcache.encoders.trainable import TrainableTrunk
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.encoding import Encoding
from embedcache.extraction.extract import extract
from embedcache.extraction.preflight import Options, encoding_of
from embedcache.progress import Progress
from embedcache.sources import open_source
from heads.data.features import Rows, Standardisation
from heads.finetune.batch import Batch, StateSource, TokenInputs
from heads.finetune.model import FinetuneModel, Products
from heads.finetune.states import ComputedStates, StoredStates, store_states
from heads.finetune.tokens import TokenRows
from heads.perceptron.losses import Loss
from heads.perceptron.perceptrons import Perceptrons

TOP, BATCH = 2, 16
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """How much of the real thing a run does."""

    encoder: str
    reads: int
    spread: tuple[int, int, int]
    """Shortest, mean and longest read in letters."""
    repeats: int


FULL, QUICK = Size("nt500m", 32, (100, 430, 1024), 3), Size("esm2-8m", 4, (20, 30, 40), 1)


def run(*, quick: bool = False) -> dict[str, Any]:
    """Seconds of an epoch each way, and their ratios."""
    size = QUICK if quick else FULL
    encoder = load_encoder(size.encoder, random_weights=True, device="cpu", precision="float32")
    assert isinstance(encoder, TransformerEncoder)
    with tempfile.TemporaryDirectory() as folder:
        rows, encoding = _rows(encoder, size, Path(folder))
        bottom = encoder.layers - TOP
        states = store_states(Path(folder) / "states.zarr", rows, encoder, bottom, "float32", Progress(quiet=True))
        ways: dict[str, Callable[[], None]] = {
            "cached": _epoch(encoding, rows, StoredStates(states, rows, CPU)),
            "whole": _epoch(encoding, rows, ComputedStates(encoder, bottom)),
            "transformers": _peer(encoder, rows),
        }
        seconds = _interleaved(ways, size.repeats)
    return {
        "encoder": size.encoder,
        "layers": encoder.layers,
        "trained": TOP,
        "tokens": int(rows.lengths.sum()),
        "seconds": seconds,
        "ratio": seconds["transformers"] / seconds["cached"],
        "ratio_whole": seconds["whole"] / seconds["cached"],
    }


def _rows(encoder: TransformerEncoder, size: Size, folder: Path) -> tuple[TokenRows, Encoding]:
    reads = simulate_dna(size.reads, size.spread, np.random.default_rng(0))
    fasta = folder / "reads.fa"
    fasta.write_text("".join(f">r{i}\n{read}\n" for i, read in enumerate(reads)))
    # the embeddings are not looked at: those of k-mers are there at once
    extract(open_source([str(fasta)]), load_encoder("kmer:1"), folder / "reads.zarr", Options(), Progress(quiet=True))
    encoding = encoding_of(encoder, Options())
    return TokenRows.read(open_store(folder / "reads.zarr"), np.arange(size.reads), encoding), encoding


def _epoch(encoding: Encoding, rows: TokenRows, states: StateSource) -> Callable[[], None]:
    """One epoch of our own."""
    encoder = encoding.encoder
    assert isinstance(encoder, TransformerEncoder)
    assert encoder.weights is not None
    trunk = TrainableTrunk.of(encoder.weights, first=encoder.layers - TOP)
    head = Perceptrons.drawn((encoder.hidden, 512, 1), [torch.Generator().manual_seed(0)])
    plain = Standardisation(torch.zeros(encoder.hidden), torch.ones(encoder.hidden))
    loss = Loss("binary")
    model = FinetuneModel(trunk, encoding.readout, head, plain, loss, 0.1, Products(torch.float32, torch.float32))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    inputs = TokenInputs(rows, encoding, trunk, CPU, None, states)

    def epoch() -> None:
        model.train()
        for part in _batches(len(rows)):
            truth = loss.truth(torch.from_numpy(part % 2), torch.ones(len(part)), 2)
            model(Batch(part, inputs.inputs(part), truth)).backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def _batches(rows: int) -> list[Rows]:
    order = np.random.default_rng(1).permutation(rows)
    return np.array_split(order, -(-rows // BATCH))


def _peer(encoder: TransformerEncoder, rows: TokenRows) -> Callable[[], None]:
    """One epoch of transformers' model, the same rows sorted by length and padded."""
    from transformers import EsmConfig, EsmModel

    assert encoder.weights is not None
    settings = dict(encoder.weights.published) | {"num_hidden_layers": encoder.layers}
    model = EsmModel(EsmConfig(**settings, attn_implementation="sdpa"), add_pooling_layer=False)
    model.requires_grad_(False).eval()
    for layer in model.encoder.layer[-TOP:]:
        layer.requires_grad_(True).train()
    model.encoder.emb_layer_norm_after.requires_grad_(True)
    head = nn.Sequential(nn.Linear(encoder.hidden, 512), nn.ReLU(), nn.Dropout(0.1), nn.Linear(512, 1))
    learned = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, 1e-5, fused=True)
    tokens = rows.windows.tokens
    order = np.argsort(-tokens.lengths, kind="stable")

    def epoch() -> None:
        for part in np.array_split(order, -(-len(order) // BATCH)):
            ids, mask = _padded([tokens[row] for row in part.tolist()])
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            vectors = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            truth = torch.from_numpy(part % 2).float()
            nn.functional.binary_cross_entropy_with_logits(head(vectors)[:, 0], truth).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def _padded(sequences: list[Any]) -> tuple[Tensor, Tensor]:
    ids = nn.utils.rnn.pad_sequence([torch.from_numpy(np.asarray(one, np.int64)) for one in sequences], True, 1.0)
    return ids, (ids != 1).long()


def _interleaved(ways: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each way, taken in turns; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, work in ways.items():
            start = time.perf_counter()
            work()
            if turn or repeats == 1:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


if __name__ == "__main__":
    print(run(quick="--quick" in sys.argv[1:]))
