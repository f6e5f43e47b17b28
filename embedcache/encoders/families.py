"""Published checkpoints as data: for each family, how its config.json reads and what its keys are called.

A family is a function from config.json to `TrunkConfig` and a table ``our parameter -> published key``; adding a
checkpoint of a known family adds no code. Keys that a family's files may hold beside the encoder (language-model and
contact heads, buffers that are recomputed) are named in `ignored`; any other key is an error.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from embedcache.encoders.trunk import TrunkConfig, parameter_shapes
from embedcache.errors import ModelError


@dataclass(frozen=True)
class Family:
    """How one family of encoders is published.

    `keys` maps our parameter names to published ones, with ``{i}`` for the layer and without ``.weight``/``.bias``.
    """

    name: str
    trunk_config: Callable[[Mapping[str, Any]], TrunkConfig]
    prefix: str
    keys: Mapping[str, str]
    ignored: tuple[str, ...]
    """Shell patterns of published keys that the encoder does not use."""

    def published_keys(self, config: TrunkConfig, found: frozenset[str] | set[str]) -> dict[str, str]:
        """Match a checkpoint's keys to our parameters: our name -> key in the file.

        Raises
        ------
        ModelError : a key is missing, or one is there that is neither used nor known to be ignored.
        """
        # transformers 5 saves the norms of a bare EsmModel under the names they had in TensorFlow.
        spelling = {re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", key)): key for key in found}
        found = set(spelling)
        prefix = self.prefix if any(key.startswith(self.prefix) for key in found) else ""
        wanted = {name: prefix + self._published(name) for name in parameter_shapes(config)}
        missing = sorted(set(wanted.values()) - found)
        unknown = sorted(
            key
            for key in found - set(wanted.values())
            if not any(fnmatch.fnmatchcase(key.removeprefix(prefix), pattern) for pattern in self.ignored)
        )
        if missing or unknown:
            raise ModelError(
                f"the checkpoint does not fit the {self.name} architecture of its config.json: "
                + "; ".join(filter(None, (_some("missing", missing), _some("unexpected", unknown))))
            )
        return {name: spelling[key] for name, key in wanted.items()}

    def _published(self, name: str) -> str:
        stem, kind = name.rsplit(".", 1)
        head, _, rest = stem.partition(".")
        published = self.keys[rest].format(i=head) if head.isdigit() else self.keys[stem]
        return f"{published}.{kind}"


def _some(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{what} {', '.join(keys[:3])}{more}"


def _esm_config(config: Mapping[str, Any]) -> TrunkConfig:
    positions = {"absolute": "learned", "rotary": "rotary"}.get(str(config["position_embedding_type"]))
    if positions is None:
        raise ModelError(f"position_embedding_type '{config['position_embedding_type']}' is not known for ESM encoders")
    return TrunkConfig(
        vocabulary=config["vocab_size"],
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        feed_forward=config["intermediate_size"],
        positions=positions,
        max_positions=config["max_position_embeddings"],
        position_offset=config["pad_token_id"] + 1,
        norm_eps=config.get("layer_norm_eps", 1e-12),
        norm_embeddings=bool(config.get("emb_layer_norm_before", False)),
        mask_token=config["mask_token_id"],
        # FastESM2 was published without the key; its current code takes True, as ESM-2 does.
        token_dropout=bool(config.get("token_dropout", True)),
    )


ESM = Family(
    name="ESM",
    trunk_config=_esm_config,
    prefix="esm.",
    keys={
        "tokens": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "embedding_norm": "embeddings.layer_norm",
        "attention_norm": "encoder.layer.{i}.attention.LayerNorm",
        "query": "encoder.layer.{i}.attention.self.query",
        "key": "encoder.layer.{i}.attention.self.key",
        "value": "encoder.layer.{i}.attention.self.value",
        "output": "encoder.layer.{i}.attention.output.dense",
        "feed_forward_norm": "encoder.layer.{i}.LayerNorm",
        "up": "encoder.layer.{i}.intermediate.dense",
        "down": "encoder.layer.{i}.output.dense",
        "final_norm": "encoder.emb_layer_norm_after",
    },
    ignored=(
        "lm_head.*",
        "contact_head.*",
        "pooler.*",
        "embeddings.position_ids",
        "embeddings.position_embeddings.weight",
        "encoder.layer.*.attention.self.rotary_embeddings.inv_freq",
    ),
)

FAMILIES: Mapping[str, Family] = {"esm": ESM, "fast_esm": ESM}
"""By ``model_type`` of config.json."""


def recognise(config: Mapping[str, Any], where: str) -> tuple[Family, TrunkConfig]:
    """Tell the family and architecture from a config.json.

    Raises
    ------
    ModelError : the family is not known, a field is missing or has an impossible value.
    """
    family = FAMILIES.get(str(config.get("model_type", "")))
    if family is None or config.get("add_bias_fnn") is False:
        what = config.get("model_type") or ", ".join(config.get("architectures") or ["no architecture named"])
        detail = " with gated feed-forward (Nucleotide Transformer v2)" if "add_bias_fnn" in config else ""
        raise ModelError(
            f"{where} is of a family that embedcache does not know yet ({what}{detail}); it knows ESM-2, FastESM2 and "
            "Nucleotide Transformer v1 checkpoints, see `embedcache models`"
        )
    try:
        trunk = family.trunk_config(config)
        sizes = {
            "vocab_size": trunk.vocabulary, "hidden_size": trunk.hidden, "num_hidden_layers": trunk.layers,
            "num_attention_heads": trunk.heads, "intermediate_size": trunk.feed_forward,
            "max_position_embeddings": trunk.max_positions, "mask_token_id": trunk.mask_token + 1,
        }  # fmt: skip
        wrong = [f"{name} {size}" for name, size in sizes.items() if not isinstance(size, int) or size < 1]
        if wrong or trunk.hidden % trunk.heads:
            raise ModelError(
                f"{where} has impossible sizes: {', '.join(wrong) or 'hidden_size is no multiple of the heads'}"
            )
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"{where} cannot be read as an encoder's configuration: {error} is missing or no number"
        ) from None
    return family, trunk
