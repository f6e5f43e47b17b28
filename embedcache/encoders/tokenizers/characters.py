"""The tokenizer of HyenaDNA: a token for each letter."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from embedcache.encoders.tokenizers import tokenizer
from embedcache.encoders.tokenizers.tokenizer import Located, TableTokenizer, look_up, next_starts, table_of
from embedcache.encoders.tokenizers.writtenout import WrittenOut, pattern_of
from embedcache.sequences.alphabet import DNA, Letters

_VOCABULARY = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", *"ACGTN")
_RECOGNISED = [word for word in _VOCABULARY if word.startswith("[") and word != "[RESERVED]"]


class CharacterTokenizer(TableTokenizer):
    """A, C, G, T and N are 7 to 11, any other letter is ``[UNK]`` 6, and ``[SEP]`` 1 ends the sequence."""

    alphabet = DNA

    def __init__(self) -> None:
        super().__init__(_VOCABULARY, first=None, last="[SEP]")
        letters = {word.encode(): self.id_of[word] for word in _VOCABULARY if len(word) == 1}
        self._table = table_of(self.id_of["[UNK]"], letters)
        self._written_out = pattern_of(_RECOGNISED)

    def _locate(self, letters: Letters) -> Iterator[Located]:
        text = letters.bytes_
        special = WrittenOut.find(letters, self._written_out, self.id_of) if (text == ord("[")).any() else None
        dropped = None if special is None else special.tails(len(text))
        for start in range(0, len(text), tokenizer.SLICE):
            part = slice(start, start + tokenizer.SLICE)
            ids = look_up(self._table, text[part]).astype(np.int32)
            if special is None or dropped is None:
                yield np.arange(start, start + len(ids)), ids
                continue
            here = (special.starts >= part.start) & (special.starts < part.stop)
            ids[special.starts[here] - start] = special.ids[here]
            kept = np.flatnonzero(~dropped[part])
            yield kept + start, ids[kept]

    def _stops(self, letters: Letters, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        return next_starts(letters, starts, np.empty(0, np.int64))
