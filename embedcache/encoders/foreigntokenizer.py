"""The tokenizer of an encoder that only transformers knows: what it reads, letters or letters between blanks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatch
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.encoders.tokenizers.tokenizer import Tokenizer
from embedcache.errors import InputError, ModelError
from embedcache.sequences.alphabet import DNA, PROTEIN, Letters
from embedcache.sequences.tokens import Tokens

TOKENIZER_FILES = (
    "vocab*.txt", "vocab*.json", "merges.txt", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "*.model",
    "*.codes",
)  # fmt: skip
"""Shell patterns of the files that any tokenizer of transformers is made of, but for Python code."""
PROBES = {PROTEIN: "ACDEFGHIKLMNPQRSTVWY", DNA: "ACGT" * 12}
"""What a tokenizer must read without an unknown token to be one of proteins, or else of DNA."""
_NO_LIMIT = 10**9
"""transformers writes 10^30 for tokenizers without a limit."""


class ForeignTokenizer(Tokenizer):
    """A tokenizer of transformers.

    Parameters
    ----------
    published : as AutoTokenizer gives it.
    alphabet : ``dna`` or ``protein``.
    spaced : whether it wants a blank between letters, as ProtBert's does.
    digest : hash of its files.
    """

    def __init__(self, published: Any, alphabet: str, spaced: bool, digest: str) -> None:
        self.published, self.alphabet, self.spaced = published, alphabet, spaced
        self.special = special_tokens(published, self._text(PROBES[alphabet]))
        self.size = len(published)
        self.limit = published.model_max_length if published.model_max_length < _NO_LIMIT else None
        self._fingerprint = f"{digest} {alphabet} {spaced}"

    @classmethod
    def read(cls, directory: Path, alphabet: str | None, trust_remote_code: bool) -> ForeignTokenizer:
        """Read a model's folder.

        Parameters
        ----------
        alphabet : None: a tokenizer that has tokens for all amino acids is one of proteins, one that has them for A, C,
            G and T alone is one of DNA.

        Raises
        ------
        ModelError : the tokenizer has no tokens for the letters of the alphabet, or of any.
        """
        from transformers import AutoTokenizer

        published = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=trust_remote_code)
        for guess in (alphabet,) if alphabet else (PROTEIN, DNA):
            for spaced in (False, True):
                if reads(published, " ".join(PROBES[guess]) if spaced else PROBES[guess]):
                    return cls(published, guess, spaced, _digest(directory))
        letters = {None: "nucleotides or amino acids", DNA: "nucleotides", PROTEIN: "amino acids"}[alphabet]
        raise ModelError(
            f"its tokenizer has no tokens for {letters}, neither side by side nor with blanks between them"
        )

    @property
    def fingerprint(self) -> str:
        """Hash of the tokenizer's files and of how it is used."""
        return self._fingerprint

    @property
    def probe(self) -> Tokens:
        """A short sequence."""
        return self([PROBES[self.alphabet][:4]])

    def __call__(self, sequences: Sequence[str] | pa.Array | Letters) -> Tokens:
        """Token ids of n sequences, int32, special tokens included."""
        rows: list[list[int]] = self._encoded(sequences)["input_ids"]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return Tokens(np.fromiter(chain.from_iterable(rows), np.int32, int(offsets[-1])), offsets)

    def spans(self, letters: Letters) -> NDArray[np.int64]:
        """First letter and letter after the last that each token covers, (T, 2); -1 for special tokens.

        Raises
        ------
        InputError : the tokenizer is a slow one, which does not know.
        """
        if not self.published.is_fast:
            raise InputError(
                f"{type(self.published).__name__} does not say which letters a token covers, so center:W and at:COLUMN are "
                "not to be had with it: cut the sequences around their places and take --pool mean"
            )
        before, after = self.special
        rows = self._encoded(letters, return_offsets_mapping=True)["offset_mapping"]
        parts = [np.asarray(row, np.int64).reshape(-1, 2) for row in rows]
        for spans_L2 in parts:
            if self.spaced:  # letter i stands at 2 i; a token may take the blank before its letter along
                spans_L2[:] = (spans_L2 + 1) // 2
            spans_L2[:before] = spans_L2[len(spans_L2) - after :] = -1
        return np.concatenate(parts) if parts else np.empty((0, 2), np.int64)

    def name_of(self, token: int) -> str:
        return str(self.published.convert_ids_to_tokens(token))

    def _encoded(self, sequences: Sequence[str] | pa.Array | Letters, **more: bool) -> dict[str, Any]:
        letters = sequences if isinstance(sequences, Letters) else Letters.of(sequences)
        all_text = letters.bytes_.tobytes().decode("latin-1")
        bounds = letters.offsets.tolist()
        texts = [self._text(all_text[start:stop]) for start, stop in pairwise(bounds)]
        if not texts:
            return {"input_ids": [], "offset_mapping": []}
        encoded: dict[str, Any] = self.published(
            texts, padding=False, truncation=False, return_attention_mask=False, return_token_type_ids=False,
            verbose=False, **more,
        )  # fmt: skip
        return encoded

    def _text(self, sequence: str) -> str:
        return " ".join(sequence) if self.spaced else sequence


def reads(published: Any, text: str) -> bool:
    """Whether a tokenizer has tokens for all letters of a text: none is unknown, and none is dropped."""
    encoded = published(text, add_special_tokens=False, return_offsets_mapping=published.is_fast)
    ids = encoded["input_ids"]
    if not len(ids) or (published.unk_token_id is not None and published.unk_token_id in ids):
        return False
    covered = {at for start, stop in encoded.get("offset_mapping", ()) for at in range(start, stop)}
    return not published.is_fast or all(at in covered for at, letter in enumerate(text) if letter != " ")


def special_tokens(published: Any, text: str) -> tuple[int, int]:
    """How many special tokens a tokenizer puts before and after a sequence.

    They are what it gives for an empty sequence, as far as a short one begins and ends with the same; where it gives
    something else for an empty one, its own mask of special tokens counts.

    Raises
    ------
    ModelError : there are special tokens between the others.
    """
    empty: list[int] = published("")["input_ids"]
    encoded = published(text, return_special_tokens_mask=True)
    ids: list[int] = encoded["input_ids"]
    for before in range(len(empty), -1, -1):
        after = len(empty) - before
        if ids[:before] == empty[:before] and ids[len(ids) - after :] == empty[before:] and len(ids) > len(empty):
            return before, after
    inner = np.flatnonzero(np.asarray(encoded["special_tokens_mask"]) == 0)
    if not len(inner) or inner[-1] - inner[0] + 1 != len(inner):
        raise ModelError("its tokenizer puts special tokens between those of the letters, which cannot be pooled apart")
    return int(inner[0]), len(ids) - 1 - int(inner[-1])


def tokenizer_files(directory: Path) -> list[Path]:
    """The files in a folder that make a tokenizer."""
    files = sorted(file for file in directory.iterdir() if file.is_file())
    return [file for file in files if any(fnmatch(file.name, pattern) for pattern in TOKENIZER_FILES)]


def _digest(directory: Path) -> str:
    total = hashlib.sha256()
    for file in tokenizer_files(directory):
        content = file.read_bytes()
        total.update(f"{file.name} {len(content)}".encode() + content)
    return total.hexdigest()
