"""Linear layers for inference: plain, packed for oneDNN, or int8, each with GELU or a residual fused where it can be.

On a CPU in float32, oneDNN with weights reordered once is 10 to 25 % faster than the BLAS behind torch's own
linear layer, and its fused GELU costs nothing. The reordered copy replaces the weight.
"""

from __future__ import annotations

import os
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

# Without VNNI sums of two products saturate at 16 bits; activations of seven bits cannot reach that.
_SEVEN_BITS = not torch.cpu._is_vnni_supported()

# oneDNN keeps some 0.2 MB of code for each shape that it met, and torch's layer above it keeps that alive in a cache of
# its own. Packed batches have hundreds of lengths; with the 1,024 shapes that are the default of both, memory grows for
# hundreds of thousands of sequences. 128 cost a tiny network few percent.
for _capacity in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_capacity, "128")


class Linear(nn.Module):
    """`y = x W^T + b`, then GELU (erf) or plus a residual when asked for."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        """Make the layer with weight [outputs, inputs] and, unless `bias` is false, bias [outputs]."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None

    def forward(self, states: Tensor, *, gelu: bool = False, residual: Tensor | None = None) -> Tensor:
        """Map [tokens, inputs] to [tokens, outputs]."""
        output = functional.linear(states, self.weight, self.bias)
        if gelu:
            return functional.gelu(output)
        return output if residual is None else output.add_(residual)


class OneDnnLinear(nn.Module):
    """The same in float32, or in bf16 where the processor has it, on a CPU: by oneDNN with a reordered weight."""

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
    """The same with int8 weights (symmetric, per output) and activations quantised as they come (per tensor)."""

    def __init__(self, linear: Linear) -> None:
        """Quantise the weights of `linear` and pack them for oneDNN, three times as fast here as torch's default."""
        super().__init__()
        weight = linear.weight.detach()
        scales = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
        zeros = torch.zeros(len(weight), dtype=torch.long)
        engine = torch.backends.quantized.engine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # quantised tensors will go; the pinned torch has them
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
    """Return the fastest form of a loaded layer for its device and `precision`."""
    if precision == "int8":
        return Int8Linear(linear)
    reordered = {torch.float32: torch.backends.mkldnn.is_available()}
    reordered[torch.bfloat16] = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if linear.weight.device.type == "cpu" and reordered.get(linear.weight.dtype, False):
        return OneDnnLinear(linear)
    return linear
