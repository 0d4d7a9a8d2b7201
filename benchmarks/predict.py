"""Speed and memory of `predict`: reads cut from the embedded genomes, scored from file to tables.

    python -m benchmarks.predict --reads 20000 --length 500 --chunk-size 500

The classifier is untrained: its weights do not change how long it takes. The same reads go through twice, first a
quarter of them, then all, each time in a fresh process, so that memory which grows with the input shows. Limits beside
the figures: DeepMicroClass 1.0.6 (hybrid) 74 kbp/s, Jaeger 1.26 31, geNomad 1.13's network alone 6, on 2 cores at
500 bp; not measured here, and each of them does its own kind of work. Jaeger is meant for longer sequences.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GENOMES = Path(__file__).parents[1] / "examples" / "refseq_mini"


def main() -> None:
    """Print a table and, last, one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--length", type=int, default=500, help="bp of a read")
    parser.add_argument("--chunk-size", type=int, default=500)
    parser.add_argument("--dna-encoder", default="tetranucleotide")
    parser.add_argument("--protein-encoder", default="esm2_tiny")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--source", default="", help=argparse.SUPPRESS)  # set in the fresh process
    arguments = parser.parse_args()
    if arguments.source:
        print(json.dumps(_measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as directory:
        results = [_in_fresh_process(arguments, count, directory) for count in (arguments.reads // 4, arguments.reads)]
    print(f"{'reads':>10} {'Mbp':>8} {'seconds':>8} {'kbp/s':>8} {'peak MB':>8} {'scored':>8} {'no open frame':>14}")
    for row in results:
        print(
            f"{row['reads']:>10,} {row['bases'] / 1e6:>8.2f} {row['seconds']:>8.1f} {row['kbp_per_s']:>8.1f} "
            f"{row['peak_mb']:>8.0f} {row['scored']:>8,} {row['no_open_frame']:>14,}"
        )
    print(json.dumps({"benchmark": "predict", **vars(arguments), "results": results}))


def _in_fresh_process(arguments: argparse.Namespace, count: int, directory: str) -> dict[str, float]:
    source = Path(directory) / f"{count}.fa"
    _write_reads(source, count, arguments.length)
    command = [sys.executable, "-m", "benchmarks.predict", "--source", str(source)]
    for name in ("chunk_size", "dna_encoder", "protein_encoder", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    measured: dict[str, float] = json.loads(printed.splitlines()[-1])
    if measured["reads"] != count or measured["chunks"] != measured["chunks_out"]:
        raise SystemExit(f"{count} reads went in, {measured} came out")
    return measured


def _write_reads(path: Path, count: int, length: int) -> None:
    """Draw reads from all genomes, in proportion to their length, with a fixed seed."""
    from virnuc.sequences.reading import read_genomes
    from virnuc.sequences.sources import find_sources

    genomes = [genome.sequence for source in find_sources(GENOMES) for genome in read_genomes(source.path)]
    genomes = [sequence for sequence in genomes if len(sequence) >= length]
    draw = random.Random(42)
    chosen = draw.choices(genomes, weights=[len(sequence) for sequence in genomes], k=count)
    with path.open("w") as stream:
        for number, sequence in enumerate(chosen):
            start = draw.randrange(len(sequence) - length + 1)
            stream.write(f">read_{number}\n{sequence[start : start + length]}\n")


def _measure(arguments: argparse.Namespace) -> dict[str, float]:
    import torch

    from virnuc.classifier import Classifier
    from virnuc.encoders import load_encoder
    from virnuc.prediction.running import predict
    from virnuc.prediction.scoring import Scorer

    torch.set_num_threads(arguments.threads)
    encoders = tuple(load_encoder(name) for name in (arguments.dna_encoder, arguments.protein_encoder))
    classifier = Classifier(sum(encoder.dimension for encoder in encoders)).eval()
    scorer = Scorer(classifier, encoders, arguments.chunk_size)
    scorer.score(["ACGT" * 125] * 8)  # warm-up
    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        manifest = predict([arguments.source], scorer, "benchmark", Path(directory) / "calls")
        seconds = time.perf_counter() - start
    read, out = manifest.counts["in"], manifest.counts["out"]
    return {
        "reads": read["sequences"],
        "bases": read["bases"],
        "chunks": read["chunks"],
        "chunks_out": sum(out[status] for status in ("scored", "no_open_frame", "ambiguous", "too_short")),
        "scored": out["scored"],
        "no_open_frame": out["no_open_frame"],
        "seconds": seconds,
        "kbp_per_s": read["bases"] / seconds / 1000,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
