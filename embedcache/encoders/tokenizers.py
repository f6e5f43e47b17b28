"""Letters to token ids by table lookup, with the ids of the published tokenizer.

`VocabularyTokenizer` stands for transformers' ``EsmTokenizer``, which ESM-2, FastESM2 and the Nucleotide Transformer
use: the longest vocabulary entry at each position, left to right, and one ``<unk>`` for a whole run of anything else.
With a vocabulary of single letters that is one lookup; with k-mers it is: k letters at a time within each run of A, C,
G, T, and what is left of the run letter by letter.
"""

from __future__ import annotations

import hashlib
import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embedcache.alphabet import DNA, PROTEIN, Letters
from embedcache.errors import ModelError
from embedcache.tokens import Tokens

ESM_VOCABULARY = tuple(
    "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>".split()
)
NT_V1_VOCABULARY = (
    *("<unk>", "<pad>", "<mask>", "<cls>"),
    *("".join(kmer) for kmer in product("ATCG", repeat=6)),
    *("A", "T", "C", "G", "N", "<eos>", "<bos>"),
)


class VocabularyTokenizer:
    """Greedy longest-match tokens of a fixed vocabulary of letters and, for DNA, k-mers.

    Parameters
    ----------
    vocabulary : the entries in the order of their ids (``vocab.txt``).
    eos : whether the published tokenizer ends a sequence with ``<eos>`` (ESM-2 does, NT does not).
    """

    def __init__(self, vocabulary: tuple[str, ...], eos: bool) -> None:
        self.vocabulary = vocabulary
        self._id = {token: i for i, token in enumerate(vocabulary)}
        words = [token for token in vocabulary if not token.startswith("<")]
        self.k = max(len(word) for word in words)
        if any(len(word) not in (1, self.k) for word in words):
            raise ModelError("the vocabulary mixes words of several lengths, which no ESM tokenizer does")
        self.alphabet = DNA if self.k > 1 else PROTEIN
        self.letters = frozenset(word for word in words if len(word) == 1)
        self.cls, self.unk, self.mask = self._id["<cls>"], self._id["<unk>"], self._id["<mask>"]
        self.eos = self._id["<eos>"] if eos else None
        self._single = np.full(256, self.unk, np.int32)
        self._single[[ord(letter) for letter in self.letters]] = [self._id[letter] for letter in self.letters]
        self._known = np.zeros(256, bool)
        self._known[[ord(letter) for letter in self.letters]] = True
        self._special = re.compile("|".join(re.escape(token) for token in vocabulary if token.startswith("<")))
        if self.k > 1:
            self._base = np.full(256, -1, np.int64)
            self._base[list(b"ACGT")] = range(4)
            try:
                self._kmer = np.asarray([self._id["".join(kmer)] for kmer in product("ACGT", repeat=self.k)], np.int32)
            except KeyError as error:
                raise ModelError(f"the vocabulary lacks the {self.k}-mer {error.args[0]}") from None

    @classmethod
    def read(cls, directory: Path) -> VocabularyTokenizer:
        """Read ``vocab.txt`` and whether ``<eos>`` is added; raises `ModelError` if the vocabulary is missing."""
        file = directory / "vocab.txt"
        if not file.exists():
            raise ModelError(f"{directory} has no vocab.txt, so its tokenizer cannot be built: copy it from the hub")
        settings: dict[str, object] = {"eos_token": "<eos>"}
        reading = file
        try:
            vocabulary = tuple(file.read_text().rstrip().split("\n"))
            for name in ("special_tokens_map.json", "tokenizer_config.json"):
                reading = directory / name
                if reading.exists():
                    settings |= json.loads(reading.read_text())
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"{reading} cannot be read ({error}): copy it from the hub again") from None
        try:
            return cls(tuple(word.strip() for word in vocabulary), eos=settings["eos_token"] is not None)
        except (KeyError, ValueError) as error:
            raise ModelError(f"{file} is not the vocabulary of an ESM tokenizer: no {error}") from None

    @property
    def fingerprint(self) -> str:
        """Hash of the vocabulary and the special tokens."""
        return hashlib.sha256(json.dumps([self.vocabulary, self.eos]).encode()).hexdigest()

    @property
    def special(self) -> tuple[int, int]:
        """How many special tokens stand before and after the letters."""
        return 1, int(self.eos is not None)

    def __call__(self, sequences: list[str] | pa.Array | Letters) -> Tokens:
        """Tokenize sequences as they are: lower case is not raised here, so it becomes ``<unk>`` as in the original."""
        letters = sequences if isinstance(sequences, Letters) else Letters.of(sequences)
        if np.isin(letters.bytes_, _NEEDS_WORDS).any():
            return self._by_words(letters)
        ids, counts = self._content(letters)
        return self._with_special(ids, counts)

    def _content(self, letters: Letters) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids without special tokens, and how many of them each sequence has."""
        if not len(letters.bytes_):
            return np.empty(0, np.int32), np.zeros(len(letters), np.int64)
        text, total = letters.bytes_, len(letters.bytes_)
        first = np.zeros(total + 1, bool)
        first[letters.offsets] = True
        first = first[:-1]
        known = self._known[text]
        starts = known | first
        starts[1:] |= known[:-1]
        if self.k > 1:
            starts, ids_at = self._kmers(text, first, starts)
        else:
            ids_at = self._single[text]
        counts = np.zeros(len(letters) + 1, np.int64)
        np.cumsum(starts, out=(running := np.zeros(total + 1, np.int64))[1:])
        counts = np.diff(running[letters.offsets])
        return ids_at[starts], counts

    def _kmers(
        self, text: NDArray[np.uint8], first: NDArray[np.bool_], starts: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        code, total, k = self._base[text], len(text), self.k
        is_base = code >= 0
        run_start = is_base & (first | ~np.concatenate(([False], is_base[:-1])))
        run_end = is_base & np.concatenate((~is_base[1:] | first[1:], [True]))
        begin, end = np.flatnonzero(run_start), np.flatnonzero(run_end) + 1
        run_of = np.cumsum(run_start) - 1
        bases = np.flatnonzero(is_base)
        within = bases - begin[run_of[bases]]
        whole = ((end - begin) // k * k)[run_of[bases]]
        opens = (within >= whole) | (within % k == 0)
        starts[bases] = opens
        ids_at = self._single[text]
        kmer_starts = bases[opens & (within < whole)]
        number = np.zeros(len(kmer_starts), np.int64)
        for step in range(k):
            number = number * 4 + code[np.minimum(kmer_starts + step, total - 1)]
        ids_at[kmer_starts] = self._kmer[number]
        return starts, ids_at

    def _with_special(self, ids: NDArray[np.int32], counts: NDArray[np.int64]) -> Tokens:
        before, after = self.special
        offsets = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts + before + after, out=offsets[1:])
        out = np.empty(offsets[-1], np.int32)
        inner = np.ones(len(out), bool)
        out[offsets[:-1]] = self.cls
        inner[offsets[:-1]] = False
        if self.eos is not None:
            out[offsets[1:] - 1] = self.eos
            inner[offsets[1:] - 1] = False
        out[inner] = ids
        return Tokens(out, offsets)

    def _by_words(self, letters: Letters) -> Tokens:
        """Text with white space or written-out special tokens such as ``<mask>``, one sequence after another."""
        pieces, counts = [np.empty(0, np.int32)], []
        for i in range(len(letters)):
            text = letters.bytes_[letters.offsets[i] : letters.offsets[i + 1]].tobytes().decode("latin-1")
            count, done = 0, 0
            for match in [*self._special.finditer(text), None]:
                words = text[done : match.start() if match else len(text)].split()
                ids, _ = self._content(Letters.of(words))
                pieces.append(ids)
                count += len(ids)
                if match:
                    pieces.append(np.asarray([self._id[match.group()]], np.int32))
                    count, done = count + 1, match.end()
            counts.append(count)
        return self._with_special(np.concatenate(pieces), np.asarray(counts, np.int64))


_NEEDS_WORDS = np.frombuffer(b"< \t\n\r\v\f", np.uint8)
