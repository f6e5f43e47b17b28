"""The dictionaries of an encoder are found in its folder, beside it, on the hub, or where the user says."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedcache.cells.gene_files import GeneFileOptions, read_vocabulary
from embedcache.cells.model import CellModel, cell_model
from embedcache.errors import InputError, ModelError
from tests.cells.counted import Counted
from tests.cells.small_geneformer import SPECIALS, write_geneformer
from tests.encoders.hub_server import HubServer, sha256

GENES = [f"ENSG{number:011d}" for number in range(10)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_geneformer(tmp_path / "Geneformer-V2-small", GENES, limit=32)


def model_in(folder: Path) -> CellModel:
    model = cell_model(str(folder))
    assert model is not None
    return model


def test_a_folder_says_what_its_cells_are(folder: Path) -> None:
    vocabulary = read_vocabulary(model_in(folder), GeneFileOptions(), medians=True)
    assert (vocabulary.limit, vocabulary.genes, vocabulary.cls, vocabulary.eos) == (32, 30, 2, 3)
    assert vocabulary.tokens[GENES[0]] == 4
    assert set(vocabulary.medians) == set(GENES)
    names = ("token_dictionary_gc104M.pkl", "gene_median_dictionary_gc104M.pkl")
    assert [(file.path, file.sha256) for file in vocabulary.files] == [
        (str(folder / name), sha256(folder / name)) for name in names
    ]


def test_the_registry_knows_what_published_encoders_ask() -> None:
    first, second = cell_model("geneformer-v1-10m"), cell_model("geneformer-v2-316m")
    assert first is not None
    assert second is not None
    assert (first.limit, first.specials, first.hub_folder) == (2048, 0, "geneformer/gene_dictionaries_30m")
    assert (second.limit, second.specials, second.hub_folder) == (4096, 2, "geneformer")
    assert cell_model("esm2-8m") is cell_model("kmer:4") is None


def test_named_files_go_before_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    tokens = {**SPECIALS, "A": 4, "B": 5}
    (tmp_path / "tokens.json").write_text(json.dumps(tokens))
    vocabulary = read_vocabulary(model_in(folder), GeneFileOptions(tokens=str(tmp_path / "tokens.json")), medians=True)
    assert vocabulary.tokens == tokens
    assert set(vocabulary.medians) == set(GENES)


def test_names_and_synonyms_of_the_folder_are_used(folder: Path) -> None:
    (folder / "gene_name_id_dict_gc104M.pkl").write_bytes(pickle.dumps({"TP53": GENES[3]}))
    (folder / "ensembl_mapping_dict_gc104M.pkl").write_bytes(pickle.dumps({"ENSG9": GENES[4], "P53": GENES[3]}))
    vocabulary = read_vocabulary(model_in(folder), GeneFileOptions(), medians=True)
    assert [vocabulary.gene_of(name) for name in ("tp53", "P53", "ENSG9.1")] == [GENES[3], GENES[3], GENES[4]]
    assert len(vocabulary.files) == 4


def test_of_several_files_the_one_of_the_encoders_corpus_is_taken(folder: Path) -> None:
    shutil.copy(folder / "token_dictionary_gc104M.pkl", folder / "token_dictionary_gc95M.pkl")
    assert read_vocabulary(model_in(folder), GeneFileOptions(), medians=True).files[0].path.endswith("gc104M.pkl")
    (folder / "token_dictionary_gc104M.pkl").rename(folder / "token_dictionary_mine.pkl")
    (folder / "token_dictionary_gc95M.pkl").rename(folder / "token_dictionary_yours.pkl")
    with pytest.raises(InputError, match=r"several files of genes and their token ids .*--gene-tokens"):
        read_vocabulary(model_in(folder), GeneFileOptions(), medians=True)


def test_an_encoder_without_dictionaries_asks_for_them(folder: Path) -> None:
    (folder / "gene_median_dictionary_gc104M.pkl").unlink()
    with pytest.raises(
        InputError, match=r"no genes and their medians \(gene_median_dictionary\*\).*name --gene-medians"
    ):
        read_vocabulary(model_in(folder), GeneFileOptions(), medians=True)
    (folder / "token_dictionary_gc104M.pkl").unlink()
    with pytest.raises(InputError, match=r"name --gene-tokens and --gene-medians"):
        read_vocabulary(model_in(folder), GeneFileOptions(), medians=True)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({**SPECIALS, "A": 14}, r"token ids up to 14, and .* takes 14 of them, from 0: it belongs to another encoder"),
        ({"<pad>": 0, "A": 4}, r"gives <cls> and <eos> the ids None and None, .* with 2 and 3"),
        ({"<cls>": 3, "<eos>": 2, "A": 4}, r"gives <cls> and <eos> the ids 3 and 2"),
    ],
)
def test_the_tokens_of_another_encoder_are_noticed(
    folder: Path, tmp_path: Path, tokens: dict[str, int], message: str
) -> None:
    (tmp_path / "t.json").write_text(json.dumps(tokens))
    with pytest.raises(InputError, match=message):
        read_vocabulary(model_in(folder), GeneFileOptions(tokens=str(tmp_path / "t.json")), medians=True)


def test_a_clone_of_the_repository_has_them_beside_the_encoder(tmp_path: Path) -> None:
    folder = write_geneformer(tmp_path / "Geneformer" / "Geneformer-V2-104M", GENES, rows=20275, hidden=2)
    (tmp_path / "Geneformer" / "geneformer").mkdir()
    for path in folder.glob("*.pkl"):
        path.rename(tmp_path / "Geneformer" / "geneformer" / path.name)
    vocabulary = read_vocabulary(model_in(folder), GeneFileOptions(), medians=True, ask=False)
    assert len(vocabulary.tokens) == 14


# The hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """ctheodoris/Geneformer as it is laid out there, with small dictionaries."""
    repo = tmp_path / "published" / "ctheodoris" / "Geneformer"
    second = write_geneformer(repo / "Geneformer-V2-104M", GENES, rows=20275, hidden=2)
    (repo / "geneformer" / "gene_dictionaries_30m").mkdir(parents=True)
    for path in second.glob("*.pkl"):
        shutil.copy(path, repo / "geneformer" / "gene_dictionaries_30m" / path.name.replace("104M", "30M"))
        path.rename(repo / "geneformer" / path.name)
    (repo / "geneformer" / "tokenizer.py").write_text("raise SystemExit('code from the hub ran')")
    server = HubServer(tmp_path / "published")
    yield server
    server.close()


READ = """
import sys
from embedcache.cells.gene_files import GeneFileOptions, read_vocabulary
from embedcache.cells.model import cell_model
vocabulary = read_vocabulary(cell_model(sys.argv[1]), GeneFileOptions(), medians=True, ask=sys.argv[2] == "ask")
print(vocabulary.limit, vocabulary.cls, *sorted(file.path.rsplit("/", 1)[1] for file in vocabulary.files))
"""


def read_in_process(hub: HubServer, home: Path, model: str, ask: bool = True) -> subprocess.CompletedProcess[str]:
    """huggingface_hub reads its settings when it is imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {**kept, "HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", READ, model, "ask" if ask else "no"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_published_dictionaries_come_from_the_hub_once(hub: HubServer, tmp_path: Path) -> None:
    refused = read_in_process(hub, tmp_path / "home", "geneformer-v2-104m", ask=False)
    assert "the hub is not asked" in refused.stderr
    assert "--gene-tokens, --gene-medians" in refused.stderr
    assert not hub.requests
    for model, expected in (
        ("geneformer-v2-104m", "4096 2 gene_median_dictionary_gc104M.pkl token_dictionary_gc104M.pkl"),
        ("geneformer-v1-10m", "2048 None gene_median_dictionary_gc30M.pkl token_dictionary_gc30M.pkl"),
    ):
        found = read_in_process(hub, tmp_path / "home", model)
        assert found.stdout.strip() == expected, found.stderr
    assert not any("tokenizer.py" in request or "safetensors" in request for request in hub.requests)
    asked = len(hub.requests)
    again = read_in_process(hub, tmp_path / "home", "geneformer-v2-104m", ask=False)
    assert again.returncode == 0, again.stderr
    assert len(hub.requests) == asked


def test_the_error_of_the_hub_names_the_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = cell_model("geneformer-v2-104m")
    assert model is not None
    with pytest.raises(ModelError, match=r"token_dictionary\*.*Or name the dictionaries: --gene-tokens"):
        read_vocabulary(model, GeneFileOptions(), medians=True, ask=False)


def test_an_encoder_of_sequences_is_none_of_cells(tmp_path: Path, counted: Counted) -> None:
    folder = write_geneformer(tmp_path / "m", counted.known)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    assert cell_model(str(folder)) is None
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": None}))
    with pytest.raises(ModelError, match="has no vocab_size"):
        cell_model(str(folder))
