"""Throughput of the encoders against transformers' EsmModel and the machine's peak in matrix products, in one run.

    python -m benchmarks.encoders [--layers 3] [--device cpu] [--precision fp32] [--parts frames,mixed,int8,ratio,calls]

Random weights in the true widths; with --layers fewer layers than the model has, because a layer costs the same
wherever it stands. Contenders take turns, and the fastest of their rounds counts. Tokenising is left out on all
sides. `calls` trains the classifier on the embedded genomes, embedded by the shipped esm2_tiny in fp32, and counts the
calls on test frames that change when the same proteins are embedded in int8. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import EsmConfig, EsmModel

from virnuc.encoders import ENCODERS, Encoder, Tokens
from virnuc.encoders.loading import EXAMPLES
from virnuc.encoders.spec import LoadRequest
from virnuc.encoders.timing import gemm_peak, seconds
from virnuc.evaluation.predictions import frame_predictions
from virnuc.features.extraction import extract
from virnuc.features.feature_set import FeatureSet
from virnuc.runtime import DTYPES, describe_hardware
from virnuc.sequences.preparing import prepare
from virnuc.settings import ExtractSettings, MainSettings, PrepareSettings, SplitSettings, TrainSettings
from virnuc.splits.assignment import split
from virnuc.training import train
from virnuc.training.checkpoint import load_checkpoint

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
BATCH = 16  # the peer's batches, in input order


def native(name: str, layers: int, device: str, precision: str) -> Encoder:
    """Load an architecture of the table with random weights and `layers` layers."""
    spec = ENCODERS[name]
    spec = replace(spec, architecture={**spec.architecture, "num_hidden_layers": layers})
    return spec.loader(spec, LoadRequest("random", device, precision))


def peer(name: str, layers: int, device: str, precision: str, attention: str) -> Callable[[Tokens], Tensor]:
    """Return transformers' model of the same architecture, run on padded batches in input order."""
    architecture: dict[str, Any] = {**ENCODERS[name].architecture, "num_hidden_layers": layers}
    config = EsmConfig(**architecture, pad_token_id=1, mask_token_id=32, attn_implementation=attention)
    model = EsmModel(config, add_pooling_layer=False).to(device, DTYPES[precision]).eval()

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
            states = model(batch, attention_mask=mask.long()).last_hidden_state
            inner = mask & (batch != 0) & (batch != 2)
            means.append(((states * inner[..., None]).sum(1) / inner.sum(1, keepdim=True)).float().cpu())
        return torch.cat(means)

    return embed


def proteins(count: int, shortest: int, longest: int) -> list[str]:
    """Return seeded random proteins of evenly spread lengths."""
    generator = random.Random(0)
    return ["".join(generator.choices(LETTERS, k=generator.randint(shortest, longest))) for _ in range(count)]


def take_turns(contenders: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Return the fastest of `rounds` times of each contender, in seconds, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, run in contenders.items():
            times[name].append(seconds(run, device))
    return {name: min(measured[1:]) for name, measured in times.items()}


def against_transformers(sequences: list[str], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time ours, transformers' eager and its SDPA attention on the same proteins."""
    encoder = native("esm2_650m", options.layers, options.device, options.precision)
    tokens = encoder.tokenise(sequences)
    models = {
        attention: peer("esm2_650m", options.layers, options.device, options.precision, attention)
        for attention in ("eager", "sdpa")
    }
    contenders: dict[str, Callable[[], object]] = {
        f"transformers {attention}, batches of {BATCH} in input order": lambda model=model: model(tokens)  # type: ignore[misc]
        for attention, model in models.items()
    }
    contenders["virnuc"] = lambda: encoder.embed_tokens(tokens)
    peak = gemm_peak(options.precision, options.device)
    times = take_turns(contenders, options.rounds, options.device)
    peak, flops = max(peak, gemm_peak(options.precision, options.device)), encoder.flops(tokens)
    slowest = next(iter(times.values()))
    return {
        name: {
            "tokens_per_s": len(tokens.flat) / taken,
            "over_eager": slowest / taken,
            "share_of_gemm_peak": flops / taken / peak,
            "gemm_peak_gflops": peak / 1e9,
        }
        for name, taken in times.items()
    }


def quantised(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time int8 against fp32 on a CPU, and compare the vectors."""
    encoders = {precision: native("esm2_650m", options.layers, "cpu", precision) for precision in ("fp32", "int8")}
    tokens = encoders["fp32"].tokenise(proteins(options.frames, 99, 100))
    vectors = {precision: encoder.embed_tokens(tokens) for precision, encoder in encoders.items()}
    contenders = {p: (lambda encoder=encoder: encoder.embed_tokens(tokens)) for p, encoder in encoders.items()}
    times = take_turns(contenders, options.rounds, "cpu")
    cosine = cosine_similarity(vectors["fp32"], vectors["int8"])
    return {
        "int8 over fp32": {
            "speedup": times["fp32"] / times["int8"],
            "cosine_mean": cosine.mean().item(),
            "cosine_min": cosine.min().item(),
        }
    }


def changed_calls() -> dict[str, dict[str, float]]:
    """Train on fp32 features of a trained encoder, then call the test frames from its int8 features too."""
    with tempfile.TemporaryDirectory() as temporary:
        place, demo = Path(temporary), MainSettings()
        frames = str(place / "frames")
        prepare(PrepareSettings(source=str(EXAMPLES / "genomes"), out=frames))
        parts = split(SplitSettings(source=frames, out=str(place / "split")))
        features = {}
        for precision in ("fp32", "int8"):
            out = str(place / precision)
            extract(
                ExtractSettings(frames, demo.dna_encoder, demo.candidate, precision=precision, device="cpu", out=out)
            )
            features[precision] = FeatureSet.open(place / precision / f"{demo.dna_encoder}+{demo.candidate}")
        settings = TrainSettings(epochs=demo.epochs, lr=demo.lr, device="cpu")
        model = load_checkpoint(train(features["fp32"], parts, settings, place / "model").model).build()
        tables = {precision: frame_predictions(model, found, parts, "test") for precision, found in features.items()}
    calls = {precision: table["logit_viral"] >= table["logit_nonviral"] for precision, table in tables.items()}
    changed = calls["fp32"] != calls["int8"]
    accuracies = {f"accuracy_{p}": float((call == (tables[p]["label"] == 1)).mean()) for p, call in calls.items()}
    return {"int8 calls against fp32": {"test_frames": len(changed), "changed": float(changed.mean()), **accuracies}}


def baseline_over_candidate(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time ESM2 3B and FastESM2_650 layer by layer in one precision; scale to the layers that they have."""
    sequences = proteins(options.frames, 99, 100)
    encoders = {
        name: native(name, options.layers, options.device, options.precision) for name in ("esm2_3b", "fastesm650")
    }
    tokens = encoders["fastesm650"].tokenise(sequences)
    contenders = {n: (lambda encoder=encoder: encoder.embed_tokens(tokens)) for n, encoder in encoders.items()}
    times = take_turns(contenders, options.rounds, options.device)
    whole = {
        n: taken / options.layers * int(ENCODERS[n].architecture["num_hidden_layers"]) for n, taken in times.items()
    }
    speeds = {f"{name}_frames_per_s": len(sequences) / taken for name, taken in whole.items()}
    return {"esm2_3b over fastesm650, time": {"ratio": whole["esm2_3b"] / whole["fastesm650"], **speeds}}


def main() -> None:
    """Measure, print the tables, and last one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--parts", default="frames,mixed,int8,ratio,calls")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    measure: dict[str, Callable[[], dict[str, dict[str, float]]]] = {
        "frames": lambda: against_transformers(proteins(options.frames, 99, 100), options),
        "mixed": lambda: against_transformers(proteins(options.frames, 30, 1000), options),
        "int8": lambda: quantised(options),
        "ratio": lambda: baseline_over_candidate(options),
        "calls": changed_calls,
    }
    hardware = describe_hardware(options.device)
    results = {}
    print(f"{options.layers} layers, {options.frames} proteins, {options.precision}, {hardware}")
    for part in options.parts.split(","):
        results[part] = measure[part]()
        print(f"\n{part}")
        for name, figures in results[part].items():
            print(f"  {name:55}", "  ".join(f"{key} {value:.4g}" for key, value in figures.items()), flush=True)
    print(json.dumps({"options": vars(options), "hardware": hardware, "results": results}))


if __name__ == "__main__":
    main()
