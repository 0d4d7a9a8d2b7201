"""The epochs of a training's replicates, each logged exactly once to its replicate's run, despite interruptions."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from virnuc.settings import TrainSettings
from virnuc.tracking.runs import child_runs
from virnuc.tracking.tracker import Tracker

if TYPE_CHECKING:
    from virnuc.training.state import EpochRecord

LOGGED_EVERY = 5.0  # s
_LOGGED = "val/loss"  # of every epoch


class EpochLog:
    """Logs epochs to the runs of replicates, many in one call, because each call to a store takes about 0.1 s."""

    def __init__(self, runs: Mapping[int, Tracker]) -> None:
        """Log to `runs`, by seed."""
        self.runs = runs
        self._waiting: dict[int, dict[int, dict[str, float]]] = {}  # metrics by seed and epoch
        self._last = -math.inf

    def add(self, record: EpochRecord) -> None:
        """Log an epoch, now or soon."""
        if not (record.in_doubt and record.epoch in self.runs[record.seed].logged_steps(_LOGGED)):
            self._waiting.setdefault(record.seed, {})[record.epoch] = record.metrics
        if time.monotonic() - self._last > LOGGED_EVERY:
            self.flush()

    def flush(self) -> None:
        """Log what waits."""
        for seed, epochs in self._waiting.items():
            self.runs[seed].history(epochs)
        self._waiting = {}
        self._last = time.monotonic()


@contextmanager
def replicate_runs(settings: TrainSettings, tracker: Tracker) -> Iterator[EpochLog]:
    """Yield a log with a run for each seed: below the training's own run, or that itself if there is one training."""
    seeds = range(settings.seed, settings.seed + settings.replicates)
    below = child_runs(tracker, "replicate", {f"seed {seed}": {"seed": seed} for seed in seeds})
    with nullcontext([tracker]) if len(seeds) == 1 else below as runs:
        log = EpochLog(dict(zip(seeds, runs, strict=True)))
        try:
            yield log
        finally:
            log.flush()


def complete(run: Tracker, history: Iterable[EpochRecord]) -> None:
    """Log the epochs that a run lacks because a process was killed or the store was lost."""
    logged = run.logged_steps(_LOGGED)
    run.history({record.epoch: record.metrics for record in history if record.epoch not in logged})
