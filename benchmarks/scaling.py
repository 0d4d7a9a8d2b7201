"""Hours, storage and cost of experiments of any size, estimated from the lines that the benchmarks print.

Give files with the output of `benchmarks.gpu` and `benchmarks.predict`. A rate that is not in them is computed from the
encoders' FLOPs and `--tflops`, or is the one in docs/scaling.md; the table gives its source. The sizes of the workloads
and the prices are assumptions, which options change.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# FLOPs of a frame of 300 bp, counted from the architectures (G): DNABERT-S with FastESM2_650, and with ESM2 3B.
GFLOP_A_FRAME = {"fastesm650": 15 + 134, "esm2_3b": 15 + 581}
VALUES_A_FRAME = {"fastesm650": 768 + 1280, "esm2_3b": 768 + 2560}
FRAMES_A_MBP = 2600  # with evidence cds: 18,084 of 6.95 Mbp of archaeal genes
CHUNKS_A_MBP = 1e6 / 300
EPOCHS = 109  # of VirNucPro's published run
FEATURE_COPIES = 2  # each encoder's half, and both merged
EMBEDDED = "embedded default"  # tetranucleotide and esm2_tiny, on two CPU cores
MEASURED = {
    "prepare Mbp/s a core": 10.3,  # 21.7 Mbp of annotated genes in records of 2.5 Mbp; 6.3 in records of one gene
    f"predict kbp/s, {EMBEDDED}": 585.0,  # 1,000,000 reads, two cores
    "train rows/s": 11_056.0 / 4.5,  # 2,048 values, one thread, five replicates in one pass
}


@dataclass(frozen=True)
class Rate:
    """A speed, and the source of the figure."""

    value: float
    origin: str


@dataclass(frozen=True)
class Workload:
    """DNA to prepare or to predict on."""

    name: str
    mbp: float
    trained: bool  # whether features are kept and a classifier is trained


def workloads(options: argparse.Namespace) -> list[Workload]:
    """Return the workloads to estimate."""
    return [
        Workload("RefSeq viral", options.viral_gbp * 1e3, True),
        Workload("VirNucPro's sample", options.sample_frames / FRAMES_A_MBP, True),
        Workload("all of RefSeq", options.refseq_tbp * 1e6, True),
        Workload("metagenome, 100 Gbp", 1e5, False),
        Workload("archive, 1 Pbp", 1e9, False),
    ]


def rates(lines: Sequence[dict[str, Any]], options: argparse.Namespace) -> dict[str, Rate]:
    """Return the rates in the benchmarks' lines; for missing ones, those computed or in docs/scaling.md."""
    found = {name: Rate(value, "measured, docs/scaling.md") for name, value in MEASURED.items()}
    for name, gflop in GFLOP_A_FRAME.items():
        found[f"{name} frames/s a GPU"] = Rate(options.tflops * 1e3 / gflop, f"counted, {options.tflops:g} TFLOP/s")
    for line in lines:
        results = line.get("results", {})
        for name in GFLOP_A_FRAME if isinstance(results, dict) else ():
            if measured := results.get(f"extract {name}, 300 bp", {}).get("frames_per_s"):
                found[f"{name} frames/s a GPU"] = Rate(measured, "benchmarks.gpu")
        if line.get("benchmark") == "predict":
            found[f"predict kbp/s, {EMBEDDED}"] = Rate(results[-1]["kbp_per_s"], "benchmarks.predict")
    return found


def estimate(workload: Workload, encoder: str, known: dict[str, Rate], options: argparse.Namespace) -> dict[str, float]:
    """Return hours, storage and price of one workload with one encoder.

    `predict` embeds one frame for each chunk and keeps 100 bytes for its call.
    """
    if encoder == EMBEDDED:
        core_hours = 2 * workload.mbp * 1e3 / known[f"predict kbp/s, {EMBEDDED}"].value / 3600
        chunks = workload.mbp * CHUNKS_A_MBP
        return _row(chunks, core_hours, 0.0, 0.0, chunks * 100, options)
    frames = workload.mbp * (FRAMES_A_MBP if workload.trained else CHUNKS_A_MBP)
    core_hours = workload.mbp / known["prepare Mbp/s a core"].value / 3600
    gpu_hours = frames / known[f"{encoder} frames/s a GPU"].value / 3600
    train_hours = EPOCHS * 0.8 * frames / known["train rows/s"].value / 3600 if workload.trained else 0.0
    features = frames * VALUES_A_FRAME[encoder] * 4 * FEATURE_COPIES if workload.trained else frames * 100
    return _row(frames, core_hours, gpu_hours, train_hours, features, options)


def _row(
    frames: float, cores: float, gpus: float, training: float, size: float, options: argparse.Namespace
) -> dict[str, float]:
    return {
        "frames": frames,
        "core_hours": cores,
        "gpu_hours": gpus,
        "train_core_hours": training,
        "terabytes": size / 1e12,
        "price": gpus * options.gpu_hour + (cores + training) * options.core_hour,
        "storage_price_a_month": size / 1e12 * options.terabyte_month,
    }


def main() -> None:
    """Print the rates, a table and, last, one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="outputs of benchmarks; the last line of each is read")
    parser.add_argument("--tflops", type=float, default=200.0, help="what a GPU reaches in bf16, end to end")
    parser.add_argument("--viral-gbp", type=float, default=0.6, help="RefSeq viral")
    parser.add_argument("--sample-frames", type=float, default=2.1e6, help="VirNucPro's features")
    parser.add_argument("--refseq-tbp", type=float, default=4.0, help="all divisions of RefSeq")
    parser.add_argument("--gpu-hour", type=float, default=3.0, help="price")
    parser.add_argument("--core-hour", type=float, default=0.04, help="price")
    parser.add_argument("--terabyte-month", type=float, default=23.0, help="price")
    options = parser.parse_args()
    lines = [json.loads(path.read_text().splitlines()[-1]) for path in options.files]
    known = rates(lines, options)
    for name, rate in known.items():
        print(f"{name:28} {rate.value:>10,.1f}  {rate.origin}")
    table = {}
    print(f"\n{'':22} {'encoder':16} {'frames':>9} {'core h':>9} {'GPU h':>11} {'train h':>9} {'TB':>9} {'price':>11}")
    for workload in workloads(options):
        for encoder in [*GFLOP_A_FRAME, *([] if workload.trained else [EMBEDDED])]:
            row = table[f"{workload.name}, {encoder}"] = estimate(workload, encoder, known, options)
            print(
                f"{workload.name:22} {encoder:16} {row['frames']:>9.2g} {row['core_hours']:>9,.1f} "
                f"{row['gpu_hours']:>11,.1f} {row['train_core_hours']:>9,.1f} {row['terabytes']:>9,.3f} "
                f"{row['price']:>11,.0f}"
            )
    print(
        json.dumps(
            {"benchmark": "scaling", "rates": {name: vars(rate) for name, rate in known.items()}, "table": table}
        )
    )


if __name__ == "__main__":
    main()
