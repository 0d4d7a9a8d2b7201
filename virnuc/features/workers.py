"""Several processes that extract together, one a device: GPUs, or shares of a processor.

They need no coordinator: each takes shards that no other has, and the kernel drops the lock of one that is killed, so
that the others make its shard again. The parent adds up their progress and passes on the first error.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from virnuc.errors import UsageError, VirnucError
from virnuc.features.extraction import extract
from virnuc.runtime import Progress, choose_devices, silent
from virnuc.settings import ExtractSettings
from virnuc.storage.manifest import Manifest, read_manifest
from virnuc.storage.processes import Send, run_together


def extract_together(settings: ExtractSettings, progress: Progress = silent) -> Manifest:
    """Do what `extract` does, with one process for each device, or `settings.workers` of them on a CPU.

    Raises:
        VirnucError: see `extract`; or all processes ended before the work did.
    """
    devices = worker_devices(settings)
    if len(devices) == 1:
        return extract(settings, progress)
    share = max(1, torch.get_num_threads() // len(devices))
    calls = {
        f"worker {number} on {device}": partial(_work, replace(settings, device=device, workers=1), share)
        for number, device in enumerate(devices)
    }
    finished: list[Path] = []
    done = _Sum(progress)

    def hear(worker: str, message: Any) -> None:
        if isinstance(message, Path):
            finished.append(message)
        else:
            done.add(worker, *message)

    codes = run_together(calls, hear)
    if not finished:
        raise VirnucError(f"all workers ended before the work did ({codes}); the same command resumes here")
    return read_manifest(finished[0], "features")


def worker_devices(settings: ExtractSettings) -> list[str]:
    """Return the device of each process.

    Raises:
        UsageError: a device is unknown or not present, or several workers are wanted on GPUs.
    """
    devices = choose_devices(settings.device)
    if settings.workers == 1:
        return devices
    if devices != ["cpu"]:
        raise UsageError(f"--workers {settings.workers}: is for a CPU; --device cuda:0,cuda:1 chooses GPUs, each once")
    return devices * settings.workers


def _work(settings: ExtractSettings, threads: int, send: Send) -> None:
    """Extract in a process of its own; send progress, and last the feature set's directory."""
    torch.set_num_threads(threads)
    manifest = extract(settings, lambda *step: send(step))
    names = (str(manifest.details[kind]["name"]) for kind in ("dna", "protein"))
    send(Path(settings.out) / "+".join(names))


class _Sum:
    """Adds up what the workers have done since each began."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._begun: dict[str, dict[str, int]] = {}  # by what is made and worker: what was there when it began
        self._now: dict[str, dict[str, int]] = {}

    def add(self, worker: str, what: str, done: int, total: int) -> None:
        """Take a worker's own count; work that is done again after a death is not counted beyond the total."""
        begun = self._begun.setdefault(what, {})
        now = self._now.setdefault(what, {})
        begun.setdefault(worker, done)
        now[worker] = done
        made = sum(now[name] - start for name, start in begun.items())
        self._progress(what, min(total, min(begun.values()) + made), total)
