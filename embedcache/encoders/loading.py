"""From a name to a loaded encoder."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedcache.encoders.adapters import BASE, Adapters
from embedcache.encoders.checkpoint import Checkpoint
from embedcache.encoders.encoder import Encoder, Origin
from embedcache.encoders.families import TASK_HEADS, Architecture, Family, recognise
from embedcache.encoders.kmer import CompositionEncoder, composition
from embedcache.encoders.linear import PRECISIONS
from embedcache.encoders.registry import BY_REPO, Entry, find
from embedcache.encoders.tokenizers import ESM_VOCABULARY
from embedcache.encoders.tokenizers.published import built_in_tokenizer, read_tokenizer
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.encoders.trunk import ReadTensor
from embedcache.encoders.weights import Weights
from embedcache.errors import InputError, ModelError
from embedcache.sequences.alphabet import CELL

_TABLES = ("tokens.weight", "positions.weight", "types.weight")


def load_encoder(
    name: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    random_weights: bool = False,
    seed: int = 0,
    progress: bool = True,
    download: bool = True,
    layers: int | None = None,
    trust_remote_code: bool = False,
    alphabet: str | None = None,
) -> Encoder:
    """Load a frozen encoder.

    Parameters
    ----------
    name : an alias (``embedcache models``), a hub id, either with ``@revision``; a folder with config.json, vocabulary
        and weights in the published format; either after ``hf:`` for any encoder that transformers knows, more slowly;
        or a run of ``heads finetune``; or ``kmer:K``, ``onehot:L``.
    device : ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``...
    precision : of the matrix products: ``float32``, ``bfloat16``, or ``auto`` (bfloat16 on a GPU, float32 on a CPU).
    random_weights : build the real architecture with random weights of `seed`: nothing is downloaded, and the
        embeddings mean nothing.
    progress : show a bar while weights are downloaded.
    download : whether the hub may be asked; otherwise the files must be here already.
    layers : build only so many layers, from the first on: for measuring, with random weights.
    trust_remote_code : whether Python code that comes with an ``hf:`` encoder may run; without it such an encoder is
        refused.
    alphabet : ``dna`` or ``protein``, for an ``hf:`` encoder whose vocabulary does not tell.

    Raises
    ------
    ModelError : the encoder is unknown, cannot be fetched, or its files do not fit together.
    InputError : the device or precision is not to be had.
    """
    on = find_device(device)
    dtype = find_type(precision, on)
    if name.startswith("hf:"):
        from embedcache.encoders.foreign import load_foreign

        return load_foreign(
            name, device=on, dtype=dtype, trust_remote_code=trust_remote_code, alphabet=alphabet,
            random_weights=random_weights, seed=seed, progress=progress, download=download,
        )  # fmt: skip
    if alphabet is not None:
        raise InputError(f"--alphabet is for encoders named hf:..., that of {name} is known: leave it out")
    if name.lower().startswith(("kmer:", "onehot:")):
        return CompositionEncoder(Origin(name.lower()), composition(name))
    directory = Path(name).expanduser()
    if directory.is_dir():
        return _from_directory(
            model_folder(directory),
            Origin(name, directory=str(directory.resolve()), seed=seed if random_weights else None),
            None,
            on,
            dtype,
            random_weights,
            seed,
            layers,
        )
    repo_id, revision, entry = find(name)
    if random_weights:
        if entry is None:
            raise ModelError(f"the sizes of {repo_id} are not known here: download its config.json and name the folder")
        return _random(entry, Origin(name, repo_id, licence=entry.licence, seed=seed), on, dtype, seed, layers)
    from embedcache.encoders.hub import fetch

    files = fetch(repo_id, revision, progress=progress, ask=download)
    origin = Origin(name, repo_id, files.revision, licence=entry.licence if entry else None)
    return _from_directory(files.directory, origin, entry, on, dtype, False, seed)


def find_device(device: str) -> torch.device:
    """The device of that name; raises `InputError` if it is not to be had."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"'{device}' is no device: give auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {device} is not there: torch sees {torch.cuda.device_count()} GPUs; give --device cpu"
        )
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device {device} is not supported: give auto, cpu, cuda or cuda:N")
    return chosen


def find_type(precision: str, device: torch.device) -> torch.dtype:
    """The type of the products; raises `InputError` if there is no such precision."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if precision not in PRECISIONS:
        raise InputError(f"there is no precision '{precision}': give auto, {' or '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def _from_directory(
    directory: Path,
    origin: Origin,
    entry: Entry | None,
    device: torch.device,
    dtype: torch.dtype,
    random_weights: bool,
    seed: int,
    layers: int | None = None,
) -> Encoder:
    published = read_config(directory)
    family, config = recognise(published, str(directory / "config.json"))
    tokenizer = read_tokenizer(directory, published)
    entry = entry or BY_REPO.get(str(published.get("_name_or_path", "")))
    if random_weights:
        config = _first_layers(config, layers)
        read, digest = _random_reader(family, config, seed)
    else:
        read, digest = _published_reader(directory, family, config)
    trunk = family.build(config, read, dtype, device)
    encoder = TransformerEncoder(
        origin,
        trunk,
        tokenizer,
        weights_digest=digest(),
        token_limit=entry.token_limit if entry else _token_limit(published, config),
        mean_includes_special=entry.pooling == "mean:all" if entry else mean_includes_special(published),
        authors_layer=entry.layer if entry else -2 if tokenizer.alphabet == CELL else -1,
        meaningless=random_weights,
        in_float32=partial(family.build, config, read, torch.float32, device, keep=False),
        weights=Weights(family, config, read, published, directory),
    )
    encoder.remarks = () if random_weights else _unused_heads(directory)
    return encoder


def _published_reader(directory: Path, family: Family, config: Architecture) -> tuple[ReadTensor, Callable[[], str]]:
    """What reads the weights in a folder, with its adapters if it has any; and a hash of all that was read."""
    if (directory / BASE).exists():
        return _adapted_reader(directory, family, config)
    checkpoint = Checkpoint(directory)
    return family.reader(config, checkpoint), lambda: checkpoint.digest


def _adapted_reader(directory: Path, family: Family, config: Architecture) -> tuple[ReadTensor, Callable[[], str]]:
    """What adds adapters to the weights of the encoder that they were trained on; the hash checks that it is the same."""
    adapters = Adapters.load(directory)
    try:
        base = json.loads((directory / BASE).read_text())
        expected, name = str(base["digest"]), str(base["name"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{directory / BASE} is damaged: it does not say which encoder the adapters are for") from None
    if base.get("seed") is not None:
        read, digest = _random_reader(family, config, int(base["seed"]))
    else:
        read, digest = _published_reader(_folder_of(base, directory), family, config)

    def checked() -> str:
        found = digest()
        if found != expected:
            raise ModelError(f"the adapters in {directory} were trained on {name} with other weights than it has now")
        return hashlib.sha256(f"{found} {adapters.digest}".encode()).hexdigest()

    return adapters.added_to(family, read), checked


def _folder_of(base: Mapping[str, Any], directory: Path) -> Path:
    """Where the encoder lies that adapters were trained on."""
    if base.get("directory"):
        folder = Path(base["directory"])
        if not folder.is_dir():
            raise ModelError(
                f"the adapters in {directory} need the encoder {folder}, which is not there: put it back, or train again "
                "with --merge-adapters"
            )
        return folder
    from embedcache.encoders.hub import fetch

    return fetch(base["repo_id"], base.get("revision") or "main").directory


def _unused_heads(directory: Path) -> tuple[str, ...]:
    """A remark on the heads of tasks that lie in a checkpoint beside the encoder."""
    if (directory / BASE).exists():
        return ()
    keys = Checkpoint(directory).keys
    heads = sorted(key for key in keys if any(fnmatch.fnmatchcase(key, pattern) for pattern in TASK_HEADS))
    if not heads:
        return ()
    more = f" and {len(heads) - 3} more" if len(heads) > 3 else ""
    return (f"a head of its own in the checkpoint is not used: {', '.join(heads[:3])}{more}",)


def model_folder(directory: Path) -> Path:
    """The folder of the model itself: of a run of `heads finetune` the one in it.

    Raises `ModelError` for a run that has no encoder of its own.
    """
    if (directory / "config.json").exists() or not (directory / "run_manifest.json").exists():
        return directory
    if (directory / "encoder" / "config.json").exists():
        return directory / "encoder"
    of_folds = sorted(directory.glob("*/encoder/config.json"))
    if of_folds:
        raise ModelError(
            f"{directory} has an encoder for each of {len(of_folds)} folds: name one, such as {of_folds[0].parents[1]}"
        )
    raise ModelError(
        f"{directory} is a run that left its encoder as it was: name that one (`encoder` in its run_manifest.json)"
    )


def read_config(directory: Path) -> dict[str, Any]:
    """Read the config.json of a model's folder; raises `ModelError` if there is none, or it is no JSON object."""
    file = directory / "config.json"
    try:
        published = json.loads(file.read_text())
        if not isinstance(published, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        raise ModelError(f"{directory} is no model folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not readable JSON ({error})") from None
    return published


def _token_limit(published: Mapping[str, Any], config: Architecture) -> int:
    """The limit of a folder that is no known release: what its positions allow, or its family was trained with."""
    if published.get("model_type") == "fast_esm" or "alibi_starting_size" in published:
        return 2048
    return config.position_limit or published["max_position_embeddings"] - 2


def mean_includes_special(published: Mapping[str, Any]) -> bool:
    """ESM-2, HyenaDNA and Geneformer leave special tokens out of the mean, the others take them in."""
    esm2 = published.get("model_type") == "esm" and published["vocab_size"] == len(ESM_VOCABULARY)
    cells = published.get("hidden_act") == "relu"
    return not (esm2 or cells or published.get("model_type") == "hyenadna")


def _random(
    entry: Entry, origin: Origin, device: torch.device, dtype: torch.dtype, seed: int, layers: int | None = None
) -> Encoder:
    family, config = recognise(entry.config(), entry.alias)
    config = _first_layers(config, layers)
    read, digest = _random_reader(family, config, seed)
    return TransformerEncoder(
        origin,
        family.build(config, read, dtype, device),
        built_in_tokenizer(entry.kind),
        weights_digest=digest(),
        token_limit=entry.token_limit,
        mean_includes_special=entry.pooling == "mean:all",
        authors_layer=entry.layer,
        meaningless=True,
        in_float32=partial(family.build, config, read, torch.float32, device, keep=False),
        weights=Weights(family, config, read, entry.config(), None),
    )


def _first_layers(config: Any, layers: int | None) -> Architecture:
    shallow: Architecture = replace(config, layers=layers) if layers else config
    return shallow


def _random_reader(family: Family, config: Architecture, seed: int) -> tuple[ReadTensor, Callable[[], str]]:
    """Seeded weights: normal of deviation 0.02 (0.2 for embeddings), norms at one, biases at zero.

    Each tensor has its own seed, made from its name, so that the order of reading does not matter.
    """
    shapes = family.shapes(config)

    def read(parameter: str) -> Tensor:
        if parameter.endswith("norm.weight"):
            return torch.ones(shapes[parameter])
        if parameter.endswith(".bias"):
            return torch.zeros(shapes[parameter])
        if parameter.endswith((".freq", ".deltas")):  # of HyenaDNA's filters, as their authors begin with them
            return torch.full(shapes[parameter], 10.0) if parameter.endswith(".freq") else _decays(shapes[parameter])
        own = int.from_bytes(hashlib.sha256(f"{seed} {parameter}".encode()).digest()[:7], "big")
        deviation = 0.2 if parameter in _TABLES else 0.02
        return torch.empty(shapes[parameter]).normal_(0.0, deviation, generator=torch.Generator().manual_seed(own))

    return read, lambda: f"random {seed}"


def _decays(shape: tuple[int, ...]) -> Tensor:
    """Exponential decays of HyenaDNA's filters, from 1 % left at 1.5 of the longest sequence to 1 % at 0.3 of it."""
    return torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, math.prod(shape)).reshape(shape)
