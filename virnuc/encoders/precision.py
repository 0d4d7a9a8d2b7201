"""The precision to embed in: the one asked for, or one that the device computes fast, which is measured on a CPU."""

from __future__ import annotations

import time
from functools import cache

import torch

from virnuc.encoders.linear import DTYPES, Linear, for_inference
from virnuc.errors import UsageError
from virnuc.runtime import Choice
from virnuc.settings.options import PRECISIONS

_MIN_SPEEDUP = 1.5  # of bf16 over fp32, for a CPU to embed in bf16
_BF16_CAPABILITY = (8, 0)  # Ampere; torch says that older GPUs support bf16, too, but they emulate it slowly
_FEW, _MANY = 16, 128  # tokens in a matrix product


def choose_precision(wanted: str, device: str) -> Choice:
    """Return the precision to embed in, and why; `auto` chooses one that `device` computes fast.

    A CPU without AVX-512 or AMX computes bf16 and fp16 four to ten times slower than fp32 (measured with AVX2), and one
    with AMX computes bf16 several times faster, so on a CPU `auto` measures. It reports the speed of int8 but never
    chooses it.

    Raises:
        UsageError: the precision is unknown, or not available on the device.
    """
    kind = torch.device(device).type
    if wanted not in PRECISIONS:
        raise UsageError(f"there is no precision called {wanted!r}; use one of {', '.join(PRECISIONS)}")
    if wanted == "auto":
        if kind == "cuda" and torch.cuda.get_device_capability(device) >= _BF16_CAPABILITY:
            return Choice("bf16", "auto: this GPU has bf16 tensor cores")
        return _fast_on_cpu() if kind == "cpu" else Choice("fp32", "auto: this GPU has no bf16 tensor cores")
    if wanted == "int8" and kind != "cpu":
        raise UsageError("precision int8 is for the CPU (dynamic quantisation); on a GPU use bf16")
    return Choice(wanted, "asked for")


@cache
def cpu_products() -> dict[str, float]:
    """Return the GFLOP/s of a 650M encoder's largest layer on this CPU, by precision; takes about half a second.

    The layers are those that encoders use. A precision that is slow on few tokens is not measured on many.
    """
    measured: dict[str, float] = {}
    for name in ("fp32", "bf16", "fp16", "int8"):
        linear = Linear(1280, 5120, bias=False)
        torch.nn.init.uniform_(linear.weight, -0.03, 0.03)
        layer = for_inference(linear.to(DTYPES[name]), name)
        _gflops(layer, 1, name)  # the first product of a kind also prepares its kernel
        measured[name] = _gflops(layer, _FEW, name)
        if measured[name] >= measured["fp32"] / 4:
            measured[name] = max(_gflops(layer, _MANY, name) for _ in range(2))
    return measured


@torch.inference_mode()
def _gflops(layer: torch.nn.Module, rows: int, precision: str) -> float:
    states = torch.ones(rows, 1280, dtype=DTYPES[precision])
    started = time.perf_counter()
    layer(states)
    return 2 * rows * 1280 * 5120 / (time.perf_counter() - started) / 1e9


def _fast_on_cpu() -> Choice:
    measured = cpu_products()
    chosen = "bf16" if measured["bf16"] >= _MIN_SPEEDUP * measured["fp32"] else "fp32"
    figures = ", ".join(f"{name} {speed:.0f}" for name, speed in measured.items())
    return Choice(chosen, f"auto: products here run at {figures} GFLOP/s; bf16 from {_MIN_SPEEDUP:g} times fp32 on")
