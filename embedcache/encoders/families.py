"""Published checkpoints as data: for each family, how its config.json reads and what its keys are called.

A family is a function from config.json to an architecture and a table ``our parameter -> published key``; adding a
checkpoint of a known family adds no code. Keys that a family's files may hold beside the encoder (language-model and
contact heads, poolers, buffers that are recomputed) are named in `ignored`; any other key is an error.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedcache.encoders import hyena
from embedcache.encoders.checkpoint import Checkpoint
from embedcache.encoders.hyena import Hyena, HyenaConfig, hyena_config
from embedcache.encoders.packed import PackedBatch
from embedcache.encoders.trunk import ReadTensor, Trunk, TrunkConfig, parameter_shapes
from embedcache.errors import ModelError


class Architecture(Protocol):
    """What decides an encoder's architecture, whichever kind of trunk it has."""

    @property
    def vocabulary(self) -> int:
        """Rows of the token embedding."""

    @property
    def hidden(self) -> int:
        """Values of a hidden state."""

    @property
    def last_state(self) -> int:
        """Number of the last hidden state; state 0 are the embeddings."""

    @property
    def position_limit(self) -> int | None:
        """Tokens that the architecture can take at all, None for no end."""

    def flops(self, tokens: float, length: float) -> float:
        """Floating-point operations for `tokens` tokens in sequences of `length` tokens."""


class FrozenTrunk(Protocol):
    """From token ids to hidden states."""

    config: Any
    device: torch.device
    dtype: torch.dtype

    def pack(self, ids_T: NDArray[np.integer], lengths_B: NDArray[np.int64], rows: int = 0) -> PackedBatch:
        """Lay out B tokenized sequences; on a GPU the batch gets `rows` rows."""

    def states(self, batch: PackedBatch) -> Iterator[Tensor]:
        """Yield the hidden states (T, D) float32, the embeddings first."""


@dataclass(frozen=True)
class Family:
    """How one family of encoders is published.

    `keys` maps our parameter names to published ones, with ``{i}`` for the layer and without ``.weight``/``.bias``;
    where several published tensors make one of ours, they are named in the order in which they are joined.
    """

    name: str
    architecture: Callable[[Mapping[str, Any]], Any]
    """Reads a config.json into an `Architecture`; raises KeyError, TypeError or `ModelError`."""
    prefix: str
    keys: Mapping[str, str | tuple[str, ...]]
    ignored: tuple[str, ...]
    """Shell patterns of published keys that the encoder does not use."""
    shapes: Callable[[Any], dict[str, tuple[int, ...]]] = parameter_shapes
    """Our parameters' names and shapes for an architecture."""
    build: Callable[..., FrozenTrunk] = Trunk
    """Takes an architecture, what reads our parameters, the type of the products and a device; see `Trunk`."""

    def parameters(self, config: Architecture) -> int:
        """Number of weights of the encoder."""
        return sum(math.prod(shape) for shape in self.shapes(config).values())

    def published_keys(self, config: Architecture, found: frozenset[str] | set[str]) -> dict[str, tuple[str, ...]]:
        """Match a checkpoint's keys to our parameters: our name -> the keys in the file that make it.

        Raises
        ------
        ModelError : a key is missing, or one is there that is neither used nor known to be ignored.
        """
        # BERT of TensorFlow's time, and bare encoders saved by transformers 5, call the norms' parameters gamma and beta.
        spelling = {re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", key)): key for key in found}
        found = set(spelling)
        prefix = self.prefix if any(key.startswith(self.prefix) for key in found) else ""
        wanted = {name: tuple(prefix + key for key in self._published(name)) for name in self.shapes(config)}
        used = {key for keys in wanted.values() for key in keys}
        missing = sorted(used - found)
        unknown = sorted(
            key
            for key in found - used
            if not any(fnmatch.fnmatchcase(key.removeprefix(prefix), pattern) for pattern in self.ignored)
        )
        if missing or unknown:
            raise ModelError(
                f"the checkpoint does not fit the {self.name} architecture of its config.json: "
                + "; ".join(filter(None, (_some("missing", missing), _some("unexpected", unknown))))
            )
        return {name: tuple(spelling[key] for key in keys) for name, keys in wanted.items()}

    def reader(self, config: Architecture, checkpoint: Checkpoint) -> ReadTensor:
        """Read our parameters out of a checkpoint; raises `ModelError` if its keys or shapes do not fit."""
        shapes = self.shapes(config)
        try:
            keys = self.published_keys(config, checkpoint.keys)
        except ModelError as error:
            raise ModelError(
                f"{checkpoint.directory}: {error}. Is the weights file that of another model, or of a head trained on it?"
            ) from None

        def read(parameter: str) -> Tensor:
            rows, *rest = shapes[parameter]
            parts = keys[parameter]
            tensors = [checkpoint.read(key, (rows // len(parts), *rest)) for key in parts]
            return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

        return read

    def modules(self, stem: str) -> tuple[str, ...]:
        """Published names, without prefix, of the modules that make one of ours, such as ``3.qkv``."""
        head, _, rest = stem.partition(".")
        keys = self.keys[rest if head.isdigit() else stem]
        return tuple(key.format(i=head) for key in ((keys,) if isinstance(keys, str) else keys))

    def _published(self, name: str) -> tuple[str, ...]:
        stem, kind = name.rsplit(".", 1)
        return tuple(f"{module}.{kind}" for module in self.modules(stem))


def _some(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{what} {', '.join(keys[:3])}{more}"


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json calls the same in all families."""
    return {
        "vocabulary": config["vocab_size"],
        "hidden": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "feed_forward": config["intermediate_size"],
        "max_positions": config["max_position_embeddings"],
        "norm_eps": config.get("layer_norm_eps", 1e-12),
    }


def _esm_config(config: Mapping[str, Any]) -> TrunkConfig:
    positions = {"absolute": "learned", "rotary": "rotary"}.get(str(config["position_embedding_type"]))
    if positions is None:
        raise ModelError(f"position_embedding_type '{config['position_embedding_type']}' is not known for ESM encoders")
    gated = config.get("add_bias_fnn") is False  # Nucleotide Transformer v2
    return TrunkConfig(
        **_sizes(config),
        positions=positions,
        norm_first=True,
        norm_embeddings=bool(config.get("emb_layer_norm_before", False)),
        activation="silu" if gated else "gelu",
        gated=gated,
        feed_forward_bias=(not gated, not gated),
        position_offset=config["pad_token_id"] + 1,
        mask_token=config["mask_token_id"],
        # FastESM2 was published without the key; its current code takes True, as ESM-2 does.
        token_dropout=bool(config.get("token_dropout", True)),
    )


def _bert_config(config: Mapping[str, Any]) -> TrunkConfig:
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ModelError(
            f"position_embedding_type '{config['position_embedding_type']}' is not known for BERT encoders"
        )
    activation = config["hidden_act"]
    if activation not in ("gelu", "relu"):
        raise ModelError(f"hidden_act '{activation}' is not known for BERT encoders: gelu and relu are")
    return TrunkConfig(
        **_sizes(config),
        positions="learned",
        norm_first=False,
        norm_embeddings=True,
        activation=activation,
        token_types=config.get("type_vocab_size", 2),
    )


def _mosaic_config(config: Mapping[str, Any]) -> TrunkConfig:
    return TrunkConfig(
        **_sizes(config),
        positions="alibi",
        norm_first=False,
        norm_embeddings=True,
        activation="gelu",
        gated=True,
        feed_forward_bias=(False, True),
        token_types=config.get("type_vocab_size", 2),
    )


TASK_HEADS = ("classifier.*", "score.*", "qa_outputs.*")
"""Keys of heads that transformers' models for tasks were trained with, which encode nothing."""
_SELF = "encoder.layer.{i}.attention.self"
ESM = Family(
    name="ESM",
    architecture=_esm_config,
    prefix="esm.",
    keys={
        "tokens": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "embedding_norm": "embeddings.layer_norm",
        "attention_norm": "encoder.layer.{i}.attention.LayerNorm",
        "qkv": (f"{_SELF}.query", f"{_SELF}.key", f"{_SELF}.value"),
        "output": "encoder.layer.{i}.attention.output.dense",
        "feed_forward_norm": "encoder.layer.{i}.LayerNorm",
        "up": "encoder.layer.{i}.intermediate.dense",
        "down": "encoder.layer.{i}.output.dense",
        "final_norm": "encoder.emb_layer_norm_after",
    },
    ignored=(
        "lm_head.*",
        "contact_head.*",
        *TASK_HEADS,
        "pooler.*",
        "embeddings.position_ids",
        "embeddings.position_embeddings.weight",
        "encoder.layer.*.attention.self.rotary_embeddings.inv_freq",
    ),
)
_BERT_KEYS = {
    "tokens": "embeddings.word_embeddings",
    "types": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "output": "encoder.layer.{i}.attention.output.dense",
    "attention_norm": "encoder.layer.{i}.attention.output.LayerNorm",
}
BERT = Family(
    name="BERT",
    architecture=_bert_config,
    prefix="bert.",
    keys={
        **_BERT_KEYS,
        "positions": "embeddings.position_embeddings",
        "qkv": (f"{_SELF}.query", f"{_SELF}.key", f"{_SELF}.value"),
        "up": "encoder.layer.{i}.intermediate.dense",
        "down": "encoder.layer.{i}.output.dense",
        "feed_forward_norm": "encoder.layer.{i}.output.LayerNorm",
    },
    ignored=("cls.*", "pooler.*", "embeddings.position_ids", *TASK_HEADS),
)
MOSAIC_BERT = Family(
    name="MosaicBERT",
    architecture=_mosaic_config,
    prefix="bert.",
    keys={
        **_BERT_KEYS,
        "qkv": f"{_SELF}.Wqkv",
        "up": "encoder.layer.{i}.mlp.gated_layers",
        "down": "encoder.layer.{i}.mlp.wo",
        "feed_forward_norm": "encoder.layer.{i}.mlp.layernorm",
    },
    ignored=("cls.*", "pooler.*", *TASK_HEADS),
)


def _hyena_trunk(
    config: HyenaConfig, read: ReadTensor, dtype: torch.dtype, device: torch.device, keep: bool = True
) -> FrozenTrunk:
    """HyenaDNA's layers are small, so they are always kept."""
    del keep
    return Hyena(config, read, dtype, device)


HYENA_DNA = Family(
    name="HyenaDNA",
    architecture=hyena_config,
    prefix=hyena.HYENA_PREFIX,
    keys=hyena.HYENA_KEYS,
    ignored=hyena.HYENA_IGNORED,
    shapes=hyena.parameter_shapes,
    build=_hyena_trunk,
)

KNOWN_FAMILIES = (
    "BERT (DNA_bert, Geneformer), MosaicBERT (DNABERT-2, DNABERT-S), ESM (ESM-2, FastESM2, Nucleotide Transformer) "
    "and HyenaDNA"
)


def recognise(config: Mapping[str, Any], where: str) -> tuple[Family, Architecture]:
    """Tell the family and architecture from a config.json.

    Raises
    ------
    ModelError : the family is not known, a field is missing or has an impossible value.
    """
    family = _family(config)
    if family is None:
        what = config.get("model_type") or ", ".join(config.get("architectures") or ["no architecture named"])
        raise ModelError(
            f"{where} is of a family that embedcache has no code for ({what}); it knows {KNOWN_FAMILIES}. Through "
            "transformers, slower, any encoder runs as --model hf:NAME"
        )
    try:
        wrong = [f"{name} {config[name]}" for name in _SIZES if name in config and not _is_size(config[name])]
        if wrong:
            raise ModelError(f"impossible sizes: {', '.join(wrong)}")
        architecture: Architecture = family.architecture(config)
        if config.get("num_attention_heads") and architecture.hidden % config["num_attention_heads"]:
            raise ModelError("impossible sizes: hidden_size is no multiple of num_attention_heads")
    except ModelError as error:
        raise ModelError(f"{where}: {error}; as --model hf:NAME transformers may run it, more slowly") from None
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"{where} cannot be read as an encoder's configuration: {error} is missing or no number"
        ) from None
    return family, architecture


_SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "d_model", "n_layer", "d_inner", "max_seq_len",
)  # fmt: skip


def _is_size(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _family(config: Mapping[str, Any]) -> Family | None:
    """The family of a config.json: DNABERT-2 and NT v2 were published without ``model_type``, DNABERT-S says ``bert``."""
    if "alibi_starting_size" in config:
        return MOSAIC_BERT
    if "add_bias_fnn" in config:
        return ESM
    return {"esm": ESM, "fast_esm": ESM, "bert": BERT, "hyenadna": HYENA_DNA}.get(str(config.get("model_type", "")))
