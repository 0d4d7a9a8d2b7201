"""Several workers that extract together, one a device: GPUs, or shares of a processor.

They need no coordinator: each takes shards that no other has, and the kernel drops the lock of one that is killed, so
that the others make its shard again. Their progress is added up, and the first error passed on.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from virnuc.errors import VirnucError
from virnuc.features.extraction import extract
from virnuc.runtime import Progress, silent
from virnuc.settings import ExtractSettings
from virnuc.storage.manifest import Manifest, read_manifest
from virnuc.storage.processes import Send
from virnuc.storage.workers import find_workers


def extract_together(settings: ExtractSettings, progress: Progress = silent) -> Manifest:
    """Do what `extract` does, with one worker for each device, or `settings.workers` of them on a CPU.

    Raises:
        UsageError: see `find_workers`.
        VirnucError: see `extract`; or all workers ended before the work did.
    """
    workers = find_workers(settings.engine, settings.workers, settings.device)
    if not workers.several:
        return extract(settings, progress)
    finished: list[Path] = []
    done = _Sum(progress)

    def hear(worker: str, message: Any) -> None:
        if isinstance(message, Path):
            finished.append(message)
        else:
            done.add(worker, *message)

    codes = workers.run(lambda device: partial(_work, replace(settings, device=device)), hear)
    if not finished:
        raise VirnucError(f"all workers ended before the work did ({codes}); give the same command again to resume")
    done.end()
    return read_manifest(finished[0], "features")


def _work(settings: ExtractSettings, send: Send) -> None:
    """Extract in a worker; send progress, and last the feature set's directory."""
    manifest = extract(settings, lambda *step: send(step))
    names = (str(manifest.details[kind]["name"]) for kind in ("dna", "protein"))
    send(Path(settings.out) / "+".join(names))


class _Sum:
    """Adds up what the workers have done since each began."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps: dict[str, dict[str, tuple[int, int]]] = {}  # by what is made and worker: done at first, and now
        self._reached: dict[str, tuple[int, int]] = {}  # done and total, by what is made

    def add(self, worker: str, what: str, done: int, total: int) -> None:
        """Take a worker's own count; work repeated for a killed worker does not raise the sum above the total."""
        steps = self._steps.setdefault(what, {})
        steps[worker] = steps.get(worker, (done, done))[0], done
        made = sum(now - first for first, now in steps.values())
        self._reached[what] = min(total, min(first for first, _ in steps.values()) + made), total
        self._progress(what, *self._reached[what])

    def end(self) -> None:
        """Report what killed workers made and could not report, as the work is finished."""
        for what, (done, total) in self._reached.items():
            if done < total:
                self._progress(what, total, total)
