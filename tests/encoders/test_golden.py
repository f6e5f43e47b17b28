"""The trunk gives the numbers of the original code, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from embedcache import load_encoder
from embedcache.encoders.checkpoint import Checkpoint
from embedcache.encoders.encoder import Budget
from embedcache.encoders.families import recognise
from embedcache.encoders.trunk import parameter_shapes
from tests.conftest import shared_folder
from tests.encoders.golden import FAMILIES, Golden, read_golden

TOLERANCE = 5e-5


@pytest.fixture(scope="module", params=FAMILIES)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return read_golden(request.param, tmp_path_factory.mktemp("golden"))


def test_token_ids_are_those_of_the_published_tokenizer(golden: Golden) -> None:
    tokens = load_encoder(str(golden.directory)).tokenize(golden.sequences)
    for row in range(len(golden.sequences)):
        assert tokens[row].tolist() == golden.ids[row][golden.mask[row] == 1].tolist()


def test_every_hidden_state_equals_the_original(golden: Golden) -> None:
    states = load_encoder(str(golden.directory)).hidden_states(golden.sequences)
    for row, ours in enumerate(states):
        theirs = golden.hidden_states[:, row, golden.mask[row] == 1]
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


def test_token_dropout_is_read_from_the_configuration(golden: Golden) -> None:
    file = golden.directory / "config.json"
    published = file.read_text()
    file.write_text(json.dumps(json.loads(published) | {"token_dropout": False}))
    try:
        states = load_encoder(str(golden.directory)).hidden_states(golden.sequences)
    finally:
        file.write_text(published)
    expected = golden.expected["last_hidden_state_token_dropout_false"]
    for row, ours in enumerate(states):
        np.testing.assert_allclose(ours[-1], expected[row][golden.mask[row] == 1], atol=TOLERANCE, rtol=0)


def test_pooled_vectors_follow_the_authors(golden: Golden) -> None:
    encoder = load_encoder(str(golden.directory))
    tokens = encoder.tokenize(golden.sequences)
    special = "" if encoder.excluded == (0, 0) else "_no_special"  # type: ignore[attr-defined]
    for pooling, key in (("mean", f"mean_pooled{special}"), ("cls", "first_token_pooled")):
        readout = encoder.readout((pooling,))
        ours = np.empty((len(tokens), readout.dim), np.float32)
        for rows, vectors in encoder.vectors(tokens, readout, Budget(300)):
            ours[rows] = vectors
        np.testing.assert_allclose(ours, golden.expected[key], atol=TOLERANCE, rtol=0)


def test_layers_and_poolings_become_blocks_of_one_pass(golden: Golden) -> None:
    encoder = load_encoder(str(golden.directory))
    sequences = [sequence.upper() for sequence in golden.sequences if sequence]
    readout = encoder.readout(("mean", "max"), ("mid", -1, 0))
    blocks = encoder.encode_readout(sequences, readout, "window")
    middle = -(-encoder.layers // 2)
    assert [block.layer for block in readout.blocks] == [middle, middle, encoder.layers, encoder.layers, 0, 0]
    for block in readout.blocks:
        alone = encoder.encode(sequences, pool=block.pooling, layer=block.layer)
        np.testing.assert_array_equal(blocks[:, block.start : block.stop], alone)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_sequence_gives_the_same_bits_alone_and_among_64_others(golden: Golden, precision: str) -> None:
    encoder = load_encoder(str(golden.directory), precision=precision)
    rng = np.random.default_rng(0)
    letters = list("ACGT" if encoder.alphabet == "dna" else "ACDEFGHIKLMNPQRSTVWY")
    others = ["".join(rng.choice(letters, length)) for length in rng.integers(1, 400, 64)]
    for probe in (s.upper() for s in golden.sequences if s):
        alone = encoder.encode([probe])
        among = encoder.encode([*others[:20], probe, *others[20:]])[20:21]
        np.testing.assert_array_equal(alone.view(np.uint32), among.view(np.uint32))


def test_bfloat16_stays_close_to_float32(golden: Golden) -> None:
    exact = load_encoder(str(golden.directory)).encode(golden.sequences[:4])
    rough = load_encoder(str(golden.directory), precision="bfloat16").encode(golden.sequences[:4])
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.999
    assert not np.array_equal(exact, rough)


def test_safetensors_and_bin_give_the_same_encoder(golden: Golden, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    other = read_golden(golden.directory.name, tmp_path).directory
    torch.save(load_file(other / "model.safetensors"), other / "pytorch_model.bin")
    (other / "model.safetensors").unlink()
    sequences = list(filter(None, golden.sequences))
    np.testing.assert_array_equal(
        load_encoder(str(other)).encode(sequences), load_encoder(str(golden.directory)).encode(sequences)
    )


def test_sharded_weights_read_like_one_file(golden: Golden, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = read_golden(golden.directory.name, tmp_path).directory
    weights = load_file(other / "model.safetensors")
    (other / "model.safetensors").unlink()
    weight_map = {}
    for number, part in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        name = f"model-{number + 1:05d}-of-00002.safetensors"
        save_file({key: weights[key] for key in part}, other / name)
        weight_map |= dict.fromkeys(part, name)
    (other / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    encoder = load_encoder(str(other))
    assert encoder.fingerprint == load_encoder(str(golden.directory)).fingerprint


@pytest.mark.parametrize("family", FAMILIES)
def test_full_size_key_lists_are_accepted_with_nothing_missing_and_nothing_silently_ignored(family: str) -> None:
    folder = shared_folder("golden") / family
    for file in sorted((folder / "full_keys").glob("*.json")):
        keys = json.loads(file.read_text())
        published = folder / "published_configs" / file.name
        if not published.exists():
            published = folder / "config.json"
        config = json.loads(published.read_text())
        layers = 1 + max(int(key.split(".layer.")[1].split(".")[0]) for key in keys if ".layer." in key)
        hidden = keys["esm.embeddings.word_embeddings.weight"][1]
        up = keys["esm.encoder.layer.0.intermediate.dense.weight"][0]
        config |= {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": up}
        config["num_attention_heads"] = config["num_attention_heads"] if published.parent != folder else 20
        family_, trunk = recognise(config, str(published))
        wanted = family_.published_keys(trunk, set(keys))
        for ours, shape in parameter_shapes(trunk).items():
            assert tuple(keys[wanted[ours]]) == shape, (file.name, ours)


def test_a_checkpoint_whose_weights_move_has_another_fingerprint(golden: Golden, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = read_golden(golden.directory.name, tmp_path).directory
    weights = load_file(other / "model.safetensors")
    weights["esm.encoder.layer.1.output.dense.bias"][3] += 1e-6
    save_file(weights, other / "model.safetensors")
    assert load_encoder(str(other)).fingerprint != load_encoder(str(golden.directory)).fingerprint


def test_the_fingerprint_covers_precision_but_not_where_the_folder_lies(golden: Golden, tmp_path: Path) -> None:
    here = load_encoder(str(golden.directory))
    there = load_encoder(str(read_golden(golden.directory.name, tmp_path).directory))
    assert here.fingerprint == there.fingerprint
    assert here.fingerprint != load_encoder(str(golden.directory), precision="bfloat16").fingerprint


def test_only_the_weights_in_use_are_hashed_and_read(golden: Golden) -> None:
    checkpoint = Checkpoint(golden.directory)
    family, config = recognise(json.loads((golden.directory / "config.json").read_text()), "config.json")
    used = set(family.published_keys(config, checkpoint.keys).values())
    assert used < checkpoint.keys
    assert not any(key.startswith("lm_head") for key in used)
