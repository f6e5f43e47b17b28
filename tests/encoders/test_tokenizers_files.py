"""A tokenizer's file that is missing, damaged or another's is one sentence that names it and the way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedcache.encoders.tokenizers import BytePairTokenizer, OverlappingKmers, Tokenizer, VocabularyTokenizer
from embedcache.encoders.tokenizers.merges import Merges
from embedcache.errors import ModelError
from tests.conftest import shared_folder

READ: dict[str, tuple[str, str, Callable[[Path], Tokenizer]]] = {
    "words": ("ntv1", "vocab.txt", VocabularyTokenizer.read),
    "k-mers": ("dna_bert_6", "vocab.txt", OverlappingKmers.read),
    "byte pairs": ("dnabert2", "tokenizer.json", BytePairTokenizer.read),
}


def folder_of(family: str, into: Path) -> Path:
    folder = into / family
    folder.mkdir()
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (shared_folder("golden") / family / name).exists():
            shutil.copy(shared_folder("golden") / family / name, folder)
            (folder / name).chmod(0o644)
    return folder


@pytest.mark.parametrize("kind", READ)
def test_a_missing_file_is_named_and_where_to_get_it(kind: str, tmp_path: Path) -> None:
    family, name, read = READ[kind]
    folder = folder_of(family, tmp_path)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=rf"{family} has no {name}.*copy it from the hub"):
        read(folder)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"<html>not found</html>", b"[]"])
@pytest.mark.parametrize("kind", READ)
def test_a_damaged_file_is_named_and_what_to_do(kind: str, content: bytes, tmp_path: Path) -> None:
    family, name, read = READ[kind]
    folder = folder_of(family, tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name}.*from the hub"):
        read(folder)


@pytest.mark.parametrize("kind", ["words", "k-mers"])
def test_a_vocabulary_cut_short_says_what_it_lacks(kind: str, tmp_path: Path) -> None:
    family, name, read = READ[kind]
    folder = folder_of(family, tmp_path)
    file = folder / name
    file.write_text("\n".join(file.read_text().split("\n")[:3000]))
    with pytest.raises(ModelError, match=rf"{name}.*lacks.*[ACGT]{{6}}"):
        read(folder)


@pytest.mark.parametrize("kind", ["words", "k-mers"])
def test_the_vocabulary_of_another_encoder_is_refused(kind: str, tmp_path: Path) -> None:
    _, name, read = READ[kind]
    other = folder_of("dna_bert_6" if kind == "words" else "ntv1", tmp_path)
    if kind == "words":
        (other / name).write_text("\n".join(f"w{i}" * (i + 1) for i in range(5)))
    with pytest.raises(ModelError, match=name):
        read(other)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_damaged_settings_are_named(name: str, tmp_path: Path) -> None:
    folder = folder_of("ntv1", tmp_path)
    (folder / name).write_text("{")
    with pytest.raises(ModelError, match=rf"{name} cannot be read"):
        VocabularyTokenizer.read(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["model"].update(type="WordPiece"), "type 'WordPiece'"),
        (lambda t: t["model"].update(dropout=0.1), "dropout 0.1"),
        (lambda t: t["model"].pop("merges"), "lacks 'merges'"),
        (lambda t: t["model"]["merges"].reverse(), "one after another"),
        (lambda t: t["model"]["merges"].append("A N"), "lacks 'N'"),
        (lambda t: t.update(normalizer={"type": "Lowercase"}), "normalises"),
        (lambda t: t.update(pre_tokenizer={"type": "ByteLevel"}), "splits it otherwise"),
        (lambda t: t["post_processor"]["single"].pop(), "frames a sequence as"),
        (lambda t: t["model"]["vocab"].update(ACGTACGTACGT=9000), "id is missing"),
    ],
)
def test_a_byte_pair_tokenizer_of_another_kind_says_what_is_unlike(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    folder = folder_of("dnabert2", tmp_path)
    published = json.loads((folder / "tokenizer.json").read_text())
    change(published)
    (folder / "tokenizer.json").write_text(json.dumps(published))
    with pytest.raises(ModelError, match=rf"tokenizer.json.*{said}.*copy it from the hub"):
        BytePairTokenizer.read(folder)


def test_merges_written_as_lists_are_the_same_tokenizer(tmp_path: Path) -> None:
    folder = folder_of("dnabert2", tmp_path)
    before = BytePairTokenizer.read(folder)
    published = json.loads((folder / "tokenizer.json").read_text())
    published["model"]["merges"] = [merge.split(" ") for merge in published["model"]["merges"]]
    (folder / "tokenizer.json").write_text(json.dumps(published))
    try:
        after = BytePairTokenizer.read(folder)
    except ModelError:
        pytest.skip("this version of the library does not read them")
    assert after.fingerprint == before.fingerprint


def test_another_order_of_merges_is_another_fingerprint(tmp_path: Path) -> None:
    folder = folder_of("dnabert2", tmp_path)
    before = BytePairTokenizer.read(folder)
    published = json.loads((folder / "tokenizer.json").read_text())
    merges, vocab = published["model"]["merges"], published["model"]["vocab"]
    first, second = (merge.replace(" ", "") for merge in merges[:2])
    merges[0], merges[1] = merges[1], merges[0]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (folder / "tokenizer.json").write_text(json.dumps(published))
    after = BytePairTokenizer.read(folder)
    assert after.fingerprint != before.fingerprint
    assert after(["AATT"])[0].tolist() != before(["AATT"])[0].tolist()


def test_a_word_that_its_own_letters_are_never_merged_to_is_refused() -> None:
    words = ["", "A", "C", "G", "T", "CG", "AC", "ACG"]
    made_as_merged = Merges(words, [(2, 3, 5), (1, 2, 6), (1, 5, 7)])
    assert made_as_merged.compatible.shape == (8, 8)
    with pytest.raises(ModelError, match="ACG are never merged"):
        _ = Merges(words, [(2, 3, 5), (1, 2, 6), (6, 3, 7)]).compatible
