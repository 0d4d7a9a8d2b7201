"""A benchmark as a page: how fast two encoders embed one sample, and what it was measured on."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from virnuc.evaluation.speed import BenchmarkResult, SideResult
from virnuc.reports.content import Section, Table, gib, weights_in_words
from virnuc.reports.rendering import Page

SPEED = "speed_benchmark"  # the page's file, without suffix


def speed_page(result: BenchmarkResult) -> Page:
    """Return the page of a benchmark."""
    facts = tuple((name.removeprefix("bench/"), str(value)) for name, value in result.parameters.items())
    shown = (
        Section("speed", "Embedding speed", tables=(_table(result),)),
        Section("measured-on", "Measured on", tables=(Table("", ("", ""), facts),)),
    )
    outcome = "not timed" if result.speedup is None else f"{result.speedup:.2f} times"
    title = " against ".join(f"{result.names[side]}" for side in ("candidate", "baseline"))
    return Page("virnuc speed benchmark", title, outcome, _answer(result), tuple(_caveats(result)), shown)


def _answer(result: BenchmarkResult) -> str:
    if result.speedup is None:
        return "The speed-up is not known: one of the two encoders was not timed."
    ratios = ", ".join(f"{ratio:.2f}" for ratio in result.ratios)
    return (
        f"{result.names['candidate']} is {result.speedup:.2f} times as fast as {result.names['baseline']}; lower bound "
        f"over the runs {result.speedup_low:.2f} (run by run: {ratios})."
    )


def _caveats(result: BenchmarkResult) -> list[str]:
    found = [f"{side} {result.names[side]} was not timed: {why}" for side, why in result.failures.items()]
    if not result.same_precision:
        found.append("The two were timed in different precisions: this ratio does not compare the models.")
    if any(side.provenance["weights"] == "random" for side in result.sides.values()):
        found.append("Random weights in the true architecture: useful for timing only.")
    return found


def _table(result: BenchmarkResult) -> Table:
    mark = "" if result.same_precision else " (differs)"
    rows: dict[str, Callable[[SideResult], str]] = {
        "Precision": lambda side: f"{side.provenance['precision']}{mark}",
        "Weights": lambda side: weights_in_words(side.provenance["weights"]),
        "Frames": lambda side: f"{side.frames:,}",
        "Tokens": lambda side: f"{side.tokens:,}",
        "Median of the runs, s": lambda side: f"{side.seconds:.3f}",
        "Each run, s": lambda side: ", ".join(f"{run.total_s:.3f}" for run in side.runs),
        "Of which tokenising, s": lambda side: f"{statistics.median(run.tokenise_s for run in side.runs):.4f}",
        "Frames/s": lambda side: f"{side.frames / side.seconds:,.1f}",
        "Tokens/s": lambda side: f"{side.tokens / side.seconds:,.0f}",
        "Model GFLOP/s": lambda side: f"{side.flops / side.embed_s / 1e9:,.1f}",
        "Peak of matrix products (GEMM), GFLOP/s": lambda side: f"{side.gemm_flops_per_s / 1e9:,.1f}",
        "Share of that peak": lambda side: f"{side.flops / side.embed_s / side.gemm_flops_per_s:.2f}",
        "Peak memory, GiB": lambda side: gib(side.peak_memory_gb),
        "Warm-up batches": lambda side: str(side.warmup_batches),
    }
    columns = ("", *(f"{result.names[side]} ({side})" for side in result.sides))
    cells = tuple((label, *(show(side) for side in result.sides.values())) for label, show in rows.items())
    return Table("", columns, cells, ("", *[result.run_id] * len(result.sides)))
