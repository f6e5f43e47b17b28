"""What a fine-tuning starts from: an encoder, and a store of what it makes of the rows before it is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from embedcache.encoders import load_encoder
from embedcache.encoders.encoder import Encoder
from embedcache.encoders.readout import Readout
from embedcache.encoders.trainable import DropoutRates, TrainableTrunk
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.encoders.trunk import TrunkConfig
from embedcache.encoding import Encoding
from embedcache.errors import HeadError, ModelError
from embedcache.extraction.extract import extract
from embedcache.extraction.preflight import Options, encoding_of
from embedcache.input_options import InputOptions
from embedcache.progress import Progress
from embedcache.rawfeatures import RawFeatures, encoder_record
from embedcache.records import SEQUENCE
from embedcache.sequences.pooling import NONE
from embedcache.sequences.views import MIDDLE
from embedcache.sources import open_records
from embedcache.storage.store import Store, open_store
from heads.finetune.options import FinetuneOptions
from heads.running.runs import MANIFEST


@dataclass(frozen=True)
class EncoderChoice:
    """Which encoder is trained, and what is read out of it."""

    name: str | None = None
    """None takes the encoder, layers and poolings of the store."""
    poolings: tuple[str, ...] = ("mean",)
    layers: tuple[str, ...] | None = None
    overlong: str | None = None
    precision: str = "auto"
    random_weights: bool = False
    seed: int = 0
    reinit_head: bool = False
    """Whether a run as the encoder leaves its head out."""

    @property
    def head(self) -> Path | None:
        """The run whose head goes with the encoder; None where the encoder comes from elsewhere."""
        if self.name is None or self.reinit_head or not (Path(self.name) / MANIFEST).exists():
            return None
        return Path(self.name)

    @property
    def extraction(self) -> Options:
        """The same as options of an extraction."""
        return Options(self.poolings, self.layers, overlong=self.overlong)

    def load(self, device: str) -> Encoder:
        """Load it by its name."""
        assert self.name is not None
        return load_encoder(
            self.name, device=device, precision=self.precision, random_weights=self.random_weights, seed=self.seed
        )


def keep_records(
    records: InputOptions, choice: EncoderChoice, options: FinetuneOptions, device: str, place: Path, progress: Progress
) -> None:
    """Keep the records of an input as a store of the encoder's embeddings, as `embedcache extract` does.

    Raises HeadError or ModelError, before it encodes, where that encoder cannot be trained.
    """
    encoder = choice.load(device)
    check_encoder(encoder, encoder.readout(choice.poolings, choice.layers), options)
    extraction = replace(
        choice.extraction, views=records.views, center=records.center, edge=records.edge, strands=records.strands
    )
    extract(open_records(records, choice.name), encoder, place, extraction, progress)


def choose_encoding(choice: EncoderChoice, store: Store, device: str, *, as_stored: bool = False) -> Encoding:
    """The encoder and readout by name, or, `as_stored`, what the store says; raises an error where it cannot be had."""
    if choice.name is not None and not as_stored:
        return encoding_of(choice.load(device), choice.extraction, store.column_names)
    try:
        found = RawFeatures.load(encoder_record(store), store.fingerprint, model=choice.name, device=device).encoding
        return _of_tokens(found) if choice.poolings == (NONE,) else found
    except ModelError as error:
        raise HeadError(
            f"the encoder of {store.path} is not to be had again: name one with --model ({error})"
        ) from None


def _of_tokens(encoding: Encoding) -> Encoding:
    """The same layers, with every token kept."""
    layers = dict.fromkeys(block.layer for block in encoding.readout.blocks)
    return replace(encoding, readout=encoding.encoder.readout((NONE,), tuple(layers)))


def check_encoder(encoder: Encoder, readout: Readout, options: FinetuneOptions) -> None:
    """Raise HeadError, or ModelError, where an encoder cannot be trained so, and is to be."""
    if not options.trains_encoder:
        return
    if not isinstance(encoder, TransformerEncoder) or encoder.weights is None:
        what = "has no weights" if not encoder.layers else "runs through transformers' own code"
        raise HeadError(
            f"{encoder.name} {what} and cannot be trained here: take --mode frozen, or an encoder of a known family with "
            "--model (see `embedcache models`)"
        )
    if not isinstance(encoder.weights.config, TrunkConfig):
        TrainableTrunk.of(encoder.weights)  # which says why not
    last = max(block.layer for block in readout.blocks)
    first = min(block.layer for block in readout.blocks)
    if options.mode == "top" and not 1 <= options.top_layers <= last:
        raise HeadError(
            f"--top-layers {options.top_layers}: {encoder.name} has {last} layers up to the one that is read out; give 1 to "
            f"{last}, or --mode full"
        )
    if options.mode == "top" and first < last - options.top_layers:
        raise HeadError(
            f"--top-layers {options.top_layers} trains layers {last - options.top_layers + 1} to {last}, and layer {first} "
            "is read out too: give more --top-layers, or read out one --layer"
        )
    for name in ("hidden", "attention"):
        rate = getattr(options, f"{name}_dropout")
        if rate is not None and not 0 <= rate < 1:
            raise HeadError(f"--{name}-dropout {rate:g}: give a share from 0 to below 1")


def check_trainable(encoding: Encoding, options: FinetuneOptions, store: Store, per_position: bool) -> None:
    """Raise HeadError, or ModelError, where this encoder cannot be trained so on this store."""
    if not encoding.readout.pooled and not per_position:
        raise HeadError(
            f"{store.path} keeps every token, and a head learns from one vector: name --model and --pool, or learn a label "
            "for each letter with --per-position"
        )
    if per_position and encoding.readout.pooled:
        raise HeadError("--per-position learns from every token, and --pool makes one vector of them: leave --pool out")
    if per_position and options.trains_encoder and options.head.sampler != "none":
        raise HeadError(
            f"--sampler {options.head.sampler} draws rows, and with --per-position a batch is whole records: leave it out, "
            "or weigh the classes with --class-weight"
        )
    check_encoder(encoding.encoder, encoding.readout, options)
    if options.trains_encoder and SEQUENCE not in store.column_names:
        raise HeadError(
            f"{store.path} keeps no sequences (it was extracted with --drop-sequence), and the encoder must read them: "
            "extract it without, or take --mode frozen"
        )


def dropout_rates(encoder: TransformerEncoder, options: FinetuneOptions) -> DropoutRates:
    """Those that were asked for, else those of the encoder's config.json."""
    assert encoder.weights is not None
    published = DropoutRates.published(encoder.weights.published)
    hidden, attention = options.hidden_dropout, options.attention_dropout
    return DropoutRates(
        published.hidden if hidden is None else hidden, published.attention if attention is None else attention
    )


def holds(store: Store, encoding: Encoding) -> bool:
    """Whether a store holds what an encoding makes."""
    return store.fingerprint == encoding.fingerprint and store.per_token != encoding.readout.pooled


def features_of(store: Store, encoding: Encoding, place: Path, progress: Progress) -> Store:
    """Encode all rows of a store anew into another, or go on with that; the store itself where it holds the same."""
    if holds(store, encoding):
        return store
    readout = encoding.readout
    options = Options(
        poolings=tuple(dict.fromkeys(block.pooling for block in readout.blocks)),
        layers=tuple(dict.fromkeys(block.layer for block in readout.blocks)),
        one_based=encoding.one_based,
        views=encoding.scope.views,
        center=encoding.scope.center or MIDDLE,
        edge=encoding.scope.edge,
        strands=encoding.scope.strands,
        dtype=str(store.dtype),
        overlong=encoding.overlong,
        on_bad_row="quarantine" if len(store.quarantined) else "stop",
        any_alphabet=True,
    )
    extract(open_records(InputOptions((str(store.path),))), encoding.encoder, place, options, progress)
    return open_store(place)
