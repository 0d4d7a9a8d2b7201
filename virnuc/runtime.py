"""Device, with the reason for its choice, memory, seeds and progress: each is decided here and nowhere else.

torch is imported where a device is asked for: it takes seconds and 200 MB, and stages without tensors do without it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import resource
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from virnuc.errors import UsageError

T = TypeVar("T")
Progress = Callable[[str, int, int], object]  # called with the task, the number done and the total (0: unknown)
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
_CONTROL_GROUP = Path("/sys/fs/cgroup")  # where a container reads its limits


@dataclass(frozen=True)
class Choice:
    """A chosen device or precision and the reason for it."""

    name: str
    reason: str


def choose_device(wanted: str = "auto") -> Choice:
    """Return the device to compute on, the first that `wanted` names, and make it ready for this thread.

    It becomes the current device: streams and graphs are made on that one, whatever the tensors' is. Products of
    float32 are computed in float32 (no TF32), and attention by the flash, memory-efficient or plain kernels: cuDNN's
    builds a plan for each new shape, and there are thousands.

    Raises:
        UsageError: the device is unknown or not present.
    """
    import torch

    choice = _find_device(wanted.split(",")[0].strip())
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.enable_cudnn_sdp(False)
    if _is_gpu(choice.name):
        torch.cuda.set_device(torch.device(choice.name))
    return choice


def choose_devices(wanted: str) -> list[str]:
    """Return all devices that `wanted` names: every visible GPU for `cuda` and `auto`, or those of a list.

    Raises:
        UsageError: one is unknown or not present, or named twice.
    """
    if wanted in ("auto", "cuda"):
        import torch

        on_gpu = _is_gpu(_find_device(wanted).name)
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())] if on_gpu else ["cpu"]
    names = [_find_device(name.strip()).name for name in wanted.split(",")]
    if len(set(names)) < len(names):
        raise UsageError(f"--device {wanted}: name each device once")
    return names


def _is_gpu(device: str) -> bool:
    return device.startswith("cuda")


def _find_device(wanted: str) -> Choice:
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return Choice("cuda", f"auto: {torch.cuda.get_device_name()} is present")
        return Choice("cpu", "auto: no CUDA device is present")
    try:
        kind = torch.device(wanted).type
    except RuntimeError as error:
        raise UsageError(f"there is no device called {wanted!r}; use auto, cpu, cuda or cuda:N") from error
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"virnuc does not compute on {wanted!r}; use auto, cpu, cuda or cuda:N")
    if kind == "cuda" and (torch.device(wanted).index or 0) >= torch.cuda.device_count():
        present = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise UsageError(f"--device {wanted}: there is no such device; this machine has {', '.join(present)}")
    return Choice(wanted, "asked for")


def available_memory(device: str = "cpu") -> int:
    """Return the bytes that can be used on `device` without swapping.

    On a CPU the page cache counts as free, and a container's limit is taken into account. On a GPU torch's own cache
    counts as free, although the driver reports it as used.
    """
    if _is_gpu(device):
        import torch

        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    try:
        with open("/proc/meminfo", encoding="utf-8") as lines:
            sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        available = sizes["MemAvailable"]
    except (OSError, KeyError):  # not Linux
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = int((_CONTROL_GROUP / "memory.max").read_text())
        usage = dict(line.split() for line in (_CONTROL_GROUP / "memory.stat").read_text().splitlines())
        return min(available, limit - int(usage["anon"]))
    except (OSError, ValueError, KeyError):  # no limit: `max`, or no such file
        return available


def reset_peak_memory(device: str) -> None:
    """Reset what `peak_memory_gb` measures."""
    if _is_gpu(device):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # resets the process's high-water mark, see proc(5)


def peak_memory_gb(device: str) -> float:
    """Return the highest memory in use since the reset: allocated on a GPU, resident on a CPU, in GB."""
    if _is_gpu(device):
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, so that no two uses of a run's seed share a stream."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


def counted(items: Iterable[T], total: int, what: str, progress: Progress) -> Iterator[T]:
    """Yield the items, and report to `progress` how many of them are done."""
    progress(what, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        progress(what, done, total)


def describe_hardware(device: str) -> dict[str, str]:
    """Return what a measured speed depends on: processor, device, threads and library versions."""
    import torch

    described = {
        "platform": platform.platform(),
        "processor": _processor(),
        "device": device,
        "threads": str(torch.get_num_threads()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "float32_products": torch.get_float32_matmul_precision(),  # highest: without TF32
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
    }
    if _is_gpu(device):
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
