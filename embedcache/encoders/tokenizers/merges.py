"""Byte-pair encoding of DNA by table lookup, with exactly the tokens that merging pair by pair gives.

Two facts make it possible (corollaries IIa and IIIa in crates/bpe/README.md of github.com/github/rust-gems):

1. A split of a text into tokens is its byte-pair encoding if and only if each two neighbouring tokens are *compatible*,
   that is, if the two words written together are encoded as these two tokens again.
2. So what begins at a letter depends on nothing before it, and of all tokens that could begin there exactly one is
   compatible with the token that begins where it ends.

The token that begins at each letter is first guessed from the few letters that follow, by one lookup. Where the guess
is not compatible with the next token it is chosen anew, until there is no such place, which by fact 1 leaves nothing
but the encoding. Then the chain of tokens is followed from the first letter, in all blocks of the text at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embedcache.encoders.tokenizers.kmernumbers import BASES, numbers_of
from embedcache.errors import ModelError

_CONTEXT = 10
"""Letters that a guess looks at: right in 97 of 100 places, and 4^10 guesses lie in the processor's cache."""
_BLOCK = 128
"""Letters of a block in which the chain of tokens is followed."""
OTHER = 0
"""What stands for a letter that is no A, C, G or T: such letters are compatible with everything."""


@dataclass(frozen=True)
class Merges:
    """A byte-pair encoding whose words are made of A, C, G and T.

    Parameters
    ----------
    words : the word of each id, (V,); the empty string for ids that are no words, as id 0.
    merges : for each merge in the order of its rank the two ids and the id they make, which grows from merge to merge.
    """

    words: Sequence[str]
    merges: Sequence[tuple[int, int, int]]

    @cached_property
    def compatible(self) -> NDArray[np.bool_]:
        """Whether two words written together are encoded as the two, (V, V).

        Undo the later of two merges, on the left its right half and on the right its left half stays at the border:
        two words are compatible if these are, and if the pair that then meets is merged no earlier.

        Raises
        ------
        ModelError : a word is not what its own letters are merged to, so that the facts do not hold.
        """
        followers: dict[int, list[tuple[int, int]]] = defaultdict(list)
        leaders: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for left, right, made in self.merges:
            followers[left].append((right, made))
            leaders[right].append((left, made))
        fits = np.ones((len(self.words), len(self.words)), bool)
        for left, right, made in self.merges:
            fits[made, :made] = fits[right, :made]
            fits[made, [other for other, earlier in followers[right] if earlier < made]] = False
            fits[: made + 1, made] = fits[: made + 1, left]
            fits[[other for other, earlier in leaders[left] if earlier <= made], made] = False
        for left, right, made in self.merges:
            if not fits[left, right]:
                raise ModelError(f"the letters of {self.words[made]} are never merged to it: copy tokenizer.json again")
            fits[left, right] = False
        return fits

    @cached_property
    def _lengths(self) -> NDArray[np.uint8]:
        """Letters of each id, (V,); 1 for `OTHER`."""
        return np.asarray([max(len(word), 1) for word in self.words], np.uint8)

    @cached_property
    def _guesses(self) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """The first token of every text of up to `_CONTEXT` letters, and where those of each number of letters begin.

        The longest texts come first; each is found at its number. From short to long: the first token of a text is the
        one that is compatible with the first token of the rest.
        """
        of_length: dict[int, list[int]] = defaultdict(list)
        for token, word in enumerate(self.words):
            of_length[len(word)].append(token)
        del of_length[0]
        first = [np.full(1, OTHER, np.uint16)]
        for context in range(1, _CONTEXT + 1):
            guess = np.zeros(4**context, np.uint16)
            for length, tokens in of_length.items():
                if length <= context:
                    rest = guess.reshape(4**length, -1)
                    numbers = [_number(self.words[token]) for token in tokens]
                    begins = np.asarray(tokens, np.uint16)[:, None]
                    fits = self.compatible[begins, first[context - length][None, :]]
                    rest[numbers] = np.where(fits, begins, rest[numbers])
            first.append(guess)
        sizes = [len(guess) for guess in reversed(first)]
        begin = np.cumsum([0, *sizes[:-1]])[::-1]
        return np.concatenate(first[::-1]), begin

    @cached_property
    def _tree(self) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
        """The words letter by letter: the next node, at five times a node plus a digit (0 for none), and nodes' tokens."""
        children, token_at = [[0] * 5, [0] * 5], [OTHER, OTHER]
        for token, word in enumerate(self.words):
            node = 1
            for letter in word.encode():
                if not children[node][BASES[letter]]:
                    children[node][BASES[letter]] = len(children)
                    children.append([0] * 5)
                    token_at.append(OTHER)
                node = children[node][BASES[letter]]
            token_at[node] = token if word else OTHER
        return np.asarray(children).ravel(), np.asarray(token_at, np.uint16)

    def encode(self, digits: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Where the tokens of a text begin, and their ids.

        Parameters
        ----------
        digits : (n,), 0 to 3 for A, C, G, T and 4 for anything else, which is a token `OTHER` of its own; the last one
            is 4.
        """
        first, lengths = self._first_tokens(digits)
        starts = _chain(lengths)
        return starts, first[starts].astype(np.int32)

    def _first_tokens(self, digits: NDArray[np.uint8]) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
        """The token that begins at each letter if one does, and its letters, (n,)."""
        guesses, begin = self._guesses
        numbers = numbers_of(digits, _CONTEXT).astype(np.int64)
        ends = np.flatnonzero(digits == 4)
        numbers[ends] = begin[0]
        run = np.diff(ends, prepend=-1)
        for letters in range(1, _CONTEXT):  # that many letters before the end of a run, no more are to be looked at
            ends, run = ends[run > letters], run[run > letters]
            numbers[ends - letters] = begin[letters] + (numbers[ends - letters] >> 2 * (_CONTEXT - letters))
        first = np.append(np.take(guesses, numbers), np.uint16(OTHER))
        lengths = np.take(self._lengths, first[:-1])
        np.add(np.arange(len(digits)), lengths, out=numbers)
        wrong = np.flatnonzero(~self._fit(first[:-1], np.take(first, numbers)))
        sizes = np.unique(self._lengths)[:, None]
        while len(wrong):
            chosen = self._choose(digits, first, wrong)
            changed = wrong[chosen != first[wrong]]
            first[wrong] = chosen
            lengths[wrong] = self._lengths[chosen]
            before = np.maximum(changed - sizes.astype(np.int64), 0)
            again = np.sort(np.concatenate([wrong, before[np.take(lengths, before) == sizes]]))
            again = again[np.diff(again, prepend=-1) > 0]
            wrong = again[~self._fit(first[again], first[again + lengths[again]])]
        return first[:-1], lengths

    def _fit(self, tokens: NDArray[np.uint16], following: NDArray[np.uint16]) -> NDArray[np.bool_]:
        """Whether tokens are compatible with those that follow them, (n,)."""
        pair = tokens.astype(np.int64)
        pair *= len(self.words)
        pair += following
        return np.take(self.compatible.reshape(-1), pair)

    def _choose(
        self, digits: NDArray[np.uint8], first: NDArray[np.uint16], at: NDArray[np.int64]
    ) -> NDArray[np.uint16]:
        """For each of these letters a token that is compatible with the one after it; the present one if none is."""
        children, token_at = self._tree
        chosen, who, letter = first[at], np.arange(len(at)), at
        node = np.ones(len(at), np.int64)
        while len(who):
            node = np.take(children, node * 5 + np.take(digits, letter))
            alive = node > 0
            node, who, letter = node[alive], who[alive], letter[alive] + 1
            token = token_at[node]
            fits = (token != OTHER) & self._fit(token, first[letter])
            chosen[who[fits]] = token[fits]
        return chosen


def _number(word: str) -> int:
    number = 0
    for letter in word.encode():
        number = 4 * number + BASES[letter]
    return number


def _chain(lengths: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Follow tokens from letter 0: `lengths` (n,) says how long the one at each letter is; where they begin, (T,).

    Blocks of the text become the columns of a table, so that a letter of all blocks is one row. From the last row to
    the first, where the chain leaves a block is known for whatever letter it comes in by; then one walk over the blocks
    says by which it does come in, and all blocks are followed at once.
    """
    reach = int(lengths.max(initial=1))
    blocks = -(-len(lengths) // _BLOCK)
    padded = np.ones(blocks * _BLOCK, np.uint8)
    padded[: len(lengths)] = lengths
    rows = np.ascontiguousarray(padded.reshape(blocks, _BLOCK).T)
    leaves = np.empty((_BLOCK + reach, blocks), np.uint8)
    leaves[_BLOCK:] = np.arange(reach)[:, None]
    for letter in range(_BLOCK - 1, -1, -1):
        here = np.arange(letter * blocks, (letter + 1) * blocks)
        here += rows[letter] * np.int64(blocks)
        np.take(leaves.reshape(-1), here, out=leaves[letter], mode="clip")
    table, entry, entries = leaves.tobytes(), 0, []
    for block in range(blocks):
        entries.append(entry)
        entry = table[entry * blocks + block]
    begins = np.zeros(len(padded), bool)
    stop = np.arange(1, blocks + 1) * _BLOCK
    at = stop - _BLOCK + np.asarray(entries, np.int64)
    while len(at):
        begins[at] = True
        at = at + np.take(padded, at)
        inside = at < stop
        at, stop = at[inside], stop[inside]
    return np.flatnonzero(begins[: len(lengths)])
