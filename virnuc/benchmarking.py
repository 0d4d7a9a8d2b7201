"""Embedding speed of two encoders, timed fairly: same frames, same device, same precision unless asked otherwise.

The sample is drawn evenly from all frames, so it has the data set's own lengths. Each side is loaded alone, warmed
up, and timed over several runs with the device idle before and after each. Tokenising and embedding are timed apart
and together; the median of the totals counts. The device's peak in matrix products is measured in the same run, so
that a figure can be read as a share of what the machine can do.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from virnuc.encoders import Encoder, Tokens, find_encoder, load_encoder
from virnuc.encoders.timing import gemm_peak, seconds
from virnuc.encoders.tokens import plan_batches
from virnuc.errors import MemoryShortageError, UsageError
from virnuc.runtime import choose_device, choose_precision, describe_hardware, peak_memory_gb, reset_peak_memory
from virnuc.sequences.frames import frame_shards, read_frames
from virnuc.settings import BenchmarkSettings

Progress = Callable[[str, int, int], None]  # called with what is being timed, how many runs are done, and of how many
_ID_BYTES = 40  # of a frame id in a shard
SIDES = ("baseline", "candidate")
_CPU_WARMUP = (2, 8)  # batches and frames in each: a large model needs minutes for a full batch on a CPU


@dataclass(frozen=True)
class Sample:
    """Frames to embed."""

    ids: list[str]
    nucleotide: list[str]
    protein: list[str]

    @property
    def digest(self) -> str:
        """SHA-256 over ids and sequences."""
        lines = map("\t".join, zip(self.ids, self.nucleotide, self.protein, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Timing:
    """One run over the sample, in seconds."""

    tokenise_s: float
    embed_s: float

    @property
    def total_s(self) -> float:
        """Tokenising and embedding together."""
        return self.tokenise_s + self.embed_s


@dataclass(frozen=True)
class SideResult:
    """What was measured of one encoder."""

    provenance: dict[str, Any]
    runs: tuple[Timing, ...]
    frames: int
    tokens: int
    flops: int  # of one run; 0 where an encoder multiplies nothing
    gemm_flops_per_s: float  # the device's peak in this precision
    peak_memory_gb: float
    warmup_batches: int

    @property
    def seconds(self) -> float:
        """Median of the runs' totals."""
        return statistics.median(run.total_s for run in self.runs)

    @property
    def embed_s(self) -> float:
        """Median of the runs' times without tokenising."""
        return statistics.median(run.embed_s for run in self.runs)

    def metrics(self, side: str) -> dict[str, float]:
        """Return the figures under `bench/<side>_...`."""
        totals = [run.total_s for run in self.runs]
        figures = {
            "s": self.seconds,
            "mean_s": statistics.fmean(totals),
            "spread_s": max(totals) - min(totals),
            "tokenise_s": statistics.median(run.tokenise_s for run in self.runs),
            "embed_s": self.embed_s,
            "frames_per_s": self.frames / self.seconds,
            "tokens_per_s": self.tokens / self.seconds,
            "peak_memory_gb": self.peak_memory_gb,
            "gemm_peak_gflops": self.gemm_flops_per_s / 1e9,
            "model_gflops": self.flops / self.embed_s / 1e9,
            "share_of_gemm_peak": self.flops / self.embed_s / self.gemm_flops_per_s,
        }
        figures |= {f"run{number}_s": total for number, total in enumerate(totals, start=1)}
        return {f"bench/{side}_{name}": value for name, value in figures.items()}


@dataclass(frozen=True)
class BenchmarkResult:
    """Both sides, or one and the reason why the other could not be timed."""

    sides: dict[str, SideResult]
    failures: dict[str, str]  # by side, why it was not timed
    names: dict[str, str]  # by side, the encoder
    sample_digest: str
    hardware: dict[str, str]
    batch_tokens: int

    @property
    def same_precision(self) -> bool:
        """Whether both sides were timed in one precision; a ratio between two says nothing about the models."""
        return len({side.provenance["precision"] for side in self.sides.values()}) <= 1

    @property
    def speedup(self) -> float | None:
        """Baseline time over candidate time; None if a side is missing."""
        if len(self.sides) < len(SIDES):
            return None
        return self.sides["baseline"].seconds / self.sides["candidate"].seconds

    @property
    def metrics(self) -> dict[str, float]:
        """All figures, by the keys under which they are logged."""
        figures: dict[str, float] = {}
        for name, side in self.sides.items():
            figures |= side.metrics(name)
        if self.speedup is not None:
            figures["bench/speedup"] = self.speedup
        return figures

    @property
    def parameters(self) -> dict[str, str]:
        """What the figures hold for: hardware, versions, precision and weights of each side, the sample."""
        facts = {f"bench/{key}": value for key, value in self.hardware.items()}
        facts["bench/sample_digest"] = self.sample_digest
        facts["bench/batch_tokens"] = str(self.batch_tokens)
        facts["bench/same_precision"] = "yes" if self.same_precision else "no"
        for name in SIDES:
            facts[f"bench/{name}"] = self.names[name]
            if name in self.failures:
                facts[f"bench/{name}_failure"] = self.failures[name]
        for name, side in self.sides.items():
            for key in ("precision", "weights", "weight_digest", "revision", "dimension"):
                facts[f"bench/{name}_{key}"] = str(side.provenance[key])
            facts[f"bench/{name}_frames"] = str(side.frames)
            facts[f"bench/{name}_warmup_batches"] = str(side.warmup_batches)
        return facts

    def markdown(self) -> str:
        """Return the content of speed_benchmark.md."""
        lines = ["# Embedding speed", "", *_verdict_lines(self), "", *_table(self), "", "## Measured on", ""]
        lines += [f"- {key.removeprefix('bench/')}: {value}" for key, value in self.parameters.items()]
        return "\n".join(lines) + "\n"


def benchmark(settings: BenchmarkSettings, progress: Progress = lambda what, done, total: None) -> BenchmarkResult:
    """Time two encoders of one kind on a sample of frames.

    A side that does not fit into memory is reported, and the other is timed all the same.

    Raises:
        UsageError: an unknown encoder, two of different kinds, or a directory that does not exist.
        EncoderError: weights that are missing or not what they claim to be.
        MemoryShortageError: neither side fits.
    """
    names = {"baseline": settings.baseline, "candidate": settings.candidate}
    kinds = {find_encoder(name).kind for name in names.values()}
    if len(kinds) > 1:
        raise UsageError(f"{settings.baseline} and {settings.candidate} do not read the same: one DNA, one proteins")
    device = choose_device(settings.device).name
    precisions = _precisions(settings.precision, device)
    sample = draw_sample(Path(settings.frames), settings.sample, settings.seed)
    sequences = sample.nucleotide if kinds == {"dna"} else sample.protein
    sides: dict[str, SideResult] = {}
    failures: dict[str, str] = {}
    for side, name in list(names.items()):
        try:
            encoder = load_encoder(
                name,
                weights=settings.weights,
                device=device,
                precision=precisions[side],
                revisions=settings.revisions,
            )
            names[side] = encoder.name
            sides[side] = time_encoder(encoder, sequences, sample.ids, settings, device, progress)
        except MemoryShortageError as error:
            failures[side] = str(error)
    if not sides:
        raise MemoryShortageError(f"neither side fits: {failures['baseline']}; {failures['candidate']}")
    hardware = describe_hardware(device)
    return BenchmarkResult(sides, failures, names, sample.digest, hardware, settings.batch_tokens)


@dataclass(frozen=True)
class Cost:
    """What extracting a number of frames will take."""

    hours: float  # of embedding, one device
    disk_gb: float  # both halves and the merged features


def estimate_cost(frames: int, frames_per_s: Mapping[str, float], dimensions: Mapping[str, int]) -> Cost:
    """Return what `frames` frames cost, from measured speeds and the widths of both encoders, each by kind."""
    hours = sum(frames / speed for speed in frames_per_s.values()) / 3600
    row = (
        2 * 4 * sum(dimensions.values()) + 2 * _ID_BYTES
    )  # float32; each vector lies in its half and in the merged set
    return Cost(hours, frames * row / 1e9)


def draw_sample(directory: Path, size: int, seed: int) -> Sample:
    """Draw `size` frames (all, if there are fewer), each with the same chance, in the order of the data set."""
    columns = ["frame_id", "nucleotide", "protein"]
    table = pa.concat_tables(read_frames(path, columns) for path in frame_shards(directory))
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.choice(table.num_rows, min(size, table.num_rows), replace=False))
    drawn = table.take(rows)
    return Sample(*(drawn[name].to_pylist() for name in columns))


def time_encoder(
    encoder: Encoder, sequences: list[str], ids: list[str], settings: BenchmarkSettings, device: str, progress: Progress
) -> SideResult:
    """Warm up, then time `settings.runs` runs over all `sequences`."""
    reset_peak_memory(device)
    tokens = encoder.tokenise(sequences, ids)
    warmed = _warm_up(encoder, tokens, settings, device)
    runs = []
    for number in range(settings.runs):
        progress(encoder.name, number, settings.runs)
        runs.append(_time_run(encoder, sequences, ids, settings.batch_tokens, device))
    progress(encoder.name, settings.runs, settings.runs)
    peak_memory = peak_memory_gb(device)
    return SideResult(
        provenance=encoder.provenance.asdict(),
        runs=tuple(runs),
        frames=len(tokens),
        tokens=len(tokens.flat),
        flops=encoder.flops(tokens),
        gemm_flops_per_s=gemm_peak(encoder.provenance.precision, device),
        peak_memory_gb=peak_memory,
        warmup_batches=warmed,
    )


def _precisions(wanted: tuple[str, ...], device: str) -> dict[str, str]:
    """Return the precision of each side; `same` means what the device does well, for both."""
    asked = dict(zip(SIDES, wanted * (len(SIDES) // len(wanted)), strict=True))
    return {side: choose_precision("auto" if name == "same" else name, device).name for side, name in asked.items()}


def _warm_up(encoder: Encoder, tokens: Tokens, settings: BenchmarkSettings, device: str) -> int:
    """Embed the sample's first batches, again and again if there are few; return how many batches it were."""
    batches = list(plan_batches(tokens.lengths, settings.batch_tokens))
    wanted, most = settings.warmup, None
    if torch.device(device).type == "cpu":
        wanted, most = min(wanted, _CPU_WARMUP[0]), _CPU_WARMUP[1]
    for number in range(wanted):
        encoder.embed_tokens(tokens.take(batches[number % len(batches)][:most]), batch_tokens=settings.batch_tokens)
    return wanted


def _time_run(encoder: Encoder, sequences: list[str], ids: list[str], batch_tokens: int, device: str) -> Timing:
    made: list[Tokens] = []
    tokenise_s = seconds(lambda: made.append(encoder.tokenise(sequences, ids)), device)
    embed_s = seconds(lambda: encoder.embed_tokens(made[0], batch_tokens=batch_tokens), device)
    return Timing(tokenise_s, embed_s)


def _verdict_lines(result: BenchmarkResult) -> list[str]:
    lines = [f"{side} `{result.names[side]}` was not timed: {why}" for side, why in result.failures.items()]
    if result.speedup is not None:
        baseline, candidate = result.names["baseline"], result.names["candidate"]
        lines.append(f"`{candidate}` is {result.speedup:.2f} times as fast as `{baseline}` (medians of the runs).")
    if not result.same_precision:
        lines.append("**The two were timed in different precisions: this ratio does not compare the models.**")
    if any(side.provenance["weights"] == "random" for side in result.sides.values()):
        lines.append("Random weights in the true architecture: good for timing, for nothing else.")
    return lines


def _table(result: BenchmarkResult) -> list[str]:
    columns = [(f"{name}: {result.names[name]}", side) for name, side in result.sides.items()]
    mark = "" if result.same_precision else " (differs)"
    rows: list[tuple[str, Callable[[SideResult], str]]] = [
        ("precision", lambda side: side.provenance["precision"] + mark),
        ("weights", lambda side: side.provenance["weights"]),
        ("frames, tokens", lambda side: f"{side.frames}, {side.tokens}"),
        ("median of the runs, s", lambda side: f"{side.seconds:.3f}"),
        ("each run, s", lambda side: ", ".join(f"{run.total_s:.3f}" for run in side.runs)),
        ("of it tokenising, s", lambda side: f"{statistics.median(run.tokenise_s for run in side.runs):.4f}"),
        ("frames/s", lambda side: f"{side.frames / side.seconds:.1f}"),
        ("tokens/s", lambda side: f"{side.tokens / side.seconds:.0f}"),
        ("model GFLOP/s", lambda side: f"{side.flops / side.embed_s / 1e9:.1f}"),
        ("GEMM peak, GFLOP/s", lambda side: f"{side.gemm_flops_per_s / 1e9:.1f}"),
        ("share of GEMM peak", lambda side: f"{side.flops / side.embed_s / side.gemm_flops_per_s:.2f}"),
        ("peak memory, GB", lambda side: f"{side.peak_memory_gb:.2f}"),
        ("warm-up batches", lambda side: str(side.warmup_batches)),
    ]
    head = ["| | " + " | ".join(title for title, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return head + [f"| {label} | " + " | ".join(show(side) for _, side in columns) + " |" for label, show in rows]
