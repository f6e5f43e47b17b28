"""Adapters lie on the linear layers of every family, and are the same beside the weights and merged into them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from embedcache import load_encoder
from embedcache.encoders.adapters import save_adapters
from embedcache.encoders.saving import base_record, write_description, write_weights
from embedcache.encoders.transformer import TransformerEncoder
from heads.finetune.lora import adapter_tensors, add_adapters, merged_weights, settings, targets
from heads.finetune.options import LoraOptions
from tests.encoders.test_trainable import FAMILIES, loaded, states, trunk_of

LORA = LoraOptions(rank=3, alpha=6.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_of_a_family_is_adapted_and_saved_in_both_ways(family: str, tmp_path: Path) -> None:
    encoder, tokens = loaded(family, tmp_path)
    trunk = trunk_of(encoder).eval()
    linear = {name for name, module in trunk.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(targets(trunk)) == linear
    before = states(trunk, tokens)[-1]
    add_adapters(trunk, LORA, seed=0)
    assert {name.partition(".lora_")[0] for name, p in trunk.named_parameters() if p.requires_grad} == linear
    torch.testing.assert_close(states(trunk, tokens)[-1], before, msg="they begin with nothing")
    with torch.no_grad():
        for name, parameter in trunk.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.05)
    expected = states(trunk, tokens)[-1].detach()
    assert (expected - before).abs().max() > 1e-2

    for name in ("beside", "merged"):
        write_description(tmp_path / name, encoder)
    save_adapters(
        tmp_path / "beside", settings(trunk, LORA, encoder.name), adapter_tensors(trunk), base_record(encoder)
    )
    write_weights(tmp_path / "merged", encoder, merged_weights(trunk, LORA))
    for name in ("beside", "merged"):
        again = load_encoder(str(tmp_path / name))
        assert isinstance(again, TransformerEncoder)
        *_, found = again.trunk.states(again.trunk.pack(tokens.ids, tokens.lengths))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
