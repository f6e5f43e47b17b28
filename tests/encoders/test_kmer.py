"""k-mer frequencies and one-hot letters."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest

from embedcache import load_encoder
from embedcache.encoders import kmer
from embedcache.errors import InputError

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def reads(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGT"), length)) for length in rng.integers(8, 200, count)]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_canonical_frequencies_equal_a_plain_count(k: int) -> None:
    canonical = sorted({min(w, w[::-1].translate(COMPLEMENT)) for w in map("".join, product("ACGT", repeat=k))})
    encoder = load_encoder(f"kmer:{k}")
    assert encoder.hidden == len(canonical)
    for read, vector in zip(reads(20), encoder.encode(reads(20)), strict=True):
        words = (read[i : i + k] for i in range(len(read) - k + 1))
        counts = Counter(min(w, w[::-1].translate(COMPLEMENT)) for w in words)
        expected = np.asarray([counts[word] for word in canonical]) / (len(read) - k + 1)
        np.testing.assert_allclose(vector, expected, rtol=1e-6)


def test_both_strands_of_a_read_give_the_same_vector() -> None:
    forward = reads(30)
    reverse = [read[::-1].translate(COMPLEMENT) for read in forward]
    encoder = load_encoder("kmer:4")
    np.testing.assert_array_equal(encoder.encode(forward), encoder.encode(reverse))
    stranded = load_encoder("kmer:4:stranded")
    assert stranded.hidden == 256
    assert not np.array_equal(stranded.encode(forward), stranded.encode(reverse))


def test_frequencies_sum_to_one_and_unknown_letters_do_not_count() -> None:
    encoder = load_encoder("kmer:3")
    vectors = encoder.encode(["ACGTNNACGT", "acguacgu", "NNNN", "AC"])
    np.testing.assert_allclose(vectors.sum(axis=1), [1, 1, 0, 0])
    np.testing.assert_array_equal(vectors[0], encoder.encode(["ACGT"])[0])
    np.testing.assert_array_equal(vectors[1], encoder.encode(["ACGTACGT"])[0])


def test_a_vector_does_not_depend_on_its_neighbours_nor_on_the_slicing(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder("kmer:4")
    together = encoder.encode(reads(40))
    for row, read in enumerate(reads(40)):
        np.testing.assert_array_equal(encoder.encode([read])[0], together[row])
    monkeypatch.setattr(kmer, "_SLICE", 17)
    np.testing.assert_array_equal(encoder.encode(reads(40)), together)


def test_protein_composition_counts_the_20_residues() -> None:
    encoder = load_encoder("kmer:1:protein")
    vector = encoder.encode(["AACX"])[0]
    assert (encoder.alphabet, encoder.hidden) == ("protein", 20)
    np.testing.assert_allclose(vector[:2], [2 / 3, 1 / 3])


def test_onehot_keeps_positions_and_pads_with_zeros() -> None:
    encoder = load_encoder("onehot:3")
    vectors = encoder.encode(["ACG", "TN"]).reshape(2, 3, 4)
    np.testing.assert_array_equal(vectors[0], np.eye(4)[[0, 1, 2]])
    np.testing.assert_array_equal(vectors[1], [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_onehot_refuses_longer_sequences_instead_of_cutting_them() -> None:
    with pytest.raises(InputError, match="4 tokens, onehot:3 takes 3"):
        load_encoder("onehot:3").encode(["ACGT"])
