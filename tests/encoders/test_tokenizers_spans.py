"""Which letters a token stands for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from embedcache.encoders.tokenizers import BytePairTokenizer, GeneTokenizer, OverlappingKmers, Tokenizer
from embedcache.sequences.alphabet import Letters
from tests.encoders.test_tokenizers import random_dna, random_texts, read

NOT_OVERLAPPING = ("dnabert2", "ntv1", "ntv2", "esm2", "hyenadna")


def spans_of(ours: Tokenizer, texts: list[str]) -> list[list[tuple[int, int]]]:
    """The spans of each text's tokens, one for each id."""
    offsets = ours(texts).offsets
    spans = ours.spans(Letters.of(texts))
    assert spans.shape == (offsets[-1], 2)
    assert spans.dtype == np.int64
    return [[(int(start), int(stop)) for start, stop in spans[a:b]] for a, b in pairwise(offsets)]


@pytest.mark.parametrize("family", NOT_OVERLAPPING)
def test_covered_letters_put_together_are_the_sequence(family: str) -> None:
    ours = read(family)
    bases = list("MKTAYI") if family == "esm2" else list("ACGT")
    texts = ["", *random_texts(1, bases, 40, 500), *random_texts(2, [*bases * 4, *"NNrryR*-"], 40, 200)]
    before, after = ours.special
    for text, spans in zip(texts, spans_of(ours, texts), strict=True):
        inner = spans[before : len(spans) - after]
        assert spans[:before] == [(-1, -1)] * before
        assert spans[len(spans) - after :] == [(-1, -1)] * after
        assert "".join(text[start:stop] for start, stop in inner) == text
        assert all(start < stop for start, stop in inner)


@pytest.mark.parametrize("family", ["dnabert2", "ntv1"])
def test_every_token_covers_its_own_word(family: str) -> None:
    ours, text = read(family), random_dna(3, 3000)
    words = [ours.name_of(int(token)) for token in ours([text]).ids]
    covered = [text[start:stop] for start, stop in spans_of(ours, [text])[0]]
    assert [word for word in words if not word.startswith(("[", "<"))] == list(filter(None, covered))


@pytest.mark.parametrize(("family", "mask"), [("dnabert2", "[MASK]"), ("ntv1", "<mask>"), ("esm2", "<mask>")])
def test_white_space_is_covered_by_no_token_and_a_written_out_mask_by_one(family: str, mask: str) -> None:
    ours = read(family)
    text = f" A\nA  {mask} A"
    spans = spans_of(ours, [text])[0]
    covered = [text[start:stop] for start, stop in spans if start >= 0]
    assert covered == ["A", "A", mask, "A"]


def test_a_run_of_unknown_letters_is_covered_as_published() -> None:
    assert spans_of(read("ntv1"), ["ACrrrA"])[0] == [(-1, -1), (0, 1), (1, 2), (2, 5), (5, 6)]
    assert spans_of(read("esm2"), ["MJ jM"])[0] == [(-1, -1), (0, 1), (1, 2), (3, 4), (4, 5), (-1, -1)]
    assert spans_of(read("dnabert2"), ["rrA"])[0] == [(-1, -1), (0, 1), (1, 2), (2, 3), (-1, -1)]


def test_letters_beyond_ascii_are_counted_in_bytes() -> None:
    ours = read("dnabert2")
    assert ours(["GéG"]).ids.tolist() == [1, 7, 0, 7, 2]
    letters = Letters(np.frombuffer("GéG".encode(), np.uint8), np.asarray([0, 4]))
    assert ours(letters).ids.tolist() == [1, 7, 0, 7, 2]
    assert ours.spans(letters).tolist() == [[-1, -1], [0, 1], [1, 3], [3, 4], [-1, -1]]


def test_overlapping_kmers_cover_k_letters_from_each_position() -> None:
    ours = OverlappingKmers.of(6)
    texts = [random_dna(4, 50), "ACG", "ACGTNNACGT"]
    for text, spans in zip(texts, spans_of(ours, texts), strict=True):
        kmers = [(start, start + 6) for start in range(max(len(text) - 5, 0))]
        assert spans == [(-1, -1), *kmers, (-1, -1)]


def test_the_pieces_of_a_kmer_that_falls_apart_all_have_its_span() -> None:
    ours = OverlappingKmers.of(6)
    assert ours(["ACGTAC*"])[0].tolist() == [2, 727, 1, 1, 3]
    assert spans_of(ours, ["ACGTAC*"])[0] == [(-1, -1), (0, 6), (1, 7), (1, 7), (-1, -1)]


def test_the_stand_in_covers_the_sequence_too() -> None:
    text = random_dna(5, 503)
    spans = spans_of(BytePairTokenizer.stand_in(), [text])[0]
    assert "".join(text[start:stop] for start, stop in spans if start >= 0) == text


def test_a_gene_covers_its_place_in_the_cell() -> None:
    with_ends = GeneTokenizer(100, cls=2, eos=3)
    assert spans_of(with_ends, ["2 7 8 3", "9", ""]) == [
        [(-1, -1), (0, 1), (1, 2), (-1, -1)],
        [(-1, -1), (0, 1), (-1, -1)],
        [(-1, -1), (-1, -1)],
    ]
    assert spans_of(GeneTokenizer(100, cls=None, eos=None), ["7 8", ""]) == [[(0, 1), (1, 2)], []]
