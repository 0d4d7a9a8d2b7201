"""Several workers that share a stage's work: processes of this machine, or workers of a Ray cluster.

A stage's work consists of independent pieces, such as shards, and a piece that is made again has the same bytes. All
workers make the same call: they claim pieces that no other worker has, one at a time, until none is left. If a worker
is killed, its piece is made again by the others, or by itself when Ray has restarted it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from virnuc.errors import UsageError
from virnuc.runtime import choose_devices
from virnuc.storage.processes import Send, run_together


@dataclass(frozen=True)
class Workers:
    """Workers of one engine, one for each device."""

    engine: str  # local or ray
    devices: tuple[str, ...]
    threads: int  # of torch in each; 0: the work has no tensors, and torch is not imported for it

    @property
    def several(self) -> bool:
        """Whether the work leaves this process."""
        return self.engine == "ray" or len(self.devices) > 1

    def at_most(self, pieces: int) -> Workers:
        """Return as many of these workers as there are pieces of work."""
        return replace(self, devices=self.devices[:pieces])

    def run(self, work: Callable[[str], Callable[[Send], object]], hear: Callable[[str, Any], None]) -> str:
        """Let each worker do `work(device)`, and return how each ended, as text.

        Args:
            work: gives what a worker of a device does, which can send messages.
            hear: takes the name of a worker and each message of it.

        Raises:
            VirnucError: the first one that a worker raised.
        """
        calls = {
            f"worker {number} on {device}": partial(_with_threads, self.threads, work(device))
            for number, device in enumerate(self.devices)
        }
        if self.engine == "local":
            return run_together(calls, hear)
        from virnuc.storage.cluster import run_on_cluster

        return run_on_cluster(calls, hear, cpus=max(1, self.threads), gpus=int(self.devices[0] != "cpu"))


def find_workers(engine: str, number: int, device: str = "") -> Workers:
    """Return the workers that there are for a stage.

    Args:
        engine: `local` or `ray`.
        number: of them on a CPU, whose cores they share; 0 takes one a core.
        device: devices to compute on, as for `choose_devices`; none for work without tensors. On a Ray cluster `auto`
            and `cuda` are all its GPUs.

    Raises:
        UsageError: a device is unknown or not present, several workers are wanted on GPUs, or Ray is not installed.
    """
    if engine == "ray":
        return _on_cluster(number, device)
    cores = len(os.sched_getaffinity(0))
    if not device:
        return Workers(engine, ("cpu",) * (number or cores), threads=0)
    devices = choose_devices(device)
    if number:
        import torch

        cores = torch.get_num_threads()
    if devices == ["cpu"]:
        devices *= number or cores
    elif number != 1:
        raise UsageError(f"--workers {number} is for CPUs; with GPUs give --device cuda:0,cuda:1, each once")
    return Workers(engine, tuple(devices), max(1, cores // len(devices)))


def _on_cluster(number: int, device: str) -> Workers:
    from virnuc.storage.cluster import cores_and_gpus

    nodes = cores_and_gpus()
    cores, gpus = (sum(counts) for counts in zip(*nodes, strict=True))
    if device not in ("", "auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: Ray chooses the GPUs of its nodes; use auto, cpu or cuda")
    if device == "cuda" and not gpus:
        raise UsageError("--device cuda: the Ray cluster has no GPU")
    if gpus and device in ("auto", "cuda"):
        return Workers("ray", ("cuda",) * gpus, 1)
    number = number or cores
    threads = max(1, min(cores // number, *(there for there, _ in nodes))) if device else 0
    return Workers("ray", ("cpu",) * number, threads)


def _with_threads(threads: int, call: Callable[[Send], object], send: Send) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)
    call(send)
