"""The tokenizer of DNABERT-2 and DNABERT-S: byte-pair encoding with the merges of the published ``tokenizer.json``.

Sequences of letters go through the tables of `Merges`. White space, written-out special tokens and letters beyond ASCII
are rare in sequences and hard to get right: a sequence that holds such goes through the ``tokenizers`` library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from embedcache.encoders.tokenizers import tokenizer
from embedcache.encoders.tokenizers.kmernumbers import BASES, kmers
from embedcache.encoders.tokenizers.merges import Merges
from embedcache.encoders.tokenizers.tokenizer import (
    Located,
    TableTokenizer,
    fingerprint_of,
    look_up,
    next_starts,
    table_of,
)
from embedcache.encoders.tokenizers.vocabulary import read_text
from embedcache.encoders.tokenizers.words import VocabularyTokenizer
from embedcache.errors import ModelError
from embedcache.sequences.alphabet import DNA, Letters

_SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
_MARGIN = 1024
"""Letters behind a slice of a long sequence that are looked at with it, so that its own tokens do not depend on more."""
_BLANK = 2
_ODD = table_of(1, {bytes(range(33, 127)): 0, b"[": 1, b" \t\n\v\f\r": _BLANK})


class BytePairTokenizer(TableTokenizer):
    """Byte-pair encoding of A, C, G and T, between ``[CLS]`` and ``[SEP]``; each other letter is ``[UNK]``.

    Parameters
    ----------
    published : the text of ``tokenizer.json``.

    Raises
    ------
    ModelError : it is no tokenizer of this kind.
    """

    alphabet = DNA

    def __init__(self, published: str) -> None:
        try:
            vocabulary, merges = _parse(json.loads(published))
            self._published = tokenizers.Tokenizer.from_str(published)
        except Exception as error:  # the library raises nothing narrower
            what = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise ModelError(f"this is no byte-pair tokenizer like DNABERT-2's: {what}") from None
        super().__init__(vocabulary, first="[CLS]", last="[SEP]")
        self.unk = self.id_of["[UNK]"]
        self._merges = Merges([word if word not in _SPECIAL else "" for word in vocabulary], merges)

    @classmethod
    def read(cls, directory: Path) -> BytePairTokenizer:
        """Read ``tokenizer.json``; raises `ModelError` if it is missing, damaged or of another kind of tokenizer."""
        text = read_text(directory, "tokenizer.json")
        try:
            return cls(text)
        except ModelError as error:
            raise ModelError(f"{directory / 'tokenizer.json'}: {error}; copy it from the hub again") from None

    @staticmethod
    def stand_in() -> VocabularyTokenizer:
        """A tokenizer for random weights, where no ``tokenizer.json`` is at hand.

        It cuts DNA into 5-mers, and what is left into letters, so that a sequence has about as many tokens as the
        published tokenizer gives it. Special tokens and single letters have the published ids; those of 5-mers mean
        nothing.
        """
        return VocabularyTokenizer((*_SPECIAL, *"ACGT", *kmers(5)), eos=True)

    @property
    def fingerprint(self) -> str:
        """Hash of the words, the merges and the special tokens."""
        return fingerprint_of(type(self).__name__, self.vocabulary, self._merges.merges, self.first, self.last)

    def _locate(self, letters: Letters) -> Iterator[Located]:
        odd = np.flatnonzero(look_up(_ODD, letters.bytes_))
        if len(odd):
            yield self._mixed(letters, np.unique(np.searchsorted(letters.offsets, odd, "right") - 1))
        elif len(letters.bytes_) <= tokenizer.SLICE:
            yield self._plain(letters)
        else:
            yield from self._long(letters.bytes_)

    def _plain(self, letters: Letters) -> Located:
        """Tokens of sequences of visible ASCII letters without brackets."""
        digits = np.insert(look_up(BASES, letters.bytes_), letters.offsets[1:], 4)
        if not len(digits):
            return np.empty(0, np.int64), np.empty(0, np.int32)
        starts, ids = self._merges.encode(digits)
        ends = letters.offsets[1:] + np.arange(len(letters))
        kept = np.ones(len(starts), bool)
        kept[(last := np.searchsorted(starts, ends))] = False
        sequence = np.repeat(np.arange(len(letters)), np.diff(last, prepend=-1) - 1)
        return starts[kept] - sequence, ids[kept]

    def _long(self, text: NDArray[np.uint8]) -> list[Located]:
        """Tokens of one long sequence, bit by bit.

        The bits fit together if the last token of one is compatible with the first of the next; in the rare case that
        two are not, all is done again with bits twice as long.
        """
        reach, parts = tokenizer.SLICE, None
        while parts is None:
            parts = self._in_bits(text, reach)
            reach *= 2
        return parts

    def _in_bits(self, text: NDArray[np.uint8], reach: int) -> list[Located] | None:
        parts: list[Located] = []
        start = 0
        while start < len(text):
            bit = text[start : start + reach + _MARGIN]
            starts, ids = self._plain(Letters(bit, np.asarray([0, len(bit)])))
            if parts and not self._merges.compatible[parts[-1][1][-1], ids[0]]:
                return None
            if start + len(bit) == len(text):
                parts.append((starts + start, ids))
                break
            kept = int(np.searchsorted(starts, reach))
            parts.append((starts[:kept] + start, ids[:kept].copy()))
            start += int(starts[kept])
        return parts

    def _mixed(self, letters: Letters, odd: NDArray[np.int64]) -> Located:
        """Tokens of sequences of which those number `odd` are for the library."""
        plain = np.setdiff1d(np.arange(len(letters)), odd)
        taken = letters.take(plain)
        shift = letters.offsets[plain] - taken.offsets[:-1]
        located = []
        for starts, ids in self._locate(taken) if len(plain) else ():
            located.append((starts + shift[np.searchsorted(taken.offsets, starts, "right") - 1], ids))
        located += [self._by_library(letters, int(sequence)) for sequence in odd]
        starts = np.concatenate([starts for starts, _ in located])
        order = np.argsort(starts, kind="stable")
        return starts[order], np.concatenate([ids for _, ids in located])[order]

    def _by_library(self, letters: Letters, sequence: int) -> Located:
        begin, end = letters.offsets[sequence : sequence + 2]
        raw = letters.bytes_[begin:end].tobytes()
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        encoding = self._published.encode(text, add_special_tokens=False)
        starts = np.asarray([start for start, _ in encoding.offsets], np.int64)
        if len(text) < len(raw):
            places = np.cumsum([0, *(len(letter.encode()) for letter in text)])
            starts = places[starts]
        return starts + begin, np.asarray(encoding.ids, np.int32)

    def _stops(self, letters: Letters, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        return next_starts(letters, starts, np.flatnonzero(look_up(_ODD, letters.bytes_) == _BLANK))


def _parse(published: dict[str, Any]) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Words in the order of their ids and merges in the order of their ranks; ValueError says what is unlike DNABERT-2."""
    model = published["model"]
    expected = {"type": "BPE", "unk_token": "[UNK]"}
    absent = (
        "dropout",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "fuse_unk",
        "byte_fallback",
        "ignore_merges",
    )
    for setting, value in (*expected.items(), *dict.fromkeys(absent).items()):
        if (model.get(setting) or None) != value:
            raise ValueError(f"its model has {setting} {model.get(setting)!r}")
    if published.get("normalizer") is not None or published["pre_tokenizer"] != {"type": "Whitespace"}:
        raise ValueError("it normalises text, or splits it otherwise than at white space")
    frame = [next(iter(part.values()))["id"] for part in published["post_processor"]["single"]]
    if frame != ["[CLS]", "A", "[SEP]"]:
        raise ValueError(f"it frames a sequence as {frame}")
    id_of: dict[str, int] = model["vocab"]
    words = sorted(id_of, key=id_of.__getitem__)
    if [id_of[word] for word in words] != list(range(len(words))) or words[: len(_SPECIAL)] != list(_SPECIAL):
        raise ValueError("its words do not begin with [UNK], [CLS], [SEP], [PAD], [MASK], or an id is missing")
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    merges = [(id_of[left], id_of[right], id_of[left + right]) for left, right in pairs]
    letters = len(words) - len(merges)
    if [made for *_, made in merges] != list(range(letters, len(words))):
        raise ValueError("its merges do not make its words one after another")
    if sorted(words[len(_SPECIAL) : letters]) != list("ACGT") or len(words) > 1 << 13:
        raise ValueError("its words are not made of A, C, G and T, or are more than 8,192")
    return words, merges
