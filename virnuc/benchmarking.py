"""Embedding speed of two encoders, timed fairly: same frames, same device, same precision unless asked otherwise.

The sample is drawn evenly from all frames, so it has the data set's own lengths. The sides are timed alternately, each
warmed up and with the device idle before and after a run, and are never in memory together. Tokenising and embedding
are timed apart and together. The device's peak in matrix products is measured in the same run, so that a figure can be
read as a share of what the machine can do.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from virnuc.encoders import Encoder, Tokens, check_encoders, find_encoder, load_encoder
from virnuc.encoders.precision import choose_precision
from virnuc.encoders.timing import gemm_peak, seconds
from virnuc.encoders.tokens import plan_batches
from virnuc.errors import MemoryShortageError, UsageError
from virnuc.evaluation.speed import SIDES, BenchmarkResult, SideResult, Timing
from virnuc.runtime import Progress, choose_device, describe_hardware, peak_memory_gb, reset_peak_memory, silent
from virnuc.sequences.frames import frame_shards, read_frames
from virnuc.settings import BenchmarkSettings
from virnuc.storage.manifest import verified_manifest

_ID_BYTES = 40  # of a frame id in a shard
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


def benchmark(settings: BenchmarkSettings, progress: Progress = silent) -> BenchmarkResult:
    """Time two encoders of one kind on a sample of frames.

    If one side does not fit into memory, that is reported and the other is still timed.

    Raises:
        UsageError: an unknown encoder, two of different kinds, or a directory that does not exist.
        EncoderError: weights that are missing or not what they claim to be.
        MemoryShortageError: neither side fits.
    """
    names = {"baseline": settings.baseline, "candidate": settings.candidate}
    kinds = {find_encoder(name).kind for name in names.values()}
    if len(kinds) > 1:
        raise UsageError(
            f"{settings.baseline} and {settings.candidate} cannot be compared: one reads DNA, the other proteins"
        )
    check_encoders(dict.fromkeys(names.values(), *kinds), settings.weights, settings.revisions)
    device = choose_device(settings.device).name
    precisions = _precisions(settings.precision, device)
    frames_digest = verified_manifest(Path(settings.frames), "frames").digest
    sample = draw_sample(Path(settings.frames), settings.sample, settings.seed)
    sequences = sample.nucleotide if kinds == {"dna"} else sample.protein
    jobs = {side: _Job(name, sequences, sample.ids, settings, device, precisions[side]) for side, name in names.items()}
    measured, failures = _in_turns(jobs, progress)
    if not measured:
        raise MemoryShortageError(f"neither side fits: {failures['baseline']}; {failures['candidate']}")
    return BenchmarkResult(
        sides=measured,
        failures=failures,
        names=names | {side: str(result.provenance["name"]) for side, result in measured.items()},
        sample_digest=sample.digest,
        frames_digest=frames_digest,
        device=device,
        hardware=describe_hardware(device),
        batch_tokens=settings.batch_tokens,
    )


@dataclass(frozen=True)
class _Job:
    """One side: what to load and what to embed."""

    name: str
    sequences: list[str]
    ids: list[str]
    settings: BenchmarkSettings
    device: str
    precision: str

    def load(self) -> Encoder:
        """Load the encoder."""
        chosen = {"weights": self.settings.weights, "revisions": self.settings.revisions}
        return load_encoder(self.name, device=self.device, precision=self.precision, **chosen)


def _in_turns(jobs: Mapping[str, _Job], progress: Progress) -> tuple[dict[str, SideResult], dict[str, str]]:
    """Time the sides in turns and return their results, or why a side has none.

    The order is A B, B A, A B: the runs of a pair follow one another, so that other work on the machine affects both.
    Each encoder is freed before the other is loaded.
    """
    runs = next(iter(jobs.values())).settings.runs
    order = [side for number in range(runs) for side in (SIDES if number % 2 == 0 else SIDES[::-1])]
    timed: dict[str, list[Timing]] = {side: [] for side in SIDES}
    results: dict[str, SideResult] = {}
    failures: dict[str, str] = {}
    held: _Loaded | None = None
    for side in order:
        if side in failures:
            continue
        job = jobs[side]
        try:
            if held is None or held.side != side:
                held = None
                _release(job.device)
                held = _Loaded(side, job, results.get(side))
                if side not in results:
                    results[side] = held.describe()
            progress(held.encoder.name, len(timed[side]), runs)
            timed[side].append(held.time())
            results[side] = replace(results[side], runs=tuple(timed[side]), peak_memory_gb=held.peak(results[side]))
        except MemoryShortageError as error:
            failures[side], held = str(error), None
            results.pop(side, None)
    for result in results.values():
        progress(str(result.provenance["name"]), runs, runs)
    return results, failures


class _Loaded:
    """The encoder of one side, warmed up."""

    def __init__(self, side: str, job: _Job, known: SideResult | None) -> None:
        self.side, self.job = side, job
        reset_peak_memory(job.device)
        self.encoder = job.load()
        tokens = self.encoder.tokenise(job.sequences, job.ids)
        self.warmed, frames_per_s = _warm_up(self.encoder, tokens, job.settings, job.device)
        frames = known.frames if known else _frames_of_a_run(self.encoder, tokens, job.settings, frames_per_s)
        rows = np.arange(len(tokens)) if frames == len(tokens) else _spread(len(tokens), frames)
        self.sequences, self.ids = ([given[row] for row in rows] for given in (job.sequences, job.ids))
        self.tokens = tokens.take(rows)

    def describe(self) -> SideResult:
        """Return what is known before the first run."""
        provenance = self.encoder.provenance
        return SideResult(
            provenance=provenance.asdict(),
            runs=(),
            frames=len(self.tokens),
            tokens=len(self.tokens.flat),
            flops=self.encoder.flops(self.tokens),
            gemm_flops_per_s=max(
                gemm_peak(provenance.precision, self.job.device),
                gemm_peak(provenance.precision, self.job.device, self.encoder.products),
            ),
            peak_memory_gb=peak_in_fresh_process(self.job) if torch.device(self.job.device).type == "cpu" else 0.0,
            warmup_batches=self.warmed,
        )

    def time(self) -> Timing:
        """Tokenise and embed the sample once, with the device idle before and after."""
        made: list[Tokens] = []
        job = self.job
        tokenise_s = seconds(lambda: made.append(self.encoder.tokenise(self.sequences, self.ids)), job.device)
        batch_tokens = job.settings.batch_tokens
        embed_s = seconds(lambda: self.encoder.embed_tokens(made[0], batch_tokens=batch_tokens), job.device)
        return Timing(tokenise_s, embed_s)

    def peak(self, known: SideResult) -> float:
        """Return the peak memory so far, GB; on a CPU that of a fresh process, since this one has held both sides."""
        on_cpu = torch.device(self.job.device).type == "cpu"
        return known.peak_memory_gb if on_cpu else max(known.peak_memory_gb, peak_memory_gb(self.job.device))


def _release(device: str) -> None:
    """Give back what a freed encoder leaves in the device's cache."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def peak_in_fresh_process(job: _Job) -> float:
    """Return the peak memory of a fresh process that loads the encoder and embeds the largest batch, in GB."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_embed_largest_batch, job).result()


def _embed_largest_batch(job: _Job) -> float:
    reset_peak_memory(job.device)
    encoder = job.load()
    tokens = encoder.tokenise(job.sequences, job.ids)
    largest = max(
        plan_batches(tokens.lengths, lambda: job.settings.batch_tokens), key=lambda rows: tokens.lengths[rows].sum()
    )
    encoder.embed_tokens(tokens.take(largest), batch_tokens=job.settings.batch_tokens)
    return peak_memory_gb(job.device)


@dataclass(frozen=True)
class Cost:
    """What extracting a number of frames will take."""

    hours: float  # of embedding, one device
    disk_gb: float  # both halves and the merged features


def estimate_cost(frames: int, frames_per_s: Mapping[str, float], dimensions: Mapping[str, int]) -> Cost:
    """Return what `frames` frames cost, from measured speeds and the widths of both encoders, each by kind."""
    hours = sum(frames / speed for speed in frames_per_s.values()) / 3600
    row = 2 * 4 * sum(dimensions.values()) + 2 * _ID_BYTES  # float32; each vector is in its half and in the merged set
    return Cost(hours, frames * row / 1e9)


def draw_sample(directory: Path, size: int, seed: int) -> Sample:
    """Draw `size` frames (all, if there are fewer), each with the same chance, in the order of the data set."""
    columns = ["frame_id", "nucleotide", "protein"]
    table = pa.concat_tables(read_frames(path, columns) for path in frame_shards(directory))
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.choice(table.num_rows, min(size, table.num_rows), replace=False))
    drawn = table.take(rows)
    return Sample(*(drawn[name].to_pylist() for name in columns))


def _precisions(wanted: tuple[str, ...], device: str) -> dict[str, str]:
    """Return the precision of each side; `same` means what the device does well, for both."""
    asked = dict(zip(SIDES, wanted * (len(SIDES) // len(wanted)), strict=True))
    return {side: choose_precision("auto" if name == "same" else name, device).name for side, name in asked.items()}


def _warm_up(encoder: Encoder, tokens: Tokens, settings: BenchmarkSettings, device: str) -> tuple[int, float]:
    """Embed the first batches of the sample, repeatedly if there are few.

    Returns:
        Their number, and the frames/s of the last one; of one more, which does not count, where there is none.
    """
    batches = list(plan_batches(tokens.lengths, lambda: settings.batch_tokens))
    wanted, most = settings.warmup, None
    if torch.device(device).type == "cpu":
        wanted, most = min(wanted, _CPU_WARMUP[0]), _CPU_WARMUP[1]
    taken, rows = 0.0, batches[0]
    for number in range(max(wanted, bool(settings.seconds))):
        rows = batches[number % len(batches)][:most]
        taken = seconds(partial(encoder.embed_tokens, tokens.take(rows), batch_tokens=settings.batch_tokens), device)
    return wanted, len(rows) / taken if taken else 0.0


def _frames_of_a_run(encoder: Encoder, tokens: Tokens, settings: BenchmarkSettings, frames_per_s: float) -> int:
    """Return how many frames a run embeds: the sample, or whole batches that take about the seconds asked for."""
    if not settings.seconds:
        return len(tokens)
    whole = int(encoder.tokens_at_once(settings.batch_tokens) // tokens.lengths.mean()) or 1
    return max(1, round(frames_per_s * settings.seconds / whole)) * whole


def _spread(count: int, wanted: int) -> np.ndarray:
    """Return `wanted` of `count` rows, evenly spread, each as often as the others or once more."""
    return (np.arange(wanted) * count // wanted) if wanted < count else np.sort(np.arange(wanted) % count)
