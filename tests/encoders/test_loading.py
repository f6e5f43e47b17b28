"""What a model may be called, and what is said when it cannot be loaded."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from embedcache import load_encoder
from embedcache.encoders.registry import REGISTRY, find
from embedcache.errors import InputError, ModelError
from tests.conftest import shared_folder
from tests.encoders.golden import golden_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return golden_folder("esm2", tmp_path)


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_an_unknown_name_suggests_the_nearest_alias() -> None:
    with pytest.raises(ModelError, match="did you mean nt500m"):
        load_encoder("nt500")


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no config.json"):
        load_encoder(str(tmp_path))


def test_a_folder_without_weights_says_so_and_offers_random_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights.*--random-weights"):
        load_encoder(str(folder))
    assert load_encoder(str(folder), random_weights=True).meaningless


def test_a_missing_key_is_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["esm.encoder.layer.1.attention.self.key.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"missing esm\.encoder\.layer\.1\.attention\.self\.key\.weight"):
        load_encoder(str(folder))


def test_a_key_that_nothing_uses_is_an_error_and_not_ignored(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["esm.encoder.layer.0.adapter.weight"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"unexpected esm\.encoder\.layer\.0\.adapter\.weight"):
        load_encoder(str(folder))


def test_weights_of_another_size_than_the_config_are_refused(folder: Path) -> None:
    edit_config(folder, intermediate_size=256)
    with pytest.raises(ModelError, match="not of the same model"):
        load_encoder(str(folder))


def test_weights_saved_from_the_bare_model_load_without_prefix(folder: Path) -> None:
    with_prefix = load_encoder(str(folder)).encode(["MKTAYIAK"])
    weights = load_file(folder / "model.safetensors")
    bare = {key.removeprefix("esm."): value for key, value in weights.items() if key.startswith("esm.")}
    save_file(bare, folder / "model.safetensors")
    np.testing.assert_array_equal(load_encoder(str(folder)).encode(["MKTAYIAK"]), with_prefix)


def test_a_model_saved_again_by_transformers_loads_and_gives_the_same(folder: Path, tmp_path: Path) -> None:
    from transformers import EsmModel

    EsmModel.from_pretrained(folder, add_pooling_layer=False).save_pretrained(tmp_path / "again")
    shutil.copy(folder / "vocab.txt", tmp_path / "again")
    again = load_encoder(str(tmp_path / "again")).encode(["MKTAYIAK"])
    np.testing.assert_array_equal(again, load_encoder(str(folder)).encode(["MKTAYIAK"]))


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(folder: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "attacked",))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Attack()}))
    with pytest.raises(ModelError, match="not a plain PyTorch state dict"):
        load_encoder(str(folder))
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    ("wrapped", "said"), [(True, "than tensors: state_dict, epoch. Save"), (False, "than tensors. Save")]
)
def test_a_training_checkpoint_is_no_state_dict_and_says_what_to_save(folder: Path, wrapped: bool, said: str) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({"state_dict": state, "epoch": 3} if wrapped else [1, 2], folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=rf"pytorch_model\.bin is not a plain.*{said}"):
        load_encoder(str(folder))


def test_a_truncated_checkpoint_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelError, match="damaged"):
        load_encoder(str(folder))


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_broken_config_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json is not readable JSON"):
        load_encoder(str(folder))


def test_an_unknown_family_is_refused_by_name(folder: Path) -> None:
    edit_config(folder, model_type="llama")
    with pytest.raises(ModelError, match="llama"):
        load_encoder(str(folder))


def test_a_missing_vocabulary_is_named(folder: Path) -> None:
    (folder / "vocab.txt").unlink()
    with pytest.raises(ModelError, match=r"no vocab\.txt"):
        load_encoder(str(folder))


def test_a_token_outside_the_embedding_is_an_error(tmp_path: Path) -> None:
    encoder = load_encoder(str(golden_folder("ntv1", tmp_path)))
    with pytest.raises(InputError, match="<eos>.*outside the embedding"):
        encoder.hidden_states(["ACGTAC<eos>"])


def test_hidden_states_of_an_over_long_sequence_are_refused(tmp_path: Path) -> None:
    encoder = load_encoder(str(golden_folder("ntv1", tmp_path)))
    assert encoder.hidden_states(["ACGTAC" * 999])[0].shape[1] == 1000
    with pytest.raises(InputError, match="1,004 tokens"):
        # 5,993 bases are 998 6-mers and 5 single bases: fewer bases than fit, and more tokens.
        encoder.hidden_states(["ACGTAC" * 998 + "ACGTA"])


def test_random_weights_are_the_same_for_the_same_seed(folder: Path) -> None:
    one, same = (load_encoder(str(folder), random_weights=True, seed=3) for _ in range(2))
    other = load_encoder(str(folder), random_weights=True, seed=4)
    np.testing.assert_array_equal(one.encode(["MKT"]), same.encode(["MKT"]))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_random_weights_of_an_alias_need_no_files() -> None:
    encoder = load_encoder("esm2-8m", random_weights=True)
    assert encoder.encode(["MKTAYIAKQR", "M"]).shape == (2, 320)
    assert encoder.description()["meaningless"]


def test_registry_sizes_are_those_of_the_published_checkpoints() -> None:
    golden = shared_folder("golden")
    for family in ("ntv1", "esm2"):
        for file in sorted((golden / family / "published_configs").glob("*.json")):
            published = json.loads(file.read_text())
            entry = next(entry for entry in REGISTRY.values() if entry.repo_id.endswith(f"/{file.stem}"))
            for key, value in entry.config().items():
                assert published[key] == value, (file.name, key)


def test_every_alias_is_found_by_alias_hub_id_and_revision() -> None:
    for alias, entry in REGISTRY.items():
        assert find(alias) == find(entry.repo_id) == (entry.repo_id, entry.revision, entry)
        assert find(f"{alias}@{'a' * 40}")[1] == "a" * 40
    assert find("someone/else") == ("someone/else", "main", None)


def test_an_absent_gpu_is_one_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match="--device cpu"):
        load_encoder("esm2-8m", device="cuda", random_weights=True)
    with pytest.raises(InputError, match="no device"):
        load_encoder("esm2-8m", device="gpu", random_weights=True)


@pytest.mark.parametrize("name", ["kmer:0", "kmer:9", "kmer:x", "onehot:0", "kmer:4:sideways", "kmer:"])
def test_impossible_compositions_are_refused(name: str) -> None:
    with pytest.raises(ModelError):
        load_encoder(name)
