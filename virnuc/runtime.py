"""The one place that picks device and precision and says why, and that seeds what is random."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from virnuc.errors import UsageError

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True)
class Choice:
    """A chosen device or precision and the reason for it."""

    name: str
    reason: str


def choose_device(wanted: str = "auto") -> Choice:
    """Return the device to compute on: a name that torch knows, or what `auto` finds.

    Raises:
        UsageError: the device is unknown or not present.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return Choice("cuda", f"auto: {torch.cuda.get_device_name()} is present")
        return Choice("cpu", "auto: no CUDA device is present")
    try:
        kind = torch.device(wanted).type
    except RuntimeError as error:
        raise UsageError(f"there is no device called {wanted!r}; use auto, cpu, cuda or cuda:N") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {wanted!r} was asked for, but torch sees no CUDA device; use --device cpu")
    return Choice(wanted, "asked for")


def choose_precision(wanted: str, device: str) -> Choice:
    """Return the precision to embed with; `auto` takes what the device computes fast.

    Without AVX-512 or AMX a CPU computes bf16 and fp16 four to ten times slower than fp32 (measured on AVX2).

    Raises:
        UsageError: the precision is unknown, or the device does not have it.
    """
    kind = torch.device(device).type
    if wanted not in PRECISIONS:
        raise UsageError(f"there is no precision called {wanted!r}; use one of {', '.join(PRECISIONS)}")
    if wanted == "auto":
        if kind == "cuda" and torch.cuda.is_bf16_supported():
            return Choice("bf16", "auto: this GPU has bf16 tensor cores")
        return Choice("fp32", f"auto: fp32 is the fast full precision of {kind}")
    if wanted == "int8" and kind != "cpu":
        raise UsageError("precision int8 is for the CPU (dynamic quantisation); on a GPU use bf16")
    return Choice(wanted, "asked for")


def available_memory() -> int:
    """Return the bytes that can be used without swapping, page cache included; a container's limit counts too."""
    with open("/proc/meminfo", encoding="utf-8") as lines:
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    available = sizes["MemAvailable"]
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        usage = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return min(available, limit - int(usage["anon"]))
    except (OSError, ValueError, KeyError):  # no limit: `max`, or no such file
        return available


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, so that no two uses of a run's seed share a stream."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def describe_hardware(device: str) -> dict[str, str]:
    """Return what a figure of speed depends on: processor, device, threads and library versions."""
    described = {
        "platform": platform.platform(),
        "processor": _processor(),
        "device": device,
        "threads": str(torch.get_num_threads()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
    }
    if torch.device(device).type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
        described["cuda"] = str(torch.version.cuda)
    return described


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
