"""A frozen linear layer whose weight is laid out once for the processor's own matrix kernels.

On a CPU, ``torch.nn.functional.linear`` goes through MKL in float32, which reaches half of an AMD core's rate, and in
bfloat16 re-orders the weight at every call. oneDNN's prepacked product reaches the rate of the machine in both, gives
the same bits for a row whatever else is in the batch (from `MIN_ROWS` rows on), and can apply the activation, multiply by
a gate and add the residual in the same pass. The operators are torch's own but private, so each layer is checked against
plain torch when it is packed, and plain torch serves where they are missing.

Many processors have no instructions for half precision (bfloat16 came with AVX-512, float16 later still), and torch's
products are several times slower in it there than in float32. The values are rounded all the same, but multiplied in
float32, as wide as those instructions add up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_ROWS = 8
"""Products of fewer rows may take another kernel and differ in the last bits; shorter inputs are padded to this."""

PRECISIONS: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""By their names on the command line."""
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
"""By their names in config.json; ``gelu`` is the exact one with erf."""
_FUSED: Mapping[str | None, tuple[str, str]] = {
    None: ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
}


@cache
def has_prepacked() -> bool:
    """Whether this build and processor have oneDNN's prepacked linear operators."""
    try:
        return bool(torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"))  # type: ignore[no-untyped-call]
    except (AttributeError, RuntimeError):
        return False


@cache
def product_type(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What values of a precision are multiplied in on a device: float32 on a CPU that is no faster in the precision."""
    if device.type != "cpu" or dtype == torch.float32:
        return dtype
    try:
        native = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):
        native = False
    return dtype if native else torch.float32


class Linear(nn.Module):
    """x -> x W^T + b for x (T, in), frozen; W is (out, in) as in a checkpoint.

    Parameters
    ----------
    weight, bias : float32 (out, in) and (out,), or no bias.
    dtype : of the product, float32, bfloat16 or float16; inputs are cast to it and the result has it.
    device : where the product runs; weights on a CPU are prepacked.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.shape = (weight.shape[0], weight.shape[1])
        self.dtype = dtype
        self._product = product_type(dtype, device)
        self.bias = None if bias is None else bias.to(device, dtype).to(self._product)
        self.weight = weight.to(device, dtype).to(self._product).contiguous()
        self._packed = False
        if device.type == "cpu" and has_prepacked():
            self._pack()

    def _pack(self) -> None:
        plain = self.weight
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(plain, None)
            probe = torch.linspace(-1, 1, MIN_ROWS * plain.shape[1]).reshape(MIN_ROWS, -1).to(self._product)
            ours = torch.ops.mkldnn._linear_pointwise(probe, packed, self.bias, "none", [], "")
        except RuntimeError:
            return
        expected = F.linear(probe, plain, self.bias)
        tolerance = 1e-4 if self._product == torch.float32 else 2e-2
        if torch.allclose(ours, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())):
            self.weight, self._packed = packed, True

    def _input(self, x_TD: Tensor) -> Tensor:
        return x_TD.to(self.dtype).to(self._product)

    def forward(self, x_TD: Tensor, activation: str | None = None) -> Tensor:
        """(T, in) -> (T, out), followed by one of `ACTIVATIONS`, in one pass where the kernel can."""
        if self._packed:
            kind, detail = _FUSED[activation]
            out: Tensor = torch.ops.mkldnn._linear_pointwise(
                self._input(x_TD), self.weight, self.bias, kind, [], detail
            )
        else:
            out = F.linear(self._input(x_TD), self.weight, self.bias)
            out = out if activation is None else ACTIVATIONS[activation](out)
        return out.to(self.dtype)

    def times(self, x_TD: Tensor, gate_TD: Tensor) -> Tensor:
        """The product, multiplied value by value with a gate of the same shape and type."""
        if self._packed:
            out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                self._input(x_TD), gate_TD.to(self._product), self.weight, self.bias, "mul"
            )
            return out.to(self.dtype)
        return self.forward(x_TD) * gate_TD

    def add_to(self, residual_TD: Tensor, x_TD: Tensor) -> Tensor:
        """residual (T, out, float32) plus the product."""
        if self._packed and self.dtype == torch.float32:
            out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_TD, residual_TD, self.weight, self.bias, "add")
            return out
        return residual_TD + self.forward(x_TD)


@cache
def matrix_rate(dtype: torch.dtype, device: torch.device, hidden: int = 1280) -> float:
    """Floating-point operations a second of this machine's matrix products at this precision, measured for 0.3 s.

    The shape is that of an encoder's feed-forward layer, a batch of tokens by `hidden` by 4 `hidden`, through `Linear`;
    the median of the repeats is returned, so a busy moment does not count. Random values: zeros run faster.
    """
    layer = Linear(torch.randn(4 * hidden, hidden), None, dtype, device)
    x = torch.randn(1024 if device.type == "cpu" else 16384, hidden).to(device, dtype)
    operations = 2.0 * x.shape[0] * layer.shape[0] * layer.shape[1]
    times: list[float] = []
    with torch.inference_mode():
        for repeat in range(200):
            start = time.perf_counter()
            layer(x)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat >= 2:
                times.append(time.perf_counter() - start)
            if len(times) >= 3 and sum(times) > 0.3:
                break
    return operations / sorted(times)[len(times) // 2]
