"""Everything that this project cannot try without a GPU, checked and measured in about ten minutes.

    python -m benchmarks.gpu [--device cuda:0] [--precision bf16] [--frames 20000]

Random weights in the true architectures; nothing is downloaded. First the checks: embeddings on the GPU against the
CPU, full memory on purpose, and training by a CUDA graph against plain steps (tests/training/test_gpu.py). Then the
figures: FLOP/s as a share of the GPU's own peak in matrix products, for 99-100 residues and for 30-1000, transformers'
SDPA beside them, the ratio of ESM2 3B to a 650M model, and an extraction from Parquet to shards. The last line is JSON.
`--device cpu --layers 1 --frames 8` tries the program itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.encoders import native, peer, proteins
from benchmarks.extract import write_frames
from virnuc.encoders import ENCODERS
from virnuc.encoders.timing import gemm_peak, seconds
from virnuc.encoders.verification import LIMITS, compare, real_sequences
from virnuc.features.workers import extract_together
from virnuc.runtime import choose_device, describe_hardware
from virnuc.settings import ExtractSettings


def same_as_cpu(options: argparse.Namespace) -> dict[str, Any]:
    """Embed real sequences on the device, in fp32 and in the precision asked for, and on the CPU in fp32."""
    found: dict[str, Any] = {}
    for name in ("esm2_650m", "dnabert_s"):
        sequences = real_sequences(ENCODERS[name].kind)
        expected = native(name, 2, "cpu", "fp32").embed(sequences)
        for precision in dict.fromkeys(("fp32", options.precision)):
            difference, cosine = compare(native(name, 2, options.device, precision).embed(sequences), expected)
            passed = difference <= LIMITS[precision][0] and cosine >= LIMITS[precision][1]
            found[f"{name} {precision}"] = {"difference": difference, "cosine": cosine, "passed": passed}
    return found


def full_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Embed in batches that do not fit, and compare with batches that do."""
    encoder = native("esm2_650m", 2, options.device, options.precision)
    sequences = proteins(min(options.frames, 4000), 99, 100)
    expected = encoder.embed(sequences)
    if encoder.device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(options.device).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 2**30) / total)
    found = encoder.embed(sequences, batch_tokens=10**9)
    if encoder.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)
    difference, cosine = compare(found, expected)
    return {"full memory": {"difference": difference, "passed": cosine >= LIMITS[options.precision][1]}}


def graphs(options: argparse.Namespace) -> dict[str, Any]:
    """Run the tests of training by a CUDA graph; they are skipped where there is no GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/training/test_gpu.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return {"graph training": {"passed": done.returncode == 0 and "skipped" not in last, "pytest": last}}


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    """Time the published architectures on equal and on mixed lengths, and transformers beside one of them."""
    found: dict[str, Any] = {}
    for name, shortest, longest in (("esm2_650m", 99, 100), ("esm2_650m", 30, 1000), ("esm2_3b", 99, 100)):
        layers = options.layers or int(ENCODERS[name].architecture["num_hidden_layers"])
        sequences = proteins(min(options.frames, 2000), shortest, longest)
        encoder = native(name, layers, options.device, options.precision)
        tokens = encoder.tokenise(sequences)
        peak = max(gemm_peak(options.precision, options.device, own) for own in (encoder.products, ((2560, 10240),)))
        contenders = {"virnuc": lambda encoder=encoder, tokens=tokens: encoder.embed_tokens(tokens)}
        if name == "esm2_650m":
            model = peer(name, layers, options.device, options.precision, "sdpa")
            contenders["transformers sdpa"] = lambda model=model, tokens=tokens: model(tokens)
        for who, work in contenders.items():
            work()
            taken = min(seconds(work, options.device) for _ in range(3))
            figures = {
                "frames_per_s": len(sequences) / taken,
                "share_of_gemm_peak": encoder.flops(tokens) / taken / peak,
            }
            found[f"{name} {shortest}-{longest} {who}"] = figures | {"gemm_peak_gflops": peak / 1e9}
    pair = [found[f"{name} 99-100 virnuc"]["frames_per_s"] for name in ("esm2_650m", "esm2_3b")]
    found["esm2_3b over esm2_650m, time"] = {"ratio": pair[0] / pair[1], "true_layers": not options.layers}
    return found


def end_to_end(options: argparse.Namespace) -> dict[str, Any]:
    """Extract frames of 300 bp through FastESM2_650 and DNABERT-S, tokenising and writing included."""
    if options.layers:
        return {}
    with tempfile.TemporaryDirectory() as temporary:
        frames = write_frames(Path(temporary) / "frames", options.frames, shard_rows=2000)
        wanted = ExtractSettings(
            frames=str(frames),
            precision=options.precision,
            device=options.device,
            weights={"dnabert_s": "random", "fastesm650": "random"},
            out=str(Path(temporary) / "out"),
        )
        started = time.perf_counter()
        extract_together(wanted)
        taken = time.perf_counter() - started
    return {"extract, loading included": {"frames": options.frames, "s": taken, "frames_per_s": options.frames / taken}}


def main() -> None:
    """Check, measure, print a table, and last one JSON line; exit code 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--layers", type=int, default=0, help="fewer than the models have, without extraction; 0: all")
    options = parser.parse_args()
    choose_device(options.device)
    hardware = describe_hardware(options.device)
    print(hardware)
    results: dict[str, Any] = {}
    for part in (same_as_cpu, full_memory, graphs, throughput, end_to_end):
        try:
            found = part(options)
        except Exception as error:  # the other parts are worth having
            found = {part.__name__: {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}}
        for name, figures in found.items():
            shown = (
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
            )
            print(f"{name:45}", "  ".join(shown), flush=True)
        results |= found
    print(json.dumps({"options": vars(options), "hardware": hardware, "results": results}))
    sys.exit(any(not figures.get("passed", True) for figures in results.values()))


if __name__ == "__main__":
    main()
