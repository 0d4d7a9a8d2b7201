"""Linear layers for inference: plain, for oneDNN, or in int8, each with an optional GELU or residual.

On a CPU in float32, oneDNN with weights that were reordered once is 10 to 25 % faster than the BLAS that torch's linear
layer calls, and its fused GELU costs nothing. The reordered copy replaces the weight.
"""

from __future__ import annotations

import os
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

# Types of weights outside linear layers; int8 keeps those of linear layers in 8 bits.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}

# Without VNNI instructions, sums of two int8 products saturate at 16 bits; with 7-bit activations they cannot.
_SEVEN_BITS = not torch.cpu._is_vnni_supported()

# oneDNN caches some 0.2 MB of generated code for each shape of its operands, and torch a second time. Packed batches
# have hundreds of lengths, so with the default of 1,024 shapes for both caches memory grows over hundreds of thousands
# of sequences. A limit of 128 makes a tiny network a few percent slower.
for _capacity in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_capacity, "128")


class Linear(nn.Module):
    """`y = x W^T + b`, followed on request by GELU (erf) or the addition of a residual."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        """Make the layer with weight [outputs, inputs] and, unless `bias` is false, bias [outputs]."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None

    def forward(self, states: Tensor, *, gelu: bool = False, residual: Tensor | None = None) -> Tensor:
        """Map [tokens, inputs] to [tokens, outputs], with `gelu` or a `residual` [tokens, outputs], not both."""
        output = functional.linear(states, self.weight, self.bias)
        if gelu:
            return functional.gelu(output)
        return output if residual is None else output.add_(residual)


class OneDnnLinear(nn.Module):
    """`Linear` on a CPU, by oneDNN with a reordered weight: in float32, or in bf16 where the processor supports it."""

    def __init__(self, linear: Linear) -> None:
        """Take over the weights of `linear`."""
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = linear.bias

    def forward(self, states: Tensor, *, gelu: bool = False, residual: Tensor | None = None) -> Tensor:
        """Map [tokens, inputs] to [tokens, outputs]."""
        pointwise = torch.ops.mkldnn._linear_pointwise
        if residual is not None:
            return pointwise.binary(states, residual, self.packed, self.bias, "add")
        return pointwise(states, self.packed, self.bias, "gelu" if gelu else "none", [], "none" if gelu else "")


class Int8Linear(nn.Module):
    """`Linear` in int8: symmetric weights, one scale per output; dynamically quantised activations, one per tensor."""

    def __init__(self, linear: Linear) -> None:
        """Quantise the weights of `linear` and pack them for oneDNN, three times as fast as torch's default engine."""
        super().__init__()
        weight = linear.weight.detach()
        scales = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
        zeros = torch.zeros(len(weight), dtype=torch.long)
        engine = torch.backends.quantized.engine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # they are deprecated; the pinned torch still has them
            quantised = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
        torch.backends.quantized.engine = "onednn"
        try:
            self.packed = torch.ops.quantized.linear_prepack(quantised, linear.bias)
        finally:
            torch.backends.quantized.engine = engine

    def forward(self, states: Tensor, *, gelu: bool = False, residual: Tensor | None = None) -> Tensor:
        """Map [tokens, inputs] to [tokens, outputs]."""
        output = torch.ops.quantized.linear_dynamic(states, self.packed, reduce_range=_SEVEN_BITS)
        if gelu:
            return functional.gelu(output)
        return output if residual is None else output.add_(residual)


def for_inference(linear: Linear, precision: str) -> nn.Module:
    """Return the fastest equivalent of a loaded layer on its device in `precision`."""
    if precision == "int8":
        return Int8Linear(linear)
    reordered = {torch.float32: torch.backends.mkldnn.is_available()}
    reordered[torch.bfloat16] = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if linear.weight.device.type == "cpu" and reordered.get(linear.weight.dtype, False):
        return OneDnnLinear(linear)
    return linear
