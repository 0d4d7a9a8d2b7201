"""Throughput of the encoders against transformers' EsmModel and the machine's peak in matrix products, in one run.

    python -m benchmarks.encoders [--layers 3] [--device cpu] [--precisions fp32] [--parts frames,mixed,ratio,calls]

Weights are random, widths those of the published models; --layers gives fewer layers, as all layers cost the same.
Contenders take turns, and the fastest round of each counts. Tokenising is not timed. `own_products` is the share of the
time that the matrix products of all layers take by themselves, on as many tokens as a batch has: a lower bound.

`calls` takes the classifiers of a finished `make demo` and counts which calls on its test frames change when proteins
are embedded in another precision than the fp32 of training. `estimate` compares the estimate of `rehearse` with an
extraction three times as long. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import EsmConfig, EsmModel

from benchmarks.extract import write_frames
from entrypoints.rehearse import TIMING
from virnuc.benchmarking import benchmark
from virnuc.encoders import ENCODERS, Encoder, Tokens, load_encoder
from virnuc.encoders.interface import DEFAULT_BATCH_TOKENS
from virnuc.encoders.linear import DTYPES
from virnuc.encoders.spec import LoadRequest
from virnuc.encoders.timing import gemm_peak, product_seconds, seconds
from virnuc.features.feature_set import FeatureSet
from virnuc.runtime import choose_device, describe_hardware
from virnuc.sequences.frames import frame_shards, read_frames
from virnuc.settings import BenchmarkSettings, MainSettings, PipelineSettings
from virnuc.splits.assignment import Split
from virnuc.training.checkpoint import load_checkpoint

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
BATCH = 16  # proteins in a batch of transformers, in input order


def native(name: str, layers: int, device: str, precision: str) -> Encoder:
    """Load an architecture of the table with random weights and `layers` layers."""
    spec = ENCODERS[name]
    spec = replace(spec, architecture={**spec.architecture, "num_hidden_layers": layers})
    return spec.loader(spec, LoadRequest("random", device, precision))


def peer(name: str, layers: int, device: str, precision: str, attention: str) -> Callable[[Tokens], Tensor]:
    """Return a function that embeds tokens by transformers' model of the same architecture, in padded batches."""
    architecture: dict[str, Any] = {**ENCODERS[name].architecture, "num_hidden_layers": layers}
    config = EsmConfig(**architecture, pad_token_id=1, mask_token_id=32, attn_implementation=attention)
    autocast = precision == "autocast"  # weights in fp32, products in bf16
    dtype = torch.float32 if autocast else DTYPES[precision]
    model = EsmModel(config, add_pooling_layer=False).to(device, dtype).eval()

    @torch.inference_mode()
    def embed(tokens: Tokens) -> Tensor:
        means = []
        rows = [
            torch.from_numpy(tokens.flat[a:b]).long() for a, b in zip(tokens.starts, tokens.starts[1:], strict=False)
        ]
        for first in range(0, len(rows), BATCH):
            batch = torch.nn.utils.rnn.pad_sequence(rows[first : first + BATCH], batch_first=True, padding_value=1)
            batch = batch.to(device)
            mask = batch != 1
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
                states = model(batch, attention_mask=mask.long()).last_hidden_state
            inner = mask & (batch != 0) & (batch != 2)
            means.append(((states * inner[..., None]).sum(1) / inner.sum(1, keepdim=True)).float().cpu())
        return torch.cat(means)

    return embed


def proteins(count: int, shortest: int, longest: int) -> list[str]:
    """Return seeded random proteins whose lengths are drawn uniformly."""
    generator = random.Random(0)
    return ["".join(generator.choices(LETTERS, k=generator.randint(shortest, longest))) for _ in range(count)]


def take_turns(contenders: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Return the fastest of `rounds` times of each contender, in seconds, after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, run in contenders.items():
            times[name].append(seconds(run, device))
    return {name: min(measured[1:]) for name, measured in times.items()}


def against_transformers(sequences: list[str], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time virnuc in each precision, and transformers (eager, SDPA, bf16 autocast), on the same proteins."""
    precisions = options.precisions.split(",")
    encoders = {p: native("esm2_650m", options.layers, options.device, p) for p in precisions}
    tokens = encoders[precisions[0]].tokenise(sequences)
    contenders: dict[str, Callable[[], object]] = {}
    for attention, precision in (("eager", "fp32"), ("sdpa", "fp32"), ("sdpa", "autocast")):
        if precision == "fp32" or "bf16" in precisions:
            model = peer("esm2_650m", options.layers, options.device, precision, attention)
            name = f"transformers {attention} {precision}, batches of {BATCH} in input order"
            contenders[name] = partial(model, tokens)
    contenders |= {f"virnuc {p}": partial(encoder.embed_tokens, tokens) for p, encoder in encoders.items()}
    times = take_turns(contenders, options.rounds, options.device)
    flops, slowest = next(iter(encoders.values())).flops(tokens), next(iter(times.values()))
    found = {}
    for name, taken in times.items():
        precision = next((p for p in precisions if name == f"virnuc {p}"), "bf16" if "autocast" in name else "fp32")
        peak = gemm_peak(precision, options.device)
        found[name] = {
            "tokens_per_s": len(tokens.flat) / taken,
            "over_eager": slowest / taken,
            "share_of_gemm_peak": flops / taken / peak,
            "gemm_peak_gflops": peak / 1e9,
        }
        if name.startswith("virnuc"):
            found[name]["own_products"] = _own_products(encoders[precision], tokens, precision, options) / taken
            vectors = [encoders[p].embed_tokens(tokens) for p in (precisions[0], precision)]
            found[name]["cosine_min"] = cosine_similarity(*vectors).min().item()
    return found


def _own_products(encoder: Encoder, tokens: Tokens, precision: str, options: argparse.Namespace) -> float:
    """Return the seconds that the matrix products of all layers take by themselves, in full batches."""
    rows = encoder.tokens_at_once(DEFAULT_BATCH_TOKENS)
    layer = sum(product_seconds(precision, options.device, *shape, rows) for shape in encoder.products)
    return layer * options.layers * len(tokens.flat) / rows


def changed_calls(experiment: Path, device: str) -> dict[str, dict[str, float]]:
    """Embed the test frames of a finished demo in each precision, and call them by its classifiers."""
    found = {}
    parts = Split.open(experiment / "test_set")
    frames = parts.frames("test")["frame_id"].tolist()
    columns = ["frame_id", "protein"]
    table = pa.concat_tables(read_frames(path, columns) for path in frame_shards(experiment / "frames"))
    of_frame = dict(zip(*(table[name].to_pylist() for name in columns), strict=True))
    labels = parts.frames("test")["label"].to_numpy() == 1
    for name in (MainSettings().candidate, MainSettings().baseline):
        features = FeatureSet.open(experiment / "features" / f"{MainSettings().dna_encoder}+{name}")
        rows = features.locate(frames)
        dna, own = (features.gather(rows, features.columns(kind)) for kind in ("dna", "protein"))
        model = load_checkpoint(next(experiment.glob(f"models/**/model_{name}.pth"))).build()
        called = {}
        for precision in ("fp32", "bf16", "fp16", "int8"):
            encoder = load_encoder(name, precision=precision, device=device)
            started = time.perf_counter()
            vectors = encoder.embed([of_frame[frame] for frame in frames])
            taken = time.perf_counter() - started
            with torch.inference_mode():
                called[precision] = model(torch.cat([dna, vectors], dim=1)).argmax(dim=1).numpy() == 1
            cosine = cosine_similarity(vectors, own)
            found[f"{name} {precision}"] = {
                "test_frames": len(frames),
                "changed": float((called[precision] != called["fp32"]).mean()),
                "accuracy": float((called[precision] == labels).mean()),
                "cosine_mean": cosine.mean().item(),
                "cosine_min": cosine.min().item(),
                "frames_per_s": len(frames) / taken,
            }
    return found


def estimate(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time encoders as `rehearse` does on a CPU, then embed three times as many frames."""
    names = {"baseline": "esm2_35m", "candidate": "esm2_8m"}
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        frames = str(write_frames(Path(temporary) / "frames", 2000))
        weights = dict.fromkeys(names.values(), "random")
        rehearsed = PipelineSettings(device="cpu", **TIMING["cpu"])
        wanted = rehearsed.of_stage(BenchmarkSettings, **names, frames=frames, weights=weights)
        for side in benchmark(wanted).sides.values():
            name = str(side.provenance["name"])
            encoder = load_encoder(name, weights={name: "random"})
            sequences = proteins(3 * side.frames, 99, 100)
            taken = seconds(lambda encoder=encoder, sequences=sequences: encoder.embed(sequences), "cpu")
            estimated = 3 * side.seconds
            found[name] = {
                "frames": len(sequences),
                "estimated_s": estimated,
                "measured_s": taken,
                "ratio": estimated / taken,
            }
    return found


def baseline_over_candidate(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time a few layers of ESM2 3B and of FastESM2_650 in one precision; scale to all of their layers."""
    sequences = proteins(options.frames, 99, 100)
    encoders = {
        name: native(name, options.layers, options.device, options.precisions.split(",")[0])
        for name in ("esm2_3b", "fastesm650")
    }
    tokens = encoders["fastesm650"].tokenise(sequences)
    contenders = {n: (lambda encoder=encoder: encoder.embed_tokens(tokens)) for n, encoder in encoders.items()}
    times = take_turns(contenders, options.rounds, options.device)
    whole = {
        n: taken / options.layers * int(ENCODERS[n].architecture["num_hidden_layers"]) for n, taken in times.items()
    }
    speeds = {f"{name}_frames_per_s": len(sequences) / taken for name, taken in whole.items()}
    return {"esm2_3b over fastesm650, time": {"ratio": whole["esm2_3b"] / whole["fastesm650"], **speeds}}


def _flags() -> list[str]:
    """Return the processor's flags for vector units."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return [flag for flag in flags if flag.startswith(("avx", "amx", "fma"))]


def main() -> None:
    """Measure; print the tables and, last, one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precisions", default="fp32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--experiment", default="data/latest", help="of a finished demo, for `calls`")
    parser.add_argument("--parts", default="frames,mixed,ratio,calls")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    measure: dict[str, Callable[[], dict[str, dict[str, float]]]] = {
        "frames": lambda: against_transformers(proteins(options.frames, 99, 100), options),
        "mixed": lambda: against_transformers(proteins(options.frames, 30, 1000), options),
        "ratio": lambda: baseline_over_candidate(options),
        "calls": lambda: changed_calls(Path(options.experiment), options.device),
        "estimate": lambda: estimate(options),
    }
    choose_device(options.device)
    hardware = describe_hardware(options.device) | {"flags": " ".join(_flags())}
    results = {}
    print(f"{options.layers} layers, {options.frames} proteins, {options.precisions}, {hardware}")
    for part in options.parts.split(","):
        results[part] = measure[part]()
        print(f"\n{part}")
        for name, figures in results[part].items():
            print(f"  {name:55}", "  ".join(f"{key} {value:.4g}" for key, value in figures.items()), flush=True)
    print(json.dumps({"options": vars(options), "hardware": hardware, "results": results}))


if __name__ == "__main__":
    main()
