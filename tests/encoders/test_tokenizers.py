"""Every tokenizer gives the ids of the published one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from embedcache.encoders.tokenizers import (
    ESM_VOCABULARY,
    NT_V1_VOCABULARY,
    NT_V2_VOCABULARY,
    BytePairTokenizer,
    CharacterTokenizer,
    GeneTokenizer,
    OverlappingKmers,
    Tokenizer,
    VocabularyTokenizer,
    bpe,
    tokenizer,
)
from embedcache.encoders.tokenizers.tokenizer import Located
from embedcache.sequences.alphabet import Letters
from tests.conftest import shared_folder

READ: dict[str, Callable[[Path], Tokenizer]] = {
    "dnabert2": BytePairTokenizer.read,
    "dnaberts": BytePairTokenizer.read,
    "dna_bert_6": OverlappingKmers.read,
    "ntv1": VocabularyTokenizer.read,
    "ntv2": VocabularyTokenizer.read,
    "esm2": VocabularyTokenizer.read,
    "fastesm2": VocabularyTokenizer.read,
    "hyenadna": lambda _: CharacterTokenizer(),
    "geneformer": lambda _: GeneTokenizer(2000, cls=2, eos=3),
}
WITH_HARD_CASES = ("dnabert2", "dna_bert_6", "ntv1", "ntv2", "esm2")
DNA = ("dnabert2", "dna_bert_6", "ntv1", "ntv2", "hyenadna")


def read(family: str) -> Tokenizer:
    return READ[family](shared_folder("golden") / family)


def cases_of(family: str) -> list[tuple[str, list[int]]]:
    cases = json.loads((shared_folder("golden") / family / "tokenization.json").read_text())["cases"]
    return [(case["sequence"], case["input_ids"]) for case in cases]


def random_texts(seed: int, pieces: list[str], count: int, longest: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(pieces, length)) for length in rng.integers(0, longest, count)]


def random_dna(seed: int, bases: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), bases))


@pytest.mark.parametrize("family", WITH_HARD_CASES)
def test_all_hard_cases_have_the_published_ids_alone_and_together(family: str) -> None:
    ours, cases = read(family), cases_of(family)
    together = ours([text for text, _ in cases])
    for row, (text, ids) in enumerate(cases):
        assert together[row].tolist() == ids, text
        assert ours([text])[0].tolist() == ids, text


@pytest.mark.parametrize("family", READ)
def test_golden_sequences_have_the_ids_that_the_original_model_was_run_on(family: str) -> None:
    folder = shared_folder("golden") / family
    with np.load(folder / "expected.npz", allow_pickle=False) as expected:
        ids, mask = expected["input_ids"], expected["attention_mask"]
    lines = (folder / "sequences.txt").read_text().removesuffix("\n").split("\n")
    tokens = read(family)([line.split("\t")[1] for line in lines])
    for row in range(len(lines)):
        assert tokens[row].tolist() == ids[row][mask[row] == 1].tolist(), lines[row][:60]


def published(family: str) -> Callable[[str], list[int]]:
    """The tokenizer of the field as transformers runs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import BertTokenizer, EsmTokenizer, PreTrainedTokenizerFast

    folder = shared_folder("golden") / family
    if family == "dnabert2":
        fast = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        return lambda text: list(fast(text)["input_ids"])
    if family == "dna_bert_6":
        bert = BertTokenizer.from_pretrained(folder)
        return lambda text: list(bert(" ".join(text[i : i + 6] for i in range(len(text) - 5)))["input_ids"])
    esm = EsmTokenizer.from_pretrained(folder)
    return lambda text: list(esm(text)["input_ids"])


@pytest.mark.parametrize("family", WITH_HARD_CASES)
def test_random_sequences_have_the_ids_that_transformers_gives(family: str) -> None:
    theirs, ours = published(family), read(family)
    bases = list("ACDEFGHIKLMNPQRSTVWY") if family == "esm2" else list("ACGT")
    clean = random_texts(1, bases, 150, 400)
    mixed = random_texts(2, [*bases * 6, *"NNRYKacgtnBZXUOJ"], 150, 400)
    repeats = random_texts(3, ["A", "TATA", "CG"], 50, 100)
    odd = ["<mask>", "[MASK]", "[SEP]", "<cls>", "<unk>", "[UNK]", "<eos>", *"<[]> \n\t-*.,_7"]
    strange = random_texts(4, [*bases * 6, *odd], 300, 60)
    texts = [*clean, *mixed, *repeats, *strange]
    tokens = ours(texts)
    for row, text in enumerate(texts):
        assert tokens[row].tolist() == theirs(text), text


def test_every_kmer_of_nucleotide_transformer_v2_is_two_above_that_of_v1() -> None:
    first, second = read("ntv1"), read("ntv2")
    text = [random_dna(5, 6000)]
    assert ((second(text).ids[1:] - first(text).ids[1:]) == 2).all()
    assert first.fingerprint != second.fingerprint


def test_a_sequence_a_little_shorter_has_more_tokens() -> None:
    text = random_dna(6, 5994)
    lengths = read("ntv1")([text[:bases] for bases in (5994, 5993, 5992, 5991, 5990)]).lengths
    assert lengths.tolist() == [1000, 1004, 1003, 1002, 1001]


def test_a_run_of_unknown_letters_is_one_token_or_many_as_published() -> None:
    text = ["ACGTACrrrrACGTAC"]
    assert read("ntv1")(text)[0].tolist() == [3, 726, 0, 726]
    assert read("dnabert2")(text)[0].tolist() == [1, 5, 194, 6, 0, 0, 0, 0, 5, 194, 6, 2]
    assert read("hyenadna")(text)[0].tolist() == [7, 8, 9, 10, 7, 8, 6, 6, 6, 6, 7, 8, 9, 10, 7, 8, 1]
    assert read("dna_bert_6")(text)[0].tolist() == [2, 727, *[1] * 9, 727, 3]
    assert read("esm2")(["MKJjJM"])[0].tolist() == [0, 20, 15, 3, 20, 2]


def test_dnabert_2_has_no_token_for_n_and_hyenadna_has() -> None:
    assert read("dnabert2")(["NN"])[0].tolist() == [1, 0, 0, 2]
    assert read("hyenadna")(["NN"])[0].tolist() == [11, 11, 1]


def test_hyenadna_recognises_special_tokens_that_are_written_out() -> None:
    ours = CharacterTokenizer()
    tokens = ours(["AC[MASK]GT", "[UNK][PAD", "A[MA", "SK]C"])
    assert tokens[0].tolist() == [7, 8, 3, 9, 10, 1]
    assert tokens[1].tolist() == [6, 6, 6, 7, 6, 1]
    assert tokens[2].tolist() == [7, 6, 6, 7, 1]
    assert tokens[3].tolist() == [6, 6, 6, 8, 1]
    assert ours(["[RESERVED]"])[0].tolist() == [*[6] * 10, 1]


@pytest.mark.parametrize("family", ["ntv1", "ntv2", "esm2", "dna_bert_6"])
def test_built_in_vocabularies_are_those_of_the_published_files(family: str) -> None:
    built_in: Tokenizer = {
        "ntv1": VocabularyTokenizer(NT_V1_VOCABULARY, eos=False),
        "ntv2": VocabularyTokenizer(NT_V2_VOCABULARY, eos=False),
        "esm2": VocabularyTokenizer(ESM_VOCABULARY, eos=True),
        "dna_bert_6": OverlappingKmers.of(6),
    }[family]
    ours = read(family)
    assert built_in.fingerprint == ours.fingerprint
    assert (built_in.size, built_in.special, built_in.alphabet) == (ours.size, ours.special, ours.alphabet)


@pytest.mark.parametrize("k", [3, 4, 5, 6])
def test_dnabert_of_every_k_has_a_token_for_each_of_its_kmers(k: int) -> None:
    ours = OverlappingKmers.of(k)
    tokens = ours([random_dna(k, 500)])
    assert ours.size == 5 + 4**k
    assert len(tokens.ids) == 500 - k + 1 + 2
    assert ours.name_of(5) == "A" * k


def test_the_stand_in_gives_as_many_tokens_as_dnabert_2_would() -> None:
    genome = [random_dna(7, 20_000)]
    stand_in, real = BytePairTokenizer.stand_in(), read("dnabert2")
    assert stand_in(["ACGTACGN"])[0].tolist()[0] == 1
    assert stand_in(["ACGN"])[0].tolist() == [1, 5, 6, 7, 0, 2]
    assert stand_in.size <= real.size
    assert 0.85 < len(stand_in(genome).ids) / len(real(genome).ids) < 1
    assert stand_in.fingerprint != real.fingerprint


@pytest.mark.parametrize("family", READ)
def test_no_sequences_and_empty_sequences_are_taken(family: str) -> None:
    ours = read(family)
    assert len(ours([])) == 0
    frame = sum(ours.special)
    assert ours(["", ""]).lengths.tolist() == [frame, frame]
    assert ours.spans(Letters.of([])).shape == (0, 2)


@pytest.mark.parametrize("family", READ)
def test_strings_arrow_arrays_and_letters_give_the_same_tokens_and_ids_below_the_size(family: str) -> None:
    ours = read(family)
    texts = ["5 17 3", "", "8"] if family == "geneformer" else ["ACGTACGTN", "", "MK-T", "AC GT"]
    tokens = ours(texts)
    for same in (ours(pa.array(texts)), ours(Letters.of(texts))):
        np.testing.assert_array_equal(same.ids, tokens.ids)
        np.testing.assert_array_equal(same.offsets, tokens.offsets)
    assert tokens.ids.max() < ours.size
    assert all(ours.name_of(int(token)) for token in tokens.ids)


@pytest.mark.parametrize("slice_", [100, 500])
@pytest.mark.parametrize("family", [*DNA, "esm2"])
def test_where_a_slice_ends_changes_nothing(family: str, slice_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = read(family)
    special = "[MASK]" if family in ("dnabert2", "hyenadna") else "<mask>"
    bases = list("MKTAYI") if family == "esm2" else list("ACGT")
    clean = random_texts(8, bases, 8, 2000)
    mixed = random_texts(9, [*bases * 8, "N", "NNNNNNNN", "r", "r" * 30, "r" * 300], 10, 600)
    odd = random_texts(10, [*bases * 12, special, " ", "r", "[UNK]"], 10, 600)
    repeats = ["A" * 3000, "AC" * 1500, "r" * 3000]
    texts = [*clean, *mixed, *odd, *repeats]
    whole, spans = ours(texts), ours.spans(Letters.of(texts))
    monkeypatch.setattr(tokenizer, "SLICE", slice_)
    monkeypatch.setattr(bpe, "_MARGIN", 64)
    cut = ours(texts)
    np.testing.assert_array_equal(cut.ids, whole.ids)
    np.testing.assert_array_equal(cut.offsets, whole.offsets)
    np.testing.assert_array_equal(ours.spans(Letters.of(texts)), spans)


@pytest.mark.parametrize("length", [1, 4, 16, 50, 171])
def test_repeats_of_any_period_are_encoded_as_byte_pairs_are_merged(length: int) -> None:
    theirs, ours = published("dnabert2"), read("dnabert2")
    text = random_dna(length, length) * (3000 // length)
    assert ours([text])[0].tolist() == theirs(text)


def test_bits_of_a_long_sequence_that_do_not_fit_together_are_made_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, text = read("dnabert2"), random_dna(11, 20_000)
    whole = ours([text])
    in_bits, reaches = BytePairTokenizer._in_bits, []

    def recorded(self: BytePairTokenizer, letters: NDArray[np.uint8], reach: int) -> list[Located] | None:
        reaches.append(reach)
        return in_bits(self, letters, reach)

    monkeypatch.setattr(BytePairTokenizer, "_in_bits", recorded)
    monkeypatch.setattr(tokenizer, "SLICE", 40)
    monkeypatch.setattr(bpe, "_MARGIN", 9)
    np.testing.assert_array_equal(ours([text]).ids, whole.ids)
    assert reaches[:2] == [40, 80]
