"""`benchmark`: two encoders and a sample of frames to embedding speed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from entrypoints.command import say, stage
from virnuc.settings import BenchmarkSettings

if TYPE_CHECKING:
    from virnuc.evaluation.speed import BenchmarkResult
    from virnuc.tracking import Tracker


@stage(BenchmarkSettings)
def benchmark(settings: BenchmarkSettings, tracker: Tracker) -> BenchmarkResult:
    """Time two encoders on the same frames, device and precision.

    The first batches warm up and do not count; the device is idle before and after each timed run.
    """
    from entrypoints.progress import bars
    from virnuc.benchmarking import benchmark as time_encoders
    from virnuc.storage.manifest import read_manifest

    frames = read_manifest(Path(settings.frames), "frames")
    begun = partial(tracker.dataset, "frames", Path(settings.frames), frames.digest, "benchmark")
    result = time_encoders(settings, bars("run", begun=begun))
    log(result, settings, tracker)
    return result


def log(result: BenchmarkResult, settings: BenchmarkSettings, tracker: Tracker) -> None:
    """Keep a benchmark in its run and in the report, and show its figures."""
    from model_registry.evidence import BENCHMARK
    from virnuc.reports.rendering import made, markdown, write_page
    from virnuc.reports.speed import SPEED, speed_page
    from virnuc.tracking import ui_address, versions

    tracker.metrics(result.metrics)
    tracker.parameters(result.parameters)
    tracker.tags({**result.names, "key": settings.key})
    tracker.json(result.asdict(), BENCHMARK)
    page = speed_page(replace(result, run_id=tracker.run_id))
    page = replace(page, made=made(datetime.now(UTC).isoformat(), versions()), ui=ui_address())
    written = write_page(page, Path(settings.out), SPEED)
    for path in written.values():
        tracker.file(path)
    tracker.describe(markdown(page)[:4900])
    for side, measured in result.sides.items():
        say(
            f"benchmark  {side:9} {result.names[side]}: {measured.frames / measured.seconds:,.0f} frames/s, "
            f"{measured.provenance['precision']}, {measured.provenance['weights']} weights"
        )
    for side, reason in result.failures.items():
        say(f"benchmark  {side:9} {result.names[side]} was not timed: {reason}")
    if result.speedup is not None:
        unequal = "" if result.same_precision else " (DIFFERENT PRECISIONS: not a fair ratio)"
        say(
            f"benchmark  speed-up {result.speedup:.2f}, lower bound {result.speedup_low:.2f}{unequal}; "
            f"{written[f'{SPEED}.html']}"
        )


if __name__ == "__main__":
    benchmark.main()
