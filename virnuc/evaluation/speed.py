"""The record of a benchmark: written by `benchmark` as one JSON file, read by `compare` as the same object.

The two sides run alternately, so that each pair of successive runs gives a ratio. The gate uses the
lower bound of these ratios: the one-sided 90 % bound of their median by Wilcoxon's signed ranks (Hodges and Lehmann,
1963). One run slowed down by other work on the machine does not change it; two of five do.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SIDES = ("baseline", "candidate")
CONFIDENCE = 0.9


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

    provenance: Mapping[str, Any]
    runs: tuple[Timing, ...]
    frames: int
    tokens: int
    flops: int  # of one run; 0 where an encoder multiplies nothing
    gemm_flops_per_s: float  # the device's peak in this precision
    peak_memory_gb: float  # with this encoder alone: on a CPU in a fresh process
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

    sides: Mapping[str, SideResult]
    failures: Mapping[str, str]  # by side, why it was not timed
    names: Mapping[str, str]  # by side, the encoder
    sample_digest: str
    frames_digest: str  # of the directory that the sample was drawn from
    device: str
    hardware: Mapping[str, str]
    batch_tokens: int
    run_id: str = field(default="", compare=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], run_id: str = "") -> BenchmarkResult:
        """Return the record that `asdict` wrote."""
        sides = {
            name: SideResult(**{**side, "runs": tuple(Timing(**run) for run in side["runs"])})
            for name, side in values["sides"].items()
        }
        return cls(**{**values, "sides": sides, "run_id": run_id})

    def asdict(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return {name: value for name, value in asdict(self).items() if name != "run_id"}

    @property
    def same_precision(self) -> bool:
        """Whether both sides were timed in one precision; a ratio between two says nothing about the models."""
        return len({side.provenance["precision"] for side in self.sides.values()}) <= 1

    @property
    def ratios(self) -> tuple[float, ...]:
        """Baseline time over candidate time for a frame, pair by pair of runs that followed one another."""
        if len(self.sides) < len(SIDES):
            return ()
        baseline, candidate = (self.sides[side] for side in SIDES)
        frames = candidate.frames / baseline.frames  # 1 unless runs were to take a given time
        pairs = zip(baseline.runs, candidate.runs, strict=True)
        return tuple(slow.total_s / fast.total_s * frames for slow, fast in pairs)

    @property
    def speedup(self) -> float | None:
        """Median of the ratios; None if a side is missing."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def speedup_low(self) -> float | None:
        """Lower bound of the ratios; None if a side is missing."""
        return lower_end(self.ratios) if self.ratios else None

    @property
    def metrics(self) -> dict[str, float]:
        """All figures, by the keys under which they are logged."""
        figures: dict[str, float] = {}
        for name, side in self.sides.items():
            figures |= side.metrics(name)
        if self.speedup is not None and self.speedup_low is not None:
            figures |= {"bench/speedup": self.speedup, "bench/speedup_low": self.speedup_low}
            figures |= {f"bench/speedup_run{number}": ratio for number, ratio in enumerate(self.ratios, start=1)}
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


def lower_end(ratios: Sequence[float]) -> float:
    """Return the one-sided lower bound of the median ratio; the smallest ratio if there are too few runs for a bound.

    The bound is an order statistic of the geometric means of all pairs of ratios, each with itself too. Which one
    follows from the number of signed-rank sums so small that they have a chance of at most 1 - `CONFIDENCE` together.
    """
    count = len(ratios)
    means = sorted(math.sqrt(one * other) for one, other in itertools.combinations_with_replacement(ratios, 2))
    counts = [1] + [0] * (count * (count + 1) // 2)  # of sets of ranks with this sum
    for rank in range(1, count + 1):
        for total in range(len(counts) - 1, rank - 1, -1):
            counts[total] += counts[total - rank]
    allowed = (1 - CONFIDENCE) * 2**count
    below = sum(1 for total in itertools.accumulate(counts) if total <= allowed)
    return means[max(below, 1) - 1]


def unfairness(speed: BenchmarkResult, features: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return why a benchmark does not fit the features of its two sides; empty if it does.

    Args:
        speed: With both sides.
        features: What `evaluate` recorded of the features of the baseline and the candidate.
    """
    found = []
    if not speed.same_precision:
        precisions = " against ".join(str(speed.sides[side].provenance["precision"]) for side in SIDES)
        found.append(f"precision {precisions}")
    if len(frames := {speed.sides[side].frames for side in SIDES}) > 1:
        found.append(f"runs of {' and '.join(map(str, sorted(frames)))} frames")
    for side, known in zip(SIDES, features, strict=False):
        timed = speed.sides[side].provenance
        encoder = known.get("encoders", {}).get(str(timed["kind"]), {})
        for key in ("precision", "weight_digest"):
            if encoder.get(key) != timed[key]:
                recorded = str(encoder.get(key, "not recorded"))[:12]
                found.append(f"{key.replace('_', ' ')} {str(timed[key])[:12]}, but {recorded} in the features")
        if known.get("frames_digest") != speed.frames_digest:
            found.append(f"the {side}'s features are not of the frames that the sample was drawn from")
    return list(dict.fromkeys(found))
