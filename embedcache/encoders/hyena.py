"""HyenaDNA: an encoder of single letters that mixes them with long convolutions in place of attention.

A layer multiplies three projections of its input with each other and, between the two products, convolves with a filter
as long as the sequence, which a small network writes from the position (Poli et al. 2023, arXiv:2302.10866; Nguyen et
al. 2023, arXiv:2306.15794). A token sees itself and what comes before it, never what comes after.

Batches are the flat runs of tokens of `packed.PackedBatch`, without padding. Letters at the end of a name are its axes: T
tokens of the batch, L tokens of one sequence, R rows worked on together, D hidden size, C neighbouring channels of these
D, K taps of the short convolution, P positions of the filter, N points of a Fourier transform, S its frequencies.

Products run in the encoder's precision; the residual, the norms, both convolutions and what multiplies them in float32.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from embedcache.encoders.linear import Linear
from embedcache.encoders.packed import Group, PackedBatch
from embedcache.encoders.trunk import Norm, ReadTensor
from embedcache.errors import InputError, ModelError
from embedcache.memory import give_freed_pages_back

DECAY_FLOOR = 0.05
"""What the filter's exponential decay falls to, as in the authors' code (`ExponentialModulation`, ``shift``)."""

ROWS = {"cpu": 512, "cuda": 65536}
"""Tokens that go through the products of a layer together, so that a sequence of a million tokens needs no more memory
than its hidden states."""

TRANSFORM = {"cpu": 1 << 19, "cuda": 1 << 27}
"""Values that are Fourier-transformed together; on a CPU 2 MB, about what its cache holds."""

KEPT_BYTES = 320 << 20
"""Transformed filters that an encoder keeps; one of 32,770 positions and 256 channels is 75 MB."""


@dataclass(frozen=True)
class HyenaConfig:
    """Everything that decides the architecture."""

    vocabulary: int
    """Rows of the token embedding, ``vocab_size`` brought to a multiple of ``pad_vocab_size_multiple``."""
    hidden: int
    layers: int
    feed_forward: int
    max_positions: int
    """Longest sequence in tokens. The filter is a function of the position as a share of it: it cannot be changed."""
    short_taps: int
    """Taps of the short convolution, the token itself included."""
    filter_inputs: int
    """What the filter's network is told about a position: its share of the whole, and cosines and sines of it."""
    filter_hidden: int
    frequency: float
    """Of the sines in the filter's network, where the checkpoint does not hold it."""
    frequency_is_trained: bool
    norm_eps: float

    @property
    def last_state(self) -> int:
        """Number of the last hidden state; state 0 are the embeddings, the last one is the last layer's, normed."""
        return self.layers + 1

    @property
    def position_limit(self) -> int:
        """Tokens that the architecture can take at all."""
        return self.max_positions

    def flops(self, tokens: float, length: float) -> float:
        """Floating-point operations of a forward pass over `tokens` tokens in sequences of `length` tokens.

        A token and layer: 2 (4 D^2 + 2 D F) for the matrices with F the feed-forward size, 6 K D for the short
        convolution, 2 D for the two products with it, and for the long one 10 D log2(N) + 6 D. That is a real
        transform of N = 2 L points and its inverse, 2.5 N log2(N) each, and N / 2 complex products of 6, shared by L
        tokens. The transformed filter itself is made once and not counted.
        """
        D = self.hidden
        matrices = 2.0 * (4 * D**2 + 2 * D * self.feed_forward)
        long = 10.0 * D * math.log2(2.0 * max(length, 1.0)) + 6.0 * D
        return self.layers * tokens * (matrices + (6.0 * self.short_taps + 2.0) * D + long)


def hyena_config(published: Mapping[str, Any]) -> HyenaConfig:
    """Read a config.json of HyenaDNA.

    Raises
    ------
    KeyError : a field is missing.
    ModelError : the network is built in a way that no published checkpoint is.
    """
    supported = {"hyena_order": 2, "num_inner_mlps": 2, "use_bias": True}
    for field, value in supported.items():
        if published.get(field, value) != value:
            raise ModelError(f"{field} {published[field]} is not known for HyenaDNA encoders: {value} is")
    if published["emb_dim"] < 3 or published["emb_dim"] % 2 == 0:
        raise ModelError(f"emb_dim {published['emb_dim']} is not possible: it is odd and at least 3")
    if published["short_filter_order"] < 1:
        raise ModelError(f"short_filter_order {published['short_filter_order']} is not possible: it is at least 1")
    multiple = published.get("pad_vocab_size_multiple", 8)
    return HyenaConfig(
        vocabulary=-(-published["vocab_size"] // multiple) * multiple,
        hidden=published["d_model"],
        layers=published["n_layer"],
        feed_forward=published.get("d_inner") or 4 * published["d_model"],
        max_positions=published["max_seq_len"],
        short_taps=published["short_filter_order"],
        filter_inputs=published["emb_dim"],
        filter_hidden=published["filter_order"],
        frequency=float(published.get("activation_freq", 10)),
        frequency_is_trained=bool(published.get("train_freq", True)),
        norm_eps=published.get("layer_norm_epsilon", 1e-5),
    )


_FILTER = "layers.{i}.mixer.filter_fn"
HYENA_KEYS: Mapping[str, str] = {
    "tokens": "embeddings.word_embeddings",
    "mixer_norm": "layers.{i}.norm1",
    "projections": "layers.{i}.mixer.in_proj",
    "short": "layers.{i}.mixer.short_filter",
    "filter_1": f"{_FILTER}.implicit_filter.0",
    "filter_2": f"{_FILTER}.implicit_filter.2",
    "filter_3": f"{_FILTER}.implicit_filter.4",
    "filter_4": f"{_FILTER}.implicit_filter.6",
    "filter_sine": f"{_FILTER}.implicit_filter.1",
    "filter_decay": f"{_FILTER}.modulation",
    "filter_skip": _FILTER,
    "output": "layers.{i}.mixer.out_proj",
    "feed_forward_norm": "layers.{i}.norm2",
    "up": "layers.{i}.mlp.fc1",
    "down": "layers.{i}.mlp.fc2",
    "final_norm": "ln_f",
}
"""Our names -> published ones after `HYENA_PREFIX`, both without their last part, which is the same."""

HYENA_PREFIX = "hyena.backbone."

HYENA_IGNORED = (
    "lm_head.*",
    "score.*",
    "layers.*.mixer.filter_fn.pos_emb.z",
    "layers.*.mixer.filter_fn.pos_emb.t",
    "layers.*.mixer.filter_fn.implicit_filter.3.freq",
    "layers.*.mixer.filter_fn.implicit_filter.5.freq",
)
"""Heads; tables that follow from the position alone and are computed; and second names of one shared tensor."""


def parameter_shapes(config: HyenaConfig) -> dict[str, tuple[int, ...]]:
    """The encoder's parameters by our names, with their shapes; the last part of a name is the published one."""
    D, W = config.hidden, config.filter_hidden
    shapes: dict[str, tuple[int, ...]] = {"tokens.weight": (config.vocabulary, D)}
    norms = ["final_norm"]
    for i in range(config.layers):
        norms += [f"{i}.mixer_norm", f"{i}.feed_forward_norm"]
        layers: dict[str, tuple[int, ...]] = {
            "projections": (3 * D, D),
            "short": (3 * D, 1, config.short_taps),
            "filter_1": (W, config.filter_inputs),
            "filter_2": (W, W),
            "filter_3": (W, W),
            "output": (D, D),
            "up": (config.feed_forward, D),
            "down": (D, config.feed_forward),
        }
        for name, shape in layers.items():
            shapes[f"{i}.{name}.weight"] = shape
            shapes[f"{i}.{name}.bias"] = shape[:1]
        shapes[f"{i}.filter_4.weight"] = (D, W)
        if config.frequency_is_trained:
            shapes[f"{i}.filter_sine.freq"] = (1, W)
        shapes[f"{i}.filter_decay.deltas"] = (1, 1, D)
        shapes[f"{i}.filter_skip.bias"] = (D,)
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (D,)
    return shapes


def transform_points(length: int) -> int:
    """Points N of the Fourier transform for a sequence of `length` tokens: the next of 8, 9, 10, 12 times 2^a.

    N is at least 2 `length` - 1, so that the end of the convolution does not wrap around to its beginning. It depends on
    the sequence alone, which therefore gives the same bits in every batch; transforms of these sizes are fast, and as
    there are four to each power of two, few filters serve all lengths.
    """
    needed = max(2 * length - 1, 16)
    unit = 1 << ((needed - 1).bit_length() - 4)
    return next(unit * multiple for multiple in (8, 9, 10, 12, 16) if unit * multiple >= needed)


def _positions(config: HyenaConfig, count: int, device: torch.device) -> Tensor:
    """What the filter's network is told of positions 0 to P - 1, (P, filter_inputs) float32.

    The position p as a share of all, p / (max_positions - 1), then cos(-f w) and sin(-f w) for each frequency f, with w =
    2 pi p / max_positions and f in equal steps from 1e-4 (`PositionalEmbedding` of the authors' code).
    """
    bands = (config.filter_inputs - 1) // 2
    place_P1 = torch.arange(count, dtype=torch.float32, device=device)[:, None]
    share_P1 = place_P1 / max(config.max_positions - 1, 1)
    angles_P1 = 2 * math.pi * place_P1 / config.max_positions
    frequencies = torch.linspace(1e-4, bands - 1, bands, device=device)
    return torch.cat((share_P1, torch.cos(-frequencies * angles_P1), torch.sin(-frequencies * angles_P1)), dim=1)


class LongFilter:
    """The filter of one layer's long convolution, as its Fourier transform.

    A filter value depends on the position and the channel only, so one filter serves all sequences whose transform has
    the same number of points. The last ones in use are kept up to a share of `KEPT_BYTES`; longer filters are made anew
    for each group of sequences, which is a fifth of the layer's work at most.
    """

    def __init__(self, read: ReadTensor, index: int, config: HyenaConfig, device: torch.device) -> None:
        def get(name: str) -> Tensor:
            return read(f"{index}.{name}").to(device)

        self.config, self.device = config, device
        self.inner = [(get(f"filter_{n}.weight"), get(f"filter_{n}.bias")) for n in (1, 2, 3)]
        self.last_DW = get("filter_4.weight")
        self.frequency_W: Tensor | float = (
            get("filter_sine.freq")[0] if config.frequency_is_trained else config.frequency
        )
        self.decay_D = get("filter_decay.deltas").flatten().abs()
        self.skip_D = get("filter_skip.bias")
        self._kept: OrderedDict[int, list[tuple[slice, Tensor]]] = OrderedDict()

    def transformed(self, points: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield the filter's transform by channels: which ones, and (C, S) complex64 for them, S = N / 2 + 1."""
        room = KEPT_BYTES // self.config.layers
        if self._bytes(points) > room:
            yield from self._transform(points)
            return
        if points not in self._kept:
            while sum(map(self._bytes, self._kept)) + self._bytes(points) > room:
                self._kept.popitem(last=False)
            self._kept[points] = list(self._transform(points))
        self._kept.move_to_end(points)
        yield from self._kept[points]

    def _bytes(self, points: int) -> int:
        return 8 * self.config.hidden * (points // 2 + 1)

    def _transform(self, points: int) -> Iterator[tuple[slice, Tensor]]:
        D = self.config.hidden
        # The longest sequence with this transform needs the first (N + 1) / 2 positions; shorter ones give the same
        # result with all of these, since what wraps around then ends before the first token.
        positions_PX = _positions(self.config, min((points + 1) // 2, self.config.max_positions), self.device)
        x_PW = positions_PX
        for weight, bias in self.inner:
            x_PW = F.linear(x_PW, weight, bias).mul_(self.frequency_W).sin_()
        step = min(max(TRANSFORM[self.device.type] // points, 16), D)
        for start in range(0, D, step):
            channels = slice(start, min(start + step, D))
            taps_CP = self.last_DW[channels] @ x_PW.t()
            decay_CP = torch.outer(self.decay_D[channels], -positions_PX[:, 0]).exp_().add_(DECAY_FLOOR)
            taps_CP *= decay_CP
            # The authors add skip times the input to the convolution: that is one more value at position 0.
            taps_CP[:, 0] += self.skip_D[channels]
            yield channels, torch.fft.rfft(taps_CP, n=points)


class Layer:
    """One layer: x + mixer(norm(x)), then x + feed_forward(norm(x)).

    The mixer projects its input to a, b and v, puts each through a convolution over the last K tokens, and gives
    output(a * long(b * v)), where long is the convolution with the `LongFilter`.
    """

    def __init__(
        self, read: ReadTensor, index: int, config: HyenaConfig, dtype: torch.dtype, device: torch.device
    ) -> None:
        def linear(name: str) -> Linear:
            return Linear(read(f"{index}.{name}.weight"), read(f"{index}.{name}.bias"), dtype, device)

        self.config, self.device = config, device
        self.mixer_norm = Norm(read, f"{index}.mixer_norm", config.norm_eps, device)
        self.feed_forward_norm = Norm(read, f"{index}.feed_forward_norm", config.norm_eps, device)
        self.projections = linear("projections")
        self.short_KX = read(f"{index}.short.weight")[:, 0].t().contiguous().to(device)
        self.short_bias_X = read(f"{index}.short.bias").to(device)
        self.filter = LongFilter(read, index, config, device)
        self.output = linear("output")
        self.up = linear("up")
        self.down = linear("down")

    def __call__(self, x_TD: Tensor, batch: PackedBatch) -> Tensor:
        """(T, D) -> (T, D), float32."""
        mixed_TD, factor_TD = torch.empty_like(x_TD), torch.empty_like(x_TD)
        for rows in self._pieces(len(x_TD)):
            self._mix_nearby(x_TD, batch.positions_T, rows, mixed_TD, factor_TD)
        for group in batch.groups:
            self._mix_far(mixed_TD, factor_TD, group)
        for rows in self._pieces(len(x_TD)):
            y_RD = self.output.add_to(x_TD[rows], mixed_TD[rows])
            y_RD = self.down.add_to(y_RD, self.up(self.feed_forward_norm(y_RD), "gelu_tanh"))
            mixed_TD[rows] = y_RD
        return mixed_TD

    def _pieces(self, tokens: int) -> Iterator[slice]:
        step = ROWS[self.device.type]
        for start in range(0, tokens, step):
            yield slice(start, min(start + step, tokens))

    def _mix_nearby(self, x_TD: Tensor, positions_T: Tensor, rows: slice, mixed_TD: Tensor, factor_TD: Tensor) -> None:
        """Project and convolve the last K tokens, for `rows`; write b * v to `mixed_TD` and a to `factor_TD`.

        Sums are written out, as a fused multiply-add may round the last values of a row differently from the others.
        """
        D, K = self.config.hidden, self.config.short_taps
        halo = min(rows.start, K - 1)  # the convolution looks back over the piece's beginning
        x_RX = self.projections(self.mixer_norm(x_TD[rows.start - halo : rows.stop])).float()
        reaches = range(1, K)
        begins = [max(back - halo, 0) for back in reaches]
        of_another = [
            (positions_T[rows][begin:] < back).nonzero()[:, 0] for back, begin in zip(reaches, begins, strict=True)
        ]
        v_RD, earlier_RD = torch.empty_like(mixed_TD[rows]), torch.empty_like(mixed_TD[rows])
        for part, sum_RD in enumerate((factor_TD[rows], mixed_TD[rows], v_RD)):
            channels = slice(part * D, (part + 1) * D)
            part_RD, taps_KD = x_RX[:, channels], self.short_KX[:, channels]
            torch.mul(part_RD[halo:], taps_KD[K - 1], out=sum_RD)
            sum_RD += self.short_bias_X[channels]
            for back, begin, none in zip(reaches, begins, of_another, strict=True):
                product_RD = earlier_RD[begin:]
                torch.mul(part_RD[begin + halo - back : -back], taps_KD[K - 1 - back], out=product_RD)
                product_RD.index_fill_(0, none, 0.0)
                sum_RD[begin:] += product_RD
        mixed_TD[rows] *= v_RD

    def _mix_far(self, mixed_TD: Tensor, factor_TD: Tensor, group: Group) -> None:
        """Convolve each sequence of a group with the long filter and multiply by `factor_TD`, in place.

        On a CPU one sequence at a time, which keeps it in the cache and its bits the same in every batch.
        """
        L, N = group.length, transform_points(group.length)
        for channels, filter_CS in self.filter.transformed(N):
            together = 1 if self.device.type == "cpu" else max(TRANSFORM["cuda"] // (len(filter_CS) * N), 1)
            for first in range(0, group.count, together):
                n = min(together, group.count - first)
                rows = slice(group.start + first * L, group.start + (first + n) * L)
                mixed_nLC = mixed_TD[rows].view(n, L, -1).squeeze(0)[..., channels]
                factor_nLC = factor_TD[rows].view(n, L, -1).squeeze(0)[..., channels]
                spectrum_nCS = torch.fft.rfft(_turned(mixed_nLC), n=N)
                spectrum_nCS *= filter_CS
                far_nCN = torch.fft.irfft(spectrum_nCS, n=N)
                torch.mul(_turned(far_nCN[..., :L]), factor_nLC, out=mixed_nLC)


def _turned(x: Tensor) -> Tensor:
    """Exchange the last two axes in memory; torch is several times faster at it for a contiguous single matrix."""
    return x.contiguous().mT.contiguous()


class Hyena:
    """A frozen HyenaDNA from token ids to hidden states.

    A batch takes about 16 T D bytes beside the weights and `KEPT_BYTES`: one sequence of 1,000,002 tokens at 256 values
    was measured at 4.2 GB on a CPU. There a sequence gives the same bits whichever others are in its batch.

    Parameters
    ----------
    config : the architecture.
    read : gives each parameter of `parameter_shapes` once, in float32; a layer is packed before the next is read.
    dtype : of the matrix products.
    """

    def __init__(self, config: HyenaConfig, read: ReadTensor, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.tokens_VD = read("tokens.weight").to(device)
        self.layers: list[Layer] = []
        for index in range(config.layers):
            self.layers.append(Layer(read, index, config, dtype, device))
            give_freed_pages_back()
        self.final_norm = Norm(read, "final_norm", config.norm_eps, device)

    def pack(self, ids_T: NDArray[np.integer], lengths_B: NDArray[np.int64], rows: int = 0) -> PackedBatch:
        """Lay out B tokenized sequences for `states`; dummies serve nothing here, so `rows` adds none."""
        return PackedBatch.of(ids_T, lengths_B, self.device)

    def states(self, batch: PackedBatch) -> Iterator[Tensor]:
        """Yield the hidden states (T, D) float32: the embeddings, each layer's output, then the last one normed.

        Stop iterating when the wanted layer is there: the layers above it are then not computed.

        Raises
        ------
        InputError : a sequence has more tokens than the architecture can take.
        """
        longest = max((group.length for group in batch.groups), default=0)
        if longest > self.config.max_positions:
            raise InputError(
                f"a sequence has {longest:,} tokens, this HyenaDNA takes {self.config.max_positions:,}: cut it"
            )
        with torch.inference_mode():
            x_TD = F.embedding(batch.ids_T, self.tokens_VD)
            yield x_TD[: batch.tokens]
            for layer in self.layers:
                x_TD = layer(x_TD, batch)
                yield x_TD[: batch.tokens]
            yield self.final_norm(x_TD)[: batch.tokens]
