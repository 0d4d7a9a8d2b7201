"""Checks and measurements that need a GPU, in about ten minutes.

    python -m benchmarks.gpu [--device cuda:0] [--precision bf16] [--frames 20000]

The published architectures have random weights, so nothing is downloaded. First come the checks: embeddings on the GPU
against those on the CPU, the kernels in use, full memory, and training by a CUDA graph against plain steps
(tests/training/test_gpu.py). Then come the figures: FLOP/s as a share of the GPU's own peak in matrix products, for
99-100 and for 30-1000 residues, transformers' SDPA for comparison, the ratio of ESM2 3B to a 650M model, the DNA side,
extractions from Parquet to shards, a training epoch, and two GPUs against one. Each part runs in its own process, and a
row that fails gives its error and does not stop the others. The last line is JSON. `--device cpu --layers 1 --frames 8`
tests the program itself.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from benchmarks.encoders import native, peer, proteins
from benchmarks.extract import content, write_frames
from virnuc.encoders import ENCODERS, Encoder, load_encoder, timing
from virnuc.encoders.language_model import LanguageModelEncoder
from virnuc.encoders.linear import DTYPES
from virnuc.encoders.packing import varlen_is_right
from virnuc.encoders.timing import gemm_peak, seconds
from virnuc.encoders.verification import LIMITS, compare, real_sequences
from virnuc.features.feature_set import FeatureSet
from virnuc.features.workers import extract_together
from virnuc.runtime import available_memory, choose_device, describe_hardware, silent
from virnuc.settings import ExtractSettings, TrainSettings
from virnuc.storage.processes import Send, run_together
from virnuc.training.batches import FULL, Plan
from virnuc.training.data import Subset
from virnuc.training.epochs import Trainer
from virnuc.training.state import Replicate

Figures = dict[str, Any]
Rows = Iterator[tuple[str, Callable[[], Figures]]]  # name, and a function that measures it
ROWS, WIDTH = 1_600_000, 2048  # of a training epoch
_LIMIT = 400  # seconds of a part


def same_as_cpu(options: argparse.Namespace) -> Rows:
    """Embed real sequences on the device, in fp32 and in the precision asked for, and on the CPU in fp32."""

    def compared(name: str, precision: str) -> Figures:
        sequences = real_sequences(ENCODERS[name].kind)
        expected = native(name, 2, "cpu", "fp32").embed(sequences)
        difference, cosine = compare(native(name, 2, options.device, precision).embed(sequences), expected)
        passed = difference <= LIMITS[precision][0] and cosine >= LIMITS[precision][1]
        at_once = varlen_is_right(torch.device(options.device), DTYPES[precision], 64, ENCODERS[name].kind == "dna")
        return {"difference": difference, "cosine": cosine, "attention_at_once": at_once, "passed": passed}

    for name in ("esm2_650m", "dnabert_s"):
        for precision in dict.fromkeys(("fp32", options.precision)):
            yield f"{name} {precision} as on the CPU", partial(compared, name, precision)


def full_memory(options: argparse.Namespace) -> Rows:
    """Embed in batches that do not fit into memory, and compare with batches that do."""

    def overflow() -> Figures:
        encoder = cast(LanguageModelEncoder, native("esm2_650m", 2, options.device, options.precision))
        sequences = proteins(min(options.frames, 4000), 99, 100)
        expected = encoder.embed(sequences)
        on_gpu = encoder.device.type == "cuda"
        if on_gpu:
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(options.device).total_memory
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 2**30) / total)
        difference, cosine = compare(encoder.embed(sequences, batch_tokens=10**9), expected)
        failed = encoder._budget.failed
        passed = cosine >= LIMITS[options.precision][1] and (failed > 0 or not on_gpu)
        return {"difference": difference, "tokens_that_did_not_fit": failed, "passed": passed}

    yield "full memory", overflow


def graphs(options: argparse.Namespace) -> Rows:
    """Run the tests of training by a CUDA graph, which pytest skips without a GPU."""

    def tests() -> Figures:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/training/test_gpu.py"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT)
        last = (done.stdout.strip().splitlines() or [done.stderr[-300:]])[-1]
        return {"passed": done.returncode == 0 and "skipped" not in last, "pytest": last}

    yield "training by a graph", tests


def throughput(options: argparse.Namespace) -> Rows:
    """Time the published architectures on equal and on mixed lengths, and transformers on one of them."""
    speeds: dict[str, float] = {}

    def timed(name: str, shortest: int, longest: int, theirs: bool) -> Figures:
        layers = options.layers or int(ENCODERS[name].architecture["num_hidden_layers"])
        encoder = native(name, layers, options.device, options.precision)
        tokens = encoder.tokenise(proteins(min(options.frames, 2000), shortest, longest))
        model = peer(name, layers, options.device, options.precision, "sdpa") if theirs else encoder.embed_tokens
        model(tokens)
        taken = min(seconds(partial(model, tokens), options.device) for _ in range(3))
        peak = _peak(encoder, options)
        speeds[name] = max(speeds.get(name, 0.0), len(tokens) / taken)
        share = encoder.flops(tokens) / taken / peak
        return {"frames_per_s": len(tokens) / taken, "share_of_gemm_peak": share, "gemm_peak_gflops": peak / 1e9}

    for name, shortest, longest in (("esm2_650m", 99, 100), ("esm2_3b", 99, 100), ("esm2_650m", 30, 1000)):
        yield f"{name}, {shortest}-{longest}", partial(timed, name, shortest, longest, False)
    yield "esm2_3b over esm2_650m, time", lambda: {"ratio": speeds["esm2_650m"] / speeds["esm2_3b"]}
    for shortest, longest in ((99, 100), (30, 1000)):
        yield f"esm2_650m, {shortest}-{longest}, transformers", partial(timed, "esm2_650m", shortest, longest, True)


def extraction(options: argparse.Namespace) -> Rows:
    """Extract frames with DNABERT-S and a protein encoder; tokenising and writing are timed, loading is not."""

    def extracted(name: str, count: int, residues: tuple[int, int]) -> Figures:
        with tempfile.TemporaryDirectory() as temporary:
            frames = write_frames(Path(temporary) / "frames", count, max(1, min(2000, count // 4)), residues)
            taken = _extract(frames, Path(temporary) / "out", name, options)
            some, figures = proteins(min(count, 1000), *residues), {}
            for own, kind in (("dnabert_s", "dna"), (name, "protein")):
                sequences = some if kind == "protein" else [_bases(3 * len(protein)) for protein in some]
                encoder = load_encoder(own, weights={own: "random"}, device=options.device, precision=options.precision)
                flops = encoder.flops(encoder.tokenise(sequences)) * count / len(some)
                figures[f"{kind}_frames_per_s"] = count / taken[own]
                figures[f"{kind}_share_of_gemm_peak"] = flops / taken[own] / _peak(encoder, options)
                if kind == "dna":
                    figures |= _alone(encoder, count, options)
        return figures | {"frames_per_s": count / sum(taken.values())}

    for name, count in (("fastesm650", options.frames), ("esm2_3b", max(8, options.frames // 4))):
        yield f"extract {name}, 300 bp", partial(extracted, name, count, (99, 100))
    yield "extract fastesm650, 30-1000", partial(extracted, "fastesm650", max(8, options.frames // 5), (30, 1000))


def training(options: argparse.Namespace) -> Rows:
    """Time an epoch of one replicate and of five on vectors in the device's memory, by a graph and by plain steps."""
    device = torch.device(options.device)
    rows = ROWS if options.frames >= 1000 else 250 * options.frames
    rows = int(min(rows, 0.6 * available_memory(options.device) / (4 * WIDTH)))
    vectors, labels = torch.randn(rows, WIDTH, device=device), torch.arange(rows, device=device) % 2
    part = Subset(cast(FeatureSet, None), slice(0, WIDTH), np.arange(rows), labels, resident=vectors)

    def epoch(replicates: int, graph: bool) -> Figures:
        settings = TrainSettings(device=options.device, replicates=replicates)
        own = [Replicate.begin(seed, settings, WIDTH, device) for seed in range(replicates)]
        share = part if graph else replace(part, rows=part.rows[: rows // 10])
        trainer = Trainer(own, share, Plan.make(share, settings.batch_size, FULL), 1, silent)
        captured = trainer._graph is not None
        if not graph:
            trainer._graph = None
        speed = trainer.run(0, 1)[0]["frames_per_s"]
        figures: Figures = {"rows_per_s": speed, "epoch_s": ROWS / speed, "by_graph": captured and graph}
        return figures | ({"passed": captured} if device.type == "cuda" else {})

    for replicates in (1, 5):
        yield f"training epoch of {ROWS:,}, {replicates} at once", partial(epoch, replicates, True)
    yield f"training epoch of {ROWS:,}, plain steps", partial(epoch, 1, False)


def several(options: argparse.Namespace) -> Rows:
    """Extract on two GPUs, and on one."""

    def two() -> Figures:
        if torch.cuda.device_count() < 2:
            return {"not_run": f"this machine has {torch.cuda.device_count()} GPUs"}
        with tempfile.TemporaryDirectory() as temporary:
            frames, taken = write_frames(Path(temporary) / "frames", options.frames, options.frames // 16), []
            for devices in ("cuda:0", "cuda:0,cuda:1"):
                out, own = Path(temporary) / devices, SimpleNamespace(**{**vars(options), "device": devices})
                taken.append(sum(_extract(frames, out, "fastesm650", own).values()))
            same = content(Path(temporary) / "cuda:0") == content(Path(temporary) / "cuda:0,cuda:1")
        return {"ratio": taken[0] / taken[1], "passed": same}

    yield "two GPUs over one", two


def _peak(encoder: Encoder, options: argparse.Namespace) -> float:
    """Return the highest FLOP/s of the default products, the encoder's own, and the widest of ESM2 3B."""
    shapes = (encoder.products, ((2560, 10240),))
    return max(
        gemm_peak(options.precision, options.device),
        *(gemm_peak(options.precision, options.device, own) for own in shapes),
    )


def _bases(length: int) -> str:
    return "".join(random.choices("ACGT", k=length))


def _alone(encoder: Encoder, count: int, options: argparse.Namespace) -> Figures:
    """Return frames/s of the device alone, which does not wait for the host, and of the host's tokenising alone."""
    chunks = [_bases(300) for _ in range(min(count, 10_000))]
    made = []
    tokenise_s = seconds(lambda: made.append(encoder.tokenise(chunks)), "cpu")
    embed_s = min(seconds(partial(encoder.embed_tokens, made[0]), options.device) for _ in range(2))
    return {"dna_alone_frames_per_s": len(chunks) / embed_s, "dna_tokenised_per_s": len(chunks) / tokenise_s}


def _extract(frames: Path, out: Path, name: str, options: Any) -> Mapping[str, float]:
    """Extract; return the seconds between the first and the last progress report of each encoder."""
    seen: dict[str, list[float]] = {}
    wanted = ExtractSettings(
        frames=str(frames),
        protein_encoder=name,
        precision=options.precision,
        device=options.device,
        weights={"dnabert_s": "random", name: "random"},
        out=str(out),
    )
    extract_together(wanted, lambda what, *step: seen.setdefault(what, []).append(time.perf_counter()))
    return {what: times[-1] - times[0] for what, times in seen.items() if what in ENCODERS}


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    part.__name__: part for part in (same_as_cpu, full_memory, graphs, throughput, extraction, training, several)
}


def run_part(name: str, options: argparse.Namespace, send: Send) -> None:
    """Measure the rows of a part and send each; a row that fails has its error."""
    signal.alarm(_LIMIT)  # ends a part that hangs, so that the next can begin
    choose_device(options.device)
    if options.layers:  # a test of this program, whose figures mean nothing
        timing._ROWS["cpu"] = 16
        for own, spec in ENCODERS.items():
            if "num_hidden_layers" in spec.architecture:
                ENCODERS[own] = replace(spec, architecture={**spec.architecture, "num_hidden_layers": options.layers})
    for row, measure in PARTS[name](options):
        started = time.perf_counter()
        try:
            found = measure()
        except Exception as error:  # the other rows are still wanted
            found = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
        send((row, found | {"took_s": round(time.perf_counter() - started, 1)}))


def main() -> None:
    """Check and measure; print a table and, last, one JSON line; exit with 1 if a row failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--layers", type=int, default=0, help="fewer than the models have; 0: all")
    parser.add_argument("--parts", default=",".join(PARTS))
    options = parser.parse_args()
    choose_device(options.device)
    hardware = describe_hardware(options.device)
    print(hardware)
    results: dict[str, Figures] = {}

    def show(part: str, row: tuple[str, Figures]) -> None:
        name, figures = row
        shown = (
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
        )
        print(f"{name:45}", "  ".join(shown), flush=True)
        results[name] = figures

    for part in options.parts.split(","):
        ended = run_together({part: partial(run_part, part, options)}, show)
        if not ended.endswith(": 0"):
            show(part, (part, {"passed": False, "error": f"ended early, {ended}"}))
    print(json.dumps({"options": vars(options), "hardware": hardware, "results": results}))
    sys.exit(any(not figures.get("passed", True) for figures in results.values()))


if __name__ == "__main__":
    main()
