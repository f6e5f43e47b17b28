"""HyenaDNA gives the numbers of the original code, and the same bits in every batch."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from embedcache.encoders import hyena
from embedcache.encoders.checkpoint import Checkpoint
from embedcache.encoders.hyena import (
    HYENA_IGNORED,
    HYENA_KEYS,
    HYENA_PREFIX,
    Hyena,
    HyenaConfig,
    hyena_config,
    parameter_shapes,
    transform_points,
)
from embedcache.encoders.packed import PackedBatch
from embedcache.errors import InputError, ModelError
from tests.conftest import shared_folder

CPU = torch.device("cpu")
TOLERANCE, TOLERANCE_AT_THE_LIMIT = 5e-5, 3e-4


@pytest.fixture(scope="module")
def golden() -> Path:
    return shared_folder("golden") / "hyenadna"


@pytest.fixture(scope="module")
def config(golden: Path) -> HyenaConfig:
    return hyena_config(json.loads((golden / "config.json").read_text()))


@pytest.fixture(scope="module")
def weights(golden: Path, config: HyenaConfig) -> dict[str, Tensor]:
    checkpoint = Checkpoint(golden)
    return {name: checkpoint.read(published(name), shape) for name, shape in parameter_shapes(config).items()}


@pytest.fixture(scope="module")
def encoder(config: HyenaConfig, weights: dict[str, Tensor]) -> Hyena:
    return build(config, weights)


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, NDArray[np.float32]]:
    with np.load(golden / "expected.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def tokens(expected: dict[str, NDArray[np.float32]]) -> list[NDArray[np.int64]]:
    """The golden sequences as token ids."""
    rows = zip(expected["input_ids"], expected["attention_mask"], strict=True)
    return [ids[mask == 1].astype(np.int64) for ids, mask in rows]


def published(name: str) -> str:
    """The published key of one of our parameters."""
    stem, last = name.rsplit(".", 1)
    layer, _, rest = stem.partition(".")
    return f"{HYENA_PREFIX}{HYENA_KEYS[rest if layer.isdigit() else stem].format(i=layer)}.{last}"


def build(config: HyenaConfig, weights: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Hyena:
    return Hyena(config, lambda name: weights[name].clone(), dtype, CPU)


def states(encoder: Hyena, sequences: list[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
    """All hidden states (S, L, D) of each sequence, the sequences in one batch."""
    lengths = np.array([len(ids) for ids in sequences], np.int64)
    batch = PackedBatch.of(np.concatenate(sequences), lengths, CPU)
    packed_STD = torch.stack(list(encoder.states(batch))).numpy()
    return np.split(packed_STD, np.cumsum(lengths)[:-1], axis=1)


def random_tokens(lengths: list[int], seed: int = 0) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return [np.append(rng.integers(6, 12, length - 1), 1) for length in lengths]


def random_weights(config: HyenaConfig) -> dict[str, Tensor]:
    """Weights as an untrained HyenaDNA has them."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in parameter_shapes(config).items():
        if name.endswith(".freq"):
            weights[name] = torch.full(shape, config.frequency)
        elif name.endswith(".deltas"):
            weights[name] = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, config.hidden).view(shape)
        else:
            bound = 1 / math.sqrt(math.prod(shape[1:]) if len(shape) > 1 else config.hidden)
            uniform = torch.empty(shape).uniform_(-bound, bound, generator=generator)
            weights[name] = uniform + name.endswith("norm.weight")
    return weights


def reference(config: HyenaConfig, weights: dict[str, Tensor], ids: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    """The hidden states of one sequence, step by step as in the authors' code, in float64."""
    L, D, P = len(ids), config.hidden, config.max_positions
    w = {name: tensor.double() for name, tensor in weights.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (D,), w[f"{name}.weight"], w[f"{name}.bias"], config.norm_eps)

    t = torch.linspace(0, 1, P, dtype=torch.float64)[:L, None]
    bands = (config.filter_inputs - 1) // 2
    f = torch.linspace(1e-4, bands - 1, bands, dtype=torch.float64)
    angle = 2 * math.pi * torch.arange(L, dtype=torch.float64)[:, None] / P
    z = torch.cat((t, torch.cos(-f * angle), torch.sin(-f * angle)), dim=1)
    x = w["tokens.weight"][torch.from_numpy(ids)]
    yield x.numpy()
    for i in range(config.layers):
        h = z
        for n in (1, 2, 3):
            h = torch.sin(w[f"{i}.filter_sine.freq"] * linear(h, f"{i}.filter_{n}"))
        h = linear(h, f"{i}.filter_4") * (torch.exp(-t * w[f"{i}.filter_decay.deltas"][0].abs()) + 0.05)
        u = linear(norm(x, f"{i}.mixer_norm"), f"{i}.projections").t()[None]
        short = F.conv1d(u, w[f"{i}.short.weight"], w[f"{i}.short.bias"], padding=config.short_taps - 1, groups=3 * D)
        x0, x1, v = short[0, :, :L].split(D)
        v = v * x1
        y = torch.fft.irfft(torch.fft.rfft(v, n=2 * L) * torch.fft.rfft(h.t(), n=2 * L), n=2 * L)[:, :L]
        y = (y + v * w[f"{i}.filter_skip.bias"][:, None]) * x0
        x = x + linear(y.t(), f"{i}.output")
        inner = F.gelu(linear(norm(x, f"{i}.feed_forward_norm"), f"{i}.up"), approximate="tanh")
        x = x + linear(inner, f"{i}.down")
        yield x.numpy()
    yield norm(x, "final_norm").numpy()


def assert_near_reference(
    ours: NDArray[np.float32],
    config: HyenaConfig,
    weights: dict[str, Tensor],
    ids: NDArray[np.int64],
    tolerance: float,
) -> None:
    for state, theirs in zip(ours, reference(config, weights, ids), strict=True):
        np.testing.assert_allclose(state, theirs, atol=tolerance, rtol=0)


def test_every_hidden_state_equals_the_original_for_each_sequence_alone(
    encoder: Hyena, tokens: list[NDArray[np.int64]], expected: dict[str, NDArray[np.float32]]
) -> None:
    for row, ids in enumerate(tokens):
        (ours,) = states(encoder, [ids])
        np.testing.assert_allclose(ours, expected["hidden_states"][:, row, : len(ids)], atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(ours[-1], expected["last_hidden_state"][row, : len(ids)], atol=TOLERANCE, rtol=0)


def test_every_hidden_state_equals_the_original_for_all_sequences_in_one_batch(
    encoder: Hyena, tokens: list[NDArray[np.int64]], expected: dict[str, NDArray[np.float32]]
) -> None:
    for row, ours in enumerate(states(encoder, tokens)):
        theirs = expected["hidden_states"][:, row, : len(tokens[row])]
        assert len(ours) == encoder.config.last_state + 1 == len(theirs)
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE, rtol=0)


def test_the_straightforward_reference_equals_the_original(
    config: HyenaConfig,
    weights: dict[str, Tensor],
    tokens: list[NDArray[np.int64]],
    expected: dict[str, NDArray[np.float32]],
) -> None:
    for row, ids in enumerate(tokens):
        theirs = expected["hidden_states"][:, row, : len(ids)]
        assert_near_reference(theirs, config, weights, ids, TOLERANCE)


def test_sequences_up_to_the_length_limit_stay_near_the_reference(
    encoder: Hyena, config: HyenaConfig, weights: dict[str, Tensor]
) -> None:
    sequences = random_tokens([514, 514, 513, 511, 257, 256, 255, 3, 2, 1, 1])
    for ids, ours in zip(sequences, states(encoder, sequences), strict=True):
        assert_near_reference(ours, config, weights, ids, TOLERANCE_AT_THE_LIMIT)


@pytest.mark.parametrize(("size", "lengths"), [("tiny-1k", [1026, 1025, 700, 64]), ("small-32k", [3000])])
def test_full_size_encoders_stay_near_the_reference(golden: Path, size: str, lengths: list[int]) -> None:
    file = golden / "published_configs" / f"hyenadna-{size}-seqlen-hf.json"
    config = hyena_config(json.loads(file.read_text()))
    weights = random_weights(config)
    sequences = random_tokens(lengths)
    for ids, ours in zip(sequences, states(build(config, weights), sequences), strict=True):
        assert_near_reference(ours, config, weights, ids, TOLERANCE_AT_THE_LIMIT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", ["golden", "tiny-1k", "tiny-1k-d256"])
def test_a_sequence_gives_the_same_bits_alone_and_among_64_others(
    golden: Path, weights: dict[str, Tensor], size: str, dtype: torch.dtype
) -> None:
    names = {
        "tiny-1k": "hyenadna-tiny-1k-seqlen-hf.json",
        "tiny-1k-d256": "hyenadna-tiny-1k-seqlen-d256-hf.json",
    }
    file = golden / "published_configs" / names[size] if size in names else golden / "config.json"
    config = hyena_config(json.loads(file.read_text()))
    encoder = build(config, weights if size == "golden" else random_weights(config), dtype)
    others = random_tokens(np.random.default_rng(1).integers(1, 120, 64).tolist(), seed=1)
    for length in (1, 2, 31, 64, 101, 514):
        (probe,) = random_tokens([length], seed=2)
        (alone,) = states(encoder, [probe])
        among = states(encoder, [*others[:20], probe, probe, *others[20:]])
        np.testing.assert_array_equal(alone.view(np.uint32), among[20].view(np.uint32))
        np.testing.assert_array_equal(alone.view(np.uint32), among[21].view(np.uint32))


def test_a_sequence_gives_the_same_bits_whatever_the_encoder_has_seen_before(
    config: HyenaConfig, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = random_tokens([100, 514])
    (fresh,) = states(build(config, weights), [short])
    encoder = build(config, weights)
    states(encoder, [long])
    np.testing.assert_array_equal(states(encoder, [short])[0], fresh)
    for kept_bytes in (0, 100_000):
        monkeypatch.setattr(hyena, "KEPT_BYTES", kept_bytes)
        encoder = build(config, weights)
        for _ in range(2):
            np.testing.assert_array_equal(states(encoder, [long, short])[1], fresh)


def test_filters_that_are_kept_stay_below_their_bound(
    config: HyenaConfig, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hyena, "KEPT_BYTES", 500_000)
    encoder = build(config, weights)
    for length in range(1, 514, 16):
        states(encoder, random_tokens([length]))
        kept = [part for layer in encoder.layers for parts in layer.filter._kept.values() for _, part in parts]
        assert 0 < sum(part.nbytes for part in kept) <= 500_000


def test_working_in_pieces_changes_no_bit(
    config: HyenaConfig, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = random_tokens([514, 130, 63, 2, 1, 1, 100])
    whole = states(build(config, weights), sequences)
    monkeypatch.setattr(hyena, "ROWS", {"cpu": 32})
    for ours, theirs in zip(states(build(config, weights), sequences), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_transforming_few_channels_together_stays_near_the_reference(
    config: HyenaConfig, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hyena, "TRANSFORM", {"cpu": 1})
    (ids,) = random_tokens([400])
    (ours,) = states(build(config, weights), [ids])
    assert_near_reference(ours, config, weights, ids, TOLERANCE_AT_THE_LIMIT)


def test_a_token_sees_nothing_of_what_comes_after_it(encoder: Hyena) -> None:
    (ids,) = random_tokens([300])
    (whole,), (beginning,) = states(encoder, [ids]), states(encoder, [ids[:200]])
    np.testing.assert_allclose(whole[:, :200], beginning, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_to_float32(
    encoder: Hyena, config: HyenaConfig, weights: dict[str, Tensor], dtype: torch.dtype
) -> None:
    sequences = random_tokens([400, 60])
    rough = states(build(config, weights, dtype), sequences)
    for exact, near in zip(states(encoder, sequences), rough, strict=True):
        assert near.dtype == np.float32
        cosine = (exact * near).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(near, axis=-1)
        assert cosine.min() > 0.999
        assert not np.array_equal(exact, near)


def test_full_size_key_lists_are_covered_with_nothing_missing_and_nothing_left_over(golden: Path) -> None:
    files = sorted((golden / "full_keys").glob("*.json"))
    assert len(files) == 7
    for file in files:
        keys = json.loads(file.read_text())
        config = hyena_config(json.loads((golden / "published_configs" / file.name).read_text()))
        wanted = {published(name): shape for name, shape in parameter_shapes(config).items()}
        assert {key: tuple(keys[key]) for key in wanted} == wanted
        for key in keys.keys() - wanted.keys():
            assert any(fnmatch.fnmatchcase(key.removeprefix(HYENA_PREFIX), pattern) for pattern in HYENA_IGNORED), key


def test_position_tables_that_are_not_read_equal_those_in_the_checkpoint(golden: Path, config: HyenaConfig) -> None:
    checkpoint, P = Checkpoint(golden), config.max_positions
    ours = hyena._positions(config, P, CPU)
    for layer in range(config.layers):
        stem = f"{HYENA_PREFIX}layers.{layer}.mixer.filter_fn.pos_emb"
        torch.testing.assert_close(ours, checkpoint.read(f"{stem}.z", (1, P, 5))[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(ours[:, :1], checkpoint.read(f"{stem}.t", (1, P, 1))[0], atol=1e-6, rtol=0)


def test_a_frequency_that_was_not_trained_comes_from_the_configuration(
    config: HyenaConfig, weights: dict[str, Tensor], golden: Path
) -> None:
    untrained = hyena_config(json.loads((golden / "config.json").read_text()) | {"train_freq": False})
    assert not any(name.endswith(".freq") for name in parameter_shapes(untrained))
    tens = {name: torch.full_like(w, 10) if name.endswith(".freq") else w for name, w in weights.items()}
    (ids,) = random_tokens([50])
    np.testing.assert_array_equal(states(build(untrained, weights), [ids]), states(build(config, tens), [ids]))


def test_configurations_that_no_checkpoint_has_are_refused(golden: Path) -> None:
    good = json.loads((golden / "config.json").read_text())
    for field, value in (("hyena_order", 3), ("num_inner_mlps", 1), ("use_bias", False), ("emb_dim", 4)):
        with pytest.raises(ModelError, match=f"{field} {value}"):
            hyena_config(good | {field: value})
    with pytest.raises(KeyError, match="d_model"):
        hyena_config({key: value for key, value in good.items() if key != "d_model"})


def test_the_vocabulary_is_padded_as_in_the_original(golden: Path, config: HyenaConfig) -> None:
    assert config.vocabulary == 16
    good = json.loads((golden / "config.json").read_text())
    assert hyena_config(good | {"vocab_size": 16}).vocabulary == 16
    assert hyena_config(good | {"vocab_size": 17}).vocabulary == 24


def test_a_sequence_over_the_limit_is_refused_with_both_numbers(encoder: Hyena) -> None:
    with pytest.raises(InputError, match="515 tokens.*514"):
        states(encoder, random_tokens([515]))


def test_transforms_never_wrap_around_and_waste_at_most_a_third() -> None:
    for length in [*range(1, 3000), 32770, 160002, 450002, 1000002]:
        points = transform_points(length)
        assert points >= 2 * length - 1
        assert points <= max(2 * length * 4 / 3, 16)
        odd_part = points // (points & -points)
        assert points % 2 == 0
        assert odd_part in (1, 3, 5, 9)


def test_operations_are_at_least_those_of_the_matrices_and_grow_with_length(config: HyenaConfig) -> None:
    names = ("projections", "output", "up", "down")
    shapes = parameter_shapes(config)
    matrices = sum(
        2 * math.prod(shape) for name, shape in shapes.items() if name.split(".")[1:] in [[n, "weight"] for n in names]
    )
    assert matrices * 100 < config.flops(100, 50) < config.flops(100, 500) < 2 * matrices * 100
