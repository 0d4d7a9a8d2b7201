"""Timing, and the peak speed of matrix products, which encoders' speeds are compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from virnuc.encoders.linear import DTYPES, Linear, for_inference

Products = tuple[tuple[int, int], ...]  # input and output widths of layers
_USUAL: Products = ((1280, 5120), (5120, 1280), (2560, 2560))
_ROWS = {"cpu": 512, "cuda": 16384}  # tokens in a product
_LAUNCHES = 50  # products timed together on a GPU, where a launch takes as long as a small product


@cache  # the machine's own; both sides of a benchmark are compared with the same value
def gemm_peak(precision: str, device: str, products: Products = _USUAL) -> float:
    """Return the highest FLOP/s of layers with the widths `products`, each as torch's layer or the encoders' own."""
    rows = _ROWS[torch.device(device).type]
    return max(2 * rows * ins * outs / product_seconds(precision, device, ins, outs, rows) for ins, outs in products)


@torch.inference_mode()
def product_seconds(precision: str, device: str, inputs: int, outputs: int, rows: int) -> float:
    """Return the seconds that a layer takes for `rows` tokens: the faster of torch's layer and the encoders' own."""
    states = torch.randn(rows, inputs, device=device, dtype=DTYPES[precision])
    linear = Linear(inputs, outputs, bias=False).to(device, DTYPES[precision])
    torch.nn.init.normal_(linear.weight, std=0.02)
    taken = []
    for layer in (linear, for_inference(linear, precision)):
        layer(states)
        taken.append(_fastest(partial(layer, states), device))
    return min(taken)


def _fastest(work: Callable[[], Any], device: str) -> float:
    """Return the seconds of one call, the best of three measurements: of one call on a CPU, of many on a GPU."""
    timed = seconds if torch.device(device).type == "cpu" else _seconds_of_launch
    return min(timed(work, device) for _ in range(3))


def _seconds_of_launch(work: Callable[[], Any], device: str) -> float:
    """Return the mean seconds of `_LAUNCHES` calls queued one after the other, by the GPU's own clock."""
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    stream = torch.cuda.current_stream(device)
    begun.record(stream)
    for _ in range(_LAUNCHES):
        work()
    ended.record(stream)
    ended.synchronize()
    return begun.elapsed_time(ended) / 1000 / _LAUNCHES


def seconds(work: Callable[[], Any], device: str) -> float:
    """Return the wall-clock seconds of `work`, with the device idle before and after."""
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
