"""The tokenizer of ESM-2, FastESM2 and the Nucleotide Transformer.

`VocabularyTokenizer` stands for transformers' ``EsmTokenizer``: the longest vocabulary entry at each position, left to
right, and one ``<unk>`` for a whole run of anything else. With a vocabulary of single letters that is one lookup; with
k-mers it is: k letters at a time within each run of A, C, G, T, and what is left of the run letter by letter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedcache.encoders.tokenizers import tokenizer
from embedcache.encoders.tokenizers.kmernumbers import kmers, numbers_of
from embedcache.encoders.tokenizers.tokenizer import (
    BLANKS,
    Located,
    TableTokenizer,
    fingerprint_of,
    look_up,
    next_starts,
    offsets_of,
    table_of,
)
from embedcache.encoders.tokenizers.vocabulary import read_vocabulary
from embedcache.encoders.tokenizers.writtenout import WrittenOut, pattern_of
from embedcache.errors import ModelError
from embedcache.sequences.alphabet import DNA, PROTEIN, Letters

ESM_VOCABULARY = tuple(
    "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>".split()
)
NT_V1_VOCABULARY = ("<unk>", "<pad>", "<mask>", "<cls>", *kmers(6, "ATCG"), *"ATCGN", "<eos>", "<bos>")
NT_V2_VOCABULARY = ("<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>", *kmers(6, "ATCG"), *"ATCGN")
_SPECIAL = {"<": ("<cls>", "<eos>", "<unk>"), "[": ("[CLS]", "[SEP]", "[UNK]")}
"""What begins a sequence, ends it and stands for the unknown, by the bracket that special words are written in."""
_KNOWN, _UNKNOWN = 4, 8
"""Digits of letters with a token of their own and of all others; A, C, G, T have 0 to 3."""
_BLANK, _BRACKET = 1, 2
"""Letters that `_with_words` looks at; all others have 0."""


class VocabularyTokenizer(TableTokenizer):
    """Greedy longest-match tokens of a fixed vocabulary of letters and, for DNA, k-mers.

    Parameters
    ----------
    vocabulary : the entries in the order of their ids (``vocab.txt``).
    eos : whether the published tokenizer ends a sequence with ``<eos>`` (ESM-2 does, NT does not).

    Raises
    ------
    ModelError, KeyError : the vocabulary lacks k-mers or special tokens.
    """

    def __init__(self, vocabulary: tuple[str, ...], eos: bool) -> None:
        bracket = vocabulary[0][:1]
        cls, end, unk = _SPECIAL.get(bracket, _SPECIAL["<"])
        super().__init__(vocabulary, first=cls, last=end if eos else None)
        words = [word for word in vocabulary if not word.startswith(bracket)]
        self.k = max(map(len, words), default=0)
        if any(len(word) not in (1, self.k) for word in words):
            raise ModelError("the vocabulary mixes words of several lengths, which no ESM tokenizer does")
        self.alphabet = DNA if self.k > 1 else PROTEIN
        self.unk = self.id_of[unk]
        self._written_out = pattern_of(word for word in vocabulary if word.startswith(bracket))
        letters = [word for word in words if len(word) == 1]
        self._id_of_letter = np.full(256, self.unk, np.int32)
        self._id_of_letter[[ord(letter) for letter in letters]] = [self.id_of[letter] for letter in letters]
        known = "".join(letters).encode()
        bases = {b"A": 0, b"C": 1, b"G": 2, b"T": 3} if self.k > 1 else {}
        self._digits = table_of(_UNKNOWN, {known: _KNOWN, **bases})
        self._odd = table_of(0, {bracket.encode(): _BRACKET, BLANKS: _BLANK})
        try:
            words = kmers(self.k) if self.k > 1 else []
            self._id_of_kmer = np.asarray([self.id_of[word] for word in words], np.int32)
        except KeyError as error:
            raise ModelError(f"the vocabulary lacks the {self.k}-mer {error.args[0]}") from None

    @classmethod
    def read(cls, directory: Path) -> VocabularyTokenizer:
        """Read ``vocab.txt`` and whether ``<eos>`` is added; raises `ModelError` if the vocabulary is missing."""
        vocabulary = read_vocabulary(directory)
        settings: dict[str, object] = {"eos_token": "<eos>"}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            file = directory / name
            try:
                if file.exists():
                    settings |= json.loads(file.read_text())
            except (OSError, ValueError, TypeError) as error:
                raise ModelError(f"{file} cannot be read ({error}): copy it from the hub again") from None
        try:
            return cls(vocabulary, eos=settings["eos_token"] is not None)
        except (KeyError, ModelError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else error
            file = directory / "vocab.txt"
            raise ModelError(
                f"{file} is not the vocabulary of an ESM tokenizer: {what}; copy it from the hub again"
            ) from None

    @property
    def fingerprint(self) -> str:
        """Hash of the vocabulary and the special tokens."""
        return fingerprint_of(self.vocabulary, self.last)

    def _locate(self, letters: Letters) -> Iterator[Located]:
        text, start = letters.bytes_, 0
        while len(text) - start > tokenizer.SLICE:
            stop = self._cut(text, start)
            starts, ids = self._at_once(Letters(text[start:stop], np.asarray([0, stop - start])))
            yield starts + start, ids
            start = stop
        rest = letters if start == 0 else Letters(text[start:], np.asarray([0, len(text) - start]))
        starts, ids = self._at_once(rest)
        yield starts + start, ids

    def _cut(self, text: NDArray[np.uint8], start: int) -> int:
        """Where a token begins, whatever follows, about a slice after `start`: never inside a run of unknown letters."""
        begin = start
        while begin < len(text):
            digits = look_up(self._digits, text[begin : begin + tokenizer.SLICE])
            known = np.flatnonzero(digits != _UNKNOWN)
            if len(known):
                end = int(known[-1]) + 1
                if end < len(digits) or digits[-1] == _KNOWN:
                    return begin + end
                others = np.flatnonzero(digits >= _KNOWN)
                run = int(others[-1]) + 1 if len(others) else 0
                return begin + run + (end - run) // self.k * self.k
            begin += len(digits)
        return len(text)

    def _at_once(self, letters: Letters) -> Located:
        odd = look_up(self._odd, letters.bytes_)
        if odd.any():
            return self._with_words(letters, odd)
        return self._plain(letters)

    def _plain(self, letters: Letters) -> Located:
        """Tokens of sequences without white space and written-out special tokens."""
        if not len(letters.bytes_):
            return np.empty(0, np.int64), np.empty(0, np.int32)
        digits = look_up(self._digits, letters.bytes_)
        return self._words(letters, digits) if self.k > 1 else self._letters(letters, digits)

    def _letters(self, letters: Letters, digits: NDArray[np.uint8]) -> Located:
        ids = np.take(self._id_of_letter, letters.bytes_, mode="clip")
        unknown = digits == _UNKNOWN
        again = np.zeros(len(ids) + 1, bool)
        np.logical_and(unknown[1:], unknown[:-1], out=again[1:-1])
        again[letters.offsets] = False
        if not again.any():
            return np.arange(len(ids)), ids
        starts = np.flatnonzero(~again[:-1])
        return starts, ids[starts]

    def _words(self, letters: Letters, digits: NDArray[np.uint8]) -> Located:
        kind = digits >> 2
        begin = letters.offsets[:-1]
        if kind.any():
            first = np.zeros(len(digits) + 1, bool)
            first[letters.offsets] = True
            first[1:-1] |= kind[1:] != kind[:-1]
            begin = np.flatnonzero(first[:-1])
        lengths = np.diff(begin, append=len(digits))
        kind_of_run = kind[np.minimum(begin, len(digits) - 1)]
        whole = np.where(kind_of_run == 0, lengths // self.k, 0)
        single = np.where(kind_of_run << 2 == _UNKNOWN, 1, lengths - whole * self.k)
        # Two entries a run, its k-mers and its single letters: first letter, letters a token, and tokens.
        first_of = np.stack([begin, begin + whole * self.k], axis=1).ravel()
        width_of = np.tile([self.k, 1], len(begin))
        count_of = np.stack([whole, single], axis=1).ravel()
        before = offsets_of(count_of)
        is_single = np.repeat(np.tile([False, True], len(begin)), count_of)
        starts = np.arange(before[-1])
        starts *= np.where(is_single, 1, self.k)
        starts += np.repeat(first_of - before[:-1] * width_of, count_of)
        numbers = numbers_of(digits, self.k)
        ids = np.take(self._id_of_kmer, np.take(numbers, starts))
        singles = np.flatnonzero(is_single)
        ids[singles] = self._id_of_letter[letters.bytes_[starts[singles]]]
        return starts, ids

    def _with_words(self, letters: Letters, odd: NDArray[np.uint8]) -> Located:
        """Tokens of sequences of which some hold white space or written-out special tokens such as ``<mask>``.

        White space and special tokens are cut out as pieces of their own; what the pieces between them hold is plain.
        """
        blank = np.flatnonzero(odd == _BLANK)
        special = WrittenOut.find(letters, self._written_out, self.id_of)
        cuts = np.unique(np.concatenate([letters.offsets, blank, blank + 1, special.starts, special.stops]))
        starts, ids = self._plain(Letters(letters.bytes_, cuts))
        dropped = special.tails(len(letters.bytes_))
        dropped[blank] = True
        kept = ~dropped[starts]
        starts, ids = starts[kept], ids[kept]
        ids[np.searchsorted(starts, special.starts)] = special.ids
        return starts, ids

    def _stops(self, letters: Letters, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        return next_starts(letters, starts, np.flatnonzero(look_up(self._odd, letters.bytes_) == _BLANK))
