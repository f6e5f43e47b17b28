"""From a name to a loaded encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from embedcache.encoders.checkpoint import Checkpoint
from embedcache.encoders.encoder import Encoder, Origin
from embedcache.encoders.families import recognise
from embedcache.encoders.kmer import CompositionEncoder, composition
from embedcache.encoders.registry import BY_REPO, Entry, find
from embedcache.encoders.tokenizers import ESM_VOCABULARY, NT_V1_VOCABULARY, VocabularyTokenizer
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.encoders.trunk import Trunk, TrunkConfig, parameter_shapes
from embedcache.errors import InputError, ModelError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_encoder(
    name: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    random_weights: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Encoder:
    """Load a frozen encoder.

    Parameters
    ----------
    name : an alias (``embedcache models``), a hub id, either with ``@revision``; a folder with config.json, vocabulary
        and weights in the published format; or ``kmer:K``, ``onehot:L``.
    device : ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``...
    precision : of the matrix products: ``float32``, ``bfloat16``, or ``auto`` (bfloat16 on a GPU, float32 on a CPU).
    random_weights : build the real architecture with random weights of `seed`: nothing is downloaded, and the
        embeddings mean nothing.
    progress : show a bar while weights are downloaded.

    Raises
    ------
    ModelError : the encoder is unknown, cannot be fetched, or its files do not fit together.
    InputError : the device or precision is not to be had.
    """
    on = _device(device)
    dtype = _dtype(precision, on)
    if name.lower().startswith(("kmer:", "onehot:")):
        return CompositionEncoder(Origin(name.lower()), composition(name))
    directory = Path(name).expanduser()
    if directory.is_dir():
        return _from_directory(
            directory,
            Origin(name, directory=str(directory.resolve()), seed=seed if random_weights else None),
            None,
            on,
            dtype,
            random_weights,
            seed,
        )
    repo_id, revision, entry = find(name)
    if random_weights:
        if entry is None:
            raise ModelError(f"the sizes of {repo_id} are not known here: download its config.json and name the folder")
        return _random(entry, Origin(name, repo_id, licence=entry.licence, seed=seed), on, dtype, seed)
    from embedcache.encoders.hub import fetch

    files = fetch(repo_id, revision, progress=progress)
    origin = Origin(name, repo_id, files.revision, licence=entry.licence if entry else None)
    return _from_directory(files.directory, origin, entry, on, dtype, False, seed)


def _device(device: str) -> torch.device:
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


def _dtype(precision: str, device: torch.device) -> torch.dtype:
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
) -> Encoder:
    file = directory / "config.json"
    try:
        published = json.loads(file.read_text())
        if not isinstance(published, dict):
            raise ValueError("it holds no object")
    except FileNotFoundError:
        raise ModelError(f"{directory} is no model folder: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not readable JSON ({error})") from None
    family, config = recognise(published, str(file))
    tokenizer = VocabularyTokenizer.read(directory)
    entry = entry or BY_REPO.get(str(published.get("_name_or_path", "")))
    fast = published["model_type"] == "fast_esm"
    if random_weights:
        read, digest = _random_reader(config, seed)
    else:
        checkpoint = Checkpoint(directory)
        keys = family.published_keys(config, checkpoint.keys)
        shapes = parameter_shapes(config)

        def read(parameter: str) -> Tensor:
            return checkpoint.read(keys[parameter], shapes[parameter])

        def digest() -> str:
            return checkpoint.digest

    limit = config.max_positions - config.position_offset
    trunk = Trunk(config, read, dtype, device)
    return TransformerEncoder(
        origin,
        trunk,
        tokenizer,
        weights_digest=digest(),
        token_limit=entry.token_limit if entry else 2048 if fast else limit,
        mean_includes_special=entry.mean_includes_special if entry else fast or tokenizer.alphabet == "dna",
        meaningless=random_weights,
    )


def _random(entry: Entry, origin: Origin, device: torch.device, dtype: torch.dtype, seed: int) -> Encoder:
    _, config = recognise(entry.config(), entry.alias)
    dna = entry.alphabet == "dna"
    read, digest = _random_reader(config, seed)
    return TransformerEncoder(
        origin,
        Trunk(config, read, dtype, device),
        VocabularyTokenizer(NT_V1_VOCABULARY if dna else ESM_VOCABULARY, eos=not dna),
        weights_digest=digest(),
        token_limit=entry.token_limit,
        mean_includes_special=entry.mean_includes_special,
        meaningless=True,
    )


def _random_reader(config: TrunkConfig, seed: int) -> tuple[Callable[[str], Tensor], Callable[[], str]]:
    """Seeded weights: normal of deviation 0.02 (0.2 for embeddings), norms at one, biases at zero.

    Each tensor has its own seed, made from its name, so that the order of reading does not matter.
    """
    shapes = parameter_shapes(config)

    def read(parameter: str) -> Tensor:
        if parameter.endswith("norm.weight"):
            return torch.ones(shapes[parameter])
        if parameter.endswith(".bias"):
            return torch.zeros(shapes[parameter])
        own = int.from_bytes(hashlib.sha256(f"{seed} {parameter}".encode()).digest()[:7], "big")
        deviation = 0.2 if parameter in ("tokens.weight", "positions.weight") else 0.02
        return torch.empty(shapes[parameter]).normal_(0.0, deviation, generator=torch.Generator().manual_seed(own))

    return read, lambda: f"random {seed}"
