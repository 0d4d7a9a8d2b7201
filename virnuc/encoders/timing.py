"""Stop-watch and peak of matrix products: what figures of speed are held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from virnuc.encoders.linear import Linear, for_inference
from virnuc.runtime import DTYPES


@cache  # it is the machine's, and both sides of a benchmark are held against it
def gemm_peak(precision: str, device: str) -> float:
    """Return the highest FLOP/s of matrix products of the encoders' sizes, by torch's layer or the encoders' own."""
    on_gpu = torch.device(device).type == "cuda"
    rows, repeats = (16384, 20) if on_gpu else (512, 3)
    best = 0.0
    with torch.inference_mode():
        for inputs, outputs in ((1280, 5120), (5120, 1280), (2560, 2560)):
            states = torch.randn(rows, inputs, device=device, dtype=DTYPES[precision])
            linear = Linear(inputs, outputs, bias=False).to(device, DTYPES[precision])
            torch.nn.init.normal_(linear.weight, std=0.02)
            for layer in (linear, for_inference(linear, precision)):
                layer(states)
                fastest = min(seconds(partial(layer, states), device) for _ in range(repeats))
                best = max(best, 2 * rows * inputs * outputs / fastest)
    return best


def seconds(work: Callable[[], Any], device: str) -> float:
    """Return the wall time of `work`, with the device idle before and after."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
