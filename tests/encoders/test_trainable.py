"""The trunk with gradients is the frozen one, and its gradients are those of the published models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from embedcache import load_encoder
from embedcache.encoders.trainable import DropoutRates, TrainableTrunk
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.errors import ModelError
from embedcache.sequences.tokens import Tokens
from tests.encoders.golden import read_golden

CPU = torch.device("cpu")
FAMILIES = ("dnabert2", "dna_bert_6", "ntv1", "ntv2", "esm2", "fastesm2", "geneformer")


def loaded(family: str, folder: Path) -> tuple[TransformerEncoder, Tokens]:
    golden = read_golden(family, folder)
    encoder = load_encoder(str(golden.directory))
    assert isinstance(encoder, TransformerEncoder)
    tokens = encoder.tokenize(golden.sequences)
    return encoder, tokens.take(np.argsort(-tokens.lengths, kind="stable"))


def trunk_of(encoder: TransformerEncoder, **options: object) -> TrainableTrunk:
    assert encoder.weights is not None
    return TrainableTrunk.of(encoder.weights, **options)


def states(trunk: TrainableTrunk, tokens: Tokens) -> list[Tensor]:
    return [state for _, state in trunk.states(trunk.pack(tokens.ids, tokens.lengths, CPU))]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_hidden_state_equals_that_of_the_frozen_trunk(family: str, tmp_path: Path) -> None:
    encoder, tokens = loaded(family, tmp_path)
    frozen = [state.clone() for state in encoder.trunk.states(encoder.trunk.pack(tokens.ids, tokens.lengths))]
    ours = states(trunk_of(encoder).eval(), tokens)
    assert len(ours) == len(frozen) == encoder.layers + 1
    for own, other in zip(ours, frozen, strict=True):
        torch.testing.assert_close(own.detach(), other, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_its_parameters_are_the_published_checkpoint(family: str, tmp_path: Path) -> None:
    encoder, _ = loaded(family, tmp_path)
    assert encoder.weights is not None
    family_of, config = encoder.weights.family, encoder.weights.config
    names = {name: tuple(tensor.shape) for name, tensor in trunk_of(encoder).state_dict().items()}
    keys = family_of.published_keys(config, frozenset(names))
    assert sorted(key for parts in keys.values() for key in parts) == sorted(names)


@pytest.mark.parametrize("family", ["ntv1", "esm2", "dna_bert_6", "geneformer"])
def test_gradients_equal_those_of_transformers_with_padding(family: str, tmp_path: Path) -> None:
    from transformers import BertModel, EsmModel

    encoder, tokens = loaded(family, tmp_path)
    kind = EsmModel if family in ("ntv1", "esm2") else BertModel
    theirs = (
        kind.from_pretrained(tmp_path / family, add_pooling_layer=False, attn_implementation="eager").double().eval()
    )
    longest = int(tokens.lengths.max())
    mask = torch.arange(longest)[None] < torch.from_numpy(tokens.lengths)[:, None]
    ids = torch.full(mask.shape, theirs.config.pad_token_id or 0)
    ids[mask] = torch.from_numpy(tokens.ids).long()
    ours = trunk_of(encoder).double().eval()
    toward = torch.randn(
        len(tokens.ids), encoder.hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    (theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask] * toward).sum().backward()
    (states(ours, tokens)[-1] * toward).sum().backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    compared = 0
    for name, parameter in ours.named_parameters():
        other = expected[name]
        assert parameter.grad is not None
        assert other is not None
        error = (parameter.grad - other).norm() / other.norm().clamp(min=1e-12)
        assert error < 1e-5 or other.norm() < 1e-9, f"{name}: {error}"
        compared += 1
    assert compared == len([name for name in expected if expected[name] is not None])


@pytest.mark.parametrize("family", ["dnabert2", "ntv2", "fastesm2"])
def test_gradients_equal_finite_differences(family: str, tmp_path: Path) -> None:
    encoder, tokens = loaded(family, tmp_path)
    trunk = trunk_of(encoder).double().eval()
    some = tokens.take(np.arange(len(tokens))[-3:])
    toward = torch.randn(len(some.ids), encoder.hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def loss() -> Tensor:
        return (states(trunk, some)[-1] * toward).sum()

    loss().backward()
    for name, parameter in trunk.named_parameters():
        assert parameter.grad is not None
        along = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        with torch.no_grad():
            parameter += 1e-6 * along
            above = loss()
            parameter -= 2e-6 * along
            below = loss()
            parameter += 1e-6 * along
        slope, expected = float((parameter.grad * along).sum()), float(above - below) / 2e-6
        assert slope == pytest.approx(expected, rel=1e-4, abs=1e-5), name


def test_recomputing_layers_changes_no_gradient_also_with_dropout(tmp_path: Path) -> None:
    encoder, tokens = loaded("dna_bert_6", tmp_path)
    gradients = []
    for recompute in (False, True):
        trunk = trunk_of(encoder, rates=DropoutRates(0.1, 0.1), recompute=recompute).train()
        torch.manual_seed(0)
        states(trunk, tokens)[-1].square().sum().backward()
        gradients.append([parameter.grad for parameter in trunk.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, atol=0, rtol=0)


def test_dropout_is_that_of_the_config_and_off_outside_of_training(tmp_path: Path) -> None:
    encoder, tokens = loaded("dna_bert_6", tmp_path)
    assert encoder.weights is not None
    rates = DropoutRates.published(encoder.weights.published)
    assert rates == DropoutRates(0.1, 0.1)
    trunk = trunk_of(encoder, rates=rates)
    torch.testing.assert_close(states(trunk.eval(), tokens)[-1], states(trunk_of(encoder).eval(), tokens)[-1])
    first, second = (states(trunk.train(), tokens)[-1] for _ in range(2))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("family", ["dnabert2", "ntv2", "dna_bert_6"])
def test_the_upper_layers_alone_go_on_from_hidden_states(family: str, tmp_path: Path) -> None:
    encoder, tokens = loaded(family, tmp_path)
    whole, above = trunk_of(encoder).eval(), trunk_of(encoder, first=1).eval()
    batch = whole.pack(tokens.ids, tokens.lengths, CPU)
    expected = dict(whole.states(batch))
    start = nn.functional.pad(expected[1], (0, 0, 0, len(batch.ids_T) - batch.tokens))
    found = dict(above.states(batch, start))
    assert sorted(found) == list(range(1, encoder.layers + 1))
    torch.testing.assert_close(found[encoder.layers], expected[encoder.layers])
    assert not any("embeddings" in name for name, _ in above.named_parameters())


def test_hyenadna_cannot_be_trained_and_says_what_can_be_done(tmp_path: Path) -> None:
    encoder, _ = loaded("hyenadna", tmp_path)
    with pytest.raises(ModelError, match="HyenaDNA.*--mode frozen"):
        trunk_of(encoder)
