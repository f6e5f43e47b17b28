"""All ways of attention give the same numbers, and the compiled halves of a layer serve all layers."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from embedcache.encoders import linear
from embedcache.encoders.attention import (
    Alibi,
    Grouped,
    Rotary,
    Varlen,
    alibi_slopes,
    choose_attention,
    rotate_,
)  # fmt: skip
from embedcache.encoders.checkpoint import Checkpoint
from embedcache.encoders.families import recognise
from embedcache.encoders.flexalibi import FlexAlibi, alibi_attention, blocks_in_common
from embedcache.encoders.packed import PackedBatch, equal_length_groups
from embedcache.encoders.trunk import Trunk
from tests.conftest import shared_folder

CPU = torch.device("cpu")
LENGTHS = np.asarray([300, 300, 90, 90, 90, 17, 5, 1, 1], np.int64)


def packed(rows: int = 1024) -> PackedBatch:
    return PackedBatch.of(np.arange(LENGTHS.sum()) % 7, LENGTHS, CPU, rows=rows)


def random_qkv(rows: int = 1024, heads: int = 6, head_dim: int = 16) -> Tensor:
    return torch.randn(rows, 3, heads, head_dim, generator=torch.Generator().manual_seed(1))


def written_out(qkv: Tensor, slopes: list[float]) -> Tensor:
    """Attention of each sequence in float64, straight from the formula."""
    out = torch.zeros(len(qkv), qkv.shape[2] * qkv.shape[3], dtype=torch.float64)
    start = 0
    for length in LENGTHS.tolist():
        q, k, v = qkv[start : start + length].double().permute(1, 2, 0, 3)
        place = torch.arange(length)
        bias = -torch.tensor(slopes).double()[:, None, None] * (place[:, None] - place[None]).abs()
        mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[2]) + bias, dim=2) @ v
        out[start : start + length] = mixed.transpose(0, 1).flatten(1)
        start += length
    return out


@pytest.mark.parametrize("slopes", [[0.0] * 6, alibi_slopes(6)])
def test_grouped_attention_equals_the_formula(slopes: list[float]) -> None:
    alibi = Alibi(6, CPU) if any(slopes) else None
    ours = Grouped(alibi)(packed())(random_qkv())
    total = LENGTHS.sum()
    torch.testing.assert_close(ours[:total].double(), written_out(random_qkv(), slopes)[:total], atol=2e-6, rtol=0)
    assert not ours[total:].any(), "dummy rows are zero, so that they cost nothing and disturb nothing"


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_with_alibi_equals_grouped_attention() -> None:
    total = int(LENGTHS.sum())
    grouped = Grouped(Alibi(6, CPU))(packed())(random_qkv())
    flex = FlexAlibi(torch.tensor(alibi_slopes(6)), alibi_attention)(packed())(random_qkv())
    torch.testing.assert_close(flex[:total], grouped[:total], atol=2e-6, rtol=0)


@pytest.mark.parametrize("rows", [896, 1024, 1500])
def test_the_blocks_of_flex_attention_hold_every_pair_of_tokens_of_a_sequence(rows: int) -> None:
    batch = packed(rows)
    sequence = torch.bucketize(torch.arange(rows), batch.bounds_B1[1:], right=True)
    counts, numbers = blocks_in_common(sequence, batch)
    mask = BlockMask.from_kv_blocks(counts, numbers, BLOCK_SIZE=128, seq_lengths=(rows, rows), compute_q_blocks=False)
    blocks = mask.to_dense()[0, 0].bool()
    real = torch.arange(rows) < batch.tokens
    together = (sequence[:, None] == sequence[None]) & real[:, None] & real[None]
    i, j = together.nonzero(as_tuple=True)
    needed = torch.zeros_like(blocks)
    needed[i // 128, j // 128] = True
    assert (blocks | ~needed).all()
    assert blocks.sum() <= needed.sum() + len(blocks), "hardly a block more than needed"


def test_flex_attention_is_traced_once_for_all_batches_of_the_same_rows() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(alibi_attention, fullgraph=True, dynamic=False, backend="eager")
    flex = FlexAlibi(torch.tensor(alibi_slopes(6)), compiled)
    flex(packed())(random_qkv())
    other = PackedBatch.of(np.zeros(700, np.int32), np.full(100, 7), CPU, rows=1024)
    before = dict(counters["stats"])
    flex(other)(random_qkv())
    assert dict(counters["stats"]) == before


def test_varlen_attention_gets_each_sequence_by_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has the kernel for GPUs alone: here a plain one with its documented meaning stands in for it."""

    def plain(
        q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *, num_splits: int
    ) -> Tensor:
        assert num_splits == 1, "split keys would make a sequence's bits depend on the others"
        assert cu_q.dtype == torch.int32
        assert max_q == max_k == int(torch.diff(cu_q).max())
        out = torch.full_like(q, math.nan)
        for start, stop in zip(cu_q.tolist(), cu_k.tolist()[1:], strict=False):
            heads = (part[start:stop].transpose(0, 1) for part in (q, k, v))
            out[start:stop] = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(0, 1)
        return out

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", plain)
    total = int(LENGTHS.sum())
    ours = Varlen()(packed())(random_qkv())
    torch.testing.assert_close(ours[:total], Grouped(None)(packed())(random_qkv())[:total], atol=2e-6, rtol=0)


def test_the_gpu_takes_fused_attention_in_half_precision_and_groups_in_float32() -> None:
    cuda = torch.device("cuda")
    assert isinstance(choose_attention(12, 64, False, torch.bfloat16, cuda), Varlen)
    assert isinstance(choose_attention(12, 64, False, torch.float32, cuda), Grouped)
    assert isinstance(choose_attention(12, 64, False, torch.bfloat16, CPU), Grouped)
    assert isinstance(choose_attention(12, 20, False, torch.bfloat16, cuda), Grouped)
    assert isinstance(choose_attention(12, 64, True, torch.bfloat16, CPU), Grouped)


def test_alibi_slopes_of_12_heads_are_those_of_8_and_every_second_of_16() -> None:
    eight, sixteen = alibi_slopes(8), alibi_slopes(16)
    assert eight == [2.0**-h for h in range(1, 9)]
    assert alibi_slopes(12) == eight + sixteen[0:8:2]


def test_rotation_keeps_lengths_and_depends_on_the_distance_alone() -> None:
    rotary = Rotary(16, CPU)
    qkv = torch.randn(1, 3, 1, 16).expand(40, 3, 1, 16).clone()
    turned = rotate_(qkv.clone(), rotary.angles(torch.arange(40), 40))
    torch.testing.assert_close(turned[:, :2].norm(dim=-1), qkv[:, :2].norm(dim=-1))
    scores = turned[:, 0, 0] @ turned[:, 1, 0].T
    for distance in (0, 3, 20):
        diagonal = torch.diagonal(scores, distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned[:, 2], qkv[:, 2])


def test_groups_cover_the_real_tokens_and_no_dummies() -> None:
    groups = equal_length_groups(LENGTHS)
    assert [(group.start, group.count, group.length) for group in groups] == [
        (0, 2, 300), (600, 3, 90), (870, 1, 17), (887, 1, 5), (892, 2, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("packed_weights", [True, False])
def test_half_precision_without_instructions_for_it_rounds_the_same_values_and_multiplies_in_float32(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, packed_weights: bool
) -> None:
    monkeypatch.setattr(linear, "product_type", lambda *_: torch.float32)
    if not packed_weights:
        monkeypatch.setattr(linear, "has_prepacked", lambda: False)
    generator = torch.Generator().manual_seed(3)
    weight, bias, x, gate, residual = (
        torch.randn(shape, generator=generator) for shape in ((96, 64), (96,), (16, 64), (16, 96), (16, 96))
    )
    layer = linear.Linear(weight, bias, dtype, CPU)
    rounded = x.to(dtype).double() @ weight.to(dtype).double().T + bias.to(dtype).double()
    close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-4}
    assert layer(x).dtype == dtype
    torch.testing.assert_close(layer(x).double(), rounded, **close)
    torch.testing.assert_close(layer(x, "relu").double(), rounded.clamp(min=0), **close)
    torch.testing.assert_close(layer.add_to(residual, x).double(), residual + rounded, rtol=close["rtol"], atol=0.05)
    assert layer.add_to(residual, x).dtype == torch.float32
    gated = layer.times(x, gate.to(dtype))
    assert gated.dtype == dtype
    torch.testing.assert_close(gated.double(), rounded * gate.to(dtype).double(), rtol=4 * close["rtol"], atol=1e-3)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Linear layers as they are on a GPU: without the processor's own layout."""
    monkeypatch.setattr(linear, "has_prepacked", lambda: False)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("unpacked")
@pytest.mark.parametrize("family", ["dnabert2", "ntv2", "esm2", "geneformer"])
def test_each_half_of_a_layer_is_one_graph_that_all_layers_share(family: str) -> None:
    from torch._dynamo.utils import counters

    folder = shared_folder("golden") / family
    loaded, config = recognise(json.loads((folder / "config.json").read_text()), family)
    trunk = loaded.build(config, loaded.reader(config, Checkpoint(folder)), torch.float32, CPU)
    assert isinstance(trunk, Trunk)
    assert len(trunk.layers) > 1
    plain = [torch.stack(list(trunk.states(batch))) for batch in _batches(trunk)]
    counters.clear()
    trunk.compile_halves(backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for expected, batch in zip(plain, _batches(trunk), strict=True):
            torch.testing.assert_close(torch.stack(list(trunk.states(batch))), expected, atol=2e-5, rtol=0)
    assert counters["stats"]["unique_graphs"] == 2


def _batches(trunk: Trunk) -> list[PackedBatch]:
    ids = np.arange(512) % 20 + 4
    return [trunk.pack(ids, np.full(4, 128)), trunk.pack(ids, np.asarray([200, 200, 100, 12]))]
