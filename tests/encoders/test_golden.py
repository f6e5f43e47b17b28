"""Every family gives the numbers of its original code, layer by layer, from the published files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from embedcache import load_encoder
from embedcache.encoders.checkpoint import Checkpoint
from embedcache.encoders.families import recognise
from embedcache.encoders.transformer import TransformerEncoder
from tests.conftest import shared_folder
from tests.encoders.golden import FAMILIES, Golden, read_golden

TOLERANCE = 5e-5
SPECIAL_IN_THE_MEAN = {"dnabert2", "dnaberts", "dna_bert_6", "ntv1", "ntv2", "fastesm2"}
CARDS = {file.stem: file for file in sorted((shared_folder("golden")).glob("*/full_keys/*.json"))}


@pytest.fixture(scope="module", params=FAMILIES)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return read_golden(request.param, tmp_path_factory.mktemp("golden"))


def load(golden: Golden, precision: str = "float32") -> TransformerEncoder:
    encoder = load_encoder(str(golden.directory), precision=precision)
    assert isinstance(encoder, TransformerEncoder)
    return encoder


def readable(golden: Golden) -> list[str]:
    """The fixture's sequences that have a token of their own once they are upper-cased."""
    return [sequence.upper() for sequence in golden.sequences if len(sequence) > 5]


def test_token_ids_are_those_of_the_published_tokenizer(golden: Golden) -> None:
    tokens = load(golden).tokenize(golden.sequences)
    for row in range(len(golden.sequences)):
        assert tokens[row].tolist() == golden.ids[row][golden.mask[row] == 1].tolist()


def test_every_hidden_state_equals_the_original(golden: Golden) -> None:
    states = load(golden).hidden_states(golden.sequences)
    for row, ours in enumerate(states):
        theirs = golden.hidden_states[:, row, golden.mask[row] == 1]
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("pooling", "key"), [
    ("mean:all", "mean_pooled"), ("mean:inner", "mean_pooled_no_special"), ("cls", "first_token_pooled"),
    ("last", "last_token_pooled"),
])  # fmt: skip
def test_pooled_vectors_equal_the_original(golden: Golden, pooling: str, key: str) -> None:
    encoder = load(golden)
    rows = [row for row in range(len(golden.sequences)) if np.isfinite(golden.expected[key][row]).all()]
    if pooling == "cls" and not encoder.special[0]:
        pytest.skip(f"{golden.family} has no <cls>")
    readout = encoder.readout((pooling,), (-1,))
    tokens = encoder.tokenize([golden.sequences[row] for row in rows])
    ours = np.empty((len(tokens), readout.dim), np.float32)
    for batch in np.array_split(np.arange(len(tokens)), 3):
        ours[batch] = encoder.start(tokens.take(batch), readout, 512)()
    np.testing.assert_allclose(ours, golden.expected[key][rows], atol=TOLERANCE, rtol=0)


def test_the_default_mean_and_layer_are_the_authors(golden: Golden) -> None:
    encoder = load(golden)
    block = encoder.readout().blocks[0]
    assert (encoder.excluded == (0, 0)) == (golden.family in SPECIAL_IN_THE_MEAN)
    assert block.layer == encoder.layers - (golden.family == "geneformer")
    if golden.family == "geneformer":
        ours = encoder.encode(golden.sequences)
        np.testing.assert_allclose(
            ours, golden.expected["mean_pooled_layer_minus_2_no_special"], atol=TOLERANCE, rtol=0
        )


def test_layers_and_poolings_become_blocks_of_one_pass(golden: Golden) -> None:
    encoder = load(golden)
    sequences = readable(golden)
    readout = encoder.readout(("mean", "max", "last"), ("mid", -1, 0))
    blocks = encoder.encode_readout(sequences, readout, "window")
    middle = -(-encoder.layers // 2)
    assert [block.layer for block in readout.blocks[::3]] == [middle, encoder.layers, 0]
    for block in readout.blocks:
        alone = encoder.encode(sequences, pool=block.pooling, layer=block.layer)
        np.testing.assert_array_equal(blocks[:, block.start : block.stop], alone)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_sequence_gives_the_same_bits_alone_and_among_64_others(golden: Golden, precision: str) -> None:
    encoder = load(golden, precision)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 400, 64)
    if encoder.alphabet == "cell":
        others = [" ".join(map(str, rng.integers(4, 2000, length // 2 + 1))) for length in lengths]
    else:
        letters = list("ACGT" if encoder.alphabet == "dna" else "ACDEFGHIKLMNPQRSTVWY")
        others = ["".join(rng.choice(letters, length)) for length in lengths]
    shortest = 12 if golden.family == "dna_bert_6" else 1
    others = [other if len(other) >= shortest else other * shortest for other in others]
    for probe in readable(golden):
        alone = encoder.encode([probe])
        among = encoder.encode([*others[:20], probe, *others[20:]])[20:21]
        np.testing.assert_array_equal(alone.view(np.uint32), among.view(np.uint32))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_stays_close_to_float32(golden: Golden, precision: str) -> None:
    exact = load(golden).encode(readable(golden)[:4])
    rough = load(golden, precision).encode(readable(golden)[:4])
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.999
    assert not np.array_equal(exact, rough)


def test_norms_residual_and_pooling_stay_in_float32_at_every_precision(golden: Golden) -> None:
    for precision in ("float32", "bfloat16", "float16"):
        encoder = load(golden, precision)
        tokens = encoder.tokenize(readable(golden)[:2])
        states = list(encoder.trunk.states(encoder.trunk.pack(tokens.ids, tokens.lengths)))
        assert {state.dtype for state in states} == {torch.float32}


@pytest.mark.parametrize("family", ["esm2", "fastesm2", "ntv1"])
def test_token_dropout_is_read_from_the_configuration(family: str, tmp_path: Path) -> None:
    golden = read_golden(family, tmp_path)
    file = golden.directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"token_dropout": False}))
    expected = golden.expected["last_hidden_state_token_dropout_false"]
    for row, ours in enumerate(load(golden).hidden_states(golden.sequences)):
        np.testing.assert_allclose(ours[-1], expected[row][golden.mask[row] == 1], atol=TOLERANCE, rtol=0)


def test_safetensors_and_bin_give_the_same_encoder(golden: Golden, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    other = read_golden(golden.family, tmp_path)
    torch.save(load_file(other.directory / "model.safetensors"), other.directory / "pytorch_model.bin")
    (other.directory / "model.safetensors").unlink()
    np.testing.assert_array_equal(load(other).encode(readable(golden)), load(golden).encode(readable(golden)))


def test_sharded_weights_read_like_one_file(golden: Golden, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = read_golden(golden.family, tmp_path)
    weights = load_file(other.directory / "model.safetensors")
    (other.directory / "model.safetensors").unlink()
    weight_map = {}
    for number, part in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        name = f"model-{number + 1:05d}-of-00002.safetensors"
        save_file({key: weights[key] for key in part}, other.directory / name)
        weight_map |= dict.fromkeys(part, name)
    (other.directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert load(other).fingerprint == load(golden).fingerprint


@pytest.mark.parametrize("card", CARDS)
def test_a_published_key_list_is_taken_at_its_real_size_with_nothing_missing_and_nothing_ignored_by_accident(
    card: str,
) -> None:
    keys = {key: tuple(shape) for key, shape in json.loads(CARDS[card].read_text()).items()}
    folder = CARDS[card].parents[1]
    published = folder / "published_configs" / CARDS[card].name
    config = json.loads((published if published.exists() else folder / "config.json").read_text())
    if not published.exists():  # FastESM2's config.json was not to be had: the sizes are those of its weights
        layers = 1 + max(int(key.split(".layer.")[1].split(".")[0]) for key in keys if ".layer." in key)
        config |= {
            "num_hidden_layers": layers,
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_attention_heads": 20,
        }
    family, architecture = recognise(config, card)
    read: list[str] = []

    class OnMeta(Checkpoint):
        def __init__(self) -> None:
            self.directory, self.keys_read = folder, read

        @property
        def keys(self) -> frozenset[str]:
            return frozenset(keys)

        def read(self, key: str, shape: tuple[int, ...]) -> torch.Tensor:
            assert keys[key] == shape, key
            read.append(key)
            return torch.empty(shape, device="meta")

    family.build(architecture, family.reader(architecture, OnMeta()), torch.float32, torch.device("meta"))
    matched = {key for several in family.published_keys(architecture, set(keys)).values() for key in several}
    assert sorted(read) == sorted(matched), "each key in use is read exactly once"
    with pytest.raises(Exception, match="unexpected encoder.novelty.weight"):
        family.published_keys(architecture, {*keys, "encoder.novelty.weight"})
    lost = sorted(matched)[0]
    with pytest.raises(Exception, match=f"missing {lost}"):
        family.published_keys(architecture, set(keys) - {lost})


def test_both_layouts_of_dnabert_s_give_the_same_encoder(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    bare = read_golden("dnaberts", tmp_path / "bare")
    prefixed = read_golden("dnaberts", tmp_path / "prefixed")
    weights = load_file(bare.directory / "model.safetensors")
    assert "pooler.dense.weight" in weights
    renamed = {f"bert.{key}": tensor for key, tensor in weights.items() if not key.startswith("pooler.")}
    head = {"cls.predictions.decoder.weight": weights["embeddings.word_embeddings.weight"].clone()}
    save_file(renamed | head, prefixed.directory / "model.safetensors")
    np.testing.assert_array_equal(load(bare).encode(["ACGTACGGTTT"]), load(prefixed).encode(["ACGTACGGTTT"]))


def test_a_checkpoint_whose_weights_move_has_another_fingerprint(golden: Golden, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = read_golden(golden.family, tmp_path)
    weights = load_file(other.directory / "model.safetensors")
    name = next(key for key in sorted(weights) if ("layer.1." in key or "layers.1." in key) and key.endswith(".bias"))
    weights[name] = weights[name] + 1e-6
    save_file(weights, other.directory / "model.safetensors")
    assert load(other).fingerprint != load(golden).fingerprint


def test_the_fingerprint_covers_precision_but_not_where_the_folder_lies(golden: Golden, tmp_path: Path) -> None:
    here, there = load(golden), load(read_golden(golden.family, tmp_path))
    assert here.fingerprint == there.fingerprint
    assert here.fingerprint != load(golden, "bfloat16").fingerprint


def test_only_the_weights_in_use_are_read(golden: Golden) -> None:
    checkpoint = Checkpoint(golden.directory)
    family, config = recognise(json.loads((golden.directory / "config.json").read_text()), "config.json")
    used = {key for keys in family.published_keys(config, checkpoint.keys).values() for key in keys}
    assert used <= checkpoint.keys
    assert not any(key.startswith(("lm_head", "cls.", "pooler")) for key in used)
