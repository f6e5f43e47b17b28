"""What an encoder of cells asks of its input: how many tokens, which special ones, and where its dictionaries lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedcache.encoders.registry import find
from embedcache.encoders.tokenizers.published import GENEFORMER_V1_VOCABULARY
from embedcache.errors import InputError, ModelError
from embedcache.sequences.alphabet import CELL

GENEFORMER = "ctheodoris/Geneformer"
GENEFORMER_V2_VOCABULARY = 20275


@dataclass(frozen=True)
class CellModel:
    """An encoder of cells, before its weights are read."""

    name: str
    """As the user gave it."""
    vocabulary: int
    """Rows of its embedding; token ids are below it."""
    limit: int
    """Longest cell in tokens, special ones included."""
    folder: Path | None
    """Where its config.json lies; None for an encoder of the registry."""
    revision: str
    """Of the hub repository, where its dictionaries may have to come from."""

    @property
    def is_first(self) -> bool:
        """Whether it is of Geneformer V1, whose cells have no special tokens."""
        return self.vocabulary == GENEFORMER_V1_VOCABULARY

    @property
    def specials(self) -> int:
        """Special tokens of a cell: ``<cls>`` and ``<eos>``, or none in V1."""
        return 0 if self.is_first else 2

    @property
    def hub_folder(self) -> str | None:
        """Folder of the hub repository that has its dictionaries; None for a vocabulary that was not published there."""
        if self.is_first:
            return "geneformer/gene_dictionaries_30m"
        return "geneformer" if self.vocabulary == GENEFORMER_V2_VOCABULARY else None

    @property
    def corpus(self) -> tuple[str, ...]:
        """What the names of its published dictionaries end with, the best first: the corpus they were counted on."""
        return ("gc30M", "") if self.is_first else ("gc104M", "gc95M", "")


def cell_model(name: str, *, ask: bool = True, progress: bool = False) -> CellModel | None:
    """Look up what an encoder asks of cells; None for one that takes no cells.

    Parameters
    ----------
    name : as for `embedcache.encoders.load_encoder`.
    ask : whether the hub may be asked for the config.json of an encoder that is not in the registry.

    Raises
    ------
    ModelError : there is no encoder of that name.
    """
    if name.lower().startswith(("kmer:", "onehot:", "hf:")):
        return None
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _in_folder(name, folder, "main")
    repo_id, revision, entry = find(name)
    if entry is None:
        from embedcache.encoders.hub import fetch

        files = fetch(repo_id, revision, progress=progress, ask=ask, weights=False)
        return _in_folder(name, files.directory, revision)
    if entry.alphabet != CELL:
        return None
    return CellModel(name, entry.config()["vocab_size"], entry.token_limit, None, revision)


def required_cell_model(name: str | None, what: str, *, ask: bool = True, progress: bool = False) -> CellModel:
    """Look up the encoder that is to rank `what`; raises `InputError` where there is none, or one that takes no cells."""
    way_out = "take a Geneformer, such as --model geneformer-v2-104m"
    if name is None:
        raise InputError(f"{what} holds the genes of cells, whose order only the encoder can tell: {way_out}")
    model = cell_model(name, ask=ask, progress=progress)
    if model is None:
        raise InputError(f"{what} holds the genes of cells, and {name} encodes sequences: {way_out}")
    return model


def _in_folder(name: str, folder: Path, revision: str) -> CellModel | None:
    from embedcache.encoders.loading import read_config

    published = read_config(folder)
    if published.get("model_type") != "bert" or published.get("hidden_act") != "relu":
        return None
    return CellModel(
        name,
        _whole(published, "vocab_size", folder),
        _whole(published, "max_position_embeddings", folder),
        folder,
        revision,
    )


def _whole(published: Mapping[str, Any], key: str, folder: Path) -> int:
    value = published.get(key)
    if not isinstance(value, int) or value < 4:
        raise ModelError(f"{folder / 'config.json'} has no {key}: copy the model's own config.json there")
    return value
