"""The tokenizer of DNABERT (DNA_bert_3 to DNA_bert_6): k-mers that begin at every letter.

Published is: join the k-mers by blanks and give the text to transformers' ``BertTokenizer``. Each k-mer of upper-case
A, C, G and T then is a token, and each other k-mer of letters and digits is ``[UNK]``. A k-mer with white space or
punctuation falls into pieces, or is a written-out special token: those few go through the ``tokenizers`` library.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from embedcache.encoders.tokenizers import tokenizer
from embedcache.encoders.tokenizers.kmernumbers import kmers, numbers_of
from embedcache.encoders.tokenizers.tokenizer import Located, TableTokenizer, look_up, table_of
from embedcache.encoders.tokenizers.vocabulary import read_vocabulary
from embedcache.errors import ModelError
from embedcache.sequences.alphabet import DNA, Letters

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_UNKNOWN, _ODD = 4, 8
"""Digits of letters that make a k-mer unknown, and of those that may break it up; A, C, G, T have 0 to 3."""
_DIGITS = table_of(
    _ODD,
    {(string.ascii_letters + string.digits).encode(): _UNKNOWN, b"A": 0, b"C": 1, b"G": 2, b"T": 3},
)


class OverlappingKmers(TableTokenizer):
    """One token for the k-mer at each letter, between ``[CLS]`` and ``[SEP]``.

    A k-mer that touches anything but an upper-case A, C, G or T is ``[UNK]``; fewer than k letters have no token.

    Parameters
    ----------
    vocabulary : the special words and all k-mers of one length, in the order of their ids.

    Raises
    ------
    ModelError : a special word or a k-mer is missing, or there are words of other lengths.
    """

    alphabet = DNA

    def __init__(self, vocabulary: tuple[str, ...]) -> None:
        words = [word for word in vocabulary if not word.startswith("[")]
        self.k = len(words[0]) if words else 0
        expected = {*_SPECIAL, *(kmers(self.k) if 1 <= self.k <= 8 else ())}
        missing = sorted(expected - set(vocabulary))
        foreign = sorted(set(words) - expected)
        if missing or foreign:
            wrong = f"lacks {missing[0]}" if missing else f"has {foreign[0]} among its {self.k}-mers"
            raise ModelError(
                f"a vocabulary of overlapping k-mers holds all of one length and BERT's words; this {wrong}"
            )
        super().__init__(vocabulary, first="[CLS]", last="[SEP]")
        self.unk = self.id_of["[UNK]"]
        self._id_of_kmer = np.asarray([self.id_of[word] for word in kmers(self.k)], np.int32)

    @classmethod
    def of(cls, k: int) -> OverlappingKmers:
        """The published tokenizer of DNA_bert_k."""
        return cls((*_SPECIAL, *kmers(k, "ATCG")))

    @classmethod
    def read(cls, directory: Path) -> OverlappingKmers:
        """Read ``vocab.txt``; raises `ModelError` if it is missing, damaged or of another kind of tokenizer."""
        vocabulary = read_vocabulary(directory)
        try:
            return cls(vocabulary)
        except ModelError as error:
            raise ModelError(f"{directory / 'vocab.txt'}: {error}; copy it from the hub again") from None

    @cached_property
    def _published(self) -> tokenizers.Tokenizer:
        """``BertTokenizer`` as the library builds it."""
        published = tokenizers.Tokenizer(tokenizers.models.WordPiece(self.id_of, unk_token="[UNK]"))
        published.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
        published.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        published.add_special_tokens(list(_SPECIAL))
        return published

    def _locate(self, letters: Letters) -> Iterator[Located]:
        text = letters.bytes_
        if len(text) <= tokenizer.SLICE:
            yield self._at_once(letters)
            return
        for start in range(0, len(text) - self.k + 1, tokenizer.SLICE):
            part = text[start : start + tokenizer.SLICE + self.k - 1]
            starts, ids = self._at_once(Letters(part, np.asarray([0, len(part)])))
            yield starts + start, ids

    def _at_once(self, letters: Letters) -> Located:
        digits = look_up(_DIGITS, letters.bytes_)
        ids = np.take(self._id_of_kmer, numbers_of(digits, self.k))
        kind = digits >> 2
        worst = kind.copy()
        for step in range(1, self.k if kind.any() else 0):
            np.maximum(worst[:-step], kind[step:], out=worst[:-step])
        ids[worst > 0] = self.unk
        whole = np.ones(len(ids), bool)
        for step in range(1, self.k):
            cut_off = letters.offsets[1:][letters.lengths >= step] - step
            whole[cut_off] = False
        starts = np.flatnonzero(whole)
        ids = ids[starts]
        odd = np.flatnonzero(worst[starts] == _ODD >> 2)
        return self._with_pieces(letters, starts, ids, odd) if len(odd) else (starts, ids)

    def _with_pieces(
        self, letters: Letters, starts: NDArray[np.int64], ids: NDArray[np.int32], odd: NDArray[np.int64]
    ) -> Located:
        """Put what the library makes of the k-mers number `odd` in place of their single tokens."""
        text = letters.bytes_.tobytes().decode("latin-1")
        words = [text[start : start + self.k] for start in starts[odd].tolist()]
        pieces_of = {word: self._published.encode(word, add_special_tokens=False).ids for word in set(words)}
        pieces = [pieces_of[word] for word in words]
        tokens = np.ones(len(ids), np.int64)
        tokens[odd] = [len(piece) for piece in pieces]
        is_odd = np.zeros(len(ids), bool)
        is_odd[odd] = True
        out = np.repeat(ids, tokens)
        out[np.repeat(is_odd, tokens)] = [token for piece in pieces for token in piece]
        return np.repeat(starts, tokens), out

    def _stops(self, letters: Letters, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The end of the k-mer; the pieces of one that falls apart all have the whole k-mer for their span."""
        return starts + self.k
