"""Any other encoder, through transformers' AutoModel and AutoTokenizer: ``hf:ORG/NAME`` or ``hf:FOLDER``, the slow path.

Files come through our own hub code. Nothing in them is run: where the published files name code, it is refused unless
the user trusts it, and weights are safetensors or a ``.bin`` that `checkpoint` has read with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedcache.encoders.checkpoint import Checkpoint
from embedcache.encoders.encoder import Origin
from embedcache.encoders.families import recognise
from embedcache.encoders.foreigntokenizer import TOKENIZER_FILES, ForeignTokenizer
from embedcache.encoders.hub import fetch
from embedcache.encoders.loading import mean_includes_special, read_config
from embedcache.encoders.packed import ROW_STEP, PackedBatch
from embedcache.encoders.registry import BY_REPO, find
from embedcache.encoders.tokenizers.published import read_tokenizer
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.errors import ModelError
from embedcache.fingerprint import fingerprint

PREFIX = "hf:"
_WITH_CODE = ("config.json", "tokenizer_config.json", "processor_config.json")
_HEADS = ("AutoModel", "AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModelForPreTraining")
"""Any of them gives hidden states; the first that a repository has code for is taken."""
_UNSTABLE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")
"""Fields of a config.json that say nothing about the encoder."""


class ForeignEncoder(TransformerEncoder):
    """An encoder that transformers runs: no code of ours, so it is slower than the native ones.

    Sequences of one batch that have the same number of tokens go through the model together, others apart: nothing is
    padded and nothing masked, so that a row depends on no other (bit for bit where a product of more rows has the same
    bits, as on the CPUs at hand).
    """

    def environment(self) -> dict[str, str]:
        import transformers

        return super().environment() | {"transformers": transformers.__version__}


@dataclass(frozen=True)
class ForeignConfig:
    """What is known of a model that transformers built; an `Architecture`."""

    vocabulary: int
    hidden: int
    last_state: int
    position_limit: int | None
    parameters: int
    """Weights without the token embedding."""
    published: str
    """Hash of what its config.json says."""

    def flops(self, tokens: float, length: float) -> float:
        """Floating-point operations for `tokens` tokens in sequences of `length` tokens, as for a plain transformer."""
        return 2.0 * tokens * (self.parameters + 2 * self.last_state * self.hidden * length)


class ForeignTrunk:
    """A model of transformers, from token ids to hidden states; a `FrozenTrunk`."""

    def __init__(self, model: Any, published: str, tokenizer: ForeignTokenizer, device: torch.device) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.device, self.dtype = device, next(model.parameters()).dtype
        self.takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
        probe = tokenizer.probe
        if len(probe.ids) == 0:
            raise ModelError("its tokenizer gives no token for a short sequence")
        states = self._hidden_states(torch.from_numpy(probe.ids.astype(np.int64))[None].to(device))
        shapes = {tuple(states_1LD.shape) for states_1LD in states}
        if len(shapes) != 1 or len(next(iter(shapes))) != 3 or next(iter(shapes))[:2] != (1, len(probe.ids)):
            found = ", ".join(map(str, sorted(shapes))) or "none"
            raise ModelError(f"its hidden states are not one vector a token and layer (shapes {found})")
        table = model.get_input_embeddings()
        self.config = ForeignConfig(
            vocabulary=int(table.weight.shape[0]),
            hidden=int(states[0].shape[2]),
            last_state=len(states) - 1,
            position_limit=position_limit(model),
            parameters=sum(weight.numel() for weight in model.parameters()) - table.weight.numel(),
            published=published,
        )

    def pack(self, ids_T: NDArray[np.integer], lengths_B: NDArray[np.int64], rows: int = 0) -> PackedBatch:
        """Lay out B tokenized sequences."""
        return PackedBatch.of(ids_T, lengths_B, self.device)

    def states(self, batch: PackedBatch) -> Iterator[Tensor]:
        """Yield the hidden states (T, D) float32, the embeddings first, as transformers counts them."""
        groups: list[list[Tensor]] = []
        for group in batch.groups:
            tokens = group.count * group.length
            ids_BL = batch.ids_T[group.start : group.start + tokens].long().view(group.count, group.length)
            # Products of few rows are computed in another order; copies of a short sequence make up for them.
            copies = max(-(-ROW_STEP // tokens), 1)
            states = self._hidden_states(ids_BL.repeat(copies, 1))
            groups.append([states_BLD.flatten(0, 1)[:tokens] for states_BLD in states])
        for parts in zip(*groups, strict=True):
            yield torch.cat(parts).float()

    def _hidden_states(self, ids_BL: Tensor) -> tuple[Tensor, ...]:
        mask = {"attention_mask": torch.ones_like(ids_BL)} if self.takes_mask else {}
        with torch.inference_mode():
            out = self.model(input_ids=ids_BL, output_hidden_states=True, return_dict=True, **mask)
        return tuple(getattr(out, "hidden_states", None) or ())


def load_foreign(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    trust_remote_code: bool,
    alphabet: str | None,
    random_weights: bool,
    seed: int,
    progress: bool,
    download: bool,
) -> ForeignEncoder:
    """Load ``hf:FOLDER``, or ``hf:ORG/NAME`` with ``@revision`` if given; see `embedcache.load_encoder`.

    Raises
    ------
    ModelError : it needs code that is not trusted, or transformers cannot make an encoder of it.
    """
    directory, origin = _located(name, trust_remote_code, random_weights, seed, progress, download)
    with _explained(name):
        return _built(directory, origin, device, dtype, trust_remote_code, alphabet, random_weights)


def _located(
    name: str, trusted: bool, random_weights: bool, seed: int, progress: bool, download: bool
) -> tuple[Path, Origin]:
    """The folder with an encoder's files, those of the hub downloaded, once it is clear that its code may run."""
    where, own_seed = name.removeprefix(PREFIX), seed if random_weights else None
    directory = Path(where).expanduser()
    # "hf:" is part of what is recorded, so that it can be loaded again by that.
    if directory.is_dir():
        refuse_code(directory, name, trusted)
        return directory, Origin(name, directory=f"{PREFIX}{directory.resolve()}", seed=own_seed)
    repo_id, revision, entry = find(where)
    small = fetch(repo_id, revision, progress=False, ask=download, beside=TOKENIZER_FILES, weights=False)
    refuse_code(small.directory, name, trusted)
    beside = (*TOKENIZER_FILES, "*.py") if trusted else TOKENIZER_FILES
    files = fetch(
        repo_id, small.revision or revision, progress=progress, ask=download, beside=beside, weights=not random_weights
    )
    licence = entry.licence if entry else None
    return files.directory, Origin(name, f"{PREFIX}{repo_id}", files.revision, licence=licence, seed=own_seed)


def _built(
    directory: Path,
    origin: Origin,
    device: torch.device,
    dtype: torch.dtype,
    trusted: bool,
    alphabet: str | None,
    random_weights: bool,
) -> ForeignEncoder:
    published = read_config(directory)
    native = _is_native(directory, published)
    tokenizer = ForeignTokenizer.read(directory, alphabet, trusted)
    identity = _identity(directory, published, trusted)
    files = [] if random_weights else Checkpoint(directory).files

    def trunk(dtype: torch.dtype) -> ForeignTrunk:
        with _quiet():
            if random_weights:
                model = _random_model(directory, published, origin.seed or 0, dtype, trusted)
            else:
                model = _model(directory, published, files, dtype, trusted)
            return ForeignTrunk(model, identity, tokenizer, device)

    built = trunk(dtype)
    encoder = ForeignEncoder(
        origin,
        built,
        tokenizer,
        weights_digest=_digest(built.model) if random_weights else _files_digest(files),
        token_limit=min(filter(None, (tokenizer.limit, built.config.position_limit)), default=None),
        mean_includes_special=native and mean_includes_special(published),
        meaningless=random_weights,
        in_float32=partial(trunk, torch.float32),
    )
    encoder.remarks = _remarks(origin, native, trusted)
    if device.type == "cpu":  # a call of the model costs time of its own, so that 512 tokens are too few
        encoder.batch_tokens = 2048
    return encoder


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what transformers raises into one `ModelError`."""
    import transformers

    try:
        with _quiet():
            yield
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    except Exception as error:  # transformers and the code of a repository raise all kinds
        reason = next((line for line in str(error).splitlines() if line.strip()), "") or type(error).__name__
        raise ModelError(f"{name} cannot be loaded by transformers {transformers.__version__}: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the warnings and bars of transformers off the screen."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def refuse_code(directory: Path, name: str, trusted: bool) -> None:
    """Raise `ModelError` if a model's folder names code that transformers would import, unless it is `trusted`."""
    code = sorted({word for file in _WITH_CODE for word in _code_named_in(directory / file)})
    if code and not trusted:
        more = f" and {len(code) - 3} more" if len(code) > 3 else ""
        raise ModelError(
            f"{name} needs code from its repository ({', '.join(code[:3])}{more}), which would run here with your rights: "
            f"read it, and allow it with --trust-remote-code if you trust it"
        )


def _code_named_in(file: Path) -> Iterator[str]:
    """Classes and kernels that a settings file would have imported."""
    try:
        pending = [json.loads(file.read_bytes())]
    except (OSError, ValueError):
        return
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += value.values()
            yield from _words(value.get("auto_map"))
            for key in ("attn_implementation", "_attn_implementation", "experts_implementation"):
                yield from (word for word in _words(value.get(key)) if "/" in word)


def _words(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _words(part)


def _model(directory: Path, published: Mapping[str, Any], files: list[Path], dtype: torch.dtype, trusted: bool) -> Any:
    """The published model; raises `ModelError` if its weights do not fill it."""
    model, report = _auto_class(published, trusted).from_pretrained(
        directory,
        local_files_only=True,
        trust_remote_code=trusted,
        use_safetensors=files[0].suffix == ".safetensors",
        output_loading_info=True,
        **_type_argument(dtype),
    )
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(
            f"the weights do not fill the model of its config.json: missing {', '.join(missing[:3])}{more}"
        )
    return model


def _random_model(directory: Path, published: Mapping[str, Any], seed: int, dtype: torch.dtype, trusted: bool) -> Any:
    """The architecture of a config.json with random weights, the same ones for the same seed."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=trusted)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _auto_class(published, trusted).from_config(config, trust_remote_code=trusted).to(dtype)


def _auto_class(published: Mapping[str, Any], trusted: bool) -> Any:
    """Which of transformers' Auto classes makes the encoder."""
    import transformers

    code = published.get("auto_map") or {}
    if trusted and code:
        return getattr(transformers, next((head for head in _HEADS if head in code), _HEADS[0]))
    if published.get("is_encoder_decoder"):  # T5: its encoder alone, as for ProtT5 and Ankh
        return transformers.AutoModelForTextEncoding
    return transformers.AutoModel


def _type_argument(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The argument for the type of the weights, which transformers renamed in 4.56."""
    import transformers

    major, minor = (int(number) for number in transformers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (4, 56) else "torch_dtype": dtype}


def position_limit(model: Any) -> int | None:
    """Longest input in tokens that a model has positions for; None where it names no limit.

    RoBERTa and ESM count positions from the id of their pad token on, which leaves fewer than the table has rows.
    """
    names = ("max_position_embeddings", "max_seq_len", "max_sequence_length")
    limit = next((value for name in names if isinstance(value := getattr(model.config, name, None), int)), None)
    if limit is None or limit <= 0:
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return limit - int(module.padding_idx) - 1
    return limit


def _is_native(directory: Path, published: Mapping[str, Any]) -> bool:
    """Whether an encoder would also run without transformers."""
    try:
        recognise(published, "config.json")
        read_tokenizer(directory, published)
    except ModelError:
        return False
    return True


def _remarks(origin: Origin, native: bool, trusted: bool) -> tuple[str, ...]:
    bare = origin.name.removeprefix(PREFIX)
    entry = BY_REPO.get(bare.partition("@")[0])
    slow = f"{origin.name} runs through transformers, the slow path"
    if native or entry:
        slow += f": --model {entry.alias if entry else bare} is the same encoder, native and faster"
    return (slow, "code from its repository runs here, as you allowed") if trusted else (slow,)


def _identity(directory: Path, published: Mapping[str, Any], trusted: bool) -> str:
    """Hash of a config.json, and of the code that runs with it."""
    settings = {key: value for key, value in published.items() if key not in _UNSTABLE}
    code = _files_digest(sorted(directory.glob("*.py"))) if trusted else ""
    return fingerprint(settings, code)


def _files_digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            total.update(f"{file.name} {file.stat().st_size}".encode())
            while block := content.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _digest(model: Any) -> str:
    """Hash of weights as they are in memory, for those that come from no file."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
