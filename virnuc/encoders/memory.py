"""Stop-watch, peak of matrix products, and peak memory of a device: what figures of speed are held against."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from virnuc.encoders.linear import Linear, for_inference
from virnuc.encoders.network import DTYPES


def gemm_peak(precision: str, device: str) -> float:
    """Return the highest FLOP/s of matrix products of the encoders' sizes, by torch's layer or the encoders' own."""
    on_gpu = torch.device(device).type == "cuda"
    rows, repeats = (16384, 20) if on_gpu else (1024, 3)
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


def reset_peak_memory(device: str) -> None:
    """Let `peak_memory_gb` begin anew."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # resets the process's high-water mark, see proc(5)


def peak_memory_gb(device: str) -> float:
    """Return the highest memory in use since the reset: allocated on a GPU, resident on a CPU, in GB."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def available_memory_gb(device: str) -> float | None:
    """Return how much memory a model may take on `device`, in GB; None where the system does not say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e9
    information = Path("/proc/meminfo")
    if not information.exists():
        return None
    lines = dict(line.split(":", 1) for line in information.read_text(encoding="utf-8").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024 / 1e9
