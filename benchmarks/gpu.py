"""Extraction on a GPU: what the encoder reaches, what of it the user gets, and what others reach on the same machine.

    python -m benchmarks.gpu --output gpu.json

For the Nucleotide Transformer 500m, ESM-2 650M and DNABERT-S at their real sizes with random weights, in bfloat16:

    forward       tokenized batches through the encoder, pooled rows back on the host
    end to end    a FASTA file to a finished store: reading, tokenizing, encoding, checksums, writing
    MFU           the model's arithmetic a second over the machine's own matrix rate, both measured in this run
    invariance    whether a sequence alone and among others gives the same bits on this device
    fine-tuning   a step of the whole encoder and of its last layers (`benchmarks.gpu_finetune`)
    peers         transformers with padding (length-sorted, its fastest attention, bfloat16), and sentence-transformers'
                  ``encode``; a random model of the same architecture (for DNABERT-S, which transformers has no code for,
                  a BERT of the same size, on as many tokens)

Rates are real tokens a second, padding not counted. On a machine without a GPU two layers of each run on the CPU: that
shows that the script works, and its figures mean nothing.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.gpu_finetune import Step, steps_of
from benchmarks.simulate import simulate_dna, simulate_protein
from embedcache import load_encoder
from embedcache.encoders import registry
from embedcache.encoders.encoder import Budget, Encoder
from embedcache.sequences.packing import pack
from embedcache.sequences.tokens import Tokens

MODELS = {"nt500m": (100, 430, 1024), "esm2-650m": (50, 250, 500), "dnabert-s": (100, 430, 1024)}
"""Shortest, mean and longest sequence in letters."""
AIMS = {"nt500m": 600_000, "esm2-650m": 430_000, "dnabert-s": 2_000_000}
"""Real tokens a second that one H200 should pass in bfloat16."""


@dataclass(frozen=True)
class Size:
    """How much of the real thing a run does."""

    sequences: int
    repeats: int
    layers: int | None = None
    """None for all of them, at their real width."""
    batch_tokens: int | None = None


FULL, QUICK = Size(sequences=20_000, repeats=3), Size(sequences=24, repeats=1, layers=2, batch_tokens=512)


@dataclass(frozen=True)
class Result:
    """What one encoder reached; rates in real tokens a second, None where a peer is not installed."""

    model: str
    device: str
    forward: float
    end_to_end: float
    matrix_tera_flops: float
    mfu: float
    first_batch_seconds: float
    """Compiling included."""
    peak_gigabytes: float
    batch_invariant: bool
    cosine_to_float32: float
    transformers: float | None
    sentence_transformers: float | None

    def lines(self) -> list[str]:
        """The figures in words."""
        out = [
            f"{self.model}: forward {self.forward:,.0f} tokens/s, {self.mfu:.0%} of {self.matrix_tera_flops:,.1f} TFLOP/s; "
            f"end to end {self.end_to_end:,.0f} = {self.end_to_end / self.forward:.2f} of forward (aim 0.95)",
            f"  first batch {self.first_batch_seconds:.1f} s, peak {self.peak_gigabytes:.1f} GB, same bits in any batch: "
            f"{'yes' if self.batch_invariant else 'NO'}, cosine to float32 {self.cosine_to_float32:.6f}",
        ]
        for peer, rate in (("transformers", self.transformers), ("sentence-transformers", self.sentence_transformers)):
            out.append(
                f"  {peer}: "
                + ("not installed" if rate is None else f"{rate:,.0f} tokens/s, {self.forward / rate:.2f}x")
            )
        return out


def run(size: Size, device: torch.device) -> list[Result]:
    """Measure all three encoders."""
    return [measure(alias, size, device) for alias in MODELS]


def measure(alias: str, size: Size, device: torch.device) -> Result:
    """Measure one encoder and its peers."""
    load = partial(load_encoder, alias, random_weights=True, device=str(device), layers=size.layers)
    sequences = simulate(alias, size.sequences)
    exact = load(precision="float32").encode(sequences[:16]).astype(np.float64)
    encoder = load(precision="bfloat16")
    batch_tokens = size.batch_tokens or encoder.batch_tokens
    tokens = encoder.tokenize(sequences)
    total, mean = int(tokens.lengths.sum()), float(tokens.lengths.mean())
    start = time.perf_counter()
    close = encoder.encode(sequences[:16])
    first = time.perf_counter() - start
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    forward = _median(partial(_forward, encoder, tokens, batch_tokens), size.repeats, device)
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    stored = _median(partial(_extract, encoder, sequences, batch_tokens), size.repeats, device)
    rate, flops, invariant = encoder.matrix_rate(), encoder.flops(total, mean), _invariant(encoder, sequences, tokens)
    del encoder
    peers = [peer(alias, size, sequences, tokens, device) for peer in (_transformers, _sentence_transformers)]
    return Result(
        alias,
        torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        total / forward,
        total / stored,
        rate / 1e12,
        flops / forward / rate,
        first,
        peak,
        invariant,
        float(((close * exact).sum(1) / np.linalg.norm(close, axis=1) / np.linalg.norm(exact, axis=1)).min()),
        *(None if seconds is None else total / seconds for seconds in peers),
    )


def simulate(alias: str, count: int) -> list[str]:
    """Random sequences whose lengths are spread as in a mix of reads or proteins."""
    make = simulate_dna if registry.REGISTRY[alias].alphabet == "dna" else simulate_protein
    return make(count, MODELS[alias], np.random.default_rng(0))


def _median(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _forward(encoder: Encoder, tokens: Tokens, batch_tokens: int) -> None:
    for _ in encoder.vectors(tokens, encoder.readout(), Budget(batch_tokens)):
        pass


def _extract(encoder: Encoder, sequences: list[str], batch_tokens: int) -> None:
    from embedcache.extraction.extract import extract
    from embedcache.extraction.preflight import Options
    from embedcache.progress import Progress
    from embedcache.sources import open_source

    with tempfile.TemporaryDirectory() as folder:
        fasta = Path(folder) / "input.fa"
        fasta.write_text("".join(f">s{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
        options = Options(batch_tokens=batch_tokens)
        extract(open_source([str(fasta)]), encoder, Path(folder) / "out.zarr", options, Progress(quiet=True))


def _invariant(encoder: Encoder, sequences: list[str], tokens: Tokens) -> bool:
    chosen = np.linspace(0, len(sequences) - 1, 5).astype(int)
    batch = next(pack(tokens.lengths, encoder.batch_tokens))
    among = encoder.encode([sequences[i] for i in [*chosen, *batch[:200]]])[: len(chosen)]
    alone = np.concatenate([encoder.encode([sequences[i]]) for i in chosen])
    return bool(np.array_equal(among.view(np.uint32), alone.view(np.uint32)))


def _peer_model(alias: str, size: Size, device: torch.device) -> Any:
    """A random model of the same architecture in transformers, with its fastest attention."""
    from transformers import BertConfig, BertModel, EsmConfig, EsmModel

    config = dict(registry.REGISTRY[alias].config())
    config["num_hidden_layers"] = size.layers or config["num_hidden_layers"]
    mosaic = config.pop("alibi_starting_size", None) is not None
    kinds = (BertConfig, BertModel) if mosaic else (EsmConfig, EsmModel)
    if mosaic:
        config["max_position_embeddings"] = 4096
    made = kinds[0](**config, attn_implementation="flash_attention_2" if _has_flash(device) else "sdpa")
    return kinds[1](made, add_pooling_layer=False).to(device, torch.bfloat16).eval()


def _has_flash(device: torch.device) -> bool:
    import importlib.util

    return device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None


def _transformers(alias: str, size: Size, sequences: list[str], tokens: Tokens, device: torch.device) -> float | None:
    """Seconds of transformers on length-sorted padded batches, masked mean, the same token counts."""
    try:
        model = _peer_model(alias, size, device)
    except ImportError:
        return None
    batches = list(_padded(tokens, size.batch_tokens or 32768))
    ids = [torch.randint(5, 30, shape, device=device) for shape, _ in batches]
    masks = [torch.from_numpy(mask).to(device) for _, mask in batches]

    def encode() -> None:
        with torch.inference_mode():
            for batch, mask in zip(ids, masks, strict=True):
                states = model(input_ids=batch, attention_mask=mask).last_hidden_state
                (states * mask[:, :, None]).sum(1).div(mask.sum(1)[:, None]).float().cpu()

    _median(encode, 1, device)
    return _median(encode, size.repeats, device)


def _padded(tokens: Tokens, budget: int) -> Iterator[tuple[tuple[int, int], np.ndarray[Any, Any]]]:
    order = np.argsort(-tokens.lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = int(tokens.lengths[order[start]])
        rows = order[start : start + max(budget // longest, 1)]
        mask = np.arange(longest) < tokens.lengths[rows][:, None]
        yield (len(rows), longest), mask.astype(np.int64)
        start += len(rows)


def _sentence_transformers(
    alias: str, size: Size, sequences: list[str], tokens: Tokens, device: torch.device
) -> float | None:
    """Seconds of sentence-transformers' ``encode`` over the same model, its own tokenizing included."""
    try:
        from sentence_transformers import SentenceTransformer, models
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        _peer_model(alias, size, device).save_pretrained(folder)
        _write_tokenizer(alias, Path(folder))
        module = models.Transformer(folder, model_kwargs={"dtype": torch.bfloat16, "add_pooling_layer": False})
        model = SentenceTransformer(
            modules=[module, models.Pooling(module.get_embedding_dimension())], device=str(device)
        )
    model.max_seq_length = 1024
    texts = sequences

    def encode() -> None:
        model.encode(texts, batch_size=min(512, len(texts)), convert_to_numpy=True, show_progress_bar=False)

    _median(encode, 1, device)
    return _median(encode, size.repeats, device)


def _write_tokenizer(alias: str, folder: Path) -> None:
    """A fast tokenizer with about as many tokens as the published one, so that the peer's time is the model's."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    width = {"esm2-650m": 1, "nt500m": 6, "dnabert-s": 5}[alias]
    vocabulary = {"[PAD]": 1, "[UNK]": 5}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(Regex(f".{{1,{width}}}"), "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_max_length=1024,
    ).save_pretrained(folder)


@click.command()
@click.option("--output", type=click.Path(), help="Write the figures as JSON.")
@click.option(
    "--model", "models", multiple=True, type=click.Choice(list(MODELS)), help="Only this one; may be repeated."
)
def main(output: str | None, models: tuple[str, ...]) -> None:
    """Measure extraction on the GPU, or show on a CPU that the script works."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = FULL if device.type == "cuda" else QUICK
    if size is QUICK:
        click.echo(
            "no GPU here: two layers of each on the CPU, to show that the script works; the figures mean nothing"
        )
    results = []
    for alias in models or MODELS:
        results.append(measure(alias, size, device))
        click.echo("\n".join(results[-1].lines()))
        if size is FULL:
            click.echo(
                f"  aim on an H200: {AIMS[alias]:,} tokens/s, reached {results[-1].forward / AIMS[alias]:.2f} of it"
            )
        if output:
            _write(Path(output), results, [])
    if not models:
        steps = steps_of(device)
        click.echo("\n".join(map(str, steps)))
        if output:
            _write(Path(output), results, steps)


def _write(file: Path, results: list[Result], steps: list[Step]) -> None:
    figures = {"extraction": [asdict(one) for one in results], "finetune": [asdict(one) for one in steps]}
    file.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
